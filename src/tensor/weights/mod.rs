//! Weights by name: from safetensors files, from memory, or made up.
#![deny(clippy::indexing_slicing)]

mod checkpoint;
mod dummy;
mod error;
mod mapped;
mod recipe;
mod storage;
mod store;

pub(crate) use dummy::table as dummy_draws;
pub use error::WeightError;
pub(crate) use recipe::Recipe;
pub use storage::{Dtype, Weight, WeightData};
pub(crate) use storage::{Element, Elements};
pub use store::{Taken, WeightStore, weight_files};
