//! Decode steps without the host.

use std::time::Duration;

use super::backend::Cuda;
use super::batch::CudaBatch;
use super::driver::Landing;
use super::memory::CudaBuffer;
use super::recordings::{Recordings, StepShape};
use super::sampling::CudaSampling;
use super::stored::Stored;
use crate::tensor::device_steps::{ChainedRow, CountedToken, DeviceSteps, Selection};
use crate::tensor::{BatchLimits, DeviceError};

impl DeviceSteps for Cuda {
    type Sampling = CudaSampling;
    type Readback = Box<dyn Landing>;
    type Recordings = Recordings;
    type StepShape = StepShape;

    fn sampling(&self, limits: BatchLimits, vocabulary: usize) -> Result<CudaSampling, DeviceError> {
        CudaSampling::new(self.shared_driver(), limits, vocabulary)
    }

    fn readback(&self) -> Result<Box<dyn Landing>, DeviceError> {
        self.driver().landing()
    }

    fn recordings(&self) -> Recordings {
        Recordings::default()
    }

    fn start_history(
        &self,
        sampling: &mut CudaSampling,
        history: u32,
        tokens: &[CountedToken],
    ) -> Result<(), DeviceError> {
        sampling.start_history(history, tokens)
    }

    fn upload_selections(
        &self,
        selections: &[Selection],
        chained: &[ChainedRow],
        batch: &CudaBatch,
        sampling: &mut CudaSampling,
    ) -> Result<(), DeviceError> {
        sampling.upload(selections, chained, batch)
    }

    fn take_tokens(&self, sampling: &CudaSampling, batch: &mut CudaBatch) -> Result<(), DeviceError> {
        self.launch_take_tokens(sampling, batch)
    }

    fn sample(&self, logits: &mut CudaBuffer, sampling: &mut CudaSampling) -> Result<(), DeviceError> {
        self.launch_sample(logits, sampling)
    }

    fn step_shape(&self, batch: &CudaBatch, sampling: &CudaSampling) -> Option<StepShape> {
        Some(StepShape { decode: batch.decode_shape()?, sampling_layout: sampling.layout })
    }

    fn repeat(
        &self,
        shape: Option<StepShape>,
        recordings: &mut Recordings,
        mut work: impl FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        match shape {
            Some(shape) => recordings.run(self.driver(), shape, &mut work),
            None => work(),
        }
    }

    fn begin(&self, readback: &mut Box<dyn Landing>, values: usize) -> Result<(), DeviceError> {
        readback.begin(values)
    }

    fn read_values(
        &self,
        buffer: &CudaBuffer,
        first: usize,
        elements: usize,
        readback: &mut Box<dyn Landing>,
    ) -> Result<(), DeviceError> {
        buffer.check("read_values", "buffer", first + elements, Stored::F32)?;
        readback.land(buffer.memory.address() + 4 * first as u64, elements)
    }

    fn read_tokens(
        &self,
        sampling: &CudaSampling,
        readback: &mut Box<dyn Landing>,
    ) -> Result<(), DeviceError> {
        let (tokens, count) = sampling.tokens();
        readback.land(tokens.address(), count)
    }

    fn end(&self, readback: &mut Box<dyn Landing>) -> Result<(), DeviceError> {
        readback.end()
    }

    fn arrived(&self, readback: &mut Box<dyn Landing>) -> Result<bool, DeviceError> {
        readback.landed()
    }

    fn wait<'a>(&self, readback: &'a mut Box<dyn Landing>) -> Result<(&'a [u32], Duration), DeviceError> {
        readback.wait()
    }
}
