//! Families of the work that steps of an engine replica are: estimated from the model's dimensions and from what was
//! scheduled, not measured. Over a span of time they give the use that is made of a device (MFU).

use super::labels::{Label, MODEL_NAME, REPLICA, STAGE};
use super::{Definition, Kind, Namespace, Unit};

const ENGINE: &[Label] = &[MODEL_NAME, STAGE, REPLICA];

/// `estimated_flops_per_gpu_total`
pub const FLOPS: Definition = Definition {
    suffix: "estimated_flops_per_gpu_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Floating-point operations of the products and the attention of all steps, of the experts those that a token visits.",
    unit: Unit::Operations,
    labels: ENGINE,
    moves: "a step is launched, with `--enable-mfu-metrics`",
};

/// `estimated_read_bytes_per_gpu_total`
pub const READ_BYTES: Definition = Definition {
    suffix: "estimated_read_bytes_per_gpu_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Bytes of weights, of the experts as many as a step is expected to choose, and of keys and values that steps read.",
    unit: Unit::Bytes,
    labels: ENGINE,
    moves: "a step is launched, with `--enable-mfu-metrics`",
};

/// `estimated_write_bytes_per_gpu_total`
pub const WRITE_BYTES: Definition = Definition {
    suffix: "estimated_write_bytes_per_gpu_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Bytes of keys and values that steps wrote.",
    unit: Unit::Bytes,
    labels: ENGINE,
    moves: "a step is launched, with `--enable-mfu-metrics`",
};

/// Every family of work, in the order of `/metrics`.
pub const ALL: &[&Definition] = &[&FLOPS, &READ_BYTES, &WRITE_BYTES];
