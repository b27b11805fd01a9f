//! The replica actor: the thin front of a worker. It takes control messages and never waits.

use actix::prelude::*;

use crate::actors::messages::{Begin, RemoveCancelled, Unavailable};
use crate::actors::worker_handle::WorkerHandle;

/// One life of one replica.
#[derive(Debug)]
pub struct ReplicaActor {
    worker: WorkerHandle,
}

impl ReplicaActor {
    /// The front of a worker.
    pub fn new(worker: WorkerHandle) -> Self {
        Self { worker }
    }
}

impl Actor for ReplicaActor {
    type Context = Context<Self>;
}

impl Handler<Begin> for ReplicaActor {
    type Result = Result<(), Unavailable>;

    fn handle(&mut self, Begin(job): Begin, _: &mut Self::Context) -> Self::Result {
        self.worker.begin(job)
    }
}

impl Handler<RemoveCancelled> for ReplicaActor {
    type Result = ();

    fn handle(&mut self, _: RemoveCancelled, _: &mut Self::Context) {
        self.worker.remove_cancelled();
    }
}
