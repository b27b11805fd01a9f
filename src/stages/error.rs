//! What can go wrong in a stage.

use thiserror::Error;

/// A failure of one request in a stage, or of the stage itself.
///
/// [`StageError::reason`] is a stable word, used in the HTTP error body and as the metric label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StageError {
    /// The request cannot be carried out by this stage; another one can.
    #[error("{0}")]
    InvalidInput(String),
    /// The request does not fit into what the stage may hold, now or ever.
    #[error("{0}")]
    OutOfCapacity(String),
    /// A chunk came that does not belong here: a gap, a repetition, a wrong kind.
    #[error("{0}")]
    Protocol(String),
    /// The computation itself failed; the stage must be rebuilt.
    #[error("{0}")]
    Device(String),
    /// Any other failure of one request, raised by a custom stage.
    #[error("{0}")]
    Failed(String),
}

impl StageError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidInput(_) => "invalid_input",
            Self::OutOfCapacity(_) => "out_of_capacity",
            Self::Protocol(_) => "stage_protocol",
            Self::Device(_) => "device_error",
            Self::Failed(_) => "stage_error",
        }
    }
}
