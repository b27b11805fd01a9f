//! From the command line and the deploy file to a deployment.

use std::sync::Arc;

use super::device::open_gpu;
use super::load::LoadFailure;
use super::model::FoundModel;
use crate::cli::{DeployArgs, DeviceArg, GpuArgs};
use crate::config::Deploy;
use crate::config::deploy::{
    CUSTOM_PIPELINE, DeployError, DeployLayers, Layer, Notes, PipelineChoice, Placement, ServerDevice,
    StageKind, resolve,
};
use crate::tensor::cuda::CudaDevice;

/// What the deployment that a program brings is called in messages.
pub(super) const OWN_DEPLOYMENT: &str = "the program's deployment";

/// How a model is to be deployed.
pub(super) struct Deployment {
    /// Its stages.
    pub(super) deploy: Deploy,
    /// What the log says of it.
    pub(super) notes: Notes,
    /// The device that is asked for.
    device: DeviceArg,
    /// Who asks for it.
    asked_by: String,
    /// How a GPU is used.
    gpu_args: GpuArgs,
    /// The GPU, if it had to be opened to know whether there is one.
    opened: Option<Arc<CudaDevice>>,
}

/// Reads what is said of the deployment; `own` is the program's, which a deploy file replaces.
pub(super) fn read_layers(
    args: &DeployArgs,
    own: Option<&str>,
    notes: &mut Notes,
) -> Result<DeployLayers, DeployError> {
    let file = match (&args.deploy_config, own) {
        (Some(path), _) => Some(Layer::from_file(path, notes)),
        (None, Some(own)) => Some(Layer::from_text(OWN_DEPLOYMENT, own, notes)),
        (None, None) => None,
    };
    let overrides = args.stage_overrides.as_deref().map(|json| Layer::from_overrides(json, notes));
    Ok(DeployLayers {
        file: file.transpose()?.unwrap_or_default(),
        overrides: overrides.transpose()?.unwrap_or_default(),
        options: args.options(),
    })
}

impl Deployment {
    /// Puts together what is said of a model's deployment.
    pub(super) fn of(
        found: Option<&FoundModel>,
        layers: &DeployLayers,
        device: Option<DeviceArg>,
        gpu_args: &GpuArgs,
        mut notes: Notes,
    ) -> Result<Self, LoadFailure> {
        let built_in = match (found, layers.pipeline()?) {
            (None, _) | (_, PipelineChoice::Custom) => Deploy::new(CUSTOM_PIPELINE, Vec::new()),
            (Some(found), choice) => {
                found.served.built_in_deploy(&found.checkpoint, choice == PipelineChoice::ThinkerOnly)?
            }
        };
        let asked = device.is_some();
        let (device, asked_by) = match layers.gpu(asked)? {
            Some((gpu, source)) => (DeviceArg::Cuda(gpu), format!("{source}: devices")),
            None => (device.unwrap_or(DeviceArg::Cpu), "--device".to_owned()),
        };
        let mut deployment = Self {
            deploy: built_in,
            notes: Notes::default(),
            device,
            asked_by,
            gpu_args: gpu_args.clone(),
            opened: None,
        };
        let gpu = match device {
            DeviceArg::Cpu => None,
            DeviceArg::Cuda(gpu) => Some(gpu),
            DeviceArg::Auto => {
                deployment.opened = deployment.open()?;
                deployment.opened.is_some().then_some(0)
            }
        };
        let server = ServerDevice { gpu, asked };
        deployment.deploy = resolve(deployment.deploy, layers, server, &mut notes)?;
        deployment.notes = notes;
        Ok(deployment)
    }

    /// The GPU that the language model runs on, if it does.
    pub(super) fn gpu(&self) -> Result<Option<Arc<CudaDevice>>, LoadFailure> {
        let llm = self.deploy.stage_of(&StageKind::Llm);
        if !llm.is_some_and(|llm| matches!(llm.device, Placement::Cuda(_))) {
            return Ok(None);
        }
        if self.opened.is_some() { Ok(self.opened.clone()) } else { self.open() }
    }

    fn open(&self) -> Result<Option<Arc<CudaDevice>>, LoadFailure> {
        open_gpu(self.device, &self.gpu_args).map_err(|cause| LoadFailure::Gpu {
            asked_by: self.asked_by.clone(),
            device: self.device,
            cause: Box::new(cause),
        })
    }
}
