//! The Qwen3-Omni pipeline: how a checkpoint becomes stages.

mod defaults;
mod measure;

use std::sync::Arc;

use thiserror::Error;

pub use self::defaults::built_in_deploy;
use self::defaults::{eos_ids, read_config};
use self::measure::CacheBlocks;
use crate::config::deploy::{CodecChunks, StageKind};
use crate::config::{Checkpoint, CheckpointError, Deploy, Source, StageDeploy};
use crate::engine::{Sampler, SchedulerConfig};
use crate::ids::StageId;
use crate::models::LoadError;
use crate::models::qwen3::{DecoderConfig, DecoderWork, LanguageModel};
use crate::models::qwen3_omni::{
    Code2Wav, Code2WavConfig, CodePredictor, OmniConfig, StreamingSchedule, Talker, TalkerConfig, Thinker,
};
use crate::stages::code2wav::{Code2WavSettings, Code2WavStage};
use crate::stages::device_memory::DeviceMemory;
use crate::stages::llm::{HostSampling, LlmSettings, LlmStage, StepModel};
use crate::stages::memory_ledger::{MemoryError, MemoryLedger};
use crate::stages::talker::{TalkerModels, TalkerSettings, TalkerStage};
use crate::stages::{
    EngineStatisticsOptions, Modality, Pipeline, Stage, StageError, StageFactory, StageSize, StageSpec,
    StatisticsOptions,
};
use crate::tensor::{
    BLOCK_SIZE, Backend, BatchLimits, Convolution, DeviceError, InputRows, Outlined, Taken, WeightStore,
};
use crate::text::Tokenizer;
use crate::transport::PayloadKind;

/// `model_type` of the checkpoints that this pipeline serves.
pub const MODEL_TYPE: &str = "qwen3_omni_moe";

/// How much the thinker's KV cache gets of what its device has left, in proportion to the talker's.
const THINKER_CACHE_WEIGHT: f64 = 5.0;
/// The same for the talker's.
const TALKER_CACHE_WEIGHT: f64 = 2.0;
/// Samples per second of the vocoder.
const SAMPLE_RATE: u32 = 24_000;

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
    /// What the memory of each device goes to, a line a device.
    pub memory: Vec<String>,
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

/// The thinker's device.
pub struct ThinkerDevice<'a, T: Backend, S: Backend> {
    /// The device.
    pub device: StageDevice<'a, T>,
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
    config: &'a OmniConfig,
}

/// A loaded model, with what loading it took from the store.
type Loaded<M> = (Arc<M>, Taken);

/// Builds the pipeline of a checkpoint, all of it on one device with the memory of the process.
pub fn build<B: Backend + InputRows + Convolution>(
    checkpoint: &Checkpoint,
    store: &WeightStore,
    (backend, name): (&B, &str),
    tokenizer: &Arc<Tokenizer>,
    options: &PipelineOptions,
) -> Result<BuiltPipeline, PipelineError> {
    let device = || StageDevice {
        backend,
        outlined: Outlined::Process,
        ledger: MemoryLedger::new(name, DeviceMemory::of_process()),
    };
    let embedding = |thinker: &LanguageModel<B>, _: &_| Ok(thinker.embedding().clone());
    let thinker = ThinkerDevice { device: device(), model: HostSampling::boxed, embedding: &embedding };
    build_on(checkpoint, store, thinker, device(), tokenizer, options)
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
    let builder = Builder { checkpoint, store, thinker, speech, tokenizer, options, config: &config };
    builder.build()
}

