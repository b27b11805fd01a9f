//! The actors: orchestrator, replicas, metrics, supervisor. Read [`messages`] first.

mod job_account;
pub mod messages;
pub mod metrics;
pub mod orchestrator;
mod outbox;
pub mod pool;
pub mod replica;
pub mod runtime;
pub mod supervisor;
pub mod worker;
pub mod worker_state;
mod worker_statistics;
