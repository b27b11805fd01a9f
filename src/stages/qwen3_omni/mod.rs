//! The Qwen3-Omni pipeline: how a checkpoint becomes stages.

mod defaults;

use std::sync::Arc;

use thiserror::Error;

pub use self::defaults::built_in_deploy;
use self::defaults::{eos_ids, read_config};
use crate::config::deploy::{CodecChunks, StageKind};
use crate::config::{Checkpoint, CheckpointError, Deploy, Source, StageDeploy};
use crate::engine::{Sampler, SchedulerConfig};
use crate::ids::StageId;
use crate::models::LoadError;
use crate::models::qwen3::LanguageModel;
use crate::models::qwen3_omni::{
    Code2Wav, Code2WavConfig, CodePredictor, OmniConfig, StreamingSchedule, Talker, TalkerConfig, Thinker,
};
use crate::stages::cache_memory::{CacheTooLarge, cache_blocks, free_memory};
use crate::stages::code2wav::{Code2WavSettings, Code2WavStage};
use crate::stages::llm::{HostSampling, LlmSettings, LlmStage, StepModel};
use crate::stages::talker::{TalkerModels, TalkerSettings, TalkerStage};
use crate::stages::{Modality, Pipeline, Stage, StageFactory, StageSize, StageSpec};
use crate::tensor::{Backend, BatchLimits, Convolution, DeviceError, InputRows, Taken, WeightStore};
use crate::text::Tokenizer;
use crate::transport::PayloadKind;

/// `model_type` of the checkpoints that this pipeline serves.
pub const MODEL_TYPE: &str = "qwen3_omni_moe";

/// The share of the memory that is free at start which the thinker's KV cache may take.
const THINKER_CACHE_SHARE: f64 = 0.25;
/// The same for the talker's.
const TALKER_CACHE_SHARE: f64 = 0.10;
/// Samples per second of the vocoder.
const SAMPLE_RATE: u32 = 24_000;

/// How a pipeline is to be built.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// Seed of requests that bring none.
    pub seed: u64,
    /// Whether stages keep statistics.
    pub statistics: bool,
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
    /// The KV cache of one sequence does not fit.
    #[error(transparent)]
    Cache(#[from] CacheTooLarge),
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
}

/// A device for some of the stages.
#[derive(Debug)]
pub struct StageDevice<'a, B> {
    /// Carries the operations out.
    pub backend: &'a B,
    /// What it is called in the startup message.
    pub name: &'a str,
}

/// The thinker's device.
pub struct ThinkerDevice<'a, T: Backend, S: Backend> {
    /// The device.
    pub device: StageDevice<'a, T>,
    /// Bytes that the KV caches of the thinker may take; asked once the weights are loaded.
    pub cache_budget: &'a dyn Fn() -> Result<u64, DeviceError>,
    /// Makes what a replica of the thinker works with.
    pub model: ReplicaModel<T>,
    /// The table of the thinker's embeddings on the device of the stages that speak, which the talker reads too.
    pub embedding: EmbeddingFor<'a, T, S>,
}

/// Makes what a replica works with of a model's weights, the blocks of its cache and its largest step: a model whose
/// tokens are chosen on the host, or one that chooses them on its device.
pub type ReplicaModel<T> =
    fn(Arc<LanguageModel<T>>, usize, BatchLimits, Sampler) -> Result<Box<dyn StepModel>, DeviceError>;

/// Gives the embedding table of a thinker on a device for another device.
type EmbeddingFor<'a, T, S> =
    &'a dyn Fn(&LanguageModel<T>, &OmniConfig) -> Result<<S as Backend>::Matrix, LoadError>;

/// Everything that the stages are built from.
struct Builder<'a, T: Backend, S: Backend> {
    checkpoint: &'a Checkpoint,
    store: &'a WeightStore,
    thinker: ThinkerDevice<'a, T, S>,
    /// Where talker and vocoder run.
    speech: StageDevice<'a, S>,
    tokenizer: &'a Arc<Tokenizer>,
    options: &'a PipelineOptions,
    config: OmniConfig,
}

/// Builds the pipeline of a checkpoint, all of it on one device with the memory of the process.
pub fn build<B: Backend + InputRows + Convolution>(
    checkpoint: &Checkpoint,
    store: &WeightStore,
    (backend, name): (&B, &str),
    tokenizer: &Arc<Tokenizer>,
    options: &PipelineOptions,
) -> Result<BuiltPipeline, PipelineError> {
    let thinker = ThinkerDevice {
        device: StageDevice { backend, name },
        cache_budget: &|| Ok((free_memory() as f64 * THINKER_CACHE_SHARE) as u64),
        model: |weights, blocks, limits, sampler| {
            Ok(Box::new(HostSampling::new(weights, blocks, limits, sampler)?))
        },
        embedding: &|thinker, _| Ok(thinker.embedding().clone()),
    };
    let speech = StageDevice { backend, name };
    build_on(checkpoint, store, thinker, speech, tokenizer, options)
}

