//! What can go wrong while a device computes.

use thiserror::Error;

/// A failure of an operation or of the device that carries it out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// A buffer is smaller than the operation needs, or two operands do not fit together.
    #[error("{operation}: {operand} has {have} elements where {need} are needed")]
    Shape {
        /// The operation that was asked for.
        operation: &'static str,
        /// The operand that does not fit.
        operand: &'static str,
        /// What it has.
        have: usize,
        /// What is needed.
        need: usize,
    },
    /// The description of a step contradicts itself or the memory that it refers to.
    #[error("batch: {0}")]
    Batch(String),
    /// `OMNI_CPU_ISA` names an instruction set that is unknown, or that this processor does not have.
    #[error("OMNI_CPU_ISA={asked} cannot be used here; this processor offers {available}")]
    InstructionSet {
        /// What was asked for.
        asked: String,
        /// What there is, separated by commas.
        available: String,
    },
    /// `OMNI_CPU_ISA` names an instruction set that rounds activations where they must be exact.
    #[error("OMNI_CPU_ISA={asked} rounds activations to bf16, and float32 was asked for")]
    RoundsActivations {
        /// What was asked for.
        asked: String,
    },
    /// The device's memory is used up.
    #[error("{asked} bytes of GPU memory are needed where {free} are free")]
    OutOfMemory {
        /// Bytes that were asked for.
        asked: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A GPU failed, or its driver did. What is queued on it afterwards fails too.
    #[error("the GPU failed to {what}: {cause}")]
    Gpu {
        /// What it was to do.
        what: &'static str,
        /// What the driver says.
        cause: String,
    },
    /// The thread pool could not be started.
    #[error("the CPU thread pool cannot be started: {0}")]
    Threads(String),
}

impl DeviceError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Shape { .. } => "shape_mismatch",
            Self::Batch(_) => "invalid_batch",
            Self::InstructionSet { .. } | Self::RoundsActivations { .. } => "instruction_set",
            Self::OutOfMemory { .. } => "out_of_device_memory",
            Self::Gpu { .. } => "gpu_failed",
            Self::Threads(_) => "thread_pool",
        }
    }
}

/// Succeeds if `have` elements are enough.
pub(crate) fn require(
    operation: &'static str,
    operand: &'static str,
    have: usize,
    need: usize,
) -> Result<(), DeviceError> {
    if have >= need { Ok(()) } else { Err(DeviceError::Shape { operation, operand, have, need }) }
}

/// Succeeds if `have` is exactly `need`.
pub(crate) fn require_exact(
    operation: &'static str,
    operand: &'static str,
    have: usize,
    need: usize,
) -> Result<(), DeviceError> {
    if have == need { Ok(()) } else { Err(DeviceError::Shape { operation, operand, have, need }) }
}
