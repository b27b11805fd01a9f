//! From the command line to a pipeline: opens the checkpoint and builds what serves it.

use std::sync::Arc;

use thiserror::Error;

use super::deployment::{Deployment, OWN_DEPLOYMENT, read_layers};
use super::device::gpu_ledger;
use super::model::FoundModel;
use crate::cli::{DeviceArg, GpuArgs, ServeArgs};
use crate::config::deploy::{DeployError, Notes, PipelineChoice};
use crate::config::hub::HubError;
use crate::config::{CheckpointError, Deploy};
use crate::models::qwen3::DecodeTraffic;
use crate::models::qwen3_omni::Thinker;
use crate::stages::checkpoint_pipeline::{
    BuiltPipeline, LanguageModelDevice, ModelSource, PipelineError, PipelineOptions, StageDevice,
};
use crate::stages::llm::DeviceSampling;
use crate::stages::qwen3_omni::{self, ThinkerDevice};
use crate::stages::{Pipeline, PlacementError, Registry, ServedModel, text_generation};
use crate::tensor::cpu::Cpu;
use crate::tensor::cuda::{Cuda, CudaDevice, CudaError, Stored};
use crate::tensor::{DeviceError, Dtype, Outlined, WeightError};
use crate::text::{ChatTemplate, ChatTemplateError, Tokenizer, TokenizerError};

/// A pipeline, ready to be served.
pub(crate) struct LoadedModel {
    /// The stages.
    pub(super) pipeline: Pipeline,
    /// The language model, to be measured; `None` for a pipeline without a model.
    pub(crate) language_model: Option<LoadedLanguageModel>,
    /// What stands between text and tokens; `None` for a pipeline without a model.
    pub(crate) text: Option<ModelText>,
    /// The name it is served under if none is given.
    pub(super) default_name: String,
    /// Where it was read from.
    pub(super) location: String,
    /// Whether it is the built-in demo.
    pub(super) is_demo: bool,
    /// The model; `None` for a pipeline without one.
    pub(super) found: Option<FoundModel>,
    /// What is to be said of its devices and their memory, in lines.
    pub(super) notes: Vec<String>,
}

/// The text side of a checkpoint.
pub(crate) struct ModelText {
    /// Text to token ids and back.
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Messages to text.
    pub(crate) template: Option<ChatTemplate>,
    /// Token ids that the model takes are below this.
    pub(crate) vocabulary_size: usize,
    /// The most tokens of prompt and answer together.
    pub(crate) max_model_len: usize,
}

/// The language model of a pipeline.
pub(crate) struct LoadedLanguageModel {
    /// What its decode steps read.
    pub(crate) decode: DecodeTraffic,
    /// Where it runs.
    pub(crate) device: ModelDevice,
}

/// A device that models run on.
#[derive(Debug, Clone)]
pub(crate) enum ModelDevice {
    /// The CPU.
    Cpu(Cpu),
    /// A GPU.
    Gpu(Arc<CudaDevice>),
}

/// Why a model cannot be loaded. The message names file and tensor.
#[derive(Debug, Error)]
pub enum LoadFailure {
    /// It is not found under its name, or cannot be downloaded.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The directory is not a checkpoint that can be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// It cannot be deployed as asked.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// Its custom stages cannot be placed as asked.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// A model was named, and the deployment has none.
    #[error(
        "{model}: pipeline custom has no model; leave it out, or name the pipeline of one in the deploy file"
    )]
    NoModel {
        /// What was named.
        model: String,
    },
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
    #[error("{asked_by} {device}: {cause}")]
    Gpu {
        /// Who asks for it.
        asked_by: String,
        /// What is asked for.
        device: DeviceArg,
        /// Why not.
        cause: Box<CudaError>,
    },
    /// A device cannot be used as asked.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No pipeline serves this kind of model.
    #[error("{location}: model_type \"{model_type}\" is not served; served are {}", served_types())]
    UnknownModelType {
        /// The model directory.
        location: String,
        /// What its configuration says.
        model_type: String,
    },
}

/// How the server would deploy what a command line asks for, and what its log would say of that.
pub fn effective_deploy(args: &ServeArgs, registry: &Registry) -> Result<(Deploy, Notes), LoadFailure> {
    let (_, Deployment { deploy, notes, .. }) = read_deployment(args, registry)?;
    Ok((deploy, notes))
}

/// Finds the model, if the pipeline has one, and reads how it is to be deployed. No weights are needed for that.
fn read_deployment(
    args: &ServeArgs,
    registry: &Registry,
) -> Result<(Option<FoundModel>, Deployment), LoadFailure> {
    let mut notes = Notes::default();
    let layers = read_layers(&args.deploy, registry.deployment(), &mut notes)?;
    let found = match (layers.pipeline()?, &args.model) {
        (PipelineChoice::Custom, None) => None,
        (PipelineChoice::Custom, Some(model)) => {
            return Err(LoadFailure::NoModel { model: model.display().to_string() });
        }
        _ => Some(FoundModel::find(args)?),
    };
    let deployment = Deployment::of(found.as_ref(), &layers, args.deploy.device, &args.gpu, notes)?;
    deployment.deploy.check_custom_stages(&registry.names().collect::<Vec<_>>())?;
    registry.check_settings(&deployment.deploy)?;
    Ok((found, deployment))
}

