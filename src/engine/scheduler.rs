//! Continuous batching: which sequences take part in the next step, and with how many tokens.
//!
//! The scheduler counts tokens; it does not know them. A sequence has `available` input tokens, of which
//! `computed` lie in the KV cache. Each step gives every running sequence its missing tokens, as far as the budget
//! reaches: one for a sequence in decode, a chunk for one in prefill. What is left of the budget admits waiting
//! sequences, first come first served within a priority. When blocks run out, the youngest running sequence is
//! preempted: its blocks are freed, and it waits to be computed again from its tokens, once it has one that was not
//! computed before.
//!
//! Full blocks whose tokens are known are published under their hashes, from the step on that fills them. A sequence that
//! is admitted takes over what is published of its own prefix, and begins behind that. This may be a block that is filled
//! in the same step: a model writes the keys and values of all rows before any of them looks at the cache.
//!
//! A step is planned while the one before it is still under way. The token that a step in flight will choose is
//! *expected*: the sequence goes on with it before anybody but the device knows it.
//!
//! Blocks are handed on as soon as they are freed, though a step in flight may still read and write them: rows of
//! sequences that were preempted, removed or found to have ended meanwhile. That is safe because a device works on
//! steps in the order of their launch, and whoever is given the block writes each slot in a later step than that,
//! before anything reads it.

use std::collections::BTreeSet;

use foldhash::HashMap;

use crate::engine::block_hash::BlockHash;
use crate::engine::block_pool::BlockPool;
use crate::engine::residency::Residency;
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
    /// This is the first span of the sequence. If it does not start at 0, what precedes it was found in the cache.
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
    /// What the blocks hold, as far as it is known: the hashes of full blocks from the first on.
    hashes: Vec<BlockHash>,
    /// How many blocks were published, or taken over as they were.
    published: usize,
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
            entries: HashMap::default(),
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
            hashes: Vec::new(),
            published: 0,
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

    /// Tells what the next full blocks of a sequence hold. A sequence that is never told of shares nothing.
    pub fn name_blocks(&mut self, key: SequenceKey, hashes: &[BlockHash]) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.hashes.extend_from_slice(hashes);
            publish(&mut self.pool, entry);
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

    /// Blocks of the cache.
    pub fn cache_blocks(&self) -> usize {
        self.pool.capacity()
    }

    /// Moves out what became of watched blocks of the cache since the last call.
    pub fn take_residencies(&mut self) -> Vec<Residency> {
        self.pool.take_residencies()
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
                return Some(span_of(&mut self.pool, entry, len));
            }
            let youngest = self.running.last().copied()?;
            self.preempt(youngest);
            if youngest == rank {
                return None;
            }
        }
    }

    /// Moves a waiting sequence to the running ones if all its tokens are known and its first chunk fits, behind what
    /// the cache has of it.
    fn admit(&mut self, rank: Rank, budget: usize) -> Option<ScheduledSpan> {
        let entry = self.entries.get_mut(&rank.2)?;
        if entry.available == 0 || entry.expected > 0 {
            return None;
        }
        // The last token is computed in any case: what follows it is chosen from that.
        let reusable = entry.hashes.len().min((entry.available - 1) / BLOCK_SIZE);
        let prefix = entry.hashes.get(..reusable).unwrap_or_default();
        let known = self.pool.known(prefix);
        let found = known.blocks * BLOCK_SIZE;
        let len = (entry.available - found).min(budget);
        if BlockPool::blocks_for(found + len) - known.blocks + known.idle > self.pool.free() {
            return None;
        }
        self.pool.share(prefix, &mut entry.blocks);
        self.pool.grow(&mut entry.blocks, found + len);
        entry.computed = found;
        entry.published = known.blocks;
        self.waiting.remove(&rank);
        self.running.insert(rank);
        Some(span_of(&mut self.pool, entry, len))
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
            entry.published = 0;
            entry.preemptions += 1;
        }
    }
}

fn span_of(pool: &mut BlockPool, entry: &mut Entry, len: usize) -> ScheduledSpan {
    let span = ScheduledSpan {
        key: entry.rank.2,
        start: entry.computed,
        len,
        reaches_end: entry.computed + len == entry.available,
        first: !entry.started,
    };
    entry.computed += len;
    entry.started = true;
    publish(pool, entry);
    span
}

/// Publishes the blocks of a sequence that are full and whose content is known.
fn publish(pool: &mut BlockPool, entry: &mut Entry) {
    let full = (entry.computed / BLOCK_SIZE).min(entry.hashes.len());
    for (block, hash) in entry.blocks.iter().zip(&entry.hashes).take(full).skip(entry.published) {
        pool.publish(*block, *hash);
    }
    entry.published = entry.published.max(full);
}

#[cfg(test)]
mod tests;
