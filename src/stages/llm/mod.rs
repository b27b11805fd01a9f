//! A stage that generates text with a language model: the thinker.
//!
//! The engine loop in one place: [`plan`](Stage::plan) asks the scheduler for the spans of the next step,
//! [`launch`](Stage::launch) lays them out as a batch and has the model start on it, and [`poll`](Stage::poll) takes
//! the tokens that were chosen: text is given out, answers end.
//!
//! A model that chooses tokens on its device has a second step launched while the first is under way. A sequence goes
//! on in it with the token that the first one is to choose. What an answer turns out not to need, because that token
//! ended it or the request is gone, is computed for nothing and ignored: its sequence is not known any more.

mod device_sampling;
mod generation;
mod host_sampling;
mod model;
mod spoken;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use foldhash::HashMap;

pub use device_sampling::DeviceSampling;
pub use host_sampling::HostSampling;
pub use model::{ModelStep, StepModel, StepOutcome, TokenChoice};

use self::generation::{Generation, Start, Step};
use crate::engine::{
    BlockHash, BlockHasher, BlockPool, FinishReason, ScheduledSpan, Scheduler, SchedulerConfig, SequenceKey,
};
use crate::ids::{RequestId, StageId};
use crate::metrics::{ReplicaStats, SchedulerSnapshot, TokenCounts};
use crate::stages::engine_statistics::{EngineStatistics, snapshot};
use crate::stages::{
    EngineStatisticsOptions, Output, Poll, Prompt, Readiness, Stage, StageError, StageEvent, StageInput,
    StageOutput, StageRequest, Ticket,
};
use crate::tensor::StepBatch;
use crate::tensor::device_steps::ChainedRow;
use crate::text::Tokenizer;
use crate::transport::{Chunk, Payload};

/// The most steps in flight. The next step can have the tokens of the one before it; those of older ones must be known.
const STEPS_IN_FLIGHT: usize = 2;

/// How an [`LlmStage`] works.
#[derive(Debug, Clone)]
pub struct LlmSettings {
    /// Which stage of the pipeline it is; part of what random numbers depend on.
    pub stage: StageId,
    /// Bounds of a step.
    pub scheduler: SchedulerConfig,
    /// Blocks of the KV cache. They must hold at least one sequence of `max_model_len` tokens.
    pub cache_blocks: usize,
    /// The most tokens of prompt and answer together.
    pub max_model_len: usize,
    /// Whether requests share what is cached of their common prefixes. The choices of one request do in any case.
    pub prefix_caching: bool,
    /// Tokens that end an answer unless it ignores them.
    pub eos_ids: Vec<u32>,
    /// Seed of requests that bring none.
    pub seed: u64,
    /// Which statistics are kept.
    pub statistics: EngineStatisticsOptions,
}

/// Generates text.
pub struct LlmStage<M> {
    settings: LlmSettings,
    /// The settings' end-of-sequence tokens, shared by all choices.
    eos_ids: Arc<[u32]>,
    model: M,
    tokenizer: Arc<Tokenizer>,
    scheduler: Scheduler,
    requests: HashMap<RequestId, Request>,
    generations: HashMap<SequenceKey, Generation>,
    /// The step that was planned last.
    spans: Vec<ScheduledSpan>,
    /// The same as rows, for the model.
    batch: StepBatch,
    /// Its rows whose token is in flight.
    chained: Vec<ChainedRow>,
    /// Steps launched and not collected, oldest first.
    in_flight: VecDeque<StepInFlight>,
    /// Hashes of blocks that a sequence has filled, on their way to the scheduler.
    hashes: Vec<BlockHash>,
    /// Choices that ended in the step that was collected.
    ended: Vec<(SequenceKey, FinishReason)>,
    /// Requests that failed in it.
    failed: Vec<(RequestId, StageError)>,
    /// What is to be given out.
    outputs: Vec<StageOutput>,
    /// `None` when nobody counts.
    statistics: Option<EngineStatistics>,
    /// Steps launched.
    steps: u64,
}

/// A step that was launched and is not collected.
struct StepInFlight {
    ticket: Ticket,
    /// The sequence that each logit row continues.
    sampled: Vec<SequenceKey>,
}

