//! Metrics: what is counted, under which name, and how it is written.

pub mod definitions;
pub mod error;
pub mod events;
pub mod exposition;
pub mod families;
pub mod ledger;
pub mod settings;

pub use error::MetricsError;
pub use events::{
    EngineTotals, FinishedRequest, PipelineEvent, ReplicaReport, ReplicaStats, SchedulerSnapshot,
    StageDescription, StatEvent, TokenSample,
};
pub use exposition::{Exposition, TEXT_CONTENT_TYPE};
pub use ledger::Ledger;
pub use settings::{MetricsSettings, OmniPrefix};

#[cfg(test)]
mod page;