/// Builds the pipeline of a checkpoint with the thinker on one device and the stages that speak on another.
pub fn build_on<T: Backend, S: Backend + InputRows + Convolution>(
    checkpoint: &Checkpoint,
    store: &WeightStore,
    thinker: ThinkerDevice<'_, T, S>,
    speech: StageDevice<'_, S>,
    tokenizer: &Arc<Tokenizer>,
    options: &PipelineOptions,
) -> Result<BuiltPipeline, PipelineError> {
    let config = read_config(checkpoint)?;
    let builder = Builder { checkpoint, store, thinker, speech, tokenizer, options, config };
    builder.build()
}

impl<T: Backend, S: Backend + InputRows + Convolution> Builder<'_, T, S> {
    fn build(self) -> Result<BuiltPipeline, PipelineError> {
        let deploy = &self.options.deploy;
        let built_in = StageDeploy::new("thinker", StageKind::Thinker);
        let stage = deploy.stage_of(&StageKind::Thinker).unwrap_or(&built_in);
        let max_model_len = self.max_model_len(stage, self.config.thinker.max_position_embeddings)?;
        let backend = self.thinker.device.backend;
        let before = self.store.taken();
        let thinker = Thinker::load(backend, &self.config, self.store, deploy.dtype)?;
        let thinker = Arc::new(thinker.into_language_model());
        let weights = self.store.taken() - before;
        let vocabulary_size = thinker.config().vocab_size;
        let mut stages = vec![self.thinker((thinker.clone(), weights), stage, max_model_len)?];
        let mut voices = Vec::new();
        if let (Some(config), Some(stage)) = (&self.config.talker, deploy.stage_of(&StageKind::Talker)) {
            stages.push(self.talker(config, &thinker, stage)?);
            voices = config.speakers.iter().map(|(name, _)| name.to_lowercase()).collect();
        }
        if let (Some(config), Some(stage)) = (&self.config.code2wav, deploy.stage_of(&StageKind::Vocoder)) {
            stages.push(self.code2wav(config, stage)?);
        }
        let pipeline = Pipeline { name: MODEL_TYPE.to_owned(), stages, voices };
        Ok(BuiltPipeline { pipeline, vocabulary_size, max_model_len })
    }

    /// The most tokens of a stage's sequences, of which its model takes at most `limit`.
    fn max_model_len(&self, stage: &StageDeploy, limit: usize) -> Result<usize, PipelineError> {
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

    fn thinker(
        &self,
        (model, weights): (Arc<LanguageModel<T>>, Taken),
        stage: &StageDeploy,
        max_model_len: usize,
    ) -> Result<StageSpec, PipelineError> {
        let caches = (self.thinker.cache_budget)().map_err(LoadError::from)?;
        let budget = caches / u64::from(stage.num_replicas);
        let scheduler = bounds(stage, max_model_len);
        let settings = LlmSettings {
            stage: StageId(0),
            scheduler,
            cache_blocks: cache_blocks(
                model.kv_bytes_per_block(),
                max_model_len,
                scheduler.max_num_seqs,
                budget,
            )?,
            max_model_len,
            eos_ids: eos_ids(self.checkpoint, self.tokenizer, &self.config)?,
            seed: self.options.seed,
            statistics: self.options.statistics,
        };
        let (replicas, bytes_per_block) = (stage.num_replicas, model.kv_bytes_per_block());
        let size = StageSize::new(weights, replicas, settings.cache_blocks, bytes_per_block);
        let (tokenizer, replica_model) = (self.tokenizer.clone(), self.thinker.model);
        let factory: StageFactory = Arc::new(move || {
            let SchedulerConfig { max_num_batched_tokens, max_num_seqs } = settings.scheduler;
            let limits = BatchLimits { rows: max_num_batched_tokens, logit_rows: max_num_seqs };
            let sampler = Sampler::new(settings.eos_ids.clone(), Vec::new());
            let model = replica_model(model.clone(), settings.cache_blocks, limits, sampler)?;
            Ok(Box::new(LlmStage::new(model, tokenizer.clone(), settings.clone())?) as Box<dyn Stage>)
        });
        Ok(StageSpec {
            output: Some(Modality::Text),
            sends: Some(PayloadKind::Tokens),
            max_model_len: Some(max_model_len),
            size: Some(size),
            ..spec(stage, self.thinker.device.name, factory)
        })
    }

    fn talker(
        &self,
        config: &TalkerConfig,
        thinker: &LanguageModel<T>,
        stage: &StageDeploy,
    ) -> Result<StageSpec, PipelineError> {
        let (backend, dtype) = (self.speech.backend, self.options.deploy.dtype);
        let max_model_len = self.max_model_len(stage, config.max_position_embeddings)?;
        let before = self.store.taken();
        let predictor = CodePredictor::load(backend, config, self.store, dtype)?;
        let embedding = (self.thinker.embedding)(thinker, &self.config)?;
        let talker = Talker::load(backend, &self.config, config, embedding, &predictor, self.store, dtype)?;
        let weights = self.store.taken() - before;
        let share = free_memory() as f64 * TALKER_CACHE_SHARE;
        let budget = (share / f64::from(stage.num_replicas)) as u64;
        let scheduler = bounds(stage, max_model_len);
        let settings = TalkerSettings {
            stage: StageId(1),
            scheduler,
            cache_blocks: cache_blocks(
                talker.kv_bytes_per_block(),
                max_model_len,
                scheduler.max_num_seqs,
                budget,
            )?,
            max_model_len,
            seed: self.options.seed,
            statistics: self.options.statistics,
        };
        let (replicas, bytes_per_block) = (stage.num_replicas, talker.kv_bytes_per_block());
        let size = StageSize::new(weights, replicas, settings.cache_blocks, bytes_per_block);
        let models = Arc::new(TalkerModels {
            config: self.config.clone(),
            talker_config: config.clone(),
            talker,
            predictor,
        });
        let factory: StageFactory = Arc::new(move || {
            Ok(Box::new(TalkerStage::new(models.clone(), settings.clone())?) as Box<dyn Stage>)
        });
        Ok(StageSpec {
            takes: Some(PayloadKind::Tokens),
            sends: Some(PayloadKind::Codes),
            max_model_len: Some(max_model_len),
            size: Some(size),
            ..spec(stage, self.speech.name, factory)
        })
    }

    fn code2wav(&self, config: &Code2WavConfig, stage: &StageDeploy) -> Result<StageSpec, PipelineError> {
        let dtype = self.options.deploy.dtype;
        let before = self.store.taken();
        let model = Arc::new(Code2Wav::load(self.speech.backend, config, self.store, dtype)?);
        let size = StageSize::new(self.store.taken() - before, stage.num_replicas, 0, 0);
        let CodecChunks { initial_frames, chunk_frames, left_context_frames, max_windows } =
            stage.input.codec;
        let schedule = StreamingSchedule { initial_frames, chunk_frames, left_context_frames };
        let settings = Code2WavSettings { schedule, max_windows, sample_rate: SAMPLE_RATE };
        let factory: StageFactory =
            Arc::new(move || Ok(Box::new(Code2WavStage::new(model.clone(), settings)?) as Box<dyn Stage>));
        Ok(StageSpec {
            takes: Some(PayloadKind::Codes),
            output: Some(Modality::Audio),
            size: Some(size),
            ..spec(stage, self.speech.name, factory)
        })
    }
}

