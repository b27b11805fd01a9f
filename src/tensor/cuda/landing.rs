//! Pinned memory into which a device copies while the process does other things.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice};

use super::device::gpu;
use super::driver::{Address, Landing};
use super::turns::Turns;
use crate::tensor::DeviceError;

/// Words that there is room for at first: the tokens of a step.
const FIRST_WORDS: usize = 1024;

/// A piece of pinned memory, with the events around what lands there.
pub(super) struct PinnedLanding {
    /// Where copies come from.
    stream: Arc<CudaStream>,
    /// The turns there.
    turns: Arc<Turns>,
    /// The memory.
    memory: PinnedHostSlice<u32>,
    /// Words of it that are taken.
    taken: usize,
    /// Happens when what was queued before the beginning has.
    begun: CudaEvent,
    /// Happens when everything has landed.
    ended: CudaEvent,
}

impl PinnedLanding {
    pub(super) fn new(stream: &Arc<CudaStream>, turns: &Arc<Turns>) -> Result<Self, DriverError> {
        let context = stream.context();
        // Both keep the time. Who waits for one sleeps.
        let event = || context.new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC));
        Ok(Self {
            memory: pinned(stream, FIRST_WORDS)?,
            taken: 0,
            begun: event()?,
            ended: event()?,
            stream: stream.clone(),
            turns: turns.clone(),
        })
    }
}

/// Pinned memory that the process reads.
fn pinned(stream: &CudaStream, words: usize) -> Result<PinnedHostSlice<u32>, DriverError> {
    // SAFETY: nothing of it is read but what a device has written, whose completion is waited for.
    unsafe { stream.context().alloc_pinned_with_flags(words, 0) }
}

impl fmt::Debug for PinnedLanding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PinnedLanding").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Landing for PinnedLanding {
    fn begin(&mut self, words: usize) -> Result<(), DeviceError> {
        self.taken = 0;
        if self.memory.len() < words {
            self.memory =
                pinned(&self.stream, words.next_power_of_two()).map_err(gpu("take pinned memory"))?;
        }
        let _turn = self.turns.take();
        self.begun.record(&self.stream).map_err(gpu("mark the beginning of a step"))
    }

    fn land(&mut self, from: Address, words: usize) -> Result<(), DeviceError> {
        const WHAT: &str = "copy from its memory";
        let free = self.memory.as_mut_slice().map_err(gpu(WHAT))?.get_mut(self.taken..self.taken + words);
        let Some(place) = free else {
            return Err(DeviceError::Shape {
                operation: "land",
                operand: "pinned memory",
                have: 0,
                need: words,
            });
        };
        let _turn = self.turns.take();
        // SAFETY: the place belongs to this copy alone, and is neither read nor freed before `ended` has happened.
        unsafe { result::memcpy_dtoh_async(place, from, self.stream.cu_stream()) }.map_err(gpu(WHAT))?;
        self.taken += words;
        Ok(())
    }

    fn end(&mut self) -> Result<(), DeviceError> {
        let _turn = self.turns.take();
        self.ended.record(&self.stream).map_err(gpu("mark the end of a step"))
    }

    fn landed(&mut self) -> Result<bool, DeviceError> {
        let bound = self.stream.context().bind_to_thread();
        bound.and_then(|()| self.ended.try_is_complete()).map_err(gpu("carry out a step"))
    }

    fn wait(&mut self) -> Result<(&[u32], Duration), DeviceError> {
        self.ended.synchronize().map_err(gpu("carry out a step"))?;
        let milliseconds = self.begun.elapsed_ms(&self.ended).map_err(gpu("tell how long a step took"))?;
        let landed = self.memory.as_slice().map_err(gpu("copy from its memory"))?.get(..self.taken);
        Ok((landed.unwrap_or_default(), Duration::from_secs_f32(milliseconds.max(0.0) / 1e3)))
    }
}

impl Drop for PinnedLanding {
    fn drop(&mut self) {
        // Copies may be under way even where the end was not marked. A failure means that the device is lost, and with
        // it the copies.
        let _ = self.end();
        let _ = self.ended.synchronize();
    }
}
