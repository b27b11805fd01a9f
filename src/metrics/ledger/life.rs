//! One life of a replica: which reports were seen and how far its totals were added.

use std::collections::BTreeSet;

use crate::metrics::EngineTotals;

/// What was seen of one epoch of a replica.
#[derive(Debug, Default)]
pub struct Life {
    /// The reports that were seen.
    reports: SeenReports,
    /// The totals up to which differences were added.
    totals: EngineTotals,
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

impl Life {
    /// Notes a report; whether it is new. Reports that are repeated, or later than the window, are not.
    pub fn see(&mut self, sequence: u64) -> bool {
        self.reports.see(sequence)
    }

    /// What `totals` adds to all that was added before. Totals only grow, so a report that was overtaken adds
    /// nothing, and one after a lost report adds what both counted.
    pub fn advance(&mut self, totals: &EngineTotals) -> EngineTotals {
        let difference = totals.since(&self.totals);
        self.totals = self.totals.plus(&difference);
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
        self.combine(earlier, u64::saturating_sub)
    }

    /// The sum of both.
    pub fn plus(&self, other: &Self) -> Self {
        self.combine(other, u64::saturating_add)
    }

    fn combine(&self, other: &Self, operation: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            prompt_tokens: operation(self.prompt_tokens, other.prompt_tokens),
            prompt_tokens_computed: operation(self.prompt_tokens_computed, other.prompt_tokens_computed),
            prompt_tokens_cached: operation(self.prompt_tokens_cached, other.prompt_tokens_cached),
            generation_tokens: operation(self.generation_tokens, other.generation_tokens),
            prefix_cache_queries: operation(self.prefix_cache_queries, other.prefix_cache_queries),
            prefix_cache_hits: operation(self.prefix_cache_hits, other.prefix_cache_hits),
            preemptions: operation(self.preemptions, other.preemptions),
            steps: operation(self.steps, other.steps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_new_once_in_whatever_order_it_comes() {
        let mut life = Life::default();
        let new: Vec<bool> = [1, 3, 3, 2, 1, 2, 4].map(|sequence| life.see(sequence)).into();
        assert_eq!(new, [true, true, false, true, false, false, true]);
        assert!(life.reports.beyond.is_empty());
    }

    #[test]
    fn a_lost_report_is_given_up_when_the_window_is_over() {
        let mut life = Life::default();
        let window = REORDERING_WINDOW as u64;
        assert!((2..=window + 2).all(|sequence| life.see(sequence)));
        assert!(life.reports.beyond.is_empty());
        assert!(!life.see(1), "it was given up");
        assert!(life.see(window + 3));
    }

    #[test]
    fn totals_that_were_overtaken_add_nothing() {
        let totals = |tokens| EngineTotals { generation_tokens: tokens, ..Default::default() };
        let mut life = Life::default();
        let added = [10, 30, 20, 30, 31].map(|tokens| life.advance(&totals(tokens)).generation_tokens);
        assert_eq!(added, [10, 20, 0, 0, 1]);
    }
}
