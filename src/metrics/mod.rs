//! Metrics: what is counted, under which name, and how it is written.

pub mod events;

pub use events::{
    EngineTotals, FinishedRequest, PipelineEvent, ReplicaStats, SchedulerSnapshot, StatEvent, TokenSample,
};
