//! Continuous batching: which sequences take part in the next step, and with how many tokens.
//!
//! The scheduler counts tokens; it does not know them. A sequence has `available` input tokens, of which
//! `computed` lie in the KV cache. Each step gives every running sequence its missing tokens, as far as the budget
//! reaches: one for a sequence in decode, a chunk for one in prefill. What is left of the budget admits waiting
//! sequences, first come first served within a priority. When blocks run out, the youngest running sequence is
//! preempted: its blocks are freed, and it waits to be computed again from its tokens, once it has one that was not
//! computed before.
//!
//! A step is planned while the one before it is still under way. The token that a step in flight will choose is
//! *expected*: the sequence goes on with it before anybody but the device knows it.
//!
//! Blocks are handed on as soon as they are freed, though a step in flight may still read and write them: rows of
//! sequences that were preempted, removed or found to have ended meanwhile. That is safe because a device works on
//! steps in the order of their launch, and whoever is given the block writes each slot in a later step than that,
//! before anything reads it.

use std::collections::{BTreeSet, HashMap};

use crate::engine::block_pool::BlockPool;
use crate::tensor::BLOCK_SIZE;

/// A sequence, as the scheduler knows it. Never reused within a scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceKey(pub u64);

/// Bounds of a step and of the set of running sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Tokens computed in one step, over all sequences.
    pub max_num_batched_tokens: usize,
    /// Sequences running at the same time.
    pub max_num_seqs: usize,
}

/// The part of a step that concerns one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduledSpan {
    /// Which sequence.
    pub key: SequenceKey,
    /// Tokens before this span that are in the cache already.
    pub start: usize,
    /// Tokens to compute.
    pub len: usize,
    /// With this span all available tokens are computed: the next one can be sampled.
    pub reaches_end: bool,
    /// This is the first span of the sequence.
    pub first: bool,
}

/// Order of service: priority, then arrival.
type Rank = (i32, u64, SequenceKey);

#[derive(Debug)]
struct Entry {
    /// Input tokens that are known or expected.
    available: usize,
    /// The last ones of them, which steps in flight choose.
    expected: usize,
    /// Those of them whose keys and values are in the cache, or will be after the steps in flight.
    computed: usize,
    /// Blocks that hold them.
    blocks: Vec<u32>,
    /// Order of service.
    rank: Rank,
    /// Whether it ever ran.
    started: bool,
    /// How often it was preempted.
    preemptions: u64,
}

/// Decides what each step works on.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pool: BlockPool,
    entries: HashMap<SequenceKey, Entry>,
    /// Sequences without blocks that have something to compute.
    waiting: BTreeSet<Rank>,
    /// Sequences that hold blocks, by rank.
    running: BTreeSet<Rank>,
    /// Counts arrivals and names sequences.
    arrivals: u64,
    /// Preemptions since the start.
    preemptions: u64,
    /// Who was preempted for the step that was planned last.
    preempted: Vec<SequenceKey>,
}

impl Scheduler {
    /// A scheduler over an empty cache.
    pub fn new(config: SchedulerConfig, pool: BlockPool) -> Self {
        Self {
            config,
            pool,
            entries: HashMap::new(),
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            arrivals: 0,
            preemptions: 0,
            preempted: Vec::new(),
        }
    }

    /// The longest sequence that the whole cache could hold, in tokens.
    pub fn longest_sequence(&self) -> usize {
        self.pool.capacity() * BLOCK_SIZE
    }

    /// Takes a sequence with `available` tokens known; with none, it is deferred until
    /// [`extend`](Self::extend) brings some. It must never become longer than
    /// [`longest_sequence`](Self::longest_sequence).
    pub fn add(&mut self, available: usize, priority: i32) -> SequenceKey {
        let key = SequenceKey(self.arrivals);
        let rank = (priority, self.arrivals, key);
        self.arrivals += 1;
        let entry = Entry {
            available,
            expected: 0,
            computed: 0,
            blocks: Vec::new(),
            rank,
            started: false,
            preemptions: 0,
        };
        self.entries.insert(key, entry);
        if available > 0 {
            self.waiting.insert(rank);
        }
        key
    }

