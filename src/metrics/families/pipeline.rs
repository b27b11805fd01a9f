//! Handles to the families of the pipeline as a whole.

use prometheus::{Counter, Gauge, Histogram};

use super::steps::observe_measured;
use crate::metrics::MetricsError;
use crate::metrics::definitions::pipeline;
use crate::metrics::families::{Catalogue, Family};

/// The families of the pipeline. Series with known label values are there, at zero, from the start.
#[derive(Debug)]
pub struct PipelineFamilies {
    /// Requests admitted.
    pub accepted: Counter,
    /// Requests turned away, by reason.
    pub rejected: Family<Counter>,
    /// Admitted requests that are worked on.
    pub running: Gauge,
    /// Admitted requests that are not yet worked on.
    pub waiting: Gauge,
    /// Requests that ended, by finished reason.
    pub success: Family<Counter>,
    /// Requests that ended by abort or error, by reason.
    pub failed: Family<Counter>,
    /// Seconds from arrival to end of requests that ended by themselves.
    e2e_latency: Histogram,
    /// Seconds from arrival until a stage begins to work.
    queue_wait: Histogram,
    /// Prompt tokens of requests that ended by themselves.
    pub prompt_tokens: Counter,
    /// Tokens generated for requests that ended by themselves.
    pub generation_tokens: Counter,
}

impl PipelineFamilies {
    /// Registers the families of [`pipeline::ALL`].
    pub fn register(catalogue: &mut Catalogue) -> Result<Self, MetricsError> {
        let families = Self {
            accepted: catalogue.register(&pipeline::REQUESTS_ACCEPTED)?.series(&[])?,
            rejected: catalogue.register(&pipeline::REQUESTS_REJECTED)?,
            running: catalogue.register(&pipeline::REQUESTS_RUNNING)?.series(&[])?,
            waiting: catalogue.register(&pipeline::REQUESTS_WAITING)?.series(&[])?,
            success: catalogue.register(&pipeline::REQUESTS_SUCCESS)?,
            failed: catalogue.register(&pipeline::REQUESTS_FAILED)?,
            e2e_latency: catalogue.register(&pipeline::E2E_REQUEST_LATENCY)?.series(&[])?,
            queue_wait: catalogue.register(&pipeline::REQUEST_QUEUE_WAIT)?.series(&[])?,
            prompt_tokens: catalogue.register(&pipeline::PROMPT_TOKENS)?.series(&[])?,
            generation_tokens: catalogue.register(&pipeline::GENERATION_TOKENS)?.series(&[])?,
        };
        families.rejected.create_known(&[])?;
        families.success.create_known(&[])?;
        families.failed.create_known(&[])?;
        Ok(families)
    }

    /// Takes in how long a request waited until a stage began to work on it.
    pub fn observe_queue_wait(&self, seconds: f64) {
        observe_measured(&self.queue_wait, seconds);
    }

    /// Takes in how long a request took from arrival to end.
    pub fn observe_e2e(&self, seconds: f64) {
        observe_measured(&self.e2e_latency, seconds);
    }
}
