//! Why a model cannot be loaded.

use thiserror::Error;

use crate::tensor::{DeviceError, WeightError};

/// A model that cannot be loaded. The message names the file and what is wrong in it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadError {
    /// A configuration file cannot be read.
    #[error("{file}: {cause}")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system says.
        cause: String,
    },
    /// A field is missing, or has the wrong type.
    #[error("{file}: {cause}")]
    Config {
        /// The file.
        file: String,
        /// Which field, and what is wrong with it.
        cause: String,
    },
    /// Two fields contradict each other, or one has a value that cannot be.
    #[error("{file}: {field} {cause}")]
    Field {
        /// The file.
        file: String,
        /// The field, with the objects that it stands in.
        field: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A weight is missing or does not fit.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl LoadError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "config_unreadable",
            Self::Config { .. } => "config_invalid",
            Self::Field { .. } => "config_contradictory",
            Self::Weights(error) => error.reason(),
            Self::Device(error) => error.reason(),
        }
    }
}
