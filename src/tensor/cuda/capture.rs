//! Launches captured as a CUDA graph.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};

use super::device::gpu;
use super::driver::Graph;
use super::turns::Turns;
use crate::tensor::DeviceError;

/// A capture under way; dropped, it is given up.
pub(super) struct Capture<'a> {
    /// The stream that captures.
    stream: &'a Arc<CudaStream>,
    /// The turns at it.
    turns: &'a Arc<Turns>,
    /// Whether the stream still captures.
    open: bool,
}

impl<'a> Capture<'a> {
    /// From here on this thread's launches are captured, and other threads wait.
    ///
    /// The mode is that of one thread: what others do beside the stream, such as allocating, does not disturb it.
    pub(super) fn begin(stream: &'a Arc<CudaStream>, turns: &'a Arc<Turns>) -> Result<Self, DriverError> {
        let mut turn = turns.take();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        turn.begin_capture();
        Ok(Self { stream, turns, open: true })
    }

    /// Ends it and makes a graph of what was captured.
    pub(super) fn end(mut self) -> Result<CapturedGraph, DriverError> {
        self.open = false;
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0))?;
        let graph = graph.ok_or(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED))?;
        Ok(CapturedGraph { graph, stream: self.stream.clone(), turns: self.turns.clone() })
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.open {
            // What was captured is not wanted. If it cannot be ended, the next call says so.
            let _ = self.stream.end_capture(CUgraphInstantiate_flags(0));
        }
        self.turns.end_capture(self.turns.take());
    }
}

/// A graph that can be launched.
pub(super) struct CapturedGraph {
    /// The driver's own.
    graph: CudaGraph,
    /// Where it is launched.
    stream: Arc<CudaStream>,
    /// The turns there.
    turns: Arc<Turns>,
}

// SAFETY: the driver lets any thread use a graph as long as one alone does. Launching it takes `&mut self`, and nothing
// else is done with it until it is dropped.
unsafe impl Send for CapturedGraph {}

impl fmt::Debug for CapturedGraph {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CapturedGraph").finish_non_exhaustive()
    }
}

impl Graph for CapturedGraph {
    fn launch(&mut self) -> Result<(), DeviceError> {
        let _turn = self.turns.take();
        self.graph.launch().map_err(gpu("launch a graph"))
    }
}

impl Drop for CapturedGraph {
    fn drop(&mut self) {
        // The driver's own is destroyed right after this, which needs its context.
        let _ = self.stream.context().bind_to_thread();
    }
}
