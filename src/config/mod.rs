//! What the server is told before it starts: the checkpoint and the deployment.

#![deny(clippy::indexing_slicing)]

pub mod checkpoint;
mod demo;
pub mod deploy;

pub use checkpoint::{Checkpoint, CheckpointError, ModelIdentity, TokenizerFiles};
pub use deploy::{Deploy, StageDeploy};
