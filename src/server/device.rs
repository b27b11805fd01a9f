//! From `--device` to a device and its account.

use std::sync::Arc;

use crate::cli::{DeviceArg, GpuArgs, LibraryArg};
use crate::stages::device_memory::DeviceMemory;
use crate::stages::memory_ledger::MemoryLedger;
use crate::tensor::DeviceError;
use crate::tensor::cuda::{CudaDevice, CudaError};

/// Bytes that are set aside on a GPU for captured steps.
const GRAPH_BYTES: u64 = 256 << 20;

/// The account of a GPU's memory before any stage has been entered.
pub(crate) fn gpu_ledger(device: &CudaDevice, args: &GpuArgs) -> Result<MemoryLedger, DeviceError> {
    let (free, total) = device.memory()?;
    let (held, utilization) = (device.workspace_bytes(), args.gpu_memory_utilization);
    let memory = DeviceMemory::Gpu { total, free, held, utilization };
    let mut ledger = MemoryLedger::new(&device.describe(), memory);
    ledger.claim("cuBLASLt workspace", held);
    ledger.claim("CUDA graphs", GRAPH_BYTES);
    Ok(ledger)
}

/// The GPU that an option asks for; None for the CPU. With `auto` a GPU that cannot be used is no error, and the log
/// says why.
pub(crate) fn open_gpu(option: DeviceArg, gpu: &GpuArgs) -> Result<Option<Arc<CudaDevice>>, CudaError> {
    let ordinal = match option {
        DeviceArg::Cpu => return Ok(None),
        DeviceArg::Cuda(ordinal) => ordinal,
        DeviceArg::Auto => 0,
    };
    match CudaDevice::open(ordinal, gpu.wants(LibraryArg::Cublaslt)) {
        Ok(device) => Ok(Some(Arc::new(device))),
        Err(error) if option == DeviceArg::Auto => {
            tracing::info!("running on the CPU: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