/// The types of models that are served, in a list.
fn served_types() -> String {
    ServedModel::TYPES.map(|(model_type, _)| model_type).join(", ")
}

/// Loads what the command line asks for.
pub(super) fn load(args: &ServeArgs, registry: &Registry) -> Result<LoadedModel, LoadFailure> {
    let (found, deployment) = read_deployment(args, registry)?;
    for note in deployment.notes.lines() {
        tracing::info!("{note}");
    }
    let gpu = deployment.gpu()?;
    let deploy = deployment.deploy;
    let Some(found) = found else {
        let file = args.deploy.deploy_config.as_ref().map(|file| file.display().to_string());
        return Ok(LoadedModel {
            pipeline: registry.place(&deploy, None, args.log_stats)?,
            language_model: None,
            text: None,
            default_name: deploy.pipeline,
            location: file.unwrap_or_else(|| OWN_DEPLOYMENT.to_owned()),
            is_demo: false,
            found: None,
            notes: Vec::new(),
        });
    };
    let (built, text, device) = load_model(args, &found, deploy.clone(), gpu)?;
    Ok(LoadedModel {
        pipeline: registry.place(&deploy, Some(built.pipeline), args.log_stats)?,
        language_model: Some(LoadedLanguageModel { decode: built.decode, device }),
        text: Some(text),
        default_name: found.default_name(),
        location: found.checkpoint.location(),
        is_demo: found.checkpoint.is_demo(),
        found: Some(found),
        notes: built.notes,
    })
}

/// Loads a model, with the stages of its own, and says where its language model runs.
fn load_model(
    args: &ServeArgs,
    found: &FoundModel,
    deploy: Deploy,
    gpu: Option<Arc<CudaDevice>>,
) -> Result<(BuiltPipeline, ModelText, ModelDevice), LoadFailure> {
    let checkpoint = &found.checkpoint;
    let location = checkpoint.location();
    let tokenizer = Tokenizer::from_files(&checkpoint.tokenizer_files()?)
        .map_err(|cause| LoadFailure::Tokenizer { location: location.clone(), cause })?;
    let tokenizer = Arc::new(tokenizer);
    let template = ChatTemplate::from_checkpoint(checkpoint)
        .map_err(|cause| LoadFailure::Template { location: location.clone(), cause })?;
    let store = found.open_weights(args)?;
    let threads = args.cpu_threads.map(usize::from);
    // What is asked for as f32 is computed in f32.
    let cpu = if deploy.dtype == Dtype::Float32 { Cpu::exact(threads)? } else { Cpu::new(threads)? };
    let options = PipelineOptions { seed: args.seed, statistics: args.statistics(), deploy };
    let source = ModelSource { checkpoint, store: &store, tokenizer: &tokenizer, options: &options };
    let (built, device) = match gpu {
        None => (build_on_cpu(found.served, source, &cpu)?, ModelDevice::Cpu(cpu)),
        Some(gpu) => {
            let built = build_on_gpu((found.served, source), &cpu, (gpu.clone(), &args.gpu))?;
            (built, ModelDevice::Gpu(gpu))
        }
    };
    let (vocabulary_size, max_model_len) = (built.vocabulary_size, built.max_model_len);
    Ok((built, ModelText { tokenizer, template, vocabulary_size, max_model_len }, device))
}

/// What the CPU is called.
fn cpu_name(cpu: &Cpu) -> String {
    format!("cpu ({}, {} threads)", cpu.isa().name(), cpu.threads())
}

/// Builds the pipeline of a model with all of its stages on the CPU.
fn build_on_cpu(
    served: ServedModel,
    source: ModelSource<'_>,
    cpu: &Cpu,
) -> Result<BuiltPipeline, PipelineError> {
    let name = cpu_name(cpu);
    match served {
        ServedModel::Qwen3Omni => qwen3_omni::build(source, (cpu, &name)),
        ServedModel::TextGeneration => {
            text_generation::build(source, LanguageModelDevice::of_process(cpu, &name))
        }
    }
}

/// Builds the pipeline of a model with its language model on a GPU, and what speaks on the CPU.
fn build_on_gpu(
    (served, source): (ServedModel, ModelSource<'_>),
    cpu: &Cpu,
    (gpu, args): (Arc<CudaDevice>, &GpuArgs),
) -> Result<BuiltPipeline, LoadFailure> {
    let dtype = source.options.deploy.dtype;
    let stored = if dtype == Dtype::Float32 { Stored::F32 } else { Stored::Bf16 };
    let ledger = gpu_ledger(&gpu, args)?;
    let products = format!("{}: products of many rows by {}", ledger.device(), gpu.products());
    let cuda = Cuda::new(gpu, stored);
    let device = LanguageModelDevice {
        device: StageDevice { backend: &cuda, outlined: Outlined::Gpu(stored), ledger },
        model: DeviceSampling::boxed,
    };
    let mut built = match served {
        ServedModel::Qwen3Omni => {
            let embedding = |_: &_, config: &_| Thinker::load_embedding(cpu, config, source.store, dtype);
            let speech = StageDevice::of_process(cpu, &cpu_name(cpu));
            qwen3_omni::build_on(source, ThinkerDevice { device, embedding: &embedding }, speech)?
        }
        ServedModel::TextGeneration => text_generation::build(source, device)?,
    };
    built.notes.insert(0, products);
    Ok(built)
}
