//! Families of the pipeline as a whole: what becomes of requests.
//!
//! They account for every request: accepted = running + waiting + the sum of `requests_success_total` at every
//! scrape, and `requests_failed_total` details those that ended by abort or error.

use super::labels::{FAILED_REASON, FINISHED_REASON, Label, MODEL_NAME, REJECTED_REASON};
use super::{Definition, Kind, Namespace, Unit, buckets};

const PIPELINE: &[Label] = &[MODEL_NAME];

/// `requests_accepted_total`
pub const REQUESTS_ACCEPTED: Definition = Definition {
    suffix: "requests_accepted_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Requests admitted to the pipeline.",
    unit: Unit::Requests,
    labels: PIPELINE,
    moves: "a request is admitted and bound to its replicas",
};

/// `requests_rejected_total`
pub const REQUESTS_REJECTED: Definition = Definition {
    suffix: "requests_rejected_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Requests turned away before admission, by reason.",
    unit: Unit::Requests,
    labels: &[MODEL_NAME, REJECTED_REASON],
    moves: "a request is turned away",
};

/// `num_requests_running`
pub const REQUESTS_RUNNING: Definition = Definition {
    suffix: "num_requests_running",
    namespace: Namespace::Omni,
    kind: Kind::Gauge,
    help: "Admitted requests that a stage has begun to work on and that have not ended.",
    unit: Unit::Requests,
    labels: PIPELINE,
    moves: "the first stage takes a request from its queue, or a running request ends",
};

/// `num_requests_waiting`
pub const REQUESTS_WAITING: Definition = Definition {
    suffix: "num_requests_waiting",
    namespace: Namespace::Omni,
    kind: Kind::Gauge,
    help: "Admitted requests that no stage has begun to work on.",
    unit: Unit::Requests,
    labels: PIPELINE,
    moves: "a request is admitted, leaves the first stage's queue, or ends while it waits",
};

/// `requests_success_total`
pub const REQUESTS_SUCCESS: Definition = Definition {
    suffix: "requests_success_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Requests that ended, by finished reason; the sum over all reasons is every request that ended.",
    unit: Unit::Requests,
    labels: &[MODEL_NAME, FINISHED_REASON],
    moves: "a request ends; its reason is the first one other than stop in stage order",
};

/// `requests_failed_total`
pub const REQUESTS_FAILED: Definition = Definition {
    suffix: "requests_failed_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Requests that ended by abort or error, by the reason given in the HTTP error.",
    unit: Unit::Requests,
    labels: &[MODEL_NAME, FAILED_REASON],
    moves: "a request ends with finished reason abort or error",
};

/// `e2e_request_latency_s`
pub const E2E_REQUEST_LATENCY: Definition = Definition {
    suffix: "e2e_request_latency_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds from the arrival of a request at the HTTP layer to its end, for requests that ended by themselves.",
    unit: Unit::Seconds,
    labels: PIPELINE,
    moves: "a request ends with finished reason stop or length",
};

/// `request_queue_wait_s`
pub const REQUEST_QUEUE_WAIT: Definition = Definition {
    suffix: "request_queue_wait_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::SECONDS),
    help: "Seconds from the arrival of a request at the HTTP layer until its first stage begins to work on it.",
    unit: Unit::Seconds,
    labels: PIPELINE,
    moves: "the first stage takes a request from its queue",
};

/// `prompt_tokens_total`
pub const PROMPT_TOKENS: Definition = Definition {
    suffix: "prompt_tokens_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Prompt tokens in the first stage of requests that ended by themselves.",
    unit: Unit::Tokens,
    labels: PIPELINE,
    moves: "a request has ended with finished reason stop or length",
};

/// `generation_tokens_total`
pub const GENERATION_TOKENS: Definition = Definition {
    suffix: "generation_tokens_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Tokens generated in all stages for requests that ended by themselves.",
    unit: Unit::Tokens,
    labels: PIPELINE,
    moves: "a request has ended with finished reason stop or length",
};

/// Every family of the pipeline, in the order of `/metrics`.
pub const ALL: &[&Definition] = &[
    &REQUESTS_ACCEPTED,
    &REQUESTS_REJECTED,
    &REQUESTS_RUNNING,
    &REQUESTS_WAITING,
    &REQUESTS_SUCCESS,
    &REQUESTS_FAILED,
    &E2E_REQUEST_LATENCY,
    &REQUEST_QUEUE_WAIT,
    &PROMPT_TOKENS,
    &GENERATION_TOKENS,
];