/// The bounds of an engine's steps. More tokens than all its sequences can have are never computed in one step, and get
/// no workspace.
fn bounds(stage: &StageDeploy, max_model_len: usize) -> SchedulerConfig {
    let SchedulerConfig { max_num_batched_tokens, max_num_seqs } = stage.scheduler;
    let possible = max_num_seqs.saturating_mul(max_model_len);
    SchedulerConfig { max_num_batched_tokens: max_num_batched_tokens.min(possible), max_num_seqs }
}

/// A stage as its deployment says.
fn spec(stage: &StageDeploy, device: &str, factory: StageFactory) -> StageSpec {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::cpu::Cpu;

    fn demo_of_length(max_model_len: usize) -> Result<BuiltPipeline, PipelineError> {
        let demo = Checkpoint::demo();
        let store = WeightStore::embedded("model.safetensors", Checkpoint::demo_weights()).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_files(&demo.tokenizer_files().unwrap()).unwrap());
        let mut deploy = built_in_deploy(&demo, false).unwrap();
        deploy.stages[0].max_model_len = Some(max_model_len);
        let options = PipelineOptions { seed: 0, statistics: false, deploy };
        build(&demo, &store, (&Cpu::new(None).unwrap(), "cpu"), &tokenizer, &options)
    }

    #[test]
    fn a_length_beyond_the_models_is_refused() {
        assert!(matches!(demo_of_length(1 << 20), Err(PipelineError::TooLong { .. })));
        assert_eq!(demo_of_length(2).unwrap().max_model_len, 2);
    }
}
