//! The operations on a CPU: by plain loops that define them, and fast.

mod memory;
mod plain;

pub use memory::{CpuBatch, CpuBuffer, CpuCache, CpuExperts, CpuMatrix, CpuRouting, CpuVector};
pub use plain::Plain;
