//! From the command line to a pipeline: opens the checkpoint and builds what serves it.

use std::sync::Arc;

use thiserror::Error;

use super::device::open_gpu;
use crate::cli::{ConnectorArg, DeviceArg, DtypeArg, LoadFormat, ServeArgs};
use crate::config::{Checkpoint, CheckpointError};
use crate::models::qwen3_omni::Thinker;
use crate::stages::Pipeline;
use crate::stages::llm::DeviceSampling;
use crate::stages::qwen3_omni::{self, PipelineError, PipelineOptions, StageDevice, ThinkerDevice};
use crate::tensor::cpu::Cpu;
use crate::tensor::cuda::{Cuda, CudaError, Stored};
use crate::tensor::{DeviceError, Dtype, WeightError, WeightStore};
use crate::text::{ChatTemplate, ChatTemplateError, Tokenizer, TokenizerError};
use crate::transport::Connector;

/// The share of a GPU's memory that is free after loading which the thinker's KV caches may take. The rest is for
/// workspaces.
const GPU_CACHE_SHARE: f64 = 0.8;

/// A checkpoint, ready to be served.
pub(super) struct LoadedModel {
    /// The stages.
    pub(super) pipeline: Pipeline,
    /// Text to token ids and back.
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Messages to text.
    pub(super) template: Option<ChatTemplate>,
    /// Token ids that the model takes are below this.
    pub(super) vocabulary_size: usize,
    /// The most tokens of prompt and answer together.
    pub(super) max_model_len: usize,
    /// The name it is served under if none is given.
    pub(super) default_name: String,
    /// Where it was read from.
    pub(super) location: String,
    /// Whether it is the built-in demo.
    pub(super) is_demo: bool,
}

/// Why a model cannot be loaded. The message names file and tensor.
#[derive(Debug, Error)]
pub enum LoadFailure {
    /// The directory is not a checkpoint that can be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its tokenizer cannot be used.
    #[error("{location}: {cause}")]
    Tokenizer {
        /// The model directory.
        location: String,
        /// Why.
        cause: TokenizerError,
    },
    /// Its chat template cannot be used.
    #[error("{location}: {cause}")]
    Template {
        /// The model directory.
        location: String,
        /// Why.
        cause: ChatTemplateError,
    },
    /// Its weights cannot be opened.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The pipeline cannot be built.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The GPU cannot be used as asked.
    #[error("--device {device}: {cause}")]
    Gpu {
        /// What was asked for.
        device: DeviceArg,
        /// Why not.
        cause: Box<CudaError>,
    },
    /// The CPU cannot be used as asked.
    #[error(transparent)]
    Cpu(#[from] DeviceError),
    /// No pipeline serves this kind of model.
    #[error("{location}: model_type \"{model_type}\" is not served; known: {}", qwen3_omni::MODEL_TYPE)]
    UnknownModelType {
        /// The model directory.
        location: String,
        /// What its configuration says.
        model_type: String,
    },
}

/// Loads what the command line asks for.
pub(super) fn load(args: &ServeArgs) -> Result<LoadedModel, LoadFailure> {
    let checkpoint = match &args.model {
        Some(directory) => Checkpoint::open(directory)?,
        None => Checkpoint::demo(),
    };
    let location = checkpoint.location();
    let model_type = checkpoint.identity()?.model_type;
    if model_type != qwen3_omni::MODEL_TYPE {
        return Err(LoadFailure::UnknownModelType { location, model_type });
    }
    let tokenizer = Tokenizer::from_files(&checkpoint.tokenizer_files()?)
        .map_err(|cause| LoadFailure::Tokenizer { location: location.clone(), cause })?;
    let tokenizer = Arc::new(tokenizer);
    let template = ChatTemplate::from_checkpoint(&checkpoint)
        .map_err(|cause| LoadFailure::Template { location: location.clone(), cause })?;
    let store = match args.load_format {
        LoadFormat::Auto | LoadFormat::Safetensors => open_weights(&checkpoint)?,
        LoadFormat::Dummy => WeightStore::dummy(args.seed),
    };
    let gpu = open_gpu(args.device)
        .map_err(|cause| LoadFailure::Gpu { device: args.device, cause: Box::new(cause) })?;
    let cpu = Cpu::new(args.cpu_threads.map(usize::from))?;
    let cpu_name = format!("cpu ({}, {} threads)", cpu.isa().name(), cpu.threads());
    let options = PipelineOptions {
        dtype: match args.dtype {
            DtypeArg::Auto => Dtype::Auto,
            DtypeArg::Float32 => Dtype::Float32,
            DtypeArg::Bfloat16 => Dtype::Bfloat16,
        },
        max_model_len: args.max_model_len,
        seed: args.seed,
        statistics: args.log_stats,
        replicas: args.num_replicas,
        connector: match args.connector {
            ConnectorArg::InProcess => Connector::InProcess,
            ConnectorArg::Serialized => Connector::Serialized,
        },
    };
    let built = match gpu {
        None => qwen3_omni::build(&checkpoint, &store, (&cpu, &cpu_name), &tokenizer, &options)?,
        Some(gpu) => {
            let gpu_name = gpu.describe();
            let stored = if options.dtype == Dtype::Float32 { Stored::F32 } else { Stored::Bf16 };
            let cuda = Cuda::new(gpu, stored);
            let embedding = |_: &_, config: &_| Thinker::load_embedding(&cpu, config, &store, options.dtype);
            let thinker = ThinkerDevice {
                device: StageDevice { backend: &cuda, name: &gpu_name },
                cache_budget: &|| Ok((cuda.free_memory()? as f64 * GPU_CACHE_SHARE) as u64),
                model: |weights, blocks, limits, sampler| {
                    Ok(Box::new(DeviceSampling::new(weights, blocks, limits, sampler)?))
                },
                embedding: &embedding,
            };
            let speech = StageDevice { backend: &cpu, name: &cpu_name };
            qwen3_omni::build_on(&checkpoint, &store, thinker, speech, &tokenizer, &options)?
        }
    };
    Ok(LoadedModel {
        pipeline: built.pipeline,
        tokenizer,
        template,
        vocabulary_size: built.vocabulary_size,
        max_model_len: built.max_model_len,
        default_name: checkpoint.default_name(),
        location,
        is_demo: checkpoint.is_demo(),
    })
}

fn open_weights(checkpoint: &Checkpoint) -> Result<WeightStore, LoadFailure> {
    Ok(match (checkpoint.directory(), Checkpoint::demo_weights()) {
        (Some(directory), _) => WeightStore::open(directory)?,
        (None, weights) => WeightStore::embedded("model.safetensors", weights)?,
    })
}
