//! What the server is told before it starts: the checkpoint and, later, the deployment.

pub mod checkpoint;
mod demo;
pub mod weight_files;

pub use checkpoint::{Checkpoint, CheckpointError, ModelIdentity, TokenizerFiles};
pub use weight_files::{WeightFile, WeightFiles};
