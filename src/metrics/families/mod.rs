//! Families in the registry: typed handles to the series that the definitions describe.

pub mod audio;
pub mod blueprint;
pub mod catalogue;
pub mod engine;
pub mod family;
pub mod labelled;
pub mod pipeline;
pub mod requests;
pub mod scheduler;
pub mod steps;
pub mod summed;
pub mod totals;
pub mod transfer;

pub use audio::{AudioFamilies, AudioSeries};
pub use blueprint::Blueprint;
pub use catalogue::Catalogue;
pub use engine::{EngineFamilies, ReplicaLabels, ReplicaSeries};
pub use family::{Family, Series};
pub use labelled::{LabelledFamily, LabelledSeries};
pub use pipeline::PipelineFamilies;
pub use requests::RequestHistograms;
pub use scheduler::{SchedulerFamilies, SchedulerGauges};
pub use steps::StepHistograms;
pub use summed::SummedHistogram;
pub use totals::{TotalsCounters, TotalsFamilies};
pub use transfer::TransferHistograms;