impl<T: Backend, S: Backend + InputRows + Convolution> Builder<'_, T, S> {
    fn build(self) -> Result<BuiltPipeline, PipelineError> {
        let (blocks, memory) = self.measure()?;
        let deploy = &self.options.deploy;
        let loaded = self.load_thinker()?;
        let thinker = loaded.0.clone();
        let vocabulary_size = thinker.config().vocab_size;
        let spec = self.thinker(loaded, blocks)?;
        let max_model_len = spec.max_model_len.unwrap_or_default();
        let mut stages = vec![spec];
        let mut voices = Vec::new();
        if let (Some(config), Some(stage)) = (&self.config.talker, deploy.stage_of(&StageKind::Talker)) {
            stages.push(self.talker(self.load_talker(config, &thinker)?, stage, blocks)?);
            voices = config.speakers.iter().map(|(name, _)| name.to_lowercase()).collect();
        }
        if let (Some(config), Some(stage)) = (&self.config.code2wav, deploy.stage_of(&StageKind::Vocoder)) {
            stages.push(self.code2wav(self.load_code2wav(config)?, stage));
        }
        let pipeline = Pipeline { name: MODEL_TYPE.to_owned(), stages, voices };
        Ok(BuiltPipeline { pipeline, vocabulary_size, max_model_len, memory })
    }

    /// How the thinker is deployed.
    fn thinker_stage(&self) -> StageDeploy {
        let stage = self.options.deploy.stage_of(&StageKind::Thinker).cloned();
        stage.unwrap_or_else(|| StageDeploy::new("thinker", StageKind::Thinker))
    }

    fn load_thinker(&self) -> Result<Loaded<LanguageModel<T>>, PipelineError> {
        let (backend, before) = (self.thinker.device.backend, self.store.taken());
        let thinker = Thinker::load(backend, self.config, self.store, self.options.deploy.dtype)?;
        Ok((Arc::new(thinker.into_language_model()), self.store.taken() - before))
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
        (model, weights): Loaded<LanguageModel<T>>,
        blocks: CacheBlocks,
    ) -> Result<StageSpec, PipelineError> {
        let stage = &self.thinker_stage();
        let max_model_len = self.max_model_len(stage, self.config.thinker.max_position_embeddings)?;
        let settings = LlmSettings {
            stage: StageId(0),
            scheduler: bounds(stage, max_model_len),
            cache_blocks: blocks.thinker,
            max_model_len,
            prefix_caching: stage.prefix_caching,
            eos_ids: eos_ids(self.checkpoint, self.tokenizer, self.config)?,
            seed: self.options.seed,
            statistics: self.statistics(weights, model.config(), model.kv_bytes_per_block()),
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
            ..spec(stage, self.thinker.device.ledger.device(), factory)
        })
    }

    /// What an engine with these weights and this decoder counts.
    fn statistics(
        &self,
        weights: Taken,
        decoder: &DecoderConfig,
        bytes_per_block: usize,
    ) -> EngineStatisticsOptions {
        self.options.statistics.of_engine(|| DecoderWork {
            config: decoder.clone(),
            bytes_per_weight: weights.bytes as f64 / weights.parameters.max(1) as f64,
            cache_bytes_per_token: bytes_per_block as f64 / BLOCK_SIZE as f64,
        })
    }

    fn load_talker(
        &self,
        config: &TalkerConfig,
        thinker: &LanguageModel<T>,
    ) -> Result<Loaded<TalkerModels<S>>, PipelineError> {
        let (backend, dtype) = (self.speech.backend, self.options.deploy.dtype);
        let before = self.store.taken();
        let predictor = CodePredictor::load(backend, config, self.store, dtype)?;
        let embedding = (self.thinker.embedding)(thinker, self.config)?;
        let talker = Talker::load(backend, self.config, config, embedding, &predictor, self.store, dtype)?;
        let weights = self.store.taken() - before;
        let (config, talker_config) = (self.config.clone(), config.clone());
        Ok((Arc::new(TalkerModels { config, talker_config, talker, predictor }), weights))
    }

    fn talker(
        &self,
        (models, weights): Loaded<TalkerModels<S>>,
        stage: &StageDeploy,
        blocks: CacheBlocks,
    ) -> Result<StageSpec, PipelineError> {
        let max_model_len = self.max_model_len(stage, models.talker_config.max_position_embeddings)?;
        let settings = TalkerSettings {
            stage: StageId(1),
            scheduler: bounds(stage, max_model_len),
            cache_blocks: blocks.talker,
            max_model_len,
            seed: self.options.seed,
            statistics: self.statistics(
                weights,
                &models.talker_config.decoder,
                models.talker.kv_bytes_per_block(),
            ),
        };
        let (replicas, bytes_per_block) = (stage.num_replicas, models.talker.kv_bytes_per_block());
        let size = StageSize::new(weights, replicas, settings.cache_blocks, bytes_per_block);
        let factory: StageFactory = Arc::new(move || {
            Ok(Box::new(TalkerStage::new(models.clone(), settings.clone())?) as Box<dyn Stage>)
        });
        Ok(StageSpec {
            takes: Some(PayloadKind::Tokens),
            sends: Some(PayloadKind::Codes),
            max_model_len: Some(max_model_len),
            size: Some(size),
            ..spec(stage, self.speech.ledger.device(), factory)
        })
    }

    fn load_code2wav(&self, config: &Code2WavConfig) -> Result<Loaded<Code2Wav<S>>, PipelineError> {
        let before = self.store.taken();
        let model = Code2Wav::load(self.speech.backend, config, self.store, self.options.deploy.dtype)?;
        Ok((Arc::new(model), self.store.taken() - before))
    }

    fn code2wav(&self, (model, weights): Loaded<Code2Wav<S>>, stage: &StageDeploy) -> StageSpec {
        let size = StageSize::new(weights, stage.num_replicas, 0, 0);
        let CodecChunks { initial_frames, chunk_frames, left_context_frames, max_windows } =
            stage.input.codec;
        let schedule = StreamingSchedule { initial_frames, chunk_frames, left_context_frames };
        let settings = Code2WavSettings { schedule, max_windows, sample_rate: SAMPLE_RATE };
        let factory: StageFactory =
            Arc::new(move || Ok(Box::new(Code2WavStage::new(model.clone(), settings)?) as Box<dyn Stage>));
        StageSpec {
            takes: Some(PayloadKind::Codes),
            output: Some(Modality::Audio),
            size: Some(size),
            ..spec(stage, self.speech.ledger.device(), factory)
        }
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
        let options = PipelineOptions { seed: 0, statistics: false.into(), deploy };
        build(&demo, &store, (&Cpu::new(None).unwrap(), "cpu"), &tokenizer, &options)
    }

    #[test]
    fn a_length_beyond_the_models_is_refused() {
        assert!(matches!(demo_of_length(1 << 20), Err(PipelineError::TooLong { .. })));
        assert_eq!(demo_of_length(2).unwrap().max_model_len, 2);
    }
}
