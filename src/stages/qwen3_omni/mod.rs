//! The Qwen3-Omni pipeline: how a checkpoint becomes stages.

mod defaults;

use std::sync::Arc;

use thiserror::Error;

use self::defaults::{Defaults, eos_ids};
use crate::config::{Checkpoint, CheckpointError};
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
use crate::stages::{Modality, Pipeline, Stage, StageFactory, StageSpec};
use crate::tensor::{Backend, BatchLimits, Convolution, DeviceError, Dtype, InputRows, WeightStore};
use crate::text::Tokenizer;
use crate::transport::Connector;

/// `model_type` of the checkpoints that this pipeline serves.
pub const MODEL_TYPE: &str = "qwen3_omni_moe";

/// Bounds of the thinker's steps. A step of so many tokens takes a large model some seconds on a CPU, and nothing can
/// be aborted while it runs.
const THINKER_STEPS: SchedulerConfig = SchedulerConfig { max_num_batched_tokens: 512, max_num_seqs: 64 };
/// Bounds of the talker's steps.
const TALKER_STEPS: SchedulerConfig = SchedulerConfig { max_num_batched_tokens: 512, max_num_seqs: 64 };
/// The share of the memory that is free at start which the thinker's KV cache may take.
const THINKER_CACHE_SHARE: f64 = 0.25;
/// The same for the talker's.
const TALKER_CACHE_SHARE: f64 = 0.10;
/// The sizes of the vocoder's windows: sound after 0.32 s of speech is there, then every 2 s.
const SCHEDULE: StreamingSchedule =
    StreamingSchedule { initial_frames: 4, chunk_frames: 25, left_context_frames: 25 };
/// Windows that the vocoder decodes in one step.
const VOCODER_WINDOWS: usize = 4;
/// Samples per second of the vocoder.
const SAMPLE_RATE: u32 = 24_000;

/// How a pipeline is to be built.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// Type of weights and activations.
    pub dtype: Dtype,
    /// The most tokens of prompt and answer together, if it is to be less than what the model was made for.
    pub max_model_len: Option<usize>,
    /// Seed of requests that bring none.
    pub seed: u64,
    /// Whether stages keep statistics.
    pub statistics: bool,
    /// Replicas of each stage.
    pub replicas: u16,
    /// How chunks go from stage to stage.
    pub connector: Connector,
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
    /// `--max-model-len` asks for more than there is.
    #[error("--max-model-len {asked} is more than the {limit} positions that {location} was made for")]
    TooLong {
        /// What was asked for.
        asked: usize,
        /// What the model has.
        limit: usize,
        /// Where the model lies.
        location: String,
    },
    /// `--max-model-len` has no room for a prompt and an answer.
    #[error("--max-model-len {asked} has no room for a prompt and an answer; it must be at least 2")]
    TooShort {
        /// What was asked for.
        asked: usize,
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
    defaults: Defaults,
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
    let file = checkpoint.path_of("config.json");
    let config = OmniConfig::parse(&checkpoint.config()?.to_string(), &file)?;
    let defaults = Defaults::read(checkpoint)?;
    let builder = Builder { checkpoint, store, thinker, speech, tokenizer, options, config, defaults };
    builder.build()
}