    /// Tells that `tokens` more input tokens of a sequence are known.
    pub fn extend(&mut self, key: SequenceKey, tokens: usize) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.available += tokens;
            if entry.available > 0 && !self.running.contains(&entry.rank) {
                self.waiting.insert(entry.rank);
            }
        }
    }

    /// Tells that a step in flight chooses one more input token of a sequence. The next step can have it, but not a
    /// sequence that begins anew: its tokens come from the host.
    pub fn expect(&mut self, key: SequenceKey) {
        self.extend(key, 1);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.expected += 1;
        }
    }

    /// Tells that the oldest token that was expected of a sequence is known.
    pub fn settle(&mut self, key: SequenceKey) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.expected = entry.expected.saturating_sub(1);
        }
    }

    /// Forgets a sequence and frees its blocks. Returns how often it was preempted.
    pub fn remove(&mut self, key: SequenceKey) -> u64 {
        let Some(mut entry) = self.entries.remove(&key) else { return 0 };
        self.waiting.remove(&entry.rank);
        self.running.remove(&entry.rank);
        self.pool.release(&mut entry.blocks);
        entry.preemptions
    }

    /// Plans a step: appends its spans, in order of service. Spans are counted as computed from here on.
    pub fn plan(&mut self, spans: &mut Vec<ScheduledSpan>) {
        let first_span = spans.len();
        self.preempted.clear();
        let mut budget = self.config.max_num_batched_tokens;
        let ranks: Vec<Rank> = self.running.iter().copied().collect();
        for rank in ranks {
            // A sequence that was preempted for an earlier one is no longer running.
            if budget == 0 || !self.running.contains(&rank) {
                continue;
            }
            if let Some(span) = self.schedule_running(rank, budget) {
                budget -= span.len;
                spans.push(span);
            }
        }
        // A step that had to preempt has no room for newcomers, and must not take its victim back.
        while budget > 0 && self.preempted.is_empty() && self.running.len() < self.config.max_num_seqs {
            let Some(rank) = self.waiting.first().copied() else { break };
            let Some(span) = self.admit(rank, budget) else { break };
            budget -= span.len;
            spans.push(span);
        }
        debug_assert!(spans[first_span..].iter().all(|span| span.len > 0));
    }

    /// The blocks that hold a sequence's keys and values.
    pub fn block_table(&self, key: SequenceKey) -> &[u32] {
        self.entries.get(&key).map_or(&[], |entry| &entry.blocks)
    }

    /// Sequences that hold blocks.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait for blocks or for a place.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that wait for input.
    pub fn num_deferred(&self) -> usize {
        self.entries.len() - self.waiting.len() - self.running.len()
    }

    /// Share of the cache in use, in [0, 1].
    pub fn cache_usage(&self) -> f64 {
        self.pool.usage()
    }

    /// Preemptions since the start.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Who was preempted for the step that was planned last.
    pub fn preempted(&self) -> &[SequenceKey] {
        &self.preempted
    }

    /// Gives a running sequence what it lacks, preempting younger ones or, if there are none, itself.
    fn schedule_running(&mut self, rank: Rank, budget: usize) -> Option<ScheduledSpan> {
        loop {
            let entry = self.entries.get_mut(&rank.2)?;
            let len = (entry.available - entry.computed).min(budget);
            if len == 0 {
                return None;
            }
            if self.pool.grow(&mut entry.blocks, entry.computed + len) {
                return Some(span_of(entry, len));
            }
            let youngest = self.running.last().copied()?;
            self.preempt(youngest);
            if youngest == rank {
                return None;
            }
        }
    }

    /// Moves a waiting sequence to the running ones if all its tokens are known and its first chunk fits.
    fn admit(&mut self, rank: Rank, budget: usize) -> Option<ScheduledSpan> {
        let entry = self.entries.get_mut(&rank.2)?;
        let len = (entry.available - entry.computed).min(budget);
        if len == 0 || entry.expected > 0 || !self.pool.grow(&mut entry.blocks, entry.computed + len) {
            return None;
        }
        self.waiting.remove(&rank);
        self.running.insert(rank);
        Some(span_of(entry, len))
    }

    /// Takes a sequence's blocks away. One that has all its tokens computed is waiting for input: it is deferred until
    /// more comes, for computing it again now would sample a second time what was sampled at its end before.
    fn preempt(&mut self, rank: Rank) {
        self.running.remove(&rank);
        self.preemptions += 1;
        self.preempted.push(rank.2);
        if let Some(entry) = self.entries.get_mut(&rank.2) {
            if entry.computed < entry.available {
                self.waiting.insert(rank);
            }
            self.pool.release(&mut entry.blocks);
            entry.computed = 0;
            entry.preemptions += 1;
        }
    }
}

