//! What a stage is asked to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::engine::SamplingParams;
use crate::ids::RequestId;

/// A kind of output that a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// Text.
    Text,
    /// Speech or other sound.
    Audio,
    /// Pictures.
    Image,
}

/// The part of a request that concerns one stage.
#[derive(Debug, Clone)]
pub struct StageRequest {
    /// Which request.
    pub id: RequestId,
    /// Where its input comes from.
    pub input: StageInput,
    /// How this stage samples; stages that do not sample ignore it.
    pub sampling: SamplingParams,
    /// How many independent choices an entry stage generates (`n`).
    pub choices: u32,
    /// More urgent requests have lower values; equal ones are served in order of arrival.
    pub priority: i32,
    /// When the request reached the HTTP layer.
    pub arrived: Instant,
    /// Whether this stage's own output goes to the client.
    pub to_client: bool,
    /// Whether a later stage of this request waits for this stage's output.
    pub to_next: bool,
    /// Raised when the request is aborted; the worker removes it before the next step.
    pub cancelled: Cancellation,
}

/// Where a stage's input comes from.
#[derive(Debug, Clone)]
pub enum StageInput {
    /// An entry stage has all of it from the start.
    Prompt(Arc<Prompt>),
    /// A later stage is fed by chunks. The prompt is there for stages that need to know of it.
    Upstream(Arc<Prompt>),
}

/// What the client asked, made ready for the pipeline.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompt {
    /// Token ids after the chat template; empty for pipelines without a tokenizer.
    pub token_ids: Vec<u32>,
    /// The text that was tokenised, if there was one.
    pub text: String,
    /// The voice to speak with, one of those that the pipeline knows; without one it takes its first.
    pub voice: Option<String>,
}

/// A flag that is raised once, when the request is aborted.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// Raises the flag.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the flag is raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
