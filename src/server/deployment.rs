//! From the command line and the deploy file to a deployment.

use std::sync::Arc;

use super::device::open_gpu;
use super::load::LoadFailure;
use crate::cli::{DeployArgs, DeviceArg};
use crate::config::deploy::{
    CUSTOM_PIPELINE, DeployError, DeployLayers, Layer, Notes, PipelineChoice, Placement, ServerDevice,
    StageKind, resolve,
};
use crate::config::{Checkpoint, Deploy};
use crate::stages::qwen3_omni::built_in_deploy;
use crate::tensor::cuda::CudaDevice;

/// How a model is to be deployed.
pub(super) struct Deployment {
    /// Its stages.
    pub(super) deploy: Deploy,
    /// The GPU that the thinker runs on, if it does.
    pub(super) gpu: Option<Arc<CudaDevice>>,
    /// What the log says of it.
    pub(super) notes: Notes,
}

/// Reads what is said of the deployment.
pub(super) fn read_layers(args: &DeployArgs, notes: &mut Notes) -> Result<DeployLayers, DeployError> {
    let file = args.deploy_config.as_deref().map(|path| Layer::from_file(path, notes));
    let overrides = args.stage_overrides.as_deref().map(|json| Layer::from_overrides(json, notes));
    Ok(DeployLayers {
        file: file.transpose()?.unwrap_or_default(),
        overrides: overrides.transpose()?.unwrap_or_default(),
        options: args.options(),
    })
}

impl Deployment {
    /// Puts together what is said of a checkpoint's deployment; opens the GPU, if one is to be used.
    pub(super) fn of(
        checkpoint: Option<&Checkpoint>,
        layers: &DeployLayers,
        device: Option<DeviceArg>,
        mut notes: Notes,
    ) -> Result<Self, LoadFailure> {
        let built_in = match (checkpoint, layers.pipeline()?) {
            (None, _) | (_, PipelineChoice::Custom) => Deploy::new(CUSTOM_PIPELINE, Vec::new()),
            (Some(checkpoint), choice) => built_in_deploy(checkpoint, choice == PipelineChoice::ThinkerOnly)?,
        };
        let (wanted, asked) = match layers.gpu(device.is_some())? {
            Some((gpu, source)) => (DeviceArg::Cuda(gpu), format!("{source}: devices")),
            None => (device.unwrap_or(DeviceArg::Cpu), "--device".to_owned()),
        };
        let unusable = |cause| LoadFailure::Gpu { asked, device: wanted, cause: Box::new(cause) };
        let gpu = open_gpu(wanted).map_err(unusable)?;
        let ordinal = match wanted {
            DeviceArg::Cuda(gpu) => gpu,
            DeviceArg::Auto | DeviceArg::Cpu => 0,
        };
        let server = ServerDevice { gpu: gpu.is_some().then_some(ordinal), asked: device.is_some() };
        let deploy = resolve(built_in, layers, server, &mut notes)?;
        let on_gpu = deploy
            .stage_of(&StageKind::Thinker)
            .is_some_and(|thinker| matches!(thinker.device, Placement::Cuda(_)));
        Ok(Self { deploy, gpu: gpu.filter(|_| on_gpu), notes })
    }
}
