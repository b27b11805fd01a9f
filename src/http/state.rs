//! What the routes know of the server behind them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use thiserror::Error;

use crate::actors::messages::{Abort, GetHealth, GetStages, Submit};
use crate::engine::SamplingParams;
use crate::http::auth::ApiKeys;
use crate::http::frontend::TextFrontend;
use crate::ids::StageId;
use crate::metrics::StatsSender;
use crate::stages::Modality;

/// Everything that a route may use; shared by all HTTP workers.
pub struct AppState {
    /// Where requests are submitted, aborted and asked about.
    pub orchestrator: OrchestratorPort,
    /// Tokenizer and chat template.
    pub text: Arc<dyn TextFrontend>,
    /// What the client may call the model, and what it is told of it.
    pub served: ServedModel,
    /// The stages behind the routes.
    pub pipeline: PipelineShape,
    /// Writes `/metrics`.
    pub metrics: Arc<dyn MetricsPage>,
    /// Told of every request that is answered, of those that are turned away before they reach the orchestrator, and of
    /// speech that was delivered.
    pub statistics: StatsSender,
    /// Bounds on what a request may ask for.
    pub limits: Limits,
    /// Who may ask.
    pub api_keys: ApiKeys,
    /// Where streamed speech stands in a chunk.
    pub audio_delta: AudioDelta,
}

/// Where streamed speech stands in a chunk of a chat answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AudioDelta {
    /// In `delta.content`, as vLLM-Omni does; the chunk's `modality` says that it is sound.
    #[default]
    Content,
    /// In `delta.audio`, as OpenAI does.
    OpenAi,
}

/// The orchestrator as the routes see it.
#[derive(Clone)]
pub struct OrchestratorPort {
    /// Admits requests.
    pub submit: Recipient<Submit>,
    /// Ends them early.
    pub abort: Recipient<Abort>,
    /// Tells whether every stage has a live replica.
    pub health: Recipient<GetHealth>,
    /// Tells how each replica is.
    pub stages: Recipient<GetStages>,
}

/// The model as clients know it.
#[derive(Debug, Clone)]
pub struct ServedModel {
    /// Names that a request may give; the first one stands in responses.
    pub names: Vec<String>,
    /// When it was loaded, seconds since 1970.
    pub created: u64,
    /// Where it was loaded from.
    pub root: String,
    /// The most tokens of prompt and answer together; `None` for a pipeline without a tokenizer.
    pub max_model_len: Option<u32>,
    /// A plain statement for `/v1/models`, such as that this is a tiny demo.
    pub notice: Option<String>,
}

impl ServedModel {
    /// The name in responses; empty when no name is served.
    pub fn name(&self) -> &str {
        self.names.first().map(String::as_str).unwrap_or_default()
    }
}

/// The pipeline as the routes see it.
#[derive(Debug, Clone)]
pub struct PipelineShape {
    /// The stages in pipeline order; stage 0 is the thinker.
    pub stages: Vec<StageShape>,
    /// The kinds of output that the pipeline makes.
    pub modalities: Vec<Modality>,
    /// Whether text comes with its tokens, and in several choices; it does not where a custom stage makes it.
    pub text_has_tokens: bool,
    /// The kinds that a request gets when it asks for none in particular.
    pub default_modalities: Vec<Modality>,
    /// The voices that the pipeline speaks with, the default one first; empty where it does not speak.
    pub voices: Vec<String>,
}

impl PipelineShape {
    /// The stage that speaks: the last one whose output is sound.
    pub fn audio_stage(&self) -> Option<StageId> {
        let last = self.stages.iter().rposition(|stage| stage.output == Some(Modality::Audio))?;
        u16::try_from(last).ok().map(StageId)
    }
}

/// One stage as the routes see it.
#[derive(Debug, Clone)]
pub struct StageShape {
    /// Its name in the deploy file.
    pub name: String,
    /// The kind of output it makes; `None` for a stage that only feeds the next one.
    pub output: Option<Modality>,
    /// How it samples where a request says nothing.
    pub default_sampling: SamplingParams,
}

/// Bounds on requests.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long a request may give no event before it is aborted.
    pub request_timeout: Duration,
    /// The most that `n` may be.
    pub max_choices: u32,
    /// The most prompts in one completions request.
    pub max_prompts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            body_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(600),
            max_choices: 128,
            max_prompts: 256,
        }
    }
}

/// Writes the metrics page.
pub trait MetricsPage: Send + Sync {
    /// Gathers and writes all families. `accept` is the request's `Accept` header, empty if there is none; it
    /// decides between the Prometheus text format and OpenMetrics.
    fn scrape(&self, accept: &str) -> Pin<Box<dyn Future<Output = Result<MetricsText, ScrapeError>>>>;
}

/// A metrics page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsText {
    /// The media type with version and character set.
    pub content_type: &'static str,
    /// The page.
    pub body: String,
}

/// Why there is no metrics page.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ScrapeError(pub String);
