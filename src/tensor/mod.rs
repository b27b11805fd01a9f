//! The operations that models are written in, the memory they work on, and the devices that carry them out.
//!
//! [`Backend`] is what every model needs: about fifteen coarse operations over buffers that the caller owns.
//! [`InputRows`] adds what makes input rows for decoders that are fed with embeddings, [`Convolution`] what turns
//! rows into a signal, [`DeviceSteps`] what a device does that chooses tokens itself. Two implementations stand under [`cpu`]: [`cpu::Plain`] defines every operation by
//! straightforward loops, [`cpu::Cpu`] is the fast one. [`weights`] finds tensors in a checkpoint; [`batch`]
//! describes one step of a decoder, [`windows`] the rows of a signal.

pub mod backend;
pub mod batch;
pub mod convolution;
pub mod cpu;
pub mod cuda;
pub mod device_steps;
pub mod error;
pub mod input_rows;
pub mod weights;
pub mod windows;

pub use backend::{AttentionShape, Backend, ExpertInput, KvShape, RotarySpec, RouteSpec};
pub use batch::{BLOCK_SIZE, BatchLimits, SequenceSpan, StepBatch};
pub use convolution::{Convolution, KernelShape};
pub use device_steps::DeviceSteps;
pub use error::DeviceError;
pub use input_rows::InputRows;
pub use weights::{Dtype, Taken, Weight, WeightError, WeightStore, weight_files};
pub use windows::{WindowRows, Windows};
