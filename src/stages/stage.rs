//! The `Stage` trait: what a worker asks of a stage.

use std::sync::Arc;
use std::time::Instant;

use crate::ids::RequestId;
use crate::metrics::{ReplicaStats, SchedulerSnapshot};
use crate::stages::{StageError, StageOutput, StageRequest};
use crate::transport::Chunk;

/// A unit of a pipeline: takes requests and chunks, works in steps, gives outputs.
///
/// One worker thread owns the stage and calls it; no method is called from anywhere else. The life of a request:
/// [`add`](Stage::add), then any number of [`push`](Stage::push) if it is fed by an earlier stage, until the stage
/// reports [`Finished`](crate::stages::StageEvent::Finished) or [`Failed`](crate::stages::StageEvent::Failed) for
/// it, or the worker calls [`remove`](Stage::remove). After either the stage holds nothing of the request.
///
/// The trait is asynchronous because a GPU is: a step is launched, and its outputs are polled for. A stage that
/// computes on the calling thread does all its work in [`launch`](Stage::launch) and has the outputs ready at the
/// first [`poll`](Stage::poll). At most [`steps_in_flight`](Stage::steps_in_flight) steps are launched and not yet
/// polled to their end.
pub trait Stage: Send {
    /// Takes a new request. An error fails this request alone.
    fn add(&mut self, request: StageRequest) -> Result<(), StageError>;

    /// Takes the next chunk of a request that was added with
    /// [`StageInput::Upstream`](crate::stages::StageInput::Upstream). Chunks come in order and without gaps.
    /// An error fails this request alone.
    fn push(&mut self, chunk: Chunk) -> Result<(), StageError>;

    /// How many further chunks it takes now. A stage that has plenty to do says 0 until it has done some of it; the
    /// stages that feed it then wait. It must take chunks when it can do nothing without them.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Forgets a request, wherever it stands. Does nothing if it is not known.
    fn remove(&mut self, request: RequestId);

    /// Decides what the next step works on, without starting it.
    fn plan(&mut self) -> Readiness;

    /// Starts the step that was planned last. An error means that the stage is broken and must be rebuilt.
    fn launch(&mut self) -> Result<Ticket, StageError>;

    /// Appends the outputs of a launched step to `outputs`. With `wait`, returns only when the step is complete.
    /// An error means that the stage is broken and must be rebuilt.
    fn poll(
        &mut self,
        ticket: Ticket,
        wait: bool,
        outputs: &mut Vec<StageOutput>,
    ) -> Result<Poll, StageError>;

    /// How many steps may be launched before the first of them is complete.
    fn steps_in_flight(&self) -> usize {
        1
    }

    /// When [`plan`](Self::plan) may find something to do although no message came. The worker asks when the stage is
    /// idle.
    fn wake_at(&self) -> Option<Instant> {
        None
    }

    /// The queues of its scheduler and the share of its KV cache in use; `None` for a stage without a scheduler. Asked for
    /// after every step.
    fn scheduler(&self) -> Option<SchedulerSnapshot> {
        None
    }

    /// Moves what was counted since the last call into `stats`. Called only when statistics are on.
    fn report(&mut self, stats: &mut ReplicaStats) {
        let _ = stats;
    }
}

/// Whether a stage has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// A step is planned and can be launched.
    Ready,
    /// Nothing can be done until a request or a chunk comes.
    Idle,
}

/// Names a launched step. Tickets count upwards from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Whether a step is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// All its outputs were appended.
    Complete,
    /// It still runs.
    Pending,
}

/// Builds a stage, anew after each failure. Weights are shared by `Arc`, so building one again takes milliseconds.
pub type StageFactory = Arc<dyn Fn() -> Result<Box<dyn Stage>, StageError> + Send + Sync>;
