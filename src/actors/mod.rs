//! The actors: orchestrator, replicas, metrics, supervisor. Read [`messages`] first.

pub mod messages;
pub mod metrics;
