//! Why a request, or one choice of it, ended.

use serde::{Deserialize, Serialize};

/// Why a request ended by itself or was ended. The words are those of the metric label `finished_reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end-of-sequence token, a stop token or a stop string.
    Stop,
    /// `max_tokens` or the model's length was reached.
    Length,
    /// The client went away or asked for it.
    Abort,
    /// A stage failed.
    Error,
}

impl FinishReason {
    /// Every reason, in the order in which `/metrics` lists them.
    pub const ALL: [FinishReason; 4] = [Self::Stop, Self::Length, Self::Abort, Self::Error];

    /// The word used on `/metrics` and in responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}
