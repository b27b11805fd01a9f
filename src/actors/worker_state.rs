//! How far a worker is, for whoever asks while it works.

use std::sync::{Mutex, PoisonError};

use crate::metrics::SchedulerSnapshot;

/// How far a worker was after its last step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WorkerState {
    /// Steps launched in this life of the replica.
    pub steps: u64,
    /// Requests that the stage has begun to work on and not ended.
    pub started: usize,
    /// The scheduler's queues and the share of the KV cache in use; `None` for stages without a scheduler.
    pub scheduler: Option<SchedulerSnapshot>,
}

/// The state where the worker leaves it. It is held for the time of a copy, so that neither side waits for a step.
#[derive(Debug, Default)]
pub(super) struct WorkerStateCell(Mutex<WorkerState>);

impl WorkerStateCell {
    pub(super) fn set(&self, state: WorkerState) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    pub(super) fn get(&self) -> WorkerState {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
