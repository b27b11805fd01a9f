//! Handles to the families about the metrics themselves.

use prometheus::{Counter, Gauge, Histogram};

use super::steps::observe_measured;
use crate::metrics::MetricsError;
use crate::metrics::definitions::bookkeeping;
use crate::metrics::families::Catalogue;

/// What the metrics cost, and whether they keep up.
#[derive(Debug)]
pub struct BookkeepingSeries {
    /// Events handled.
    pub events: Counter,
    /// Events that waited when the page was gathered.
    pub mailbox_depth: Gauge,
    /// Seconds from asking for a page to its last line.
    scrape: Histogram,
}

impl BookkeepingSeries {
    /// Registers the families of [`bookkeeping::ALL`].
    pub fn register(catalogue: &mut Catalogue) -> Result<Self, MetricsError> {
        Ok(Self {
            events: catalogue.register(&bookkeeping::EVENTS)?.series(&[])?,
            mailbox_depth: catalogue.register(&bookkeeping::MAILBOX_DEPTH)?.series(&[])?,
            scrape: catalogue.register(&bookkeeping::SCRAPE)?.series(&[])?,
        })
    }

    /// Takes in how long a page took.
    pub fn observe_scrape(&self, seconds: f64) {
        observe_measured(&self.scrape, seconds);
    }
}
