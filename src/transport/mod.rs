//! Edges between stages: how chunks travel from replica to replica.

pub mod payload;

pub use payload::{Chunk, HostTensor, Payload};
