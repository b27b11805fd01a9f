//! What the operations need of a device: memory, copies, launches. A GPU offers it through NVIDIA's driver; in the
//! tests kernels that run on the CPU do, so that all above this line is tested without a GPU.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::tensor::DeviceError;

/// An address in the memory of a device.
pub type Address = u64;

/// The largest second and third extent of a grid.
const MAX_GRID: usize = 65_535;

/// A device that runs kernels in the order in which they are launched.
///
/// Copies and launches are queued: only [`download`](Self::download) waits, and [`release`](Self::release). A wrong
/// address is a fault on the device, never in the memory of the process. Any thread may call; what several queue is
/// carried out one after the other.
pub trait Driver: fmt::Debug + Send + Sync {
    /// Processors that work on blocks side by side.
    fn multiprocessors(&self) -> usize;

    /// Bytes of memory that are free.
    fn free_memory(&self) -> Result<u64, DeviceError>;

    /// Memory of so many bytes, all zero, aligned to 16; `bytes` is at least 1.
    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError>;

    /// Gives memory back once everything queued is done with it.
    fn release(&self, address: Address);

    /// Queues a copy to the device. `bytes` may be changed as soon as this returns.
    fn upload(&self, bytes: &[u8], to: Address) -> Result<(), DeviceError>;

    /// Queues a copy within the device.
    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), DeviceError>;

    /// Waits for everything queued before and copies from the device.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Queues a launch, which has been checked by [`Launch::queue`].
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError>;

    /// Host memory for copies from the device that nobody waits for.
    fn landing(&self) -> Result<Box<dyn Landing>, DeviceError>;

    /// Keeps the launches and copies within the device that `work` queues, without carrying them out. What other
    /// threads queue meanwhile is none of it. `work` must neither allocate nor release, upload or download.
    fn capture(
        &self,
        work: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Box<dyn Graph>, DeviceError>;
}

/// Launches that were captured.
pub trait Graph: fmt::Debug + Send {
    /// Queues all of them.
    fn launch(&mut self) -> Result<(), DeviceError>;
}

/// Host memory for copies from the device that nobody waits for, and a clock around them.
pub trait Landing: fmt::Debug + Send {
    /// Forgets what landed before, all of which must have, makes room for so many words and queues the beginning.
    fn begin(&mut self, words: usize) -> Result<(), DeviceError>;

    /// Queues a copy, which lands behind those before.
    fn land(&mut self, from: Address, words: usize) -> Result<(), DeviceError>;

    /// Queues the end.
    fn end(&mut self) -> Result<(), DeviceError>;

    /// Whether everything has landed.
    fn landed(&mut self) -> Result<bool, DeviceError>;

    /// Waits until everything has landed and shows it, with the time from beginning to end on the device.
    fn wait(&mut self) -> Result<(&[u32], Duration), DeviceError>;
}

/// A piece of a device's memory.
#[derive(Debug)]
pub(super) struct Memory {
    /// Whose memory it is.
    driver: Arc<dyn Driver>,
    /// Where it begins.
    address: Address,
    /// How long it is.
    bytes: usize,
}

impl Memory {
    /// `bytes` zeros; at least one byte is taken, so that the address is a valid one.
    pub(super) fn zeros(driver: &Arc<dyn Driver>, bytes: usize) -> Result<Self, DeviceError> {
        let address = driver.allocate(bytes.max(1))?;
        Ok(Self { driver: driver.clone(), address, bytes })
    }

    /// Memory that holds `bytes`.
    pub(super) fn holding(driver: &Arc<dyn Driver>, bytes: &[u8]) -> Result<Self, DeviceError> {
        let memory = Self::zeros(driver, bytes.len())?;
        driver.upload(bytes, memory.address)?;
        Ok(memory)
    }

    /// Where it begins.
    pub(super) fn address(&self) -> Address {
        self.address
    }

    /// How long it is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.driver.release(self.address);
    }
}

/// One launch of a kernel.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Blocks in each direction.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub block: usize,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    /// The parameters in the order in which the kernel declares them, each at the low end of a word.
    pub words: Vec<u64>,
    /// The first count that does not fit a kernel's `int`.
    too_large: Option<usize>,
}

impl Launch {
    /// A launch without parameters.
    pub(super) fn new(kernel: &'static str, grid: [usize; 3], block: usize) -> Self {
        Self { kernel, grid, block, shared: 0, words: Vec::with_capacity(12), too_large: None }
    }

    /// With dynamic shared memory, rounded up to 16 bytes.
    pub(super) fn shared(mut self, bytes: usize) -> Self {
        self.shared = bytes.next_multiple_of(16);
        self
    }

    /// A pointer.
    pub(super) fn pointer(mut self, address: Address) -> Self {
        self.words.push(address);
        self
    }

    /// A pointer to the start of a piece of memory.
    pub(super) fn memory(self, memory: &Memory) -> Self {
        self.pointer(memory.address)
    }

    /// An `int`, which is never negative, or a `u32` of the same width.
    pub(super) fn count(mut self, value: usize) -> Self {
        if i32::try_from(value).is_err() {
            self.too_large.get_or_insert(value);
        }
        self.words.push(value as u64);
        self
    }

    /// A `float`.
    pub(super) fn float(mut self, value: f32) -> Self {
        self.words.push(u64::from(value.to_bits()));
        self
    }

    /// Queues the launch. One without blocks is none.
    pub(super) fn queue(self, driver: &dyn Driver) -> Result<(), DeviceError> {
        let fail =
            |operand, have, need| Err(DeviceError::Shape { operation: self.kernel, operand, have, need });
        if self.grid.contains(&0) {
            return Ok(());
        }
        if let Some(value) = self.too_large {
            return fail("a dimension", i32::MAX as usize, value);
        }
        let [across, rest @ ..] = self.grid;
        if let Some(extent) = rest.into_iter().find(|extent| *extent > MAX_GRID) {
            return fail("an extent of the grid", MAX_GRID, extent);
        }
        if across > i32::MAX as usize {
            return fail("the first extent of the grid", i32::MAX as usize, across);
        }
        driver.launch(&self)
    }
}
