//! Families of the edges between stages: one sample per chunk that came over an edge, measured on both sides.
//!
//! Beside them: when the first chunk of a request came how far. They exist where the pipeline has two stages or more.

use super::labels::{FROM_REPLICA, FROM_STAGE, Label, MODEL_NAME, TO_REPLICA, TO_STAGE};
use super::{Definition, Kind, Namespace, Unit, buckets};

const EDGE: &[Label] = &[MODEL_NAME, FROM_STAGE, FROM_REPLICA, TO_STAGE, TO_REPLICA];

/// `transfer_size_bytes`
pub const SIZE: Definition = Definition {
    suffix: "transfer_size_bytes",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::BYTES),
    help: "Bytes of a chunk: of its content where it is handed over as it is, of its encoding where it is encoded.",
    unit: Unit::Bytes,
    labels: EDGE,
    moves: "a chunk came over the edge",
};

/// `transfer_tx_s`
pub const SEND: Definition = Definition {
    suffix: "transfer_tx_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::TRANSFER_SECONDS),
    help: "Seconds that the sender of a chunk spent on handing it over.",
    unit: Unit::Seconds,
    labels: EDGE,
    moves: "a chunk came over the edge",
};

/// `transfer_in_flight_s`
pub const IN_FLIGHT: Definition = Definition {
    suffix: "transfer_in_flight_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::TRANSFER_SECONDS),
    help: "Seconds between the sender's handing a chunk over and the receiver's taking it.",
    unit: Unit::Seconds,
    labels: EDGE,
    moves: "a chunk came over the edge",
};

/// `transfer_rx_s`
pub const RECEIVE: Definition = Definition {
    suffix: "transfer_rx_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::TRANSFER_SECONDS),
    help: "Seconds that the receiver of a chunk spent on taking it.",
    unit: Unit::Seconds,
    labels: EDGE,
    moves: "a chunk came over the edge",
};

/// `edge_first_emit_s`
pub const FIRST_EMIT: Definition = Definition {
    suffix: "edge_first_emit_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds from the arrival of a request at the HTTP layer to the first chunk that the sending stage made.",
    unit: Unit::Seconds,
    labels: EDGE,
    moves: "the receiving stage gave its first output of a request, or is done with it without one",
};

/// `edge_first_send_s`
pub const FIRST_SEND: Definition = Definition {
    suffix: "edge_first_send_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds from the arrival of a request at the HTTP layer to handing the first chunk over.",
    unit: Unit::Seconds,
    labels: EDGE,
    moves: "the receiving stage gave its first output of a request, or is done with it without one",
};

/// `edge_first_receive_s`
pub const FIRST_RECEIVE: Definition = Definition {
    suffix: "edge_first_receive_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds from the arrival of a request at the HTTP layer to the receiving stage's taking the first chunk.",
    unit: Unit::Seconds,
    labels: EDGE,
    moves: "the receiving stage gave its first output of a request, or is done with it without one",
};

/// `edge_first_output_s`
pub const FIRST_OUTPUT: Definition = Definition {
    suffix: "edge_first_output_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds from the arrival of a request at the HTTP layer to the first output of the receiving stage.",
    unit: Unit::Seconds,
    labels: EDGE,
    moves: "the receiving stage gave its first output of a request",
};

/// Every family of edges, in the order of `/metrics`.
pub const ALL: &[&Definition] =
    &[&SIZE, &SEND, &IN_FLIGHT, &RECEIVE, &FIRST_EMIT, &FIRST_SEND, &FIRST_RECEIVE, &FIRST_OUTPUT];
