//! Families in the registry: typed handles to the series that the definitions describe.

pub mod catalogue;
pub mod engine;
pub mod family;
pub mod pipeline;
pub mod requests;
pub mod scheduler;
pub mod steps;
pub mod totals;

pub use catalogue::Catalogue;
pub use engine::{EngineFamilies, ReplicaLabels, ReplicaSeries};
pub use family::{Family, Series};
pub use pipeline::PipelineFamilies;
pub use requests::RequestHistograms;
pub use scheduler::{SchedulerFamilies, SchedulerGauges};
pub use steps::StepHistograms;
pub use totals::{TotalsCounters, TotalsFamilies};