/// A request: its choices, and how those that ended did.
struct Request {
    sequences: Vec<SequenceKey>,
    unfinished: usize,
    /// The first reason other than `stop`, else `stop`.
    finish: FinishReason,
    started: bool,
    /// Over all choices that ended.
    preemptions: u64,
    /// Tokens of the prompt, and those generated over all choices that ended.
    tokens: TokenCounts,
}

impl<M: StepModel> LlmStage<M> {
    /// A stage without requests.
    pub fn new(model: M, tokenizer: Arc<Tokenizer>, settings: LlmSettings) -> Result<Self, StageError> {
        let pool = BlockPool::new(settings.cache_blocks).sampling(settings.statistics.kv_block_share);
        // The choices of a request still share its prompt while any of them is there.
        let pool = if settings.prefix_caching { pool } else { pool.forgetting() };
        let scheduler = Scheduler::new(settings.scheduler, pool);
        if scheduler.longest_sequence() < settings.max_model_len {
            return Err(StageError::OutOfCapacity(format!(
                "the KV cache holds {} tokens, less than one sequence of max_model_len {}",
                scheduler.longest_sequence(),
                settings.max_model_len
            )));
        }
        Ok(Self {
            statistics: EngineStatistics::new(&settings.statistics, settings.prefix_caching),
            eos_ids: settings.eos_ids.as_slice().into(),
            settings,
            model,
            tokenizer,
            scheduler,
            requests: HashMap::default(),
            generations: HashMap::default(),
            spans: Vec::new(),
            batch: StepBatch::default(),
            chained: Vec::new(),
            in_flight: VecDeque::new(),
            hashes: Vec::new(),
            ended: Vec::new(),
            failed: Vec::new(),
            outputs: Vec::new(),
            steps: 0,
        })
    }

