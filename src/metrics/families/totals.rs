//! The counters that a replica's totals move.

use prometheus::Counter;

use crate::metrics::definitions::{engine, labels};
use crate::metrics::families::{Catalogue, Family, ReplicaLabels};
use crate::metrics::{EngineTotals, MetricsError};

/// The families that show the totals of engines.
#[derive(Debug)]
pub struct TotalsFamilies {
    /// Tokens looked up in the prefix cache.
    prefix_cache_queries: Family<Counter>,
    /// Tokens found there.
    prefix_cache_hits: Family<Counter>,
    /// Sequences put back to be computed again.
    preemptions: Family<Counter>,
    /// Requests for which the model gave no finite logit.
    corrupted_requests: Family<Counter>,
    /// Prompt tokens.
    prompt_tokens: Family<Counter>,
    /// Prompt tokens by where their keys and values came from.
    prompt_tokens_by_source: Family<Counter>,
    /// Prompt tokens that did not have to be computed.
    prompt_tokens_cached: Family<Counter>,
    /// Tokens generated.
    generation_tokens: Family<Counter>,
}

/// The counters of one replica. They stay when it is gone and go on when its id is used again.
#[derive(Debug)]
pub struct TotalsCounters {
    /// Tokens looked up in the prefix cache.
    prefix_cache_queries: Counter,
    /// Tokens found there.
    prefix_cache_hits: Counter,
    /// Sequences put back to be computed again.
    preemptions: Counter,
    /// Requests for which the model gave no finite logit.
    corrupted_requests: Counter,
    /// Prompt tokens.
    prompt_tokens: Counter,
    /// Those that were computed here.
    prompt_tokens_computed: Counter,
    /// Those that were found in the replica's prefix cache.
    prompt_tokens_local_hit: Counter,
    /// Those that did not have to be computed, wherever they were found.
    prompt_tokens_cached: Counter,
    /// Tokens generated.
    generation_tokens: Counter,
}

impl TotalsFamilies {
    /// Registers the families.
    pub fn register(catalogue: &mut Catalogue) -> Result<Self, MetricsError> {
        Ok(Self {
            prefix_cache_queries: catalogue.register(&engine::PREFIX_CACHE_QUERIES)?,
            prefix_cache_hits: catalogue.register(&engine::PREFIX_CACHE_HITS)?,
            preemptions: catalogue.register(&engine::PREEMPTIONS)?,
            corrupted_requests: catalogue.register(&engine::CORRUPTED_REQUESTS)?,
            prompt_tokens: catalogue.register(&engine::PROMPT_TOKENS)?,
            prompt_tokens_by_source: catalogue.register(&engine::PROMPT_TOKENS_BY_SOURCE)?,
            prompt_tokens_cached: catalogue.register(&engine::PROMPT_TOKENS_CACHED)?,
            generation_tokens: catalogue.register(&engine::GENERATION_TOKENS)?,
        })
    }

    /// The counters of a replica, at zero if it had none.
    pub fn counters(&self, replica: &ReplicaLabels) -> Result<TotalsCounters, MetricsError> {
        let by_source = |source| self.prompt_tokens_by_source.series(&replica.and(source));
        Ok(TotalsCounters {
            prefix_cache_queries: self.prefix_cache_queries.series(&replica.values())?,
            prefix_cache_hits: self.prefix_cache_hits.series(&replica.values())?,
            preemptions: self.preemptions.series(&replica.values())?,
            corrupted_requests: self.corrupted_requests.series(&replica.values())?,
            prompt_tokens: self.prompt_tokens.series(&replica.values())?,
            prompt_tokens_computed: by_source(labels::SOURCE_COMPUTED)?,
            prompt_tokens_local_hit: by_source(labels::SOURCE_CACHED)?,
            prompt_tokens_cached: self.prompt_tokens_cached.series(&replica.values())?,
            generation_tokens: self.generation_tokens.series(&replica.values())?,
        })
    }
}

impl TotalsCounters {
    /// Adds what was counted since totals were last added.
    pub fn add(&self, difference: &EngineTotals) {
        let EngineTotals {
            prompt_tokens,
            prompt_tokens_computed,
            prompt_tokens_cached,
            generation_tokens,
            prefix_cache_queries,
            prefix_cache_hits,
            preemptions,
            corrupted_requests,
            // Shown as the count of the histogram of tokens per step.
            steps: _,
            // Shown with the families of caches and work.
            media_cache_queries: _,
            media_cache_hits: _,
            work: _,
        } = *difference;
        self.prefix_cache_queries.inc_by(prefix_cache_queries as f64);
        self.prefix_cache_hits.inc_by(prefix_cache_hits as f64);
        self.preemptions.inc_by(preemptions as f64);
        self.corrupted_requests.inc_by(corrupted_requests as f64);
        self.prompt_tokens.inc_by(prompt_tokens as f64);
        self.prompt_tokens_computed.inc_by(prompt_tokens_computed as f64);
        self.prompt_tokens_local_hit.inc_by(prompt_tokens_cached as f64);
        self.prompt_tokens_cached.inc_by(prompt_tokens_cached as f64);
        self.generation_tokens.inc_by(generation_tokens as f64);
    }
}
