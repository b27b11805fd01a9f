//! What an autoregressive stage counts: the field's engine statistics, with arrival at the HTTP layer.
//!
//! A stage calls these methods as things happen and moves all of it into its report. A decode step costs it a look-up and a
//! sample for each token; `benches/step_statistics.rs` measures that.

use std::time::{Duration, Instant};

use foldhash::HashMap;

use crate::engine::{FinishReason, ScheduledSpan, Scheduler};
use crate::ids::RequestId;
use crate::metrics::{
    BlockResidency, CacheConfiguration, EngineTotals, FinishedRequest, ReplicaStats, SchedulerSnapshot,
    StepWork, TokenSample,
};
use crate::models::qwen3::{DecodeTraffic, StepShape, Work};
use crate::stages::{EngineStatisticsOptions, StageRequest};
use crate::tensor::BLOCK_SIZE;

/// Totals, samples, and the times of the requests that are there.
#[derive(Debug, Default)]
pub struct EngineStatistics {
    totals: EngineTotals,
    samples: Vec<TokenSample>,
    finished: Vec<FinishedRequest>,
    times: HashMap<RequestId, Times>,
    /// Prompt tokens of requests whose first token came in the present step.
    step_prompt_tokens: u64,
    /// Tokens that the present step gave.
    step_generated_tokens: u64,
    /// What the work of steps depends on, if it is estimated.
    decoder: Option<DecodeTraffic>,
    /// Whether requests share what is cached of their common prefixes.
    prefix_caching: bool,
}

/// The times of one request.
#[derive(Debug)]
struct Times {
    arrived: Instant,
    queued: Instant,
    scheduled: Option<Instant>,
    first_token: Option<Instant>,
    /// Last output of each choice.
    last_token: Vec<Option<Instant>>,
    /// Tokens of each choice.
    tokens: Vec<u64>,
    prompt_tokens: u64,
    /// Those of them that were found in the cache.
    cached_tokens: u64,
    max_tokens: u64,
}

impl EngineStatistics {
    /// Statistics of a stage; `None` if none are kept.
    pub fn new(options: &EngineStatisticsOptions, prefix_caching: bool) -> Option<Self> {
        options.kept.then(|| Self { decoder: options.work.clone(), prefix_caching, ..Self::default() })
    }

    /// A step with these spans is launched.
    pub fn launched(&mut self, spans: &[ScheduledSpan]) {
        let Some(decoder) = &self.decoder else { return };
        let mut shape = StepShape::default();
        for span in spans {
            shape += StepShape::span(span.start, span.len, span.reaches_end);
        }
        let work = decoder.work(shape);
        self.add_work(work);
    }

    /// A step has work beside its spans, which is asked for if work is estimated: with the bytes of a weight on average.
    pub fn worked(&mut self, work: impl FnOnce(f64) -> Work) {
        if let Some(bytes_per_weight) = self.decoder.as_ref().map(|decoder| decoder.bytes_per_weight) {
            self.add_work(work(bytes_per_weight));
        }
    }

    fn add_work(&mut self, work: Work) {
        let StepWork { operations, read_bytes, write_bytes } = &mut self.totals.work;
        *operations += work.operations;
        *read_bytes += work.read_bytes;
        *write_bytes += work.write_bytes;
    }

    /// No token could be chosen for a request: the model gave no finite logit.
    pub fn corrupted(&mut self) {
        self.totals.corrupted_requests += 1;
    }

    /// A request came, with so many rows in its prompt.
    pub fn queued(&mut self, request: &StageRequest, prompt_tokens: usize) {
        let choices = request.choices as usize;
        let times = Times {
            arrived: request.arrived,
            queued: Instant::now(),
            scheduled: None,
            first_token: None,
            last_token: vec![None; choices],
            tokens: vec![0; choices],
            prompt_tokens: prompt_tokens as u64,
            cached_tokens: 0,
            max_tokens: u64::from(request.sampling.max_tokens),
        };
        self.times.insert(request.id, times);
    }

    /// The cache was asked for the prompt of a choice, and had the first `cached` tokens of it. The prompt of a request
    /// counts as cached as far as it was for the first of its choices: the others find what that one computed.
    pub fn looked_up(&mut self, id: RequestId, cached: usize) {
        let Some(times) = self.times.get_mut(&id) else { return };
        self.totals.prefix_cache_queries += times.prompt_tokens;
        self.totals.prefix_cache_hits += cached as u64;
        if times.scheduled.is_none() {
            times.cached_tokens = cached as u64;
        }
    }

