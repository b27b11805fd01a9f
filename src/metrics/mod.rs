//! Metrics: what is counted, under which name, and how it is written.
//!
//! The way of a number: whoever counts sends a [`StatEvent`] through a [`StatsSender`]; a replica does so through
//! its [`ReplicaReporter`], which keeps the pace. The metrics actor hands every event to the [`Ledger`], which moves
//! the families that [`definitions`] describes. At a scrape the ledger is gathered into an [`Exposition`], which
//! the HTTP layer writes as text.

pub mod account;
pub mod continuity;
pub mod definitions;
pub mod error;
pub mod events;
pub mod exposition;
pub mod families;
pub mod labelled;
pub mod ledger;
pub mod reference;
pub mod reporting;
pub mod settings;
pub mod tables;

pub use account::{Batch, EdgeAccount, RequestAccount, StageAccount, Summary, TokenCounts};
pub use continuity::{Arrival, Continuity, continuity};
pub use error::MetricsError;
pub use events::{
    BlockResidency, CacheConfiguration, DeliveredAudio, DiffusedRequest, EngineTotals, FinishedRequest,
    FirstEvents, HttpExchange, PipelineEvent, Playback, ReplicaLoad, ReplicaReport, ReplicaStats,
    SchedulerSnapshot, StageDescription, StageTimes, StatEvent, StepWork, TokenSample, TransferSample,
};
pub use exposition::{Exposition, TextFormat};
pub use labelled::{
    CounterFamily, GaugeFamily, HistogramFamily, InvalidFamily, LabelledStats, MetricFamily, Recorder,
};
pub use ledger::Ledger;
pub use reporting::{FlushRequest, REPORT_INTERVAL, ReplicaReporter, ReportPacer, StatsPort, StatsSender};
pub use settings::{Inference, MetricsSettings, OmniPrefix};

#[cfg(test)]
mod page;