impl<T: Backend, S: Backend + InputRows + Convolution> Builder<'_, T, S> {
    fn build(self) -> Result<BuiltPipeline, PipelineError> {
        let limit = self.config.thinker.max_position_embeddings;
        let max_model_len = self.options.max_model_len.unwrap_or(limit);
        if max_model_len > limit {
            let location = self.checkpoint.location();
            return Err(PipelineError::TooLong { asked: max_model_len, limit, location });
        }
        if max_model_len < 2 {
            return Err(PipelineError::TooShort { asked: max_model_len });
        }
        let backend = self.thinker.device.backend;
        let thinker = Thinker::load(backend, &self.config, self.store, self.options.dtype)?;
        let thinker = Arc::new(thinker.into_language_model());
        let vocabulary_size = thinker.config().vocab_size;
        let mut stages = vec![self.thinker(thinker.clone(), max_model_len)?];
        let mut voices = Vec::new();
        if let (Some(talker), Some(code2wav)) = (&self.config.talker, &self.config.code2wav) {
            stages.push(self.talker(talker, &thinker)?);
            stages.push(self.code2wav(code2wav)?);
            voices = talker.speakers.iter().map(|(name, _)| name.to_lowercase()).collect();
        }
        let pipeline = Pipeline { name: MODEL_TYPE.to_owned(), stages, voices };
        Ok(BuiltPipeline { pipeline, vocabulary_size, max_model_len })
    }

    fn thinker(
        &self,
        model: Arc<LanguageModel<T>>,
        max_model_len: usize,
    ) -> Result<StageSpec, PipelineError> {
        let caches = (self.thinker.cache_budget)().map_err(LoadError::from)?;
        let budget = caches / u64::from(self.options.replicas);
        let settings = LlmSettings {
            stage: StageId(0),
            scheduler: THINKER_STEPS,
            cache_blocks: cache_blocks(
                model.kv_bytes_per_block(),
                max_model_len,
                THINKER_STEPS.max_num_seqs,
                budget,
            )?,
            max_model_len,
            eos_ids: eos_ids(self.checkpoint, self.tokenizer, &self.config)?,
            seed: self.options.seed,
            statistics: self.options.statistics,
        };
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
            max_model_len: Some(max_model_len),
            sampling: self.defaults.thinker.clone(),
            ..self.stage("thinker", self.thinker.device.name, factory)
        })
    }

    fn talker(&self, config: &TalkerConfig, thinker: &LanguageModel<T>) -> Result<StageSpec, PipelineError> {
        let (backend, dtype) = (self.speech.backend, self.options.dtype);
        let predictor = CodePredictor::load(backend, config, self.store, dtype)?;
        let embedding = (self.thinker.embedding)(thinker, &self.config)?;
        let talker = Talker::load(backend, &self.config, config, embedding, &predictor, self.store, dtype)?;
        let max_model_len = config.max_position_embeddings;
        let share = free_memory() as f64 * TALKER_CACHE_SHARE;
        let budget = (share / f64::from(self.options.replicas)) as u64;
        let settings = TalkerSettings {
            stage: StageId(1),
            scheduler: TALKER_STEPS,
            cache_blocks: cache_blocks(
                talker.kv_bytes_per_block(),
                max_model_len,
                TALKER_STEPS.max_num_seqs,
                budget,
            )?,
            max_model_len,
            seed: self.options.seed,
            statistics: self.options.statistics,
        };
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
            max_model_len: Some(max_model_len),
            sampling: self.defaults.talker.clone(),
            ..self.stage("talker", self.speech.name, factory)
        })
    }

    fn code2wav(&self, config: &Code2WavConfig) -> Result<StageSpec, PipelineError> {
        let model = Arc::new(Code2Wav::load(self.speech.backend, config, self.store, self.options.dtype)?);
        let settings =
            Code2WavSettings { schedule: SCHEDULE, max_windows: VOCODER_WINDOWS, sample_rate: SAMPLE_RATE };
        let factory: StageFactory =
            Arc::new(move || Ok(Box::new(Code2WavStage::new(model.clone(), settings)?) as Box<dyn Stage>));
        Ok(StageSpec { output: Some(Modality::Audio), ..self.stage("code2wav", self.speech.name, factory) })
    }

    /// A stage with what is the same for all of them.
    fn stage(&self, name: &str, device: &str, factory: StageFactory) -> StageSpec {
        StageSpec {
            name: name.to_owned(),
            output: None,
            replicas: self.options.replicas,
            connector: self.options.connector,
            device: device.to_owned(),
            max_model_len: None,
            sampling: self.defaults.thinker.clone(),
            factory,
        }
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
        let options = PipelineOptions {
            dtype: Dtype::Auto,
            max_model_len: Some(max_model_len),
            seed: 0,
            statistics: false,
            replicas: 1,
            connector: Connector::InProcess,
        };
        build(&demo, &store, (&Cpu::new(None).unwrap(), "cpu"), &tokenizer, &options)
    }

    #[test]
    fn a_length_without_room_for_prompt_and_answer_or_beyond_the_models_is_refused() {
        for asked in [0, 1] {
            assert!(matches!(demo_of_length(asked), Err(PipelineError::TooShort { .. })), "{asked}");
        }
        assert!(matches!(demo_of_length(1 << 20), Err(PipelineError::TooLong { .. })));
        assert_eq!(demo_of_length(2).unwrap().max_model_len, 2);
    }
}
