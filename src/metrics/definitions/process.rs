//! Families of the process, with the names of Prometheus client libraries. They are read from `/proc` at each scrape, so
//! they exist on Linux, with and without statistics.

use super::{Definition, Kind, Namespace, Unit};

/// `process_virtual_memory_bytes`
pub const VIRTUAL_MEMORY: Definition = Definition {
    suffix: "process_virtual_memory_bytes",
    namespace: Namespace::Server,
    kind: Kind::Gauge,
    help: "Bytes of address space.",
    unit: Unit::Bytes,
    labels: &[],
    moves: "the page is gathered",
};

/// `process_resident_memory_bytes`
pub const RESIDENT_MEMORY: Definition = Definition {
    suffix: "process_resident_memory_bytes",
    namespace: Namespace::Server,
    kind: Kind::Gauge,
    help: "Bytes of memory that are resident.",
    unit: Unit::Bytes,
    labels: &[],
    moves: "the page is gathered",
};

/// `process_start_time_seconds`
pub const START_TIME: Definition = Definition {
    suffix: "process_start_time_seconds",
    namespace: Namespace::Server,
    kind: Kind::Gauge,
    help: "When the process began, in seconds since 1970.",
    unit: Unit::UnixSeconds,
    labels: &[],
    moves: "never: it is set when the server starts",
};

/// `process_cpu_seconds_total`
pub const CPU: Definition = Definition {
    suffix: "process_cpu_seconds_total",
    namespace: Namespace::Server,
    kind: Kind::Counter,
    help: "Seconds of CPU time, in user and in system mode.",
    unit: Unit::Seconds,
    labels: &[],
    moves: "the page is gathered",
};

/// `process_open_fds`
pub const OPEN_FDS: Definition = Definition {
    suffix: "process_open_fds",
    namespace: Namespace::Server,
    kind: Kind::Gauge,
    help: "File descriptors that are open.",
    unit: Unit::Descriptors,
    labels: &[],
    moves: "the page is gathered",
};

/// `process_max_fds`
pub const MAX_FDS: Definition = Definition {
    suffix: "process_max_fds",
    namespace: Namespace::Server,
    kind: Kind::Gauge,
    help: "File descriptors that may be open.",
    unit: Unit::Descriptors,
    labels: &[],
    moves: "the page is gathered",
};

/// Every family of the process, in the order of `/metrics`.
pub const ALL: &[&Definition] = &[&VIRTUAL_MEMORY, &RESIDENT_MEMORY, &START_TIME, &CPU, &OPEN_FDS, &MAX_FDS];
