//! The operations on NVIDIA GPUs.
//!
//! The kernels stand in `kernels/`, one file per family of operations, written in CUDA C++; [`kernels`] embeds them
//! together with the PTX generated from them, which a driver compiles for its card, and [`nvrtc`] generates that PTX
//! with NVIDIA's run-time compiler, which only developers need.
//!
//! [`Driver`] is what is needed of a device. [`CudaDevice`] is a GPU behind NVIDIA's driver, found at run time.
//! [`Cuda`] carries the operations out as launches on one; which kernel fits, and over how many blocks, is worked out
//! in `variants`, and a step's description in `batch`.
//!
//! All threads queue on one stream, so what several replicas do on one device is carried out in the order in which it
//! was queued; `turns` keeps them apart while one of them captures a graph. A decode step never waits: its description
//! goes up through pinned memory (`staging`), its launches are repeated as a graph (`recordings`), tokens are chosen on
//! the device (`sampling`) and come back through pinned memory (`landing`).

mod attention;
mod backend;
mod batch;
mod capture;
mod device;
mod driver;
mod error;
pub mod kernels;
mod landing;
mod memory;
mod mixture;
pub mod nvrtc;
mod recordings;
mod sampling;
mod staging;
mod steps;
mod stored;
mod turns;
mod variants;

pub use backend::Cuda;
pub use batch::CudaBatch;
pub use device::CudaDevice;
pub use driver::{Address, Driver, Graph, Landing, Launch};
pub use error::{CudaError, NEEDED_DRIVER};
pub use memory::{CudaBuffer, CudaCache, CudaExperts, CudaMatrix, CudaRouting, CudaVector};
pub use recordings::{Recordings, StepShape};
pub use sampling::CudaSampling;
pub use stored::Stored;
