//! The replicas of one stage, as the orchestrator sees them, and how one of them is chosen.

use actix::Addr;

use crate::actors::replica::ReplicaActor;
use crate::actors::worker::WorkerHandle;
use crate::ids::{ReplicaId, ReplicaKey};

/// The replicas of one stage.
#[derive(Debug, Default)]
pub struct Pool {
    /// Live replicas, by replica id.
    live: Vec<LiveReplica>,
    /// Who was bound last; the search for the next one begins behind it.
    last_bound: Option<ReplicaId>,
}

/// A replica that requests can be bound to.
#[derive(Debug, Clone)]
pub struct LiveReplica {
    /// Which life of it.
    pub key: ReplicaKey,
    /// Where control goes.
    pub address: Addr<ReplicaActor>,
    /// Where chunks go.
    pub worker: WorkerHandle,
    /// Requests bound to it and not released.
    pub bound: usize,
}

impl Pool {
    /// Adds a replica, in place of an earlier life of it.
    pub fn add(&mut self, replica: LiveReplica) {
        self.live.retain(|known| known.key.replica != replica.key.replica);
        self.live.push(replica);
        self.live.sort_by_key(|replica| replica.key.replica);
    }

    /// Forgets a life of a replica.
    pub fn remove(&mut self, key: ReplicaKey) {
        self.live.retain(|replica| replica.key != key);
    }

    /// Whether there is no live replica.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Binds a request to the replica with the fewest bound requests; among equals, in turn.
    pub fn bind(&mut self) -> Option<LiveReplica> {
        let fewest = self.live.iter().map(|replica| replica.bound).min()?;
        let behind = |replica: &LiveReplica| Some(replica.key.replica) > self.last_bound;
        let candidates = || self.live.iter().enumerate().filter(|(_, replica)| replica.bound == fewest);
        let (index, _) = candidates().find(|(_, replica)| behind(replica)).or_else(|| candidates().next())?;
        let chosen = self.live.get_mut(index)?;
        chosen.bound += 1;
        self.last_bound = Some(chosen.key.replica);
        Some(chosen.clone())
    }

    /// Releases a binding.
    pub fn release(&mut self, key: ReplicaKey) {
        if let Some(replica) = self.live.iter_mut().find(|replica| replica.key == key) {
            replica.bound = replica.bound.saturating_sub(1);
        }
    }

    /// The live replica with this id.
    pub fn get(&self, replica: ReplicaId) -> Option<&LiveReplica> {
        self.live.iter().find(|live| live.key.replica == replica)
    }

    /// Bindings that are not released.
    pub fn bindings(&self) -> usize {
        self.live.iter().map(|replica| replica.bound).sum()
    }

    /// Requests that the live replicas' workers hold.
    pub fn jobs(&self) -> usize {
        self.live.iter().map(|replica| replica.worker.jobs()).sum()
    }
}