fn span_of(entry: &mut Entry, len: usize) -> ScheduledSpan {
    let span = ScheduledSpan {
        key: entry.rank.2,
        start: entry.computed,
        len,
        reaches_end: entry.computed + len == entry.available,
        first: !entry.started,
    };
    entry.computed += len;
    entry.started = true;
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduler(tokens: usize, seqs: usize, blocks: usize) -> Scheduler {
        let config = SchedulerConfig { max_num_batched_tokens: tokens, max_num_seqs: seqs };
        Scheduler::new(config, BlockPool::new(blocks))
    }

    fn plan(scheduler: &mut Scheduler) -> Vec<(u64, usize, usize)> {
        let mut spans = Vec::new();
        scheduler.plan(&mut spans);
        spans.iter().map(|span| (span.key.0, span.start, span.len)).collect()
    }

    #[test]
    fn a_long_prompt_is_computed_in_chunks_of_the_budget() {
        let mut scheduler = scheduler(8, 4, 10);
        scheduler.add(20, 0);
        assert_eq!(plan(&mut scheduler), [(0, 0, 8)]);
        assert_eq!(plan(&mut scheduler), [(0, 8, 8)]);
        assert_eq!(plan(&mut scheduler), [(0, 16, 4)]);
        assert_eq!(plan(&mut scheduler), []);
    }

    #[test]
    fn decodes_go_before_new_prompts_and_share_a_step_with_them() {
        let mut scheduler = scheduler(8, 4, 10);
        let first = scheduler.add(3, 0);
        assert_eq!(plan(&mut scheduler), [(0, 0, 3)]);
        scheduler.extend(first, 1);
        scheduler.add(20, 0);
        assert_eq!(plan(&mut scheduler), [(0, 3, 1), (1, 0, 7)]);
    }

    #[test]
    fn no_more_sequences_run_than_allowed() {
        let mut scheduler = scheduler(100, 2, 10);
        for _ in 0..3 {
            scheduler.add(1, 0);
        }
        assert_eq!(plan(&mut scheduler).len(), 2);
        assert_eq!((scheduler.num_running(), scheduler.num_waiting()), (2, 1));
    }

    #[test]
    fn urgent_requests_are_admitted_first() {
        let mut scheduler = scheduler(100, 1, 10);
        scheduler.add(1, 5);
        let urgent = scheduler.add(1, -1);
        assert_eq!(plan(&mut scheduler), [(urgent.0, 0, 1)]);
    }

    #[test]
    fn a_sequence_without_input_is_deferred_and_holds_up_nobody() {
        let mut scheduler = scheduler(100, 4, 10);
        let fed_later = scheduler.add(0, 0);
        scheduler.add(2, 0);
        assert_eq!(plan(&mut scheduler), [(1, 0, 2)]);
        assert_eq!(scheduler.num_deferred(), 1);
        scheduler.extend(fed_later, 4);
        assert_eq!(plan(&mut scheduler), [(0, 0, 4)]);
        assert_eq!(scheduler.num_deferred(), 0);
    }

    #[test]
    fn a_sequence_that_is_preempted_while_it_waits_for_input_is_computed_again_when_there_is_some() {
        let mut scheduler = scheduler(100, 4, 2);
        let old = scheduler.add(BLOCK_SIZE, 0);
        let fed_later = scheduler.add(BLOCK_SIZE, 0);
        assert_eq!(plan(&mut scheduler).len(), 2);
        scheduler.extend(old, 1);
        assert_eq!(plan(&mut scheduler), [(old.0, BLOCK_SIZE, 1)]);
        assert_eq!((scheduler.num_deferred(), scheduler.preemptions()), (1, 1));
        scheduler.remove(old);
        assert_eq!(plan(&mut scheduler), [], "nothing of it is new");
        scheduler.extend(fed_later, 1);
        assert_eq!(plan(&mut scheduler), [(fed_later.0, 0, BLOCK_SIZE + 1)]);
    }

    #[test]
    fn an_expected_token_is_computed_in_the_next_step_but_not_by_a_sequence_that_begins_anew() {
        let mut scheduler = scheduler(100, 4, 2);
        let old = scheduler.add(BLOCK_SIZE, 0);
        let young = scheduler.add(BLOCK_SIZE - 1, 0);
        assert_eq!(plan(&mut scheduler).len(), 2);
        scheduler.expect(young);
        assert_eq!(plan(&mut scheduler), [(young.0, BLOCK_SIZE - 1, 1)]);
        scheduler.expect(old);
        scheduler.expect(young);
        scheduler.settle(young);
        assert_eq!(plan(&mut scheduler), [(old.0, BLOCK_SIZE, 1)]);
        assert_eq!(scheduler.preempted(), [young]);
        scheduler.remove(old);
        assert_eq!(plan(&mut scheduler), [], "its last token is in flight");
        assert!(scheduler.preempted().is_empty());
        scheduler.settle(young);
        assert_eq!(plan(&mut scheduler), [(young.0, 0, BLOCK_SIZE + 1)]);
    }

    #[test]
    fn when_blocks_run_out_the_youngest_is_preempted_and_computed_again() {
        let mut scheduler = scheduler(100, 4, 2);
        let old = scheduler.add(BLOCK_SIZE, 0);
        let young = scheduler.add(BLOCK_SIZE, 0);
        assert_eq!(plan(&mut scheduler).len(), 2);
        scheduler.extend(old, 1);
        scheduler.extend(young, 1);
        assert_eq!(plan(&mut scheduler), [(old.0, BLOCK_SIZE, 1)]);
        assert_eq!((scheduler.num_waiting(), scheduler.preemptions()), (1, 1));
        assert_eq!(scheduler.remove(old), 0);
        assert_eq!(plan(&mut scheduler), [(young.0, 0, BLOCK_SIZE + 1)]);
        assert_eq!(scheduler.remove(young), 1);
        assert_eq!(scheduler.cache_usage(), 0.0);
    }
}
