//! An NVIDIA GPU, found at run time. Nothing of CUDA is linked, and no more than the driver is needed.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::capture::Capture;
use super::driver::{Address, Driver, Graph, Landing, Launch};
use super::error::{CudaError, NEEDED_DRIVER};
use super::kernels::{Architecture, FAMILIES};
use super::landing::PinnedLanding;
use super::staging::Staging;
use super::turns::{Turn, Turns};
use crate::tensor::DeviceError;

/// A GPU with the kernels loaded. All work on it goes through one stream, in order.
#[derive(Debug)]
pub struct CudaDevice {
    /// Its number, from 0.
    ordinal: usize,
    /// What its maker calls it.
    name: String,
    /// Which PTX it runs.
    architecture: Architecture,
    /// See [`Driver::multiprocessors`].
    multiprocessors: usize,
    /// The kernels by name.
    functions: HashMap<&'static str, CudaFunction>,
    /// What goes up passes through here.
    staging: Staging,
    /// Everything is queued here.
    stream: Arc<CudaStream>,
    /// Whoever queues something has to take a turn.
    turns: Arc<Turns>,
}

impl CudaDevice {
    /// Finds the driver, checks that it and the device are new enough, and loads the kernels.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        let found = driver_version()?.ok_or(CudaError::NoDriver)?;
        if found < NEEDED_DRIVER {
            return Err(CudaError::DriverTooOld { found });
        }
        let devices = device_count()?;
        if ordinal >= devices {
            return Err(CudaError::NoDevice { asked: ordinal, found: devices });
        }
        let context = CudaContext::new(ordinal).map_err(call("open the GPU"))?;
        // SAFETY: there is one stream for all work, so memory is never used by two that nothing orders.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(call("tell the GPU's name"))?;
        let (major, minor) = context.compute_capability().map_err(call("tell the compute capability"))?;
        let capability = (major.unsigned_abs(), minor.unsigned_abs());
        let architecture = Architecture::for_capability(capability.0, capability.1)
            .ok_or_else(|| CudaError::DeviceTooOld { ordinal, name: name.clone(), found: capability })?;
        let multiprocessors = context
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(call("count multiprocessors"))?;
        let stream = context.new_stream().map_err(call("make a stream"))?;
        let functions = load_kernels(&context, architecture).map_err(call("load the kernels"))?;
        let staging = Staging::new(&context).map_err(call("take pinned memory"))?;
        let multiprocessors = multiprocessors.unsigned_abs() as usize;
        let turns = Arc::default();
        Ok(Self { ordinal, name, architecture, multiprocessors, functions, staging, stream, turns })
    }

    /// What it is called in messages: number, name, and the PTX that it runs.
    pub fn describe(&self) -> String {
        format!("cuda:{} ({}, {})", self.ordinal, self.name, self.architecture.name())
    }

    /// Makes the calling thread one that works with this device.
    fn enter(&self, what: &'static str) -> Result<(), DeviceError> {
        self.stream.context().bind_to_thread().map_err(gpu(what))
    }

    /// A turn for something that no graph may hold.
    fn turn(&self, what: &'static str) -> Result<Turn<'_>, DeviceError> {
        self.enter(what)?;
        let turn = self.turns.take();
        if turn.captures() {
            return Err(DeviceError::Gpu { what, cause: "a graph is being captured".to_owned() });
        }
        Ok(turn)
    }
}

