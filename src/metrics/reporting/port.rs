//! How the metrics actor asks a replica to report before a scrape.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Between the metrics actor, which asks, and the worker thread of one life of a replica, which answers.
///
/// The answer names the report that will hold everything counted until the request was seen, so that the actor
/// does not take an older report, still in its mailbox, for it.
pub struct StatsPort {
    /// Flushes requested so far.
    requested: AtomicU64,
    /// The newest request that was answered.
    answered: AtomicU64,
    /// The report that answers it.
    answering_report: AtomicU64,
    /// Wakes the worker if it sleeps.
    wake: Box<dyn Fn() + Send + Sync>,
}

/// One request to flush. Requests of a port count upwards from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlushRequest(u64);

impl StatsPort {
    /// A port to a worker that `wake` wakes. `wake` must not block.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        let [requested, answered, answering_report] = [0; 3].map(AtomicU64::new);
        Self { requested, answered, answering_report, wake: Box::new(wake) }
    }

    /// The actor's side: asks for a report.
    pub fn request(&self) -> FlushRequest {
        let request = FlushRequest(self.requested.fetch_add(1, Ordering::AcqRel) + 1);
        (self.wake)();
        request
    }

    /// The worker's side: the newest request that is not answered.
    pub fn pending(&self) -> Option<FlushRequest> {
        let requested = self.requested.load(Ordering::Acquire);
        (requested > self.answered.load(Ordering::Acquire)).then_some(FlushRequest(requested))
    }

    /// The worker's side, before it sends the report with this sequence number: it answers `request`, which was
    /// pending before the report was filled in, and all before it.
    pub fn answer(&self, request: FlushRequest, sequence: u64) {
        self.answering_report.store(sequence, Ordering::Release);
        self.answered.store(request.0, Ordering::Release);
    }

    /// The actor's side, on a report: whether it, or one before it, answers `request`.
    pub fn is_answered(&self, request: FlushRequest, sequence: u64) -> bool {
        self.answered.load(Ordering::Acquire) >= request.0
            && sequence >= self.answering_report.load(Ordering::Acquire)
    }
}

impl fmt::Debug for StatsPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatsPort")
            .field("requested", &self.requested)
            .field("answered", &self.answered)
            .field("answering_report", &self.answering_report)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_request_wakes_the_worker_and_is_pending_until_answered() {
        let woken = Arc::new(AtomicU64::new(0));
        let port = StatsPort::new({
            let woken = Arc::clone(&woken);
            move || {
                woken.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(port.pending(), None);
        let request = port.request();
        assert_eq!((port.pending(), woken.load(Ordering::Relaxed)), (Some(request), 1));
        port.answer(request, 7);
        assert_eq!(port.pending(), None);
    }

    #[test]
    fn a_report_from_before_the_answer_does_not_answer() {
        let port = StatsPort::new(|| {});
        let request = port.request();
        assert!(!port.is_answered(request, 7), "nobody answered");
        port.answer(request, 7);
        assert!(!port.is_answered(request, 6));
        assert!(port.is_answered(request, 7));
    }

    #[test]
    fn one_report_answers_all_requests_before_it() {
        let port = StatsPort::new(|| {});
        let (first, second) = (port.request(), port.request());
        port.answer(second, 3);
        assert!(port.is_answered(first, 3) && port.is_answered(second, 3));
    }
}
