//! From the command line to a pipeline: opens the checkpoint and builds what serves it.

use std::sync::Arc;

use thiserror::Error;

use super::deployment::{Deployment, read_layers};
use super::device::gpu_ledger;
use super::model::FoundModel;
use crate::cli::{DeviceArg, ServeArgs};
use crate::config::deploy::{DeployError, Notes, PipelineChoice};
use crate::config::hub::HubError;
use crate::config::{CheckpointError, Deploy};
use crate::models::qwen3_omni::Thinker;
use crate::stages::device_memory::DeviceMemory;
use crate::stages::llm::DeviceSampling;
use crate::stages::memory_ledger::MemoryLedger;
use crate::stages::qwen3_omni::{
    self, BuiltPipeline, PipelineError, PipelineOptions, StageDevice, ThinkerDevice,
};
use crate::stages::{Pipeline, PlacementError, Registry};
use crate::tensor::cpu::Cpu;
use crate::tensor::cuda::{Cuda, CudaDevice, CudaError, Stored};
use crate::tensor::{DeviceError, Dtype, Outlined, WeightError};
use crate::text::{ChatTemplate, ChatTemplateError, Tokenizer, TokenizerError};

/// A pipeline, ready to be served.
pub(super) struct LoadedModel {
    /// The stages.
    pub(super) pipeline: Pipeline,
    /// What stands between text and tokens; `None` for a pipeline without a model.
    pub(super) text: Option<ModelText>,
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
pub(super) struct ModelText {
    /// Text to token ids and back.
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Messages to text.
    pub(super) template: Option<ChatTemplate>,
    /// Token ids that the model takes are below this.
    pub(super) vocabulary_size: usize,
    /// The most tokens of prompt and answer together.
    pub(super) max_model_len: usize,
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
    #[error("{location}: model_type \"{model_type}\" is not served; known: {}", qwen3_omni::MODEL_TYPE)]
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
        _ => Some(find_known(args)?),
    };
    let checkpoint = found.as_ref().map(|found| &found.checkpoint);
    let deployment = Deployment::of(checkpoint, &layers, args.deploy.device, &args.gpu, notes)?;
    deployment.deploy.check_custom_stages(&registry.names().collect::<Vec<_>>())?;
    registry.check_settings(&deployment.deploy)?;
    Ok((found, deployment))
}

/// Finds the model that the command line names, which must be of a kind that is served.
fn find_known(args: &ServeArgs) -> Result<FoundModel, LoadFailure> {
    let found = FoundModel::find(args)?;
    let model_type = found.checkpoint.identity()?.model_type;
    if model_type != qwen3_omni::MODEL_TYPE {
        return Err(LoadFailure::UnknownModelType { location: found.checkpoint.location(), model_type });
    }
    Ok(found)
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
        let location = args.deploy.deploy_config.as_ref().map(|file| file.display().to_string());
        return Ok(LoadedModel {
            pipeline: registry.place(&deploy, None, args.log_stats)?,
            text: None,
            default_name: deploy.pipeline,
            location: location.unwrap_or_default(),
            is_demo: false,
            found: None,
            notes: Vec::new(),
        });
    };
    let (models_pipeline, text, notes) = load_model(args, &found, deploy.clone(), gpu)?;
    Ok(LoadedModel {
        pipeline: registry.place(&deploy, Some(models_pipeline), args.log_stats)?,
        text: Some(text),
        default_name: found.default_name(),
        location: found.checkpoint.location(),
        is_demo: found.checkpoint.is_demo(),
        found: Some(found),
        notes,
    })
}

/// Loads a model, with the stages of its own, and what is to be said of their devices.
fn load_model(
    args: &ServeArgs,
    found: &FoundModel,
    deploy: Deploy,
    gpu: Option<Arc<CudaDevice>>,
) -> Result<(Pipeline, ModelText, Vec<String>), LoadFailure> {
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
    let cpu_name = format!("cpu ({}, {} threads)", cpu.isa().name(), cpu.threads());
    let dtype = deploy.dtype;
    let options = PipelineOptions { seed: args.seed, statistics: args.statistics(), deploy };
    let mut notes = Vec::new();
    let built = match gpu {
        None => qwen3_omni::build(checkpoint, &store, (&cpu, &cpu_name), &tokenizer, &options)?,
        Some(gpu) => {
            let stored = if dtype == Dtype::Float32 { Stored::F32 } else { Stored::Bf16 };
            let ledger = gpu_ledger(&gpu, &args.gpu)?;
            notes.push(format!("{}: products of many rows by {}", ledger.device(), gpu.products()));
            let cuda = Cuda::new(gpu, stored);
            let embedding = |_: &_, config: &_| Thinker::load_embedding(&cpu, config, &store, dtype);
            let thinker = ThinkerDevice {
                device: StageDevice { backend: &cuda, outlined: Outlined::Gpu(stored), ledger },
                model: DeviceSampling::boxed,
                embedding: &embedding,
            };
            let ledger = MemoryLedger::new(&cpu_name, DeviceMemory::of_process());
            let speech = StageDevice { backend: &cpu, outlined: Outlined::Process, ledger };
            qwen3_omni::build_on(checkpoint, &store, thinker, speech, &tokenizer, &options)?
        }
    };
    let BuiltPipeline { pipeline, vocabulary_size, max_model_len, memory } = built;
    notes.extend(memory);
    Ok((pipeline, ModelText { tokenizer, template, vocabulary_size, max_model_len }, notes))
}
