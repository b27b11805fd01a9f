//! The Qwen3-Omni pipeline: how a checkpoint becomes stages.

use std::sync::Arc;

use thiserror::Error;

use crate::config::{Checkpoint, CheckpointError};
use crate::engine::{BlockPool, SamplingParams, SchedulerConfig};
use crate::ids::StageId;
use crate::models::LoadError;
use crate::models::qwen3::LanguageModel;
use crate::models::qwen3_omni::{OmniConfig, Thinker};
use crate::stages::llm::{LlmSettings, LlmStage, ModelRunner};
use crate::stages::{Modality, Pipeline, Stage, StageFactory, StageSpec};
use crate::tensor::{BLOCK_SIZE, Backend, Dtype, WeightStore};
use crate::text::Tokenizer;

/// `model_type` of the checkpoints that this pipeline serves.
pub const MODEL_TYPE: &str = "qwen3_omni_moe";

/// Tokens computed in one step at most.
const MAX_NUM_BATCHED_TOKENS: usize = 2048;
/// Sequences running at the same time at most.
const MAX_NUM_SEQS: usize = 64;
/// The demo's answers are one sentence.
const DEMO_MAX_TOKENS: u32 = 64;
/// The KV cache takes at most this share of the memory that is free at start.
const CACHE_SHARE: f64 = 0.25;

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
    /// The KV cache of one sequence does not fit.
    #[error(
        "the KV cache of one sequence of {tokens} tokens takes {needed} MiB, and {available} MiB are to be had; \
         give a smaller --max-model-len"
    )]
    CacheTooLarge {
        /// Tokens of the longest sequence.
        tokens: usize,
        /// What they take.
        needed: u64,
        /// What there is.
        available: u64,
    },
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

/// Builds the pipeline of a checkpoint on a device, which is called `device` in the startup message.
pub fn build<B: Backend>(
    checkpoint: &Checkpoint,
    store: &WeightStore,
    (backend, device): (&B, &str),
    tokenizer: &Arc<Tokenizer>,
    options: &PipelineOptions,
) -> Result<BuiltPipeline, PipelineError> {
    let config = OmniConfig::parse(&checkpoint.config()?.to_string(), &checkpoint.path_of("config.json"))?;
    let limit = config.thinker.max_position_embeddings;
    let max_model_len = options.max_model_len.unwrap_or(limit);
    if max_model_len > limit {
        let location = checkpoint.location();
        return Err(PipelineError::TooLong { asked: max_model_len, limit, location });
    }
    let thinker = Thinker::load(backend, &config, store, options.dtype)?;
    let thinker = Arc::new(thinker.into_language_model());
    let vocabulary_size = thinker.config().vocab_size;
    let cache_blocks = cache_blocks(thinker.kv_bytes_per_block(), max_model_len)?;
    let settings = LlmSettings {
        stage: StageId(0),
        scheduler: SchedulerConfig {
            max_num_batched_tokens: MAX_NUM_BATCHED_TOKENS.min(max_model_len),
            max_num_seqs: MAX_NUM_SEQS,
        },
        cache_blocks,
        max_model_len,
        eos_ids: eos_ids(checkpoint, tokenizer, &config)?,
        seed: options.seed,
        statistics: options.statistics,
    };
    let max_tokens =
        if checkpoint.is_demo() { DEMO_MAX_TOKENS } else { SamplingParams::default().max_tokens };
    let stage = StageSpec {
        name: "thinker".to_owned(),
        output: Some(Modality::Text),
        replicas: 1,
        device: device.to_owned(),
        max_model_len: Some(max_model_len),
        sampling: SamplingParams { max_tokens, ..SamplingParams::default() },
        factory: thinker_factory(thinker, tokenizer.clone(), settings),
    };
    Ok(BuiltPipeline {
        pipeline: Pipeline { name: MODEL_TYPE.to_owned(), stages: vec![stage], voices: Vec::new() },
        vocabulary_size,
        max_model_len,
    })
}

fn thinker_factory<B: Backend>(
    model: Arc<LanguageModel<B>>,
    tokenizer: Arc<Tokenizer>,
    settings: LlmSettings,
) -> StageFactory {
    Arc::new(move || {
        let SchedulerConfig { max_num_batched_tokens, max_num_seqs } = settings.scheduler;
        let runner =
            ModelRunner::new(model.clone(), settings.cache_blocks, max_num_batched_tokens, max_num_seqs)?;
        let stage = LlmStage::new(runner, tokenizer.clone(), settings.clone())?;
        Ok(Box::new(stage) as Box<dyn Stage>)
    })
}

/// Tokens that end an answer: the end of a turn, what the tokenizer calls its end of sequence, and what
/// `generation_config.json` lists.
fn eos_ids(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    config: &OmniConfig,
) -> Result<Vec<u32>, CheckpointError> {
    let mut ids = vec![config.tokens.im_end_token_id];
    ids.extend(tokenizer.eos_id());
    let listed = checkpoint.generation_config()?.and_then(|config| config.get("eos_token_id").cloned());
    let listed = match listed {
        Some(serde_json::Value::Array(ids)) => ids,
        Some(id) => vec![id],
        None => Vec::new(),
    };
    ids.extend(listed.iter().filter_map(|id| id.as_u64()).filter_map(|id| u32::try_from(id).ok()));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Blocks of the KV cache: enough for all sequences at full length, if a share of the free memory allows it, and for
/// one in any case.
fn cache_blocks(bytes_per_block: usize, max_model_len: usize) -> Result<usize, PipelineError> {
    let one = BlockPool::blocks_for(max_model_len);
    let budget = (free_memory() as f64 * CACHE_SHARE) as u64;
    let affordable = usize::try_from(budget / bytes_per_block.max(1) as u64).unwrap_or(usize::MAX);
    if affordable < one {
        return Err(PipelineError::CacheTooLarge {
            tokens: one * BLOCK_SIZE,
            needed: (one as u64 * bytes_per_block as u64) >> 20,
            available: budget >> 20,
        });
    }
    Ok((one * MAX_NUM_SEQS).min(affordable))
}

/// Bytes of memory that are free, as Linux estimates it; 4 GiB where it does not say.
fn free_memory() -> u64 {
    const UNKNOWN: u64 = 4 << 30;
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else { return UNKNOWN };
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes =
        line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|n| n.trim().parse::<u64>().ok());
    kibibytes.map_or(UNKNOWN, |kibibytes| kibibytes << 10)
}
