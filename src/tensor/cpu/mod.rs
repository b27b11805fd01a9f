//! The operations on a CPU: by plain loops that define them, and fast.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod convolution;
mod device;
mod elementwise;
mod input_rows;
mod isa;
mod matmul;
mod memory;
mod plain;
pub(super) mod pool;
mod portable;
mod simd;
#[cfg(test)]
mod tests;

pub use convolution::{CpuDepthwise, CpuKernel, CpuSnake};
pub use device::Cpu;
pub use isa::{ISA_VARIABLE, Isa};
pub use memory::{CpuBatch, CpuBuffer, CpuCache, CpuExperts, CpuMatrix, CpuRouting, CpuVector};
pub use plain::Plain;
