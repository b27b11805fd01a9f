//! What the server is told before it starts: the checkpoint, where it comes from, and the deployment.

#![deny(clippy::indexing_slicing)]

pub mod checkpoint;
mod demo;
pub mod deploy;
pub mod document;
pub mod hub;
pub mod source;
pub mod spelling;

pub use checkpoint::{Checkpoint, CheckpointError, ModelIdentity, TokenizerFiles};
pub use deploy::{Deploy, StageDeploy};
pub use source::{Source, Sources};
