//! What the server is told before it starts: the checkpoint and, later, the deployment.

#![deny(clippy::indexing_slicing)]

pub mod checkpoint;
mod demo;

pub use checkpoint::{Checkpoint, CheckpointError, ModelIdentity, TokenizerFiles};
