//! Edges between stages: how chunks travel from replica to replica.

#![deny(clippy::indexing_slicing)]

pub mod edge;
pub mod payload;
pub mod wire;

pub use edge::{Arrival, Connector, EdgeError, EdgeReceiver, EdgeSender, Parcel};
pub use payload::{AudioPacket, Chunk, HostData, HostTensor, Payload, PayloadKind};
pub use wire::WireError;
