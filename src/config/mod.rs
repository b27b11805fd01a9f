//! What the server is told before it starts: the checkpoint, and where it comes from.

#![deny(clippy::indexing_slicing)]

pub mod checkpoint;
mod demo;
pub mod hub;

pub use checkpoint::{Checkpoint, CheckpointError, ModelIdentity, TokenizerFiles};
