//! A stage of the model with something around it that a test can see through, hold it up with, or break it with.

use std::time::{Duration, Instant};

use omni_actors::metrics::{ReplicaStats, SchedulerSnapshot};
use omni_actors::stages::{Poll, Readiness, Stage, StageError, StageOutput, StageRequest, Ticket};
use omni_actors::transport::Chunk;
use omni_actors::{Registry, RequestId};

/// How long a stage that is held up sleeps until it looks again whether it still is.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What a test has around a stage. It is asked on the stage's thread.
pub(crate) trait Surroundings: Send {
    /// A request comes; an error keeps it out.
    fn comes(&mut self, request: &StageRequest) -> Result<(), StageError> {
        let _ = request;
        Ok(())
    }

    /// A request that came was taken.
    fn taken(&mut self, request: RequestId) {
        let _ = request;
    }

    /// Whether no further step may be planned now.
    fn hold_up(&mut self) -> bool {
        false
    }

    /// A step that was launched gave this; its outputs were asked for at `asked`. What is changed here is what becomes of
    /// it. An error breaks the stage.
    fn gave(
        &mut self,
        asked: Instant,
        outputs: &mut Vec<StageOutput>,
        inner: &mut dyn Stage,
    ) -> Result<(), StageError> {
        let _ = (asked, outputs, inner);
        Ok(())
    }
}

/// Puts what `surroundings` makes around every life of a stage.
pub(crate) fn surround<S: Surroundings + 'static>(
    registry: &mut Registry,
    stage: &str,
    surroundings: impl Fn() -> S + Send + Sync + 'static,
) {
    registry.around(stage, move |inner| {
        Box::new(Surrounded { inner, surroundings: surroundings(), held_up: false })
    });
}

struct Surrounded<S> {
    inner: Box<dyn Stage>,
    surroundings: S,
    /// Whether a step would have been planned but for the surroundings.
    held_up: bool,
}

impl<S: Surroundings> Stage for Surrounded<S> {
    fn add(&mut self, request: StageRequest) -> Result<(), StageError> {
        let id = request.id;
        self.surroundings.comes(&request)?;
        self.inner.add(request)?;
        self.surroundings.taken(id);
        Ok(())
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), StageError> {
        self.inner.push(chunk)
    }

    fn room(&self) -> usize {
        self.inner.room()
    }

    fn remove(&mut self, request: RequestId) {
        self.inner.remove(request);
    }

    fn plan(&mut self) -> Readiness {
        self.held_up = self.surroundings.hold_up();
        if self.held_up { Readiness::Idle } else { self.inner.plan() }
    }

    fn launch(&mut self) -> Result<Ticket, StageError> {
        self.inner.launch()
    }

    fn poll(
        &mut self,
        ticket: Ticket,
        wait: bool,
        outputs: &mut Vec<StageOutput>,
    ) -> Result<Poll, StageError> {
        let asked = Instant::now();
        let mut given = Vec::new();
        let poll = self.inner.poll(ticket, wait, &mut given)?;
        self.surroundings.gave(asked, &mut given, &mut *self.inner)?;
        outputs.append(&mut given);
        Ok(poll)
    }

    fn steps_in_flight(&self) -> usize {
        self.inner.steps_in_flight()
    }

    fn wake_at(&self) -> Option<Instant> {
        if self.held_up { Some(Instant::now() + LOOK_AGAIN) } else { self.inner.wake_at() }
    }

    fn scheduler(&self) -> Option<SchedulerSnapshot> {
        self.inner.scheduler()
    }

    fn report(&mut self, stats: &mut ReplicaStats) {
        self.inner.report(stats);
    }
}
