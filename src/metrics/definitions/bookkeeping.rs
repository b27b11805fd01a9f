//! Families about the metrics themselves.

use super::labels::{Label, MODEL_NAME};
use super::{Definition, Kind, Namespace, Unit, buckets};

const PIPELINE: &[Label] = &[MODEL_NAME];

/// `metrics_events_total`
pub const EVENTS: Definition = Definition {
    suffix: "metrics_events_total",
    namespace: Namespace::Omni,
    kind: Kind::Counter,
    help: "Stat events that the metrics actor has handled.",
    unit: Unit::Events,
    labels: PIPELINE,
    moves: "the metrics actor handles an event",
};

/// `metrics_mailbox_depth`
pub const MAILBOX_DEPTH: Definition = Definition {
    suffix: "metrics_mailbox_depth",
    namespace: Namespace::Omni,
    kind: Kind::Gauge,
    help: "Stat events that waited for the metrics actor when the page was gathered.",
    unit: Unit::Events,
    labels: PIPELINE,
    moves: "the page is gathered",
};

/// `metrics_scrape_s`
pub const SCRAPE: Definition = Definition {
    suffix: "metrics_scrape_s",
    namespace: Namespace::Omni,
    kind: Kind::Histogram(buckets::FAST),
    help: "Seconds from asking for the page to its last line.",
    unit: Unit::Seconds,
    labels: PIPELINE,
    moves: "a page was written; the next one shows it",
};

/// Every family about the metrics, in the order of `/metrics`.
pub const ALL: &[&Definition] = &[&EVENTS, &MAILBOX_DEPTH, &SCRAPE];
