//! From `--device` to a device.

use std::sync::Arc;

use crate::cli::DeviceArg;
use crate::tensor::cuda::{CudaDevice, CudaError};

/// The GPU that an option asks for; None for the CPU. With `auto` a GPU that cannot be used is no error, and the log
/// says why.
pub(crate) fn open_gpu(option: DeviceArg) -> Result<Option<Arc<CudaDevice>>, CudaError> {
    let ordinal = match option {
        DeviceArg::Cpu => return Ok(None),
        DeviceArg::Cuda(ordinal) => ordinal,
        DeviceArg::Auto => 0,
    };
    match CudaDevice::open(ordinal) {
        Ok(device) => Ok(Some(Arc::new(device))),
        Err(error) if option == DeviceArg::Auto => {
            tracing::info!("running on the CPU: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
