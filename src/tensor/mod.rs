//! The operations that models are written in, the memory they work on, and the devices that carry them out.
//!
//! [`Backend`] is the one interface: about fifteen coarse operations over buffers that the caller owns. Two
//! implementations stand under [`cpu`]: [`cpu::Plain`] defines every operation by straightforward loops,
//! [`cpu::Cpu`] is the fast one. [`weights`] finds tensors in a checkpoint; [`batch`] describes one step.

pub mod backend;
pub mod batch;
pub mod cpu;
pub mod cuda;
pub mod error;
pub mod weights;

pub use backend::{AttentionShape, Backend, ExpertInput, KvShape, RotarySpec, RouteSpec};
pub use batch::{BLOCK_SIZE, BatchLimits, SequenceSpan, StepBatch};
pub use error::DeviceError;
pub use weights::{Dtype, Weight, WeightError, WeightStore};
