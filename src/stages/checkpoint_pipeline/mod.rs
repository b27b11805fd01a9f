//! What the pipelines of checkpoints have in common: what they are built from, how a stage follows from its deployment,
//! and the stage with a language model that each of them begins with.

mod account;
mod defaults;
mod language_model;

use std::sync::Arc;

use thiserror::Error;

pub(super) use self::account::{cache_claim, enter_stage, granted_blocks};
pub(super) use self::defaults::with_checkpoint_defaults;
pub use self::language_model::{LanguageModelDevice, ReplicaModel};
pub(super) use self::language_model::{LanguageModelStage, decode_traffic};
use crate::config::{Checkpoint, CheckpointError, Deploy, Source, StageDeploy};
use crate::engine::SchedulerConfig;
use crate::models::LoadError;
use crate::models::qwen3::DecodeTraffic;
use crate::stages::device_memory::DeviceMemory;
use crate::stages::memory_ledger::{MemoryError, MemoryLedger};
use crate::stages::{Pipeline, StageError, StageFactory, StageSpec, StatisticsOptions};
use crate::tensor::{Outline, Outlined, Taken, WeightStore};
use crate::text::Tokenizer;

/// How a pipeline is to be built.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// Seed of requests that bring none.
    pub seed: u64,
    /// Which statistics stages keep.
    pub statistics: StatisticsOptions,
    /// Its stages.
    pub deploy: Deploy,
}

/// Why a pipeline cannot be built.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// A file of the checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Configuration or weights cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A sequence is to be longer than the model was made for.
    #[error("{asked} is more than the {limit} positions that the {stage} of {location} was made for")]
    TooLong {
        /// Who asks, and for how much.
        asked: String,
        /// What the model has.
        limit: usize,
        /// What the stage is called.
        stage: String,
        /// Where the model lies.
        location: String,
    },
    /// A device has too little memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A stage refuses its settings.
    #[error(transparent)]
    Stage(#[from] StageError),
}

/// A pipeline, with what the HTTP layer must know of its first stage.
#[derive(Debug, Clone)]
pub struct BuiltPipeline {
    /// The stages.
    pub pipeline: Pipeline,
    /// Token ids are below this.
    pub vocabulary_size: usize,
    /// The most tokens of prompt and answer together.
    pub max_model_len: usize,
    /// What decode steps of its language model read.
    pub decode: DecodeTraffic,
    /// What is to be said of its devices: what the memory of each goes to, a line a device.
    pub notes: Vec<String>,
}

/// What a pipeline is built from, whatever it runs on.
#[derive(Debug, Clone, Copy)]
pub struct ModelSource<'a> {
    /// Configuration and tokenizer.
    pub checkpoint: &'a Checkpoint,
    /// Weights.
    pub store: &'a WeightStore,
    /// The checkpoint's tokenizer.
    pub tokenizer: &'a Arc<Tokenizer>,
    /// How it is to be built.
    pub options: &'a PipelineOptions,
}

/// A device for some of the stages.
#[derive(Debug)]
pub struct StageDevice<'a, B> {
    /// Carries the operations out.
    pub backend: &'a B,
    /// What it keeps weights and activations in.
    pub outlined: Outlined,
    /// Its memory, with what is taken of it whatever stages it has, and its name. Stages whose devices have the same
    /// name are on the same device.
    pub ledger: MemoryLedger,
}

/// A loaded model, with what loading it took from the store.
pub(super) type Loaded<M> = (Arc<M>, Taken);

impl ModelSource<'_> {
    /// Loads a model and says what that took from the store.
    pub(super) fn load<M>(
        &self,
        load: impl FnOnce() -> Result<M, LoadError>,
    ) -> Result<Loaded<M>, PipelineError> {
        let before = self.store.taken();
        let model = load()?;
        Ok((Arc::new(model), self.store.taken() - before))
    }

    /// The account of a device, which knows how much its KV caches get if that is said.
    pub(super) fn account<B>(&self, device: &StageDevice<'_, B>) -> MemoryLedger {
        let mut ledger = device.ledger.clone();
        if let Some(bytes) = self.options.deploy.kv_cache_memory {
            ledger.give_caches(bytes);
        }
        ledger
    }

    /// The most tokens of a stage's sequences, of which its model takes at most `limit`.
    pub(super) fn max_model_len(&self, stage: &StageDeploy, limit: usize) -> Result<usize, PipelineError> {
        let asked = stage.max_model_len.unwrap_or(limit);
        if asked <= limit {
            return Ok(asked);
        }
        let asked = match stage.sources.of("max_model_len") {
            Source::Option(option) => format!("{option} {asked}"),
            source => format!("{source}: max_model_len {asked}"),
        };
        let (stage, location) = (stage.name.clone(), self.checkpoint.location());
        Err(PipelineError::TooLong { asked, limit, stage, location })
    }
}

impl<'a, B> StageDevice<'a, B> {
    /// A device with the memory of the process.
    pub fn of_process(backend: &'a B, name: &str) -> Self {
        let ledger = MemoryLedger::new(name, DeviceMemory::of_process());
        Self { backend, outlined: Outlined::Process, ledger }
    }

    /// The same with an outline in the place of the device.
    pub(super) fn outline<'o>(&self, outline: &'o Outline) -> StageDevice<'o, Outline> {
        StageDevice { backend: outline, outlined: self.outlined, ledger: self.ledger.clone() }
    }
}

/// The bounds of an engine's steps. More tokens than all its sequences can have are never computed in one step, and get
/// no workspace.
pub(super) fn bounds(stage: &StageDeploy, max_model_len: usize) -> SchedulerConfig {
    let SchedulerConfig { max_num_batched_tokens, max_num_seqs } = stage.scheduler;
    let possible = max_num_seqs.saturating_mul(max_model_len);
    SchedulerConfig { max_num_batched_tokens: max_num_batched_tokens.min(possible), max_num_seqs }
}

/// A stage as its deployment says.
pub(super) fn spec(stage: &StageDeploy, device: &str, factory: StageFactory) -> StageSpec {
    StageSpec {
        name: stage.name.clone(),
        takes: None,
        output: None,
        sends: None,
        replicas: stage.num_replicas,
        connector: stage.input.connector,
        async_chunk: stage.input.async_chunk,
        device: device.to_owned(),
        max_model_len: None,
        size: None,
        sampling: stage.sampling.clone(),
        families: Vec::new(),
        factory,
    }
}
