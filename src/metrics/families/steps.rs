//! The histograms that a replica's steps move.

use prometheus::Histogram;

use crate::metrics::definitions::engine;
use crate::metrics::families::{Catalogue, Family, ReplicaLabels};
use crate::metrics::{MetricsError, TokenSample};

/// What is sampled in steps: families if `H` is a family, the series of one replica if it is a histogram.
#[derive(Debug)]
pub struct StepHistograms<H> {
    /// Tokens of one step.
    iteration_tokens: H,
    /// Seconds from arrival to the first token.
    time_to_first_token: H,
    /// Seconds between two outputs of a request.
    inter_token_latency: H,
}

impl StepHistograms<Family<Histogram>> {
    /// Registers the families.
    pub fn register(catalogue: &mut Catalogue) -> Result<Self, MetricsError> {
        Ok(Self {
            iteration_tokens: catalogue.register(&engine::ITERATION_TOKENS)?,
            time_to_first_token: catalogue.register(&engine::TIME_TO_FIRST_TOKEN)?,
            inter_token_latency: catalogue.register(&engine::INTER_TOKEN_LATENCY)?,
        })
    }

    /// The histograms of a replica.
    pub fn series(&self, replica: &ReplicaLabels) -> Result<StepHistograms<Histogram>, MetricsError> {
        let series = |family: &Family<Histogram>| family.series(&replica.values());
        Ok(StepHistograms {
            iteration_tokens: series(&self.iteration_tokens)?,
            time_to_first_token: series(&self.time_to_first_token)?,
            inter_token_latency: series(&self.inter_token_latency)?,
        })
    }
}

impl StepHistograms<Histogram> {
    /// Takes a sample in.
    pub fn observe(&self, sample: TokenSample) {
        match sample {
            TokenSample::IterationTokens(tokens) => self.iteration_tokens.observe(tokens as f64),
            TokenSample::TimeToFirstToken(seconds) => observe_measured(&self.time_to_first_token, seconds),
            TokenSample::InterTokenLatency(seconds) => observe_measured(&self.inter_token_latency, seconds),
        }
    }
}

/// Observes a span of time, or a ratio of two. One that is no number would spoil the sum for ever, so it counts as
/// 0 like a negative one: the count of events stays right.
pub fn observe_measured(histogram: &Histogram, value: f64) {
    histogram.observe(if value.is_finite() { value.max(0.0) } else { 0.0 });
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    #[test]
    fn a_span_that_is_no_number_is_counted_and_does_not_spoil_the_sum() {
        let histogram = Histogram::with_opts(HistogramOpts::new("h", "h")).unwrap();
        for seconds in [0.5, f64::NAN, f64::INFINITY, -1.0] {
            observe_measured(&histogram, seconds);
        }
        assert_eq!((histogram.get_sample_count(), histogram.get_sample_sum()), (4, 0.5));
    }
}