impl Driver for CudaDevice {
    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn free_memory(&self) -> Result<u64, DeviceError> {
        let (free, _) = self.stream.context().mem_get_info().map_err(gpu("tell how much memory is free"))?;
        Ok(free as u64)
    }

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        let _turn = self.turn("allocate memory")?;
        // SAFETY: the call has no precondition but a context, which this thread has.
        let address = match unsafe { result::malloc_sync(bytes) } {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                return Err(DeviceError::OutOfMemory { asked: bytes as u64, free: self.free_memory()? });
            }
            other => other.map_err(gpu("allocate memory"))?,
        };
        // SAFETY: the memory was allocated above, is as long, and nobody else knows of it yet.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(gpu("clear memory"))?;
        Ok(address)
    }

    fn release(&self, address: Address) {
        let freed = self.enter("free memory").and_then(|()| {
            // SAFETY: the address came from `allocate` and its only owner lets go of it. The call itself waits for
            // what is queued.
            unsafe { result::free_sync(address) }.map_err(gpu("free memory"))
        });
        if let Err(error) = freed {
            tracing::warn!("{error}");
        }
    }

    fn upload(&self, bytes: &[u8], to: Address) -> Result<(), DeviceError> {
        let _turn = self.turn("copy to its memory")?;
        self.staging.upload(bytes, to, &self.stream).map_err(gpu("copy to its memory"))
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), DeviceError> {
        self.enter("copy within its memory")?;
        let _turn = self.turns.take();
        // SAFETY: queued on the stream that everything else is queued on; both addresses are the device's.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(gpu("copy within its memory"))
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        const WHAT: &str = "copy from its memory";
        let turn = self.turn(WHAT)?;
        let copied = self.stream.context().new_event(None).map_err(gpu(WHAT))?;
        // SAFETY: `bytes` is borrowed until the copy has been waited for, below.
        let queued = unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) };
        let marked = copied.record(&self.stream);
        // Others may go on meanwhile, and even capture: an event can be waited for then, but not the stream.
        drop(turn);
        let waited = marked.and_then(|()| copied.synchronize()).or_else(|_| self.stream.synchronize());
        queued.and(waited).map_err(gpu(WHAT))
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let Some(function) = self.functions.get(launch.kernel) else {
            return Err(DeviceError::Gpu { what: "find a kernel", cause: launch.kernel.to_owned() });
        };
        let [x, y, z] = launch.grid.map(|extent| extent as u32);
        let mut arguments = self.stream.launch_builder(function);
        for word in &launch.words {
            arguments.arg(word);
        }
        let shape = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (launch.block as u32, 1, 1),
            shared_mem_bytes: launch.shared as u32,
        };
        let _turn = self.turns.take();
        // SAFETY: every word is at least as wide as the parameter that it stands for, whose bytes are its low ones on
        // the little-endian machines that there are drivers for. Wrong values can harm the device's memory only.
        unsafe { arguments.launch(shape) }.map(drop).map_err(gpu("launch a kernel"))
    }

    fn landing(&self) -> Result<Box<dyn Landing>, DeviceError> {
        let landing = PinnedLanding::new(&self.stream, &self.turns).map_err(gpu("take pinned memory"))?;
        Ok(Box::new(landing))
    }

    fn capture(
        &self,
        work: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Box<dyn Graph>, DeviceError> {
        let capture = Capture::begin(&self.stream, &self.turns).map_err(gpu("begin a graph"))?;
        work()?;
        Ok(Box::new(capture.end().map_err(gpu("end a graph"))?))
    }
}

/// The CUDA version of the driver, major and minor; None where there is no driver.
fn driver_version() -> Result<Option<(u32, u32)>, CudaError> {
    // SAFETY: loading NVIDIA's library has no demands on the process.
    if !unsafe { sys::is_culib_present() } {
        return Ok(None);
    }
    let mut version = 0;
    // SAFETY: the pointer is to an integer that outlives the call, which every driver has and which needs no
    // initialisation.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(call("tell its version"))?;
    let version = version.unsigned_abs();
    Ok(Some((version / 1000, version % 1000 / 10)))
}

/// Devices that the driver sees.
fn device_count() -> Result<usize, CudaError> {
    match result::init() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
        other => other.map_err(call("start"))?,
    }
    let count = result::device::get_count().map_err(call("count GPUs"))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Has the driver compile all families for its device.
fn load_kernels(
    context: &Arc<CudaContext>,
    architecture: Architecture,
) -> Result<HashMap<&'static str, CudaFunction>, DriverError> {
    let mut functions = HashMap::new();
    for family in &FAMILIES {
        let module = context.load_module(Ptx::from_src(family.ptx(architecture)))?;
        for entry in family.entries() {
            functions.insert(entry, module.load_function(entry)?);
        }
    }
    Ok(functions)
}

/// What the driver says of a failure, in its own word where it has one.
fn cause(error: DriverError) -> String {
    match error.error_name() {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => format!("{:?}", error.0),
    }
}

fn call(what: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| CudaError::Call { what, cause: cause(error) }
}

/// Says what the device was to do when the driver failed.
pub(super) fn gpu(what: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| DeviceError::Gpu { what, cause: cause(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_is_told_so_and_nothing_panics() {
        match CudaDevice::open(usize::MAX) {
            Err(CudaError::NoDriver | CudaError::DriverTooOld { .. } | CudaError::NoDevice { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}
