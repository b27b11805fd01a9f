//! How long blocks of a KV cache keep their content, and how often it is taken up: of a sample of the blocks.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How many times of taking up a content are remembered.
const ACCESSES: usize = 4;

/// Blocks whose content was given up and that nobody asked about yet. Further ones are not told of.
const MAX_UNTOLD: usize = 1024;

/// What became of a sampled block's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Residency {
    /// From handing the block out to giving its content up.
    pub lifetime: Duration,
    /// From the release by the last holder to giving its content up.
    pub idle: Duration,
    /// Between two sequences that took the content up, of the last four that did.
    pub reuse_gaps: Vec<Duration>,
}

/// Watches a sample of the blocks that are handed out.
#[derive(Debug)]
pub struct ResidencySampler {
    /// Which share of them, in [0, 1].
    share: f64,
    /// Blocks handed out so far, of which the multiples of `1 / share` are watched.
    handed_out: u64,
    /// The blocks that are watched.
    watched: HashMap<u32, Watched>,
    /// What became of those whose content was given up.
    untold: Vec<Residency>,
}

#[derive(Debug)]
struct Watched {
    handed_out: Instant,
    /// The last times that a sequence took the content up, the first one when it was handed out.
    accesses: VecDeque<Instant>,
    /// When nobody held it any more, the last time.
    released: Instant,
}

impl ResidencySampler {
    /// A sampler of this share of the blocks.
    pub fn new(share: f64) -> Self {
        Self { share, handed_out: 0, watched: HashMap::new(), untold: Vec::new() }
    }

    /// A block is handed out for new content; what it held before is given up.
    pub fn handed_out(&mut self, block: u32, now: Instant) {
        if let Some(watched) = self.watched.remove(&block)
            && self.untold.len() < MAX_UNTOLD
        {
            self.untold.push(watched.given_up(now));
        }
        let before = (self.handed_out as f64 * self.share).floor();
        self.handed_out += 1;
        if (self.handed_out as f64 * self.share).floor() > before {
            let watched = Watched { handed_out: now, accesses: VecDeque::from([now]), released: now };
            self.watched.insert(block, watched);
        }
    }

    /// A sequence takes the content of a block up.
    pub fn taken_up(&mut self, block: u32, now: Instant) {
        if let Some(watched) = self.watched.get_mut(&block) {
            if watched.accesses.len() == ACCESSES {
                watched.accesses.pop_front();
            }
            watched.accesses.push_back(now);
        }
    }

    /// Nobody holds a block any more.
    pub fn released(&mut self, block: u32, now: Instant) {
        if let Some(watched) = self.watched.get_mut(&block) {
            watched.released = now;
        }
    }

    /// Moves out what became of blocks since the last call.
    pub fn take(&mut self) -> Vec<Residency> {
        std::mem::take(&mut self.untold)
    }
}

impl Watched {
    fn given_up(self, now: Instant) -> Residency {
        let accesses = self.accesses.iter();
        Residency {
            lifetime: now.saturating_duration_since(self.handed_out),
            idle: now.saturating_duration_since(self.released),
            reuse_gaps: accesses
                .clone()
                .zip(accesses.skip(1))
                .map(|(before, after)| after.saturating_duration_since(*before))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_tells_of_its_life_when_its_place_is_taken() {
        let (mut sampler, start) = (ResidencySampler::new(1.0), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        sampler.handed_out(7, at(0));
        for second in [1, 3, 6, 10] {
            sampler.taken_up(7, at(second));
        }
        sampler.released(7, at(20));
        assert!(sampler.take().is_empty());
        sampler.handed_out(7, at(50));
        let reuse_gaps = [2, 3, 4].map(Duration::from_secs).into();
        let due = Residency { lifetime: Duration::from_secs(50), idle: Duration::from_secs(30), reuse_gaps };
        assert_eq!(sampler.take(), [due]);
        assert!(sampler.take().is_empty());
    }

    #[test]
    fn as_many_blocks_are_watched_as_asked_for() {
        for (share, watched) in [(0.0, 0), (0.01, 10), (0.5, 500), (1.0, 1000)] {
            let mut sampler = ResidencySampler::new(share);
            (0..1000).for_each(|block| sampler.handed_out(block, Instant::now()));
            assert_eq!(sampler.watched.len(), watched, "{share}");
        }
    }

    #[test]
    fn what_nobody_asks_about_does_not_grow_without_bound() {
        let mut sampler = ResidencySampler::new(1.0);
        (0..3 * MAX_UNTOLD).for_each(|_| sampler.handed_out(0, Instant::now()));
        assert_eq!(sampler.take().len(), MAX_UNTOLD);
    }
}
