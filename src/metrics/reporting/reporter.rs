//! What a worker thread holds to report for its replica.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ids::ReplicaKey;
use crate::metrics::{ReplicaReport, ReplicaStats, ReportPacer, StatEvent, StatsPort, StatsSender};

/// Reports for one life of a replica, at the pace of [`ReportPacer`] and whenever the [`StatsPort`] asks.
///
/// The worker calls [`changed`](Self::changed) whenever something was counted, and
/// [`report_if_due`](Self::report_if_due) after each step and before it sleeps. It sleeps no longer than
/// [`due_in`](Self::due_in), and wakes when the port's closure is called. All of it costs nothing when statistics
/// are off.
#[derive(Debug)]
pub struct ReplicaReporter {
    /// Who reports.
    key: ReplicaKey,
    /// Where to.
    sender: StatsSender,
    /// Who may ask for a report.
    port: Arc<StatsPort>,
    /// When to report.
    pacer: ReportPacer,
}

impl ReplicaReporter {
    /// A reporter for a life that begins.
    pub fn new(key: ReplicaKey, sender: StatsSender, port: Arc<StatsPort>) -> Self {
        Self { key, sender, port, pacer: ReportPacer::default() }
    }

    /// Something was counted, or a scheduler value changed.
    pub fn changed(&mut self) {
        self.pacer.changed();
    }

    /// How long the worker may sleep until it must report; `None` when nothing is to be reported.
    pub fn due_in(&self, now: Instant) -> Option<Duration> {
        if self.sender.is_on() { self.pacer.due_in(now) } else { None }
    }

    /// Sends a report if one is due, filled in by `fill`; whether it did. `idle`: the replica holds no request.
    pub fn report_if_due(&mut self, now: Instant, idle: bool, fill: impl FnOnce(&mut ReplicaStats)) -> bool {
        if !self.sender.is_on() {
            return false;
        }
        let asked = self.port.pending();
        if !self.pacer.is_due(now, idle, asked.is_some()) {
            return false;
        }
        let mut stats = ReplicaStats::default();
        fill(&mut stats);
        let sequence = self.pacer.report(now);
        if let Some(request) = asked {
            self.port.answer(request, sequence);
        }
        let report = ReplicaReport { key: self.key, sequence, at: now, idle, stats };
        self.sender.send(|| StatEvent::Replica(Box::new(report)));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::ids::{Epoch, ReplicaId, StageId};

    const KEY: ReplicaKey = ReplicaKey { stage: StageId(0), replica: ReplicaId(0), epoch: Epoch(0) };

    fn reporter() -> (ReplicaReporter, Arc<StatsPort>, Arc<Mutex<Vec<u64>>>) {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let sender = StatsSender::new({
            let sent = Arc::clone(&sent);
            move |event| match event {
                StatEvent::Replica(report) => sent.lock().unwrap().push(report.sequence),
                other => panic!("{other:?}"),
            }
        });
        let port = Arc::new(StatsPort::new(|| {}));
        (ReplicaReporter::new(KEY, sender, Arc::clone(&port)), port, sent)
    }

    #[test]
    fn reports_are_sent_when_due_and_answer_the_port() {
        let (mut reporter, port, sent) = reporter();
        let now = Instant::now();
        reporter.changed();
        assert!(reporter.report_if_due(now, false, |_| {}));
        reporter.changed();
        assert!(!reporter.report_if_due(now, false, |_| panic!("it is not due")));
        let request = port.request();
        assert!(reporter.report_if_due(now, false, |_| {}));
        assert!(port.is_answered(request, 2));
        assert_eq!(*sent.lock().unwrap(), [1, 2]);
    }

    #[test]
    fn nothing_is_done_when_statistics_are_off() {
        let port = Arc::new(StatsPort::new(|| {}));
        let mut reporter = ReplicaReporter::new(KEY, StatsSender::off(), Arc::clone(&port));
        reporter.changed();
        port.request();
        let now = Instant::now();
        assert!(!reporter.report_if_due(now, true, |_| panic!("statistics are off")));
        assert_eq!(reporter.due_in(now), None);
    }
}
