//! The emulated device as the CUDA backend's driver: what the backend launches runs on the CPU.
//!
//! As on a GPU, what is queued is carried out later: when somebody waits for it, and not before.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use omni_actors::tensor::DeviceError;
use omni_actors::tensor::cuda::{Address, Driver, Graph, Landing, Launch};

use crate::device::{Device, Guarded};

/// An emulated device with its memory. Clones are the same device.
#[derive(Clone)]
pub(crate) struct Emulated(Arc<State>);

struct State {
    device: &'static Device,
    /// See [`Driver::multiprocessors`]; decides how contexts are split.
    multiprocessors: usize,
    /// What is allocated, by address.
    memory: Mutex<BTreeMap<Address, Piece>>,
    /// What is queued and not carried out.
    queue: Mutex<VecDeque<Command>>,
    /// What is captured, while something is.
    captured: Mutex<Option<Vec<Command>>>,
    /// Whether graphs can be captured.
    captures: AtomicBool,
    /// The names of the kernels that ran, and how often.
    launched: Mutex<BTreeMap<&'static str, usize>>,
    /// Launches so far: every other one runs its threads in the opposite order.
    launches: AtomicUsize,
    /// Graphs launched.
    graphs: AtomicUsize,
}

/// Something to be done in its turn.
#[derive(Clone)]
enum Command {
    Upload(Vec<u8>, Address),
    Copy(Address, Address, usize),
    Land(Address, usize, Arc<Mutex<Vec<u32>>>),
    Launch(Launch),
}

/// Memory that any thread may hold.
struct Piece(Guarded);

// SAFETY: the mapping belongs to the value alone and is bound to no thread.
unsafe impl Send for Piece {}

impl fmt::Debug for Emulated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Emulated").finish_non_exhaustive()
    }
}

impl Emulated {
    pub(crate) fn new(device: &'static Device, multiprocessors: usize) -> Self {
        Self(Arc::new(State {
            device,
            multiprocessors,
            memory: Mutex::default(),
            queue: Mutex::default(),
            captured: Mutex::default(),
            captures: AtomicBool::new(true),
            launched: Mutex::default(),
            launches: AtomicUsize::new(0),
            graphs: AtomicUsize::new(0),
        }))
    }

    /// From now on no graph can be captured.
    pub(crate) fn refuse_graphs(&self) {
        self.0.captures.store(false, Ordering::Relaxed);
    }

    /// Graphs launched so far.
    pub(crate) fn graphs_launched(&self) -> usize {
        self.0.graphs.load(Ordering::Relaxed)
    }

    /// The kernels that ran.
    pub(crate) fn kernels_launched(&self) -> Vec<&'static str> {
        self.0.launched.lock().unwrap().keys().copied().collect()
    }

    /// Queues a command, or captures it.
    fn queue(&self, command: Command) {
        match &mut *self.0.captured.lock().unwrap() {
            Some(captured) => captured.push(command),
            None => self.0.queue.lock().unwrap().push_back(command),
        }
    }

    /// Carries out what is queued.
    fn drain(&self) -> Result<(), DeviceError> {
        self.must_not_capture();
        loop {
            let Some(command) = self.0.queue.lock().unwrap().pop_front() else { return Ok(()) };
            self.0.carry_out(command)?;
        }
    }

    fn must_not_capture(&self) {
        assert!(self.0.captured.lock().unwrap().is_none(), "a graph cannot hold this");
    }
}

impl State {
    fn carry_out(&self, command: Command) -> Result<(), DeviceError> {
        match command {
            Command::Upload(bytes, to) => {
                self.with_bytes(to, bytes.len(), |memory| memory.copy_from_slice(&bytes));
            }
            Command::Copy(from, to, bytes) => {
                let content = self.with_bytes(from, bytes, |memory| memory.to_vec());
                self.with_bytes(to, bytes, |memory| memory.copy_from_slice(&content));
            }
            Command::Land(from, words, place) => self.with_bytes(from, 4 * words, |memory| {
                place.lock().unwrap().extend(bytemuck::pod_collect_to_vec::<u8, u32>(memory));
            }),
            Command::Launch(launch) => self.run(&launch)?,
        }
        Ok(())
    }

