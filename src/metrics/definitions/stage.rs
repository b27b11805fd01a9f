//! Families of stages and their replicas, whatever kind of stage it is: what lies before them, how long they take, and
//! whether they are there.

use super::labels::{Label, MODEL_NAME, REPLICA, RESTART_REASON, STAGE, STAGE_TYPE};
use super::{Definition, Kind, Namespace, Unit, buckets};

const PER_STAGE: &[Label] = &[MODEL_NAME, STAGE];
const PER_REPLICA: &[Label] = &[MODEL_NAME, STAGE, REPLICA];

/// `stage_waiting_requests`
pub const WAITING_REQUESTS: Definition = Definition {
    suffix: "stage_waiting_requests",
    namespace: Namespace::Omni,
    kind: Kind::Gauge,
    help: "Requests that replicas of the stage hold and have not begun to work on.",
    unit: Unit::Requests,
    labels: PER_STAGE,
    moves: "the load of one of its replicas is published",
};

/// `stage_queue_depth`
pub const QUEUE_DEPTH: Definition = Definition {
    suffix: "stage_queue_depth",
    namespace: Namespace::Omni,
    kind: Kind::Gauge,
    help: "Requests that the replica holds and has not begun to work on.",
    unit: Unit::Requests,
    labels: PER_REPLICA,
    moves: "the replica's load is published: once a second, and when it becomes idle",
};

/// `stage_inflight_requests`
pub const IN_FLIGHT: Definition = Definition {
    suffix: "stage_inflight_requests",
    namespace: Namespace::Omni,
    kind: Kind::Gauge,
    help: "Requests that the replica holds, whether it has begun to work on them or not.",
    unit: Unit::Requests,
    labels: PER_REPLICA,
    moves: "the replica's load is published: once a second, and when it becomes idle",
};

/// `stage_in_queue_s`
pub const IN_QUEUE: Definition = Definition {
    suffix: "stage_in_queue_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::FAST),
    help: "Seconds from handing a request to a replica of the stage to the first step that works on it. A later stage waits for its input meanwhile.",
    unit: Unit::Seconds,
    labels: PER_STAGE,
    moves: "a stage is done with a request by itself",
};

/// `stage_gen_time_s`
pub const GENERATION_TIME: Definition = Definition {
    suffix: "stage_gen_time_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds from the first step that works on a request in a stage to the last, waits for input included.",
    unit: Unit::Seconds,
    labels: &[MODEL_NAME, STAGE, STAGE_TYPE],
    moves: "a stage is done with a request by itself",
};

/// `replica_up`
pub const REPLICA_UP: Definition = Definition {
    suffix: "replica_up",
    namespace: Namespace::Omni,
    kind: Kind::Gauge,
    help: "1 while the replica lives, 0 while it does not.",
    unit: Unit::State,
    labels: PER_REPLICA,
    moves: "a life of the replica begins or ends",
};

/// `replica_restarts_total`
pub const REPLICA_RESTARTS: Definition = Definition {
    suffix: "replica_restarts_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Lives of the replica that ended otherwise than by stopping it, by reason; it is started anew after each.",
    unit: Unit::Restarts,
    labels: &[MODEL_NAME, STAGE, REPLICA, RESTART_REASON],
    moves: "a life of the replica ends, and not because the server stops",
};

/// Every family of stages, in the order of `/metrics`.
pub const ALL: &[&Definition] = &[
    &WAITING_REQUESTS,
    &QUEUE_DEPTH,
    &IN_FLIGHT,
    &IN_QUEUE,
    &GENERATION_TIME,
    &REPLICA_UP,
    &REPLICA_RESTARTS,
];
