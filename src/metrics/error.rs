//! What can go wrong with metrics.

use thiserror::Error;

use crate::ids::{ReplicaKey, StageId};

/// A failure to set up families or to create a series of one.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// The prefix for pipeline families cannot begin a metric's name, or would make one collide.
    #[error("{prefix:?} cannot be the prefix of pipeline metrics: {problem}")]
    InvalidPrefix {
        /// What was asked for.
        prefix: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A family was used with another number of label values than its definition has labels.
    #[error("metric {family} has {expected} labels, but {given} values were given")]
    LabelCount {
        /// The family's name.
        family: String,
        /// Labels in the definition.
        expected: usize,
        /// Values given.
        given: usize,
    },
    /// A family was set up as another kind than its definition says.
    #[error("metric {family} is not of the kind that its definition says")]
    Kind {
        /// The family's name.
        family: String,
    },
    /// Two custom stages declare a family in different ways.
    #[error("metric {family} is declared in different ways by stages {first} and {second}")]
    Ambiguous {
        /// The family's name.
        family: String,
        /// The stage that declares it first.
        first: StageId,
        /// The stage that declares it otherwise.
        second: StageId,
    },
    /// A custom stage reported what it does not declare.
    #[error("{replica} reported metric {family}, which its stage does not declare so")]
    Undeclared {
        /// The family's name.
        family: String,
        /// Who reported it.
        replica: ReplicaKey,
    },
    /// The registry refused a family or a series.
    #[error("metric {family}: {source}")]
    Registry {
        /// The family's name.
        family: String,
        /// What the registry says.
        source: prometheus::Error,
    },
}

impl MetricsError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidPrefix { .. } => "invalid_metrics_prefix",
            Self::LabelCount { .. } => "metric_label_count",
            Self::Kind { .. } => "metric_kind",
            Self::Ambiguous { .. } => "metric_ambiguous",
            Self::Undeclared { .. } => "metric_undeclared",
            Self::Registry { .. } => "metric_registry",
        }
    }
}
