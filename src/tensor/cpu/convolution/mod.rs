//! Convolutions on a CPU.

mod attention;
mod kernel;
mod plain;
mod span;

pub use kernel::{CpuDepthwise, CpuKernel, CpuSnake};
