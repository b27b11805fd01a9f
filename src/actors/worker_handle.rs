//! The outside of a worker, and what reaches it from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;

use crate::actors::messages::{Job, Unavailable};
use crate::actors::worker_state::{WorkerState, WorkerStateCell};
use crate::metrics::StatsPort;
use crate::transport::EdgeSender;

/// The outside of a worker: what its replica actor and the orchestrator hold.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    pub(super) control: Sender<Control>,
    /// Where chunks for it go.
    pub chunks: EdgeSender,
    /// How it is asked to report what it counted.
    pub statistics: Arc<StatsPort>,
    pub(super) shared: Arc<Shared>,
}

/// What is read and written from both sides.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Raised when requests were cancelled; the worker looks for them when it sees a new value.
    pub(super) removals: AtomicUsize,
    /// Requests that the worker holds.
    pub(super) jobs: AtomicUsize,
    /// How far it is.
    pub(super) state: WorkerStateCell,
}

/// What comes to a worker beside chunks.
#[derive(Debug)]
pub(super) enum Control {
    Begin { job: Box<Job>, queued: Instant },
    Wake,
    Stop,
}

impl WorkerHandle {
    /// Queues a request, unless the worker is gone or full.
    pub fn begin(&self, job: Job) -> Result<(), Unavailable> {
        // Counted from the moment it is queued, so that a request in the queue is seen to be held.
        self.shared.jobs.fetch_add(1, Ordering::Release);
        self.control.try_send(Control::Begin { job: Box::new(job), queued: Instant::now() }).map_err(|_| {
            self.shared.jobs.fetch_sub(1, Ordering::Release);
            Unavailable
        })
    }

    /// Makes the worker look for cancelled requests before its next step.
    pub fn remove_cancelled(&self) {
        // Before the look at the queue: whoever takes what lies there sees the new value.
        self.shared.removals.fetch_add(1, Ordering::SeqCst);
        wake(&self.control);
    }

    /// Ends the worker after its current step.
    pub fn stop(&self) {
        let _ = self.control.try_send(Control::Stop);
    }

    /// Requests that the worker holds or has queued.
    pub fn jobs(&self) -> usize {
        self.shared.jobs.load(Ordering::Acquire)
    }

    /// How far the worker was after its last step.
    pub fn state(&self) -> WorkerState {
        self.shared.state.get()
    }
}

/// Wakes a worker if it sleeps. One that has messages waiting looks at everything when it takes them.
pub(super) fn wake(control: &Sender<Control>) {
    if control.is_empty() {
        let _ = control.try_send(Control::Wake);
    }
}