    fn check(&self, prompt: &Prompt) -> Result<(), StageError> {
        let invalid = |text| Err(StageError::InvalidInput(text));
        let (len, limit) = (prompt.token_ids.len(), self.settings.max_model_len);
        if len == 0 {
            return invalid("the prompt has no tokens".to_owned());
        }
        if len >= limit {
            return invalid(format!(
                "the prompt has {len} tokens; with max_model_len {limit} none is left for an answer"
            ));
        }
        let vocabulary = self.model.vocabulary_size();
        match prompt.token_ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(id) => invalid(format!("token id {id} is not in the vocabulary of {vocabulary}")),
            None => Ok(()),
        }
    }

    /// What sets a request's blocks apart from those of requests that must not share them.
    fn salt(&self, request: &StageRequest, prompt: &Prompt) -> Vec<u8> {
        match &prompt.cache_salt {
            _ if !self.settings.prefix_caching => request.id.0.to_le_bytes().to_vec(),
            Some(salt) => salt.as_bytes().to_vec(),
            None => Vec::new(),
        }
    }

    /// Lays the planned spans out as rows.
    fn fill_batch(&mut self) {
        self.batch.clear();
        self.chained.clear();
        for span in &self.spans {
            let Some(generation) = self.generations.get(&span.key) else { continue };
            let tokens = generation.tokens(span.start, span.len);
            self.batch.push_text(tokens, span.start, self.scheduler.block_table(span.key), span.reaches_end);
            if let Some(logit_row) = generation.chained_to(span.start + span.len) {
                let row = self.batch.rows().saturating_sub(1) as u32;
                self.chained.push(ChainedRow { row, logit_row });
            }
        }
    }

    /// Reports the requests that this step takes up for the first time.
    fn note_started(&mut self) {
        for span in self.spans.iter().filter(|span| span.first) {
            let Some(generation) = self.generations.get(&span.key) else { continue };
            let id = generation.request;
            let Some(request) = self.requests.get_mut(&id) else { continue };
            if let Some(statistics) = &mut self.statistics
                && self.settings.prefix_caching
            {
                statistics.looked_up(id, span.start);
            }
            if !std::mem::replace(&mut request.started, true) {
                self.outputs.push(StageOutput { request: id, event: StageEvent::Started });
                if let Some(statistics) = &mut self.statistics {
                    statistics.scheduled(id);
                }
            }
        }
    }

    /// Has the model start on the step, which chooses the next token of every sequence whose span reaches its end.
    /// These can go on at once, but for those that have all their tokens then.
    fn launch_model(&mut self) -> Result<Ticket, StageError> {
        let stage = self.settings.stage;
        let choices: Vec<TokenChoice<'_>> = self
            .spans
            .iter()
            .filter(|span| span.reaches_end)
            .filter_map(|span| Some(self.generations.get(&span.key)?.choice(span.key, stage)))
            .collect();
        self.model.launch(&ModelStep { batch: &self.batch, chained: &self.chained, choices: &choices })?;
        let sampled: Vec<SequenceKey> = choices.iter().map(|choice| choice.key).collect();
        for (logit_row, key) in sampled.iter().enumerate() {
            let generation = self.generations.get_mut(key);
            if generation.is_some_and(|generation| generation.launched(logit_row as u32)) {
                self.scheduler.expect(*key);
            }
        }
        let ticket = Ticket(self.steps);
        self.steps += 1;
        self.in_flight.push_back(StepInFlight { ticket, sampled });
        Ok(ticket)
    }

    /// Takes what a step chose. Sequences that ended or were removed since its launch are not known any more.
    fn take_chosen(&mut self, sampled: &[SequenceKey], outcome: StepOutcome) -> Result<(), StageError> {
        if outcome.chosen.len() != sampled.len() {
            return Err(StageError::Device("the model chose for fewer rows than asked for".into()));
        }
        let now = Instant::now();
        for (key, chosen) in sampled.iter().zip(outcome.chosen) {
            let Some(generation) = self.generations.get_mut(key) else { continue };
            let id = generation.request;
            let Step { delta, spoken } = match chosen {
                Ok(chosen) => generation.accept(&chosen, &self.tokenizer, &mut self.hashes),
                Err(error) => {
                    self.failed.push((id, StageError::Failed(error.to_string())));
                    continue;
                }
            };
            self.scheduler.settle(*key);
            self.scheduler.name_blocks(*key, &self.hashes);
            self.hashes.clear();
            if let Some(statistics) = &mut self.statistics {
                statistics.token(id, delta.choice, now);
            }
            if let Some(finish) = &delta.finish {
                self.ended.push((*key, finish.reason));
            }
            let event = StageEvent::Client(Output::Text(delta));
            self.outputs.push(StageOutput { request: id, event });
            if !spoken.is_empty() {
                self.outputs
                    .push(StageOutput { request: id, event: StageEvent::Next(Payload::Tokens(spoken)) });
            }
        }
        Ok(())
    }

    /// Gives up the requests for which no token could be chosen.
    fn give_up_failed(&mut self) {
        while let Some((id, error)) = self.failed.pop() {
            if self.requests.contains_key(&id) {
                if let Some(statistics) = &mut self.statistics {
                    statistics.corrupted();
                }
                self.remove(id);
                self.outputs.push(StageOutput { request: id, event: StageEvent::Failed(error) });
            }
        }
    }

    /// Frees what choices held that ended in this step, and finishes requests whose last choice that was.
    fn finish_ended(&mut self) {
        while let Some((key, reason)) = self.ended.pop() {
            let preemptions = self.scheduler.remove(key);
            self.model.release(key);
            let Some(generation) = self.generations.remove(&key) else { continue };
            let id = generation.request;
            let Some(request) = self.requests.get_mut(&id) else { continue };
            request.unfinished -= 1;
            request.preemptions += preemptions;
            request.tokens.output += generation.generated();
            if request.finish == FinishReason::Stop {
                request.finish = reason;
            }
            if request.unfinished == 0 {
                let Some(request) = self.requests.remove(&id) else { continue };
                for event in [StageEvent::Counted(request.tokens), StageEvent::Finished(request.finish)] {
                    self.outputs.push(StageOutput { request: id, event });
                }
                if let Some(statistics) = &mut self.statistics {
                    statistics.finished(id, request.finish, request.preemptions);
                }
            }
        }
    }
}

