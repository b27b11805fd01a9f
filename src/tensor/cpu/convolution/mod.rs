//! Convolutions on a CPU.

mod attention;
mod fast;
mod kernel;
mod plain;
mod product;
mod snake;
mod span;
#[cfg(test)]
mod tests;

pub use kernel::{CpuDepthwise, CpuKernel, CpuSnake};
