//! The deployment: which stages a server runs, how many replicas of each, where, and how chunks go between them.
//!
//! A [`Deploy`] is complete: what nobody set has its built-in value. Values come, later ones winning, from what is built
//! in, the checkpoint's own files, the deploy file, options of the command line, and `--stage-overrides`; where each
//! one came from is kept beside it. What one of these says is a [`Layer`]; [`resolve`] puts them together.

mod edges;
mod error;
mod file;
mod inert;
pub mod keys;
mod layer;
mod notes;
mod placement;
mod resolve;
mod row;
mod sampling;
mod show;

use serde_json::Value;

pub use self::error::{DeployError, Fault};
pub use self::file::OVERRIDES_OPTION;
pub use self::layer::Layer;
pub use self::notes::Notes;
pub use self::placement::{Placement, ServerDevice};
pub use self::resolve::{DeployLayers, DeployOptions, PipelineChoice, resolve};
use crate::config::Sources;
use crate::engine::{SamplingParams, SchedulerConfig};
use crate::tensor::Dtype;
use crate::transport::Connector;

/// The pipeline that has no stages but custom ones, and so needs no model.
pub const CUSTOM_PIPELINE: &str = "custom";
/// As many replicas may a stage have.
pub const MOST_REPLICAS: u16 = 64;

/// The deployment of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Deploy {
    /// Which pipeline it is, such as `qwen3_omni_moe` or `qwen3`, or [`CUSTOM_PIPELINE`].
    pub pipeline: String,
    /// Type of weights and activations.
    pub dtype: Dtype,
    /// Whether chunks go on as they are made, where no stage says otherwise.
    pub async_chunk: bool,
    /// Bytes of all KV caches of a device together, if this is said.
    pub kv_cache_memory: Option<u64>,
    /// Its stages in the order in which a request visits them. The place of a stage is its `stage_id`.
    pub stages: Vec<StageDeploy>,
    /// Where the values above came from.
    pub sources: Sources,
}

/// The deployment of one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageDeploy {
    /// What it is called: `thinker`, `talker`, `code2wav`, `llm`, or the name of a custom stage.
    pub name: String,
    /// What it does.
    pub kind: StageKind,
    /// Where it runs.
    pub device: Placement,
    /// How many replicas serve it.
    pub num_replicas: u16,
    /// Bounds of its steps, if it is an engine: `max_num_seqs` and `max_num_batched_tokens`.
    pub scheduler: SchedulerConfig,
    /// Bytes of the KV cache of each replica, if it is an engine and this is said.
    pub kv_cache_memory: Option<u64>,
    /// Whether its requests share what is cached of their common prefixes, if it reads prompts.
    pub prefix_caching: bool,
    /// The most tokens of a sequence, if it is an engine and this is known.
    pub max_model_len: Option<usize>,
    /// Sampling parameters of requests that do not set their own; those of a code predictor included.
    pub sampling: SamplingParams,
    /// How chunks come to it from the stage before; of no meaning for the first one.
    pub input: EdgeDeploy,
    /// What its own entry says of `async_chunk`; [`EdgeDeploy::async_chunk`] is what comes of it.
    pub async_chunk: Option<bool>,
    /// Where values came from, by their keys, such as `num_replicas` or `default_sampling_params.temperature`; those of
    /// the connector before it by `connector` and by the keys of its `extra`.
    pub sources: Sources,
}

/// What a stage does.
#[derive(Debug, Clone, PartialEq)]
pub enum StageKind {
    /// An engine of the model's that reads the prompt and writes text: a thinker, or a plain text model.
    Llm,
    /// An engine of the model's that writes codec frames.
    Talker,
    /// Makes sound of codec frames.
    Vocoder,
    /// The user's own: `custom_stage: NAME`. The name is the stage's.
    Custom {
        /// `settings`, as they stand there; null where there are none.
        settings: Value,
    },
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

impl StageKind {
    /// Whether it generates tokens, and so schedules, caches and samples.
    pub fn is_engine(&self) -> bool {
        matches!(self, Self::Llm | Self::Talker)
    }

    /// Whether it is an engine that is given prompts, of which several may begin alike. A talker's input is made of words
    /// and of its own frames.
    pub fn reads_prompts(&self) -> bool {
        matches!(self, Self::Llm)
    }

    /// Whether it can run on a GPU.
    pub fn runs_on_gpu(&self) -> bool {
        matches!(self, Self::Llm)
    }
}

impl StageDeploy {
    /// A stage with built-in values. A step of so many tokens takes a large model some seconds on a CPU, and nothing can
    /// be aborted while it runs.
    pub fn new(name: &str, kind: StageKind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            device: Placement::Cpu,
            num_replicas: 1,
            scheduler: SchedulerConfig { max_num_batched_tokens: 512, max_num_seqs: 64 },
            kv_cache_memory: None,
            prefix_caching: true,
            max_model_len: None,
            sampling: SamplingParams::default(),
            input: EdgeDeploy::default(),
            async_chunk: None,
            sources: Sources::default(),
        }
    }

    /// A custom stage with built-in values.
    pub fn custom(name: &str, settings: Value) -> Self {
        Self::new(name, StageKind::Custom { settings })
    }
}

impl Deploy {
    /// A pipeline with built-in values, of these stages.
    pub fn new(pipeline: &str, stages: Vec<StageDeploy>) -> Self {
        let sources = Sources::default();
        let (dtype, kv_cache_memory) = (Dtype::Auto, None);
        Self { pipeline: pipeline.to_owned(), dtype, async_chunk: true, kv_cache_memory, stages, sources }
    }

    /// The stage of the model that does this, if there is one.
    pub fn stage_of(&self, kind: &StageKind) -> Option<&StageDeploy> {
        self.stages.iter().find(|stage| stage.kind == *kind)
    }

    /// Checks that every custom stage is one of those that were registered.
    ///
    /// # Errors
    ///
    /// Names the first that is not, and where it stands.
    pub fn check_custom_stages(&self, registered: &[&str]) -> Result<(), DeployError> {
        let custom = |stage: &&StageDeploy| matches!(stage.kind, StageKind::Custom { .. });
        for stage in self.stages.iter().filter(custom) {
            if !registered.contains(&stage.name.as_str()) {
                let at = stage.sources.of("custom_stage");
                let known = registered.iter().map(|name| (*name).to_owned()).collect();
                let fault = Fault::UnknownCustomStage { name: stage.name.clone(), known };
                return Err(fault.at(at));
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests;
