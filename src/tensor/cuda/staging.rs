//! Pinned memory through which everything goes to a device: the copy then goes on while the process does other things.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, PinnedHostSlice};

use super::driver::Address;

/// Bytes of a large slot, through which weights go.
const LARGE_BYTES: usize = 8 << 20;
/// Large slots.
const LARGE_SLOTS: usize = 4;
/// Bytes of a small slot, through which the parts of a step's description go.
const SMALL_BYTES: usize = 64 << 10;
/// Small slots: enough for all steps in flight of several replicas. A copy waits on the stream for the step before, so
/// if there were too few, launching a step would wait for that one to end.
const SMALL_SLOTS: usize = 64;

/// Slots of two sizes.
#[derive(Debug)]
pub(super) struct Staging {
    /// For much.
    large: Mutex<Ring>,
    /// For little.
    small: Mutex<Ring>,
}

/// Slots that are used in turn.
#[derive(Debug)]
struct Ring {
    /// All of one size.
    slots: Vec<Slot>,
    /// That size.
    bytes: usize,
    /// The slot that is used next.
    next: usize,
}

/// A piece of pinned memory.
#[derive(Debug)]
struct Slot {
    /// The memory.
    memory: PinnedHostSlice<u8>,
    /// Has happened when the last copy out of it has.
    free: CudaEvent,
}

impl Staging {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let ring = |slots, bytes| Ok(Mutex::new(Ring::new(context, slots, bytes)?));
        Ok(Self { large: ring(LARGE_SLOTS, LARGE_BYTES)?, small: ring(SMALL_SLOTS, SMALL_BYTES)? })
    }

    /// Queues copies of `bytes`. Waits only while all slots are under way.
    pub(super) fn upload(&self, bytes: &[u8], to: Address, stream: &CudaStream) -> Result<(), DriverError> {
        let ring = if bytes.len() <= SMALL_BYTES { &self.small } else { &self.large };
        ring.lock().unwrap_or_else(PoisonError::into_inner).upload(bytes, to, stream)
    }
}

impl Ring {
    fn new(context: &Arc<CudaContext>, slots: usize, bytes: usize) -> Result<Self, DriverError> {
        let slot = |_| {
            // SAFETY: nothing is read from a slot but what was written to it.
            let memory = unsafe { context.alloc_pinned::<u8>(bytes) }?;
            Ok(Slot { memory, free: context.new_event(None)? })
        };
        Ok(Self { slots: (0..slots).map(slot).collect::<Result<_, _>>()?, bytes, next: 0 })
    }

    fn upload(&mut self, bytes: &[u8], to: Address, stream: &CudaStream) -> Result<(), DriverError> {
        let mut place = to;
        for chunk in bytes.chunks(self.bytes) {
            let turn = self.next;
            self.next = (turn + 1) % self.slots.len();
            let Some(slot) = self.slots.get_mut(turn) else { break };
            slot.free.synchronize()?;
            let memory = slot.memory.as_mut_slice()?;
            let (staged, _) = memory.split_at_mut(chunk.len());
            staged.copy_from_slice(chunk);
            // SAFETY: the slot stays as it is until `free`, recorded right behind the copy, has happened; it is
            // waited for above before the slot is written again, and the stream is emptied before slots are freed.
            unsafe { result::memcpy_htod_async(place, staged, stream.cu_stream()) }?;
            slot.free.record(stream)?;
            place += chunk.len() as u64;
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for slot in &self.slots {
            // A failure means that the device is lost, and with it the copies.
            let _ = slot.free.synchronize();
        }
    }
}
