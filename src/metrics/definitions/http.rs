//! Families of the HTTP server, with the names that dashboards of Python servers know. They exist with statistics alone
//! and tell nothing of the routes for the people who run the server: `/health`, `/metrics`, `/ping`, `/stats`, `/version`.

use super::labels::{HANDLER, METHOD, STATUS};
use super::{Definition, Kind, Namespace, Unit, buckets};

/// `http_requests_total`
pub const REQUESTS: Definition = Definition {
    suffix: "http_requests_total",
    namespace: Namespace::Server,
    kind: Kind::Counter,
    help: "HTTP requests answered, by method, class of the status and route.",
    unit: Unit::Requests,
    labels: &[METHOD, STATUS, HANDLER],
    moves: "a response is complete or its connection gone",
};

/// `http_request_size_bytes`
pub const REQUEST_SIZE: Definition = Definition {
    suffix: "http_request_size_bytes",
    namespace: Namespace::Server,
    kind: Kind::Histogram(buckets::BYTES),
    help: "Bytes of the body of a request, as its Content-Length says; 0 without one.",
    unit: Unit::Bytes,
    labels: &[HANDLER],
    moves: "a response is complete or its connection gone",
};

/// `http_response_size_bytes`
pub const RESPONSE_SIZE: Definition = Definition {
    suffix: "http_response_size_bytes",
    namespace: Namespace::Server,
    kind: Kind::Histogram(buckets::BYTES),
    help: "Bytes of the body of a response, streamed ones included.",
    unit: Unit::Bytes,
    labels: &[HANDLER],
    moves: "a response is complete or its connection gone",
};

/// `http_request_duration_highr_seconds`
pub const DURATION_FINE: Definition = Definition {
    suffix: "http_request_duration_highr_seconds",
    namespace: Namespace::Server,
    kind: Kind::Histogram(buckets::HTTP_SECONDS),
    help: "Seconds from the head of a request to the last byte of its response, in many buckets and without labels.",
    unit: Unit::Seconds,
    labels: &[],
    moves: "a response is complete or its connection gone",
};

/// `http_request_duration_seconds`
pub const DURATION: Definition = Definition {
    suffix: "http_request_duration_seconds",
    namespace: Namespace::Server,
    kind: Kind::Histogram(buckets::HTTP_SECONDS_COARSE),
    help: "Seconds from the head of a request to the last byte of its response, in few buckets.",
    unit: Unit::Seconds,
    labels: &[METHOD, HANDLER],
    moves: "a response is complete or its connection gone",
};

/// Every family of the HTTP server, in the order of `/metrics`.
pub const ALL: &[&Definition] = &[&REQUESTS, &REQUEST_SIZE, &RESPONSE_SIZE, &DURATION_FINE, &DURATION];
