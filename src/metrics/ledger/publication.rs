//! When values of replicas are shown: at most once a second per replica, and at once when it becomes idle.

use std::time::{Duration, Instant};

/// The least time between two publications of a busy replica.
pub const PUBLICATION_INTERVAL: Duration = Duration::from_secs(1);

/// The pace of one replica's publications.
///
/// The values of an idle replica are exempt: they neither wait for the second to end nor begin a new one.
/// Otherwise a replica with a short pause between requests would look idle all the time.
#[derive(Debug)]
pub struct Publication<V> {
    /// When values of the busy replica were last shown.
    last: Option<Instant>,
    /// The latest values, if they were held back.
    held: Option<V>,
}

impl<V> Default for Publication<V> {
    fn default() -> Self {
        Self { last: None, held: None }
    }
}

impl<V> Publication<V> {
    /// Takes new values at `now`; gives back what is to be shown, if anything.
    pub fn offer(&mut self, values: V, idle: bool, now: Instant) -> Option<V> {
        if idle {
            self.held = None;
            return Some(values);
        }
        self.held = Some(values);
        self.take_due(now)
    }

    /// The values that were held back, when their second is over.
    pub fn take_due(&mut self, now: Instant) -> Option<V> {
        let over = |last: Instant| now.saturating_duration_since(last) >= PUBLICATION_INTERVAL;
        if !self.last.is_none_or(over) {
            return None;
        }
        let values = self.held.take()?;
        self.last = Some(now);
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::SchedulerSnapshot;

    fn running(running: u64) -> SchedulerSnapshot {
        SchedulerSnapshot { running, ..Default::default() }
    }

    #[test]
    fn a_thousand_steps_a_second_are_shown_once_a_second() {
        let (mut publication, start) = (Publication::default(), Instant::now());
        let shown: Vec<u64> = (0..5000)
            .filter_map(|step| {
                publication
                    .offer(running(step), false, start + Duration::from_millis(step))
                    .map(|s| s.running)
            })
            .collect();
        assert_eq!(shown, [0, 1000, 2000, 3000, 4000]);
    }

    #[test]
    fn the_latest_value_held_back_is_shown_when_the_second_is_over() {
        let (mut publication, start) = (Publication::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(publication.offer(running(1), false, at(0)), Some(running(1)));
        assert_eq!(publication.offer(running(2), false, at(10)), None);
        assert_eq!(publication.offer(running(3), false, at(20)), None);
        assert_eq!(publication.take_due(at(999)), None);
        assert_eq!(publication.take_due(at(1000)), Some(running(3)));
        assert_eq!(publication.take_due(at(5000)), None, "there is nothing new");
    }

    #[test]
    fn idle_values_are_shown_at_once_and_replace_what_was_held_back() {
        let (mut publication, start) = (Publication::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        publication.offer(running(1), false, at(0));
        publication.offer(running(2), false, at(10));
        assert_eq!(publication.offer(running(0), true, at(20)), Some(running(0)));
        assert_eq!(publication.take_due(at(2000)), None);
    }

    #[test]
    fn a_short_pause_does_not_hide_the_work_after_it_for_longer_than_a_second() {
        let (mut publication, start) = (Publication::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        publication.offer(running(1), false, at(0));
        publication.offer(running(0), true, at(900));
        assert_eq!(publication.offer(running(1), false, at(910)), None);
        assert_eq!(publication.take_due(at(1000)), Some(running(1)));
    }
}
