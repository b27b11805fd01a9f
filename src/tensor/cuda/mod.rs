//! The operations on NVIDIA GPUs: kernels written in CUDA C++, generated PTX, and the compiler that generates it.
//!
//! The sources stand in `kernels/`, one file per family of operations. [`kernels`] embeds them together with the PTX
//! generated from them, which a driver compiles for its card; [`nvrtc`] generates that PTX with NVIDIA's run-time
//! compiler, which only developers need.

pub mod kernels;
pub mod nvrtc;
