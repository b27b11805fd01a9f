//! Pinned memory through which everything goes to a device: the copy then goes on while the process does other things.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, PinnedHostSlice};

use super::driver::Address;

/// Bytes of a slot.
const SLOT_BYTES: usize = 8 << 20;
/// Slots. A step's description takes one; while the next step's is written, the last one's may still be under way.
const SLOTS: usize = 4;

/// Slots that are used in turn.
#[derive(Debug)]
pub(super) struct Staging(Mutex<Ring>);

/// The slots, and whose turn it is.
#[derive(Debug)]
struct Ring {
    /// All of one size.
    slots: Vec<Slot>,
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
        let slot = |_| {
            // SAFETY: nothing is read from a slot but what was written to it.
            let memory = unsafe { context.alloc_pinned::<u8>(SLOT_BYTES) }?;
            Ok(Slot { memory, free: context.new_event(None)? })
        };
        let slots = (0..SLOTS).map(slot).collect::<Result<_, _>>()?;
        Ok(Self(Mutex::new(Ring { slots, next: 0 })))
    }

    /// Queues copies of `bytes`. Waits only while all slots are under way.
    pub(super) fn upload(&self, bytes: &[u8], to: Address, stream: &CudaStream) -> Result<(), DriverError> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut place = to;
        for chunk in bytes.chunks(SLOT_BYTES) {
            let turn = ring.next;
            ring.next = (turn + 1) % SLOTS;
            let Some(slot) = ring.slots.get_mut(turn) else { break };
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

impl Drop for Staging {
    fn drop(&mut self) {
        let ring = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for slot in &ring.slots {
            // A failure means that the device is lost, and with it the copies.
            let _ = slot.free.synchronize();
        }
    }
}
