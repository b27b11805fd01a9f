//! The lives of replicas: which reports of each were seen and how far its totals were added.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Epoch, ReplicaId, ReplicaKey, StageId};
use crate::metrics::{EngineTotals, LabelledStats, StepWork};

/// The latest lives of all replicas. Late reports of an earlier life still count.
#[derive(Debug, Default)]
pub struct Lives {
    /// The lives of each replica, by epoch.
    replicas: BTreeMap<(StageId, ReplicaId), BTreeMap<Epoch, Life>>,
}

/// How many lives of a replica are remembered. A report of an earlier one is not told apart from a repeated one.
const LIVES_REMEMBERED: usize = 4;

/// What was seen of one epoch of a replica.
#[derive(Debug, Default)]
pub struct Life {
    /// The reports that were seen.
    reports: SeenReports,
    /// The totals up to which differences were added.
    totals: EngineTotals,
    /// The same for declared families.
    labelled: LabelledStats,
}

/// The sequence numbers that were seen: all up to one, and some beyond it.
#[derive(Debug, Default)]
struct SeenReports {
    /// Every number up to this one was seen or is given up.
    through: u64,
    /// Numbers seen beyond it, while those between are awaited.
    beyond: BTreeSet<u64>,
}

/// How many reports may overtake a late one before it is taken for lost.
const REORDERING_WINDOW: usize = 1024;

impl Lives {
    /// Notes a report; the life that it tells of, if it is new. Reports that are repeated, or later than the window,
    /// are not, nor are those of a life before the ones that are remembered.
    pub fn new_report(&mut self, key: ReplicaKey, sequence: u64) -> Option<&mut Life> {
        let life = self.life(key)?;
        life.reports.see(sequence).then_some(life)
    }

    /// What was seen of a life, remembered from now on; `None` for a life before those that are remembered.
    fn life(&mut self, key: ReplicaKey) -> Option<&mut Life> {
        let lives = self.replicas.entry((key.stage, key.replica)).or_default();
        let forgotten = lives.len() >= LIVES_REMEMBERED
            && lives.first_key_value().is_some_and(|(&earliest, _)| key.epoch < earliest);
        if forgotten {
            return None;
        }
        lives.entry(key.epoch).or_default();
        if lives.len() > LIVES_REMEMBERED {
            lives.pop_first();
        }
        lives.get_mut(&key.epoch)
    }
}

impl Life {
    /// What `totals` adds to all that was added before. Totals only grow, so a report that was overtaken adds
    /// nothing, and one after a lost report adds what both counted.
    pub fn advance(&mut self, totals: &EngineTotals) -> EngineTotals {
        let difference = totals.since(&self.totals);
        self.totals = self.totals.plus(&difference);
        difference
    }

    /// The same for declared families.
    pub fn advance_labelled(&mut self, totals: &LabelledStats) -> LabelledStats {
        let difference = totals.since(&self.labelled);
        self.labelled.merge(difference.clone());
        difference
    }
}

impl SeenReports {
    fn see(&mut self, sequence: u64) -> bool {
        if sequence <= self.through || !self.beyond.insert(sequence) {
            return false;
        }
        if self.beyond.len() > REORDERING_WINDOW
            && let Some(&first) = self.beyond.first()
        {
            self.through = first - 1;
        }
        while self.beyond.first() == Some(&(self.through + 1)) {
            self.beyond.pop_first();
            self.through += 1;
        }
        true
    }
}

impl EngineTotals {
    /// These totals less `earlier` ones, 0 where they are not greater.
    pub fn since(&self, earlier: &Self) -> Self {
        self.combine(earlier, u64::saturating_sub, |now, before| (now - before).max(0.0))
    }

    /// The sum of both.
    pub fn plus(&self, other: &Self) -> Self {
        self.combine(other, u64::saturating_add, |one, other| one + other)
    }

    fn combine(
        &self,
        other: &Self,
        operation: impl Fn(u64, u64) -> u64,
        amount: impl Fn(f64, f64) -> f64,
    ) -> Self {
        Self {
            prompt_tokens: operation(self.prompt_tokens, other.prompt_tokens),
            prompt_tokens_computed: operation(self.prompt_tokens_computed, other.prompt_tokens_computed),
            prompt_tokens_cached: operation(self.prompt_tokens_cached, other.prompt_tokens_cached),
            generation_tokens: operation(self.generation_tokens, other.generation_tokens),
            prefix_cache_queries: operation(self.prefix_cache_queries, other.prefix_cache_queries),
            prefix_cache_hits: operation(self.prefix_cache_hits, other.prefix_cache_hits),
            preemptions: operation(self.preemptions, other.preemptions),
            steps: operation(self.steps, other.steps),
            corrupted_requests: operation(self.corrupted_requests, other.corrupted_requests),
            media_cache_queries: operation(self.media_cache_queries, other.media_cache_queries),
            media_cache_hits: operation(self.media_cache_hits, other.media_cache_hits),
            work: StepWork {
                operations: amount(self.work.operations, other.work.operations),
                read_bytes: amount(self.work.read_bytes, other.work.read_bytes),
                write_bytes: amount(self.work.write_bytes, other.work.write_bytes),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_new_once_in_whatever_order_it_comes() {
        let mut reports = SeenReports::default();
        let new: Vec<bool> = [1, 3, 3, 2, 1, 2, 4].map(|sequence| reports.see(sequence)).into();
        assert_eq!(new, [true, true, false, true, false, false, true]);
        assert!(reports.beyond.is_empty());
    }

    #[test]
    fn the_latest_lives_are_remembered_and_no_more() {
        let (mut lives, remembered) = (Lives::default(), LIVES_REMEMBERED as u32);
        let key = |epoch| ReplicaKey { stage: StageId(0), replica: ReplicaId(0), epoch: Epoch(epoch) };
        for epoch in 0..=remembered {
            assert!(lives.new_report(key(epoch), 1).is_some());
        }
        assert!(lives.new_report(key(0), 2).is_none(), "it is forgotten");
        assert!((1..=remembered).all(|epoch| lives.new_report(key(epoch), 1).is_none()));
    }

    #[test]
    fn a_lost_report_is_given_up_when_the_window_is_over() {
        let mut reports = SeenReports::default();
        let window = REORDERING_WINDOW as u64;
        assert!((2..=window + 2).all(|sequence| reports.see(sequence)));
        assert!(reports.beyond.is_empty());
        assert!(!reports.see(1), "it was given up");
        assert!(reports.see(window + 3));
    }

    #[test]
    fn totals_that_were_overtaken_add_nothing() {
        let totals = |tokens| EngineTotals { generation_tokens: tokens, ..Default::default() };
        let mut life = Life::default();
        let added = [10, 30, 20, 30, 31].map(|tokens| life.advance(&totals(tokens)).generation_tokens);
        assert_eq!(added, [10, 20, 0, 0, 1]);
    }
}
