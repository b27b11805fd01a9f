//! When a replica reports: at most every 20 ms while it works, and at once when it becomes idle.

use std::time::{Duration, Instant};

/// The least time between two reports of a busy replica.
pub const REPORT_INTERVAL: Duration = Duration::from_millis(20);

/// Decides when a replica reports, and numbers the reports of its epoch.
#[derive(Debug, Default)]
pub struct ReportPacer {
    /// When it last reported.
    last: Option<Instant>,
    /// Something was counted, or a scheduler value changed, since.
    changed: bool,
    /// Reports made in this epoch.
    sequence: u64,
}

impl ReportPacer {
    /// Something was counted, or a scheduler value changed: a step, a new request, one that was removed.
    pub fn changed(&mut self) {
        self.changed = true;
    }

    /// Whether to report at `now`. `idle`: the replica holds no request. `asked`: a flush was requested.
    pub fn is_due(&self, now: Instant, idle: bool, asked: bool) -> bool {
        asked || self.changed && (idle || self.due_in(now) == Some(Duration::ZERO))
    }

    /// How long a replica that holds requests but has nothing to do may sleep until it must report; `None` when
    /// nothing is to be reported.
    pub fn due_in(&self, now: Instant) -> Option<Duration> {
        let elapsed = self.last.map_or(REPORT_INTERVAL, |last| now.saturating_duration_since(last));
        self.changed.then(|| REPORT_INTERVAL.saturating_sub(elapsed))
    }

    /// A report is made at `now`: its sequence number, counted from 1.
    pub fn report(&mut self, now: Instant) -> u64 {
        self.last = Some(now);
        self.changed = false;
        self.sequence += 1;
        self.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_replica_reports_every_twenty_milliseconds() {
        let (mut pacer, start) = (ReportPacer::default(), Instant::now());
        let mut reports = Vec::new();
        for millis in 0..100 {
            let now = start + Duration::from_millis(millis);
            pacer.changed();
            if pacer.is_due(now, false, false) {
                reports.push((millis, pacer.report(now)));
            }
        }
        assert_eq!(reports, [(0, 1), (20, 2), (40, 3), (60, 4), (80, 5)]);
    }

    #[test]
    fn a_replica_that_becomes_idle_reports_at_once_and_once() {
        let (mut pacer, now) = (ReportPacer::default(), Instant::now());
        pacer.changed();
        pacer.report(now);
        pacer.changed();
        assert!(!pacer.is_due(now, false, false));
        assert!(pacer.is_due(now, true, false));
        pacer.report(now);
        assert!(!pacer.is_due(now + REPORT_INTERVAL, true, false));
    }

    #[test]
    fn a_flush_is_answered_at_once_even_if_nothing_changed() {
        let (mut pacer, now) = (ReportPacer::default(), Instant::now());
        pacer.report(now);
        assert!(pacer.is_due(now, true, true));
    }

    #[test]
    fn a_replica_that_waits_for_input_knows_how_long_it_may_sleep() {
        let (mut pacer, start) = (ReportPacer::default(), Instant::now());
        assert_eq!(pacer.due_in(start), None);
        pacer.changed();
        assert_eq!(pacer.due_in(start), Some(Duration::ZERO));
        pacer.report(start);
        pacer.changed();
        assert_eq!(pacer.due_in(start + Duration::from_millis(5)), Some(Duration::from_millis(15)));
    }
}
