//! Edges between stages: how chunks travel from replica to replica.

pub mod edge;
pub mod payload;

pub use edge::{EdgeError, EdgeReceiver, EdgeSender};
pub use payload::{Chunk, HostTensor, Payload};