    /// Calls `work` with the bytes at an address, which must lie in one piece of memory.
    fn with_bytes<R>(&self, address: Address, bytes: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
        if bytes == 0 {
            return work(&mut []);
        }
        let mut memory = self.memory.lock().unwrap();
        let (start, piece) = memory.range_mut(..=address).next_back().unwrap();
        let first = (address - start) as usize;
        work(&mut piece.0.bytes()[first..first + bytes])
    }

    fn run(&self, launch: &Launch) -> Result<(), DeviceError> {
        *self.launched.lock().unwrap().entry(launch.kernel).or_default() += 1;
        let reversed = self.launches.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let grid = launch.grid.map(|extent| extent as u32);
        self.device
            .run_words(launch.kernel, grid, launch.block as u32, launch.shared, &launch.words, reversed)
            .map_err(|cause| DeviceError::Gpu { what: "run a kernel", cause })
    }
}

impl Driver for Emulated {
    fn multiprocessors(&self) -> usize {
        self.0.multiprocessors
    }

    fn free_memory(&self) -> Result<u64, DeviceError> {
        Ok(1 << 30)
    }

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        self.must_not_capture();
        assert!(bytes > 0);
        let piece = Guarded::new(&vec![0; bytes]);
        let address = piece.start as Address;
        self.0.memory.lock().unwrap().insert(address, Piece(piece));
        Ok(address)
    }

    fn release(&self, address: Address) {
        self.drain().unwrap();
        let piece = self.0.memory.lock().unwrap().remove(&address).unwrap();
        assert!(piece.0.intact(), "something wrote outside {} bytes", piece.0.length);
    }

    fn upload(&self, bytes: &[u8], to: Address) -> Result<(), DeviceError> {
        self.must_not_capture();
        self.queue(Command::Upload(bytes.to_vec(), to));
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), DeviceError> {
        self.queue(Command::Copy(from, to, bytes));
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.drain()?;
        self.0.with_bytes(from, bytes.len(), |memory| bytes.copy_from_slice(memory));
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.queue(Command::Launch(launch.clone()));
        Ok(())
    }

    fn landing(&self) -> Result<Box<dyn Landing>, DeviceError> {
        self.must_not_capture();
        Ok(Box::new(EmulatedLanding { driver: self.clone(), landed: Arc::default(), shown: Vec::new() }))
    }

    fn capture(
        &self,
        work: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Box<dyn Graph>, DeviceError> {
        if !self.0.captures.load(Ordering::Relaxed) {
            let cause = "this device captures nothing".to_owned();
            return Err(DeviceError::Gpu { what: "begin a graph", cause });
        }
        let before = self.0.captured.lock().unwrap().replace(Vec::new());
        assert!(before.is_none(), "one capture at a time");
        let outcome = work();
        let commands = self.0.captured.lock().unwrap().take().unwrap();
        outcome?;
        Ok(Box::new(EmulatedGraph { driver: self.clone(), commands }))
    }
}

/// Commands that were captured.
struct EmulatedGraph {
    driver: Emulated,
    commands: Vec<Command>,
}

impl fmt::Debug for EmulatedGraph {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EmulatedGraph")
            .field("commands", &self.commands.len())
            .finish_non_exhaustive()
    }
}

impl Graph for EmulatedGraph {
    fn launch(&mut self) -> Result<(), DeviceError> {
        self.driver.must_not_capture();
        self.driver.0.graphs.fetch_add(1, Ordering::Relaxed);
        self.commands.iter().for_each(|command| self.driver.queue(command.clone()));
        Ok(())
    }
}

/// Where words land when their turn has come.
#[derive(Debug)]
struct EmulatedLanding {
    driver: Emulated,
    landed: Arc<Mutex<Vec<u32>>>,
    /// What is shown of them.
    shown: Vec<u32>,
}

impl Landing for EmulatedLanding {
    fn begin(&mut self, _: usize) -> Result<(), DeviceError> {
        self.landed.lock().unwrap().clear();
        Ok(())
    }

    fn land(&mut self, from: Address, words: usize) -> Result<(), DeviceError> {
        self.driver.must_not_capture();
        self.driver.queue(Command::Land(from, words, self.landed.clone()));
        Ok(())
    }

    fn end(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn landed(&mut self) -> Result<bool, DeviceError> {
        self.driver.drain()?;
        Ok(true)
    }

    fn wait(&mut self) -> Result<(&[u32], Duration), DeviceError> {
        self.driver.drain()?;
        self.shown.clone_from(&self.landed.lock().unwrap());
        Ok((&self.shown, Duration::ZERO))
    }
}
