//! The deployment: which stages a server runs, how many replicas of each, where, and how chunks go between them.
//!
//! A [`Deploy`] is complete: what nobody set has its built-in value. Values come, later ones winning, from what is built
//! in, the checkpoint's own files, the deploy file, options of the command line, and `--stage-overrides`; where each
//! one came from is kept beside it.

mod source;

use std::collections::BTreeMap;

use serde_json::Value;

pub use self::source::Source;
use crate::engine::{SamplingParams, SchedulerConfig};
use crate::transport::Connector;

/// The deployment of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Deploy {
    /// Which pipeline it is, such as `qwen3_omni_moe`, or [`CUSTOM_PIPELINE`].
    pub pipeline: String,
    /// Its stages in the order in which a request visits them. The place of a stage is its `stage_id`.
    pub stages: Vec<StageDeploy>,
    /// Where values came from.
    pub sources: Sources,
}

/// The pipeline that has no stages but custom ones, and so needs no model.
pub const CUSTOM_PIPELINE: &str = "custom";

/// The deployment of one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageDeploy {
    /// What it is called: `thinker`, `talker`, `code2wav`, or the name of a custom stage.
    pub name: String,
    /// Whether it belongs to the model or was registered by the user.
    pub kind: StageKind,
    /// Where it runs.
    pub device: Placement,
    /// How many replicas serve it.
    pub num_replicas: u16,
    /// Bounds of its steps, if it is an engine: `max_num_seqs` and `max_num_batched_tokens`.
    pub scheduler: SchedulerConfig,
    /// The most tokens of a sequence, if it is to be less than what the model was made for.
    pub max_model_len: Option<usize>,
    /// Sampling parameters of requests that do not set their own; those of a code predictor included.
    pub sampling: SamplingParams,
    /// How chunks come to it from the stage before; of no meaning for the first one.
    pub input: EdgeDeploy,
}

/// Whose stage it is.
#[derive(Debug, Clone, PartialEq)]
pub enum StageKind {
    /// The model's.
    Model,
    /// The user's: `custom_stage: NAME`. The name is the stage's.
    Custom {
        /// `settings`, as they stand there; null where there are none.
        settings: Value,
    },
}

/// Where a stage runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On the CPU.
    Cpu,
    /// On the GPU of this number.
    Cuda(usize),
}

/// An edge: how chunks go from one stage to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeDeploy {
    /// How a chunk is handed over.
    pub connector: Connector,
    /// Whether chunks go on as they are made. If not, all of them go when the earlier stage is done with the request.
    pub async_chunk: bool,
    /// How codec frames are decoded behind the edge, if it leads to a vocoder.
    pub codec: CodecChunks,
}

/// The sizes in which a vocoder decodes codec frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodecChunks {
    /// New frames of the first window.
    pub initial_frames: usize,
    /// New frames of later windows.
    pub chunk_frames: usize,
    /// Frames that a later window repeats.
    pub left_context_frames: usize,
    /// Windows decoded in one step.
    pub max_windows: usize,
}

/// Where values came from, by the value's path, such as `stages.1.num_replicas`. What is not listed is built in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources(BTreeMap<String, Source>);

impl Sources {
    /// Notes where a value came from.
    pub fn note(&mut self, path: impl Into<String>, source: Source) {
        self.0.insert(path.into(), source);
    }

    /// Where a value came from.
    pub fn of(&self, path: &str) -> &Source {
        self.0.get(path).unwrap_or(&Source::BuiltIn)
    }
}

impl StageDeploy {
    /// A stage of a model with built-in values.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: StageKind::Model,
            device: Placement::Cpu,
            num_replicas: 1,
            scheduler: SchedulerConfig { max_num_batched_tokens: 512, max_num_seqs: 64 },
            max_model_len: None,
            sampling: SamplingParams::default(),
            input: EdgeDeploy::default(),
        }
    }

    /// A custom stage with built-in values.
    pub fn custom(name: &str, settings: Value) -> Self {
        Self { kind: StageKind::Custom { settings }, ..Self::new(name) }
    }
}

impl Default for EdgeDeploy {
    fn default() -> Self {
        Self { connector: Connector::default(), async_chunk: true, codec: CodecChunks::default() }
    }
}

impl Default for CodecChunks {
    /// Sound after 0.32 s of speech is there, then every 2 s, at 12.5 frames a second.
    fn default() -> Self {
        Self { initial_frames: 4, chunk_frames: 25, left_context_frames: 25, max_windows: 4 }
    }
}
