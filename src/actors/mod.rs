//! The actors: orchestrator, replicas, metrics, supervisor. Read [`messages`] first.

pub mod messages;
pub mod metrics;
pub mod orchestrator;
mod outbox;
pub mod pool;
pub mod replica;
pub mod runtime;
pub mod supervisor;
pub mod worker;
mod worker_statistics;