    /// A request takes part in a step for the first time.
    pub fn scheduled(&mut self, id: RequestId) {
        if let Some(times) = self.times.get_mut(&id) {
            times.scheduled = Some(Instant::now());
        }
    }

    /// A choice of a request got a token, in a step that was complete at `now`.
    pub fn token(&mut self, id: RequestId, choice: u32, now: Instant) {
        self.step_generated_tokens += 1;
        self.totals.generation_tokens += 1;
        let Some(times) = self.times.get_mut(&id) else { return };
        if times.first_token.is_none() {
            times.first_token = Some(now);
            let computed = times.prompt_tokens - times.cached_tokens;
            self.step_prompt_tokens += computed;
            self.totals.prompt_tokens += times.prompt_tokens;
            self.totals.prompt_tokens_computed += computed;
            self.totals.prompt_tokens_cached += times.cached_tokens;
            self.samples.push(TokenSample::TimeToFirstToken(seconds(times.arrived, now)));
        }
        let choice = choice as usize;
        if let Some(tokens) = times.tokens.get_mut(choice) {
            *tokens += 1;
        }
        if let Some(last) = times.last_token.get_mut(choice)
            && let Some(before) = last.replace(now)
        {
            self.samples.push(TokenSample::InterTokenLatency(seconds(before, now)));
        }
    }

    /// A step is complete. A prompt that took several steps counts in the one that gave its first token, so that
    /// all samples together are the prompt tokens computed and the tokens generated.
    pub fn step(&mut self) {
        let generated = std::mem::take(&mut self.step_generated_tokens);
        let prompt = std::mem::take(&mut self.step_prompt_tokens);
        if generated > 0 {
            self.totals.steps += 1;
            self.samples.push(TokenSample::IterationTokens(prompt + generated));
        }
    }

    /// A request ended by itself.
    pub fn finished(&mut self, id: RequestId, reason: FinishReason, preemptions: u64) {
        let Some(times) = self.times.remove(&id) else { return };
        let last = times.last_token.iter().flatten().max().copied().unwrap_or_else(Instant::now);
        let scheduled = times.scheduled.unwrap_or(last);
        let first = times.first_token.unwrap_or(last);
        self.finished.push(FinishedRequest {
            request: id,
            reason,
            e2e_seconds: seconds(times.arrived, last),
            queue_seconds: seconds(times.queued, scheduled),
            prefill_seconds: seconds(scheduled, first),
            decode_seconds: seconds(first, last),
            // As in the totals, a prompt that was never computed does not count.
            prompt_tokens: times.first_token.map_or(0, |_| times.prompt_tokens),
            cached_tokens: times.first_token.map_or(0, |_| times.cached_tokens),
            generation_tokens: times.tokens.iter().sum(),
            max_generation_tokens: times.tokens.iter().copied().max().unwrap_or(0),
            choices: times.tokens.len() as u64,
            max_tokens: times.max_tokens,
            preemptions,
        });
    }

    /// A request was removed.
    pub fn removed(&mut self, id: RequestId) {
        self.times.remove(&id);
    }

    /// Moves what was counted into a report.
    pub fn report(&mut self, scheduler: &mut Scheduler, stats: &mut ReplicaStats) {
        self.totals.preemptions = scheduler.preemptions();
        stats.totals = Some(self.totals);
        stats.cache = Some(CacheConfiguration {
            block_size: BLOCK_SIZE as u64,
            blocks: scheduler.cache_blocks() as u64,
            prefix_caching: self.prefix_caching,
        });
        stats.residencies.extend(scheduler.take_residencies().into_iter().map(|block| BlockResidency {
            lifetime_seconds: block.lifetime.as_secs_f64(),
            idle_seconds: block.idle.as_secs_f64(),
            reuse_gap_seconds: block.reuse_gaps.iter().map(Duration::as_secs_f64).collect(),
        }));
        stats.samples.append(&mut self.samples);
        stats.finished.append(&mut self.finished);
    }
}

/// A scheduler's queues and the share of its cache in use.
pub fn snapshot(scheduler: &Scheduler) -> SchedulerSnapshot {
    SchedulerSnapshot {
        running: scheduler.num_running() as u64,
        waiting_for_capacity: scheduler.num_waiting() as u64,
        waiting_deferred: scheduler.num_deferred() as u64,
        kv_cache_usage: scheduler.cache_usage(),
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}