impl<M: StepModel> Stage for LlmStage<M> {
    fn add(&mut self, request: StageRequest) -> Result<(), StageError> {
        let StageInput::Prompt(prompt) = &request.input else {
            return Err(StageError::Protocol("a language model takes its input as a prompt".into()));
        };
        self.check(prompt)?;
        request
            .sampling
            .validate(self.model.vocabulary_size())
            .map_err(|error| StageError::InvalidInput(error.to_string()))?;
        let room = self.settings.max_model_len - prompt.token_ids.len();
        let params = Arc::new(request.sampling.clone());
        let mut hashes = Vec::new();
        let mut hasher = BlockHasher::new(&self.salt(&request, prompt), prompt.media.clone());
        hasher.extend(prompt.token_ids.iter().copied(), &mut hashes);
        let mut sequences = Vec::new();
        for choice in 0..request.choices {
            let key = self.scheduler.add(prompt.token_ids.len(), request.priority);
            self.scheduler.name_blocks(key, &hashes);
            let seed = params.seed.unwrap_or_else(|| seed_of(self.settings.seed, request.id));
            let start = Start {
                request: request.id,
                choice,
                seed,
                room,
                prompt: prompt.clone(),
                params: params.clone(),
                eos_ids: self.eos_ids.clone(),
                spoken: request.to_next,
                hasher: hasher.clone(),
            };
            let generation = Generation::new(start, &self.tokenizer);
            self.generations.insert(key, generation);
            sequences.push(key);
        }
        if let Some(statistics) = &mut self.statistics {
            statistics.queued(&request, prompt.token_ids.len());
        }
        let state = Request {
            unfinished: sequences.len(),
            sequences,
            finish: FinishReason::Stop,
            started: false,
            preemptions: 0,
            tokens: TokenCounts { input: prompt.token_ids.len() as u64, output: 0 },
        };
        self.requests.insert(request.id, state);
        Ok(())
    }

    fn push(&mut self, _: Chunk) -> Result<(), StageError> {
        Err(StageError::Protocol("a language model takes no chunks".into()))
    }

    fn remove(&mut self, request: RequestId) {
        let Some(state) = self.requests.remove(&request) else { return };
        for key in state.sequences {
            self.scheduler.remove(key);
            self.model.release(key);
            self.generations.remove(&key);
        }
        if let Some(statistics) = &mut self.statistics {
            statistics.removed(request);
        }
    }

    fn plan(&mut self) -> Readiness {
        self.spans.clear();
        self.scheduler.plan(&mut self.spans);
        for key in self.scheduler.preempted() {
            self.model.release(*key);
        }
        if self.spans.is_empty() { Readiness::Idle } else { Readiness::Ready }
    }

    fn launch(&mut self) -> Result<Ticket, StageError> {
        self.fill_batch();
        self.note_started();
        if let Some(statistics) = &mut self.statistics {
            statistics.launched(&self.spans);
        }
        self.launch_model()
    }

    fn poll(
        &mut self,
        ticket: Ticket,
        wait: bool,
        outputs: &mut Vec<StageOutput>,
    ) -> Result<Poll, StageError> {
        let oldest = self.in_flight.front().is_some_and(|step| step.ticket == ticket);
        let mut poll = Poll::Complete;
        if oldest {
            match self.model.collect(wait)? {
                Some(outcome) => {
                    let sampled = self.in_flight.pop_front().map(|step| step.sampled).unwrap_or_default();
                    self.take_chosen(&sampled, outcome)?;
                    if let Some(statistics) = &mut self.statistics {
                        statistics.step();
                    }
                    self.give_up_failed();
                    self.finish_ended();
                }
                None => poll = Poll::Pending,
            }
        }
        outputs.append(&mut self.outputs);
        Ok(poll)
    }

    fn steps_in_flight(&self) -> usize {
        self.model.steps_in_flight().min(STEPS_IN_FLIGHT)
    }

    fn scheduler(&self) -> Option<SchedulerSnapshot> {
        Some(snapshot(&self.scheduler))
    }

    fn report(&mut self, stats: &mut ReplicaStats) {
        if let Some(statistics) = &mut self.statistics {
            statistics.report(&mut self.scheduler, stats);
        }
    }
}

/// The seed of a request that brings none: SplitMix64 (Steele, Lea, Flood 2014) of the server's seed and the request.
fn seed_of(server: u64, request: RequestId) -> u64 {
    let mut z = server.wrapping_add(request.0.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
