//! What a stage is asked to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::engine::{MediaSpan, SamplingParams};
use crate::ids::RequestId;
use crate::transport::PayloadKind;

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

impl Modality {
    /// The kind of chunk that such output becomes for a stage that takes it further, if it can become one.
    pub fn payload_kind(self) -> Option<PayloadKind> {
        match self {
            Self::Text => Some(PayloadKind::Text),
            Self::Audio => Some(PayloadKind::Audio),
            Self::Image => None,
        }
    }
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
    /// Whether a later stage of this request waits for chunks that this stage makes for it, beside its output.
    pub to_next: bool,
    /// Raised when the request is aborted; the worker removes it before the next step.
    pub cancelled: Cancellation,
}

impl StageRequest {
    /// A request of one choice that asks for nothing in particular and arrives now. Servers make their own; this is for
    /// tests of stages.
    pub fn new(id: RequestId, input: StageInput) -> Self {
        Self {
            id,
            input,
            sampling: SamplingParams::default(),
            choices: 1,
            priority: 0,
            arrived: Instant::now(),
            to_client: true,
            to_next: true,
            cancelled: Cancellation::default(),
        }
    }
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
    /// The text that was tokenised, if there was one. Without a chat template, the texts of the messages, a line each.
    pub text: String,
    /// The conversation message by message, for pipelines without a chat template, whose first stage makes of it what
    /// it wants; else empty.
    pub messages: Vec<Message>,
    /// What lies at positions that stand for pictures, sounds or films.
    pub media: Vec<MediaSpan>,
    /// Only requests with the same salt share what is cached of their prompts, so that nobody learns from the time that an
    /// answer takes what others have asked.
    pub cache_salt: Option<String>,
    /// The voice to speak with, one of those that the pipeline knows; without one it takes its first.
    pub voice: Option<String>,
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said.
    pub text: String,
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
