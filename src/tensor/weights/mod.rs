//! Weights by name: from safetensors files, from memory, or made up.
#![deny(clippy::indexing_slicing)]

mod checkpoint;
mod dummy;
mod error;
mod mapped;
mod storage;
mod store;

pub use error::WeightError;
pub use storage::{Dtype, Weight, WeightData};
pub(crate) use storage::{Element, Elements};
pub use store::{Taken, WeightStore, weight_files};
