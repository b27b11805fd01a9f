//! The pool of KV-cache blocks, and what it remembers of those that nobody holds.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use crate::engine::block_hash::BlockHash;
use crate::engine::residency::{Residency, ResidencySampler};
use crate::tensor::BLOCK_SIZE;

/// Hands out the blocks of a paged KV cache and takes them back.
///
/// A block is a number below [`capacity`](Self::capacity); what lies in it is the model's business. A full block can be
/// published under the hash of its content. Then other sequences that need the same content hold it too; and when nobody
/// holds it any more it keeps its content until its place is needed, the longest unused first.
///
/// Blocks without such content are handed out before those, last in, first out.
#[derive(Debug)]
pub struct BlockPool {
    /// What is known of each block.
    blocks: Vec<Block>,
    /// Blocks that nobody holds and that hold nothing of use.
    empty: Vec<u32>,
    /// Blocks that nobody holds and whose content is known, by when they were released.
    idle: BTreeMap<u64, u32>,
    /// Where the content of a hash lies.
    by_hash: HashMap<BlockHash, u32>,
    /// Counts releases of published blocks.
    releases: u64,
    /// Whether blocks keep their content when nobody holds them any more.
    keeps_content: bool,
    /// Watches some of the blocks, if somebody wants to know.
    sampler: Option<ResidencySampler>,
}

/// A block, as the pool knows it.
#[derive(Debug, Clone, Default)]
struct Block {
    /// Block tables it stands in.
    holders: u32,
    /// What its content is published under.
    hash: Option<BlockHash>,
    /// Its place among the idle ones, if nobody holds it.
    released: u64,
}

/// What the pool has of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// How many of its blocks, from the first on without a gap.
    pub blocks: usize,
    /// How many of these nobody holds, so that they are among the free ones.
    pub idle: usize,
}

impl BlockPool {
    /// A pool in which all `capacity` blocks are free.
    pub fn new(capacity: usize) -> Self {
        Self {
            blocks: vec![Block::default(); capacity],
            empty: (0..u32::try_from(capacity).unwrap_or(u32::MAX)).rev().collect(),
            idle: BTreeMap::new(),
            by_hash: HashMap::new(),
            releases: 0,
            keeps_content: true,
            sampler: None,
        }
    }

    /// The same pool, whose blocks keep their content while somebody holds them and no longer.
    pub fn forgetting(self) -> Self {
        Self { keeps_content: false, ..self }
    }

    /// The same pool, which watches this share of the blocks that it hands out; none with `None`.
    pub fn sampling(self, share: Option<f64>) -> Self {
        Self { sampler: share.map(ResidencySampler::new), ..self }
    }

    /// Moves out what became of watched blocks since the last call.
    pub fn take_residencies(&mut self) -> Vec<Residency> {
        self.sampler.as_mut().map(ResidencySampler::take).unwrap_or_default()
    }

    /// Blocks needed for a number of tokens.
    pub fn blocks_for(tokens: usize) -> usize {
        tokens.div_ceil(BLOCK_SIZE)
    }

    /// Extends a block table so that it covers `tokens` tokens. Takes all that is missing or nothing.
    pub fn grow(&mut self, table: &mut Vec<u32>, tokens: usize) -> bool {
        let missing = Self::blocks_for(tokens).saturating_sub(table.len());
        if missing > self.free() {
            return false;
        }
        for _ in 0..missing {
            let Some(block) = self.empty.pop().or_else(|| self.forget_longest_unused()) else { return false };
            if let Some(state) = self.blocks.get_mut(block as usize) {
                state.holders = 1;
            }
            if let Some(sampler) = &mut self.sampler {
                sampler.handed_out(block, Instant::now());
            }
            table.push(block);
        }
        true
    }

    /// What there is of the prefix that these hashes name.
    pub fn known(&self, hashes: &[BlockHash]) -> Known {
        let mut known = Known { blocks: 0, idle: 0 };
        for block in hashes.iter().map_while(|hash| self.by_hash.get(hash)) {
            known.blocks += 1;
            known.idle +=
                usize::from(self.blocks.get(*block as usize).is_some_and(|state| state.holders == 0));
        }
        known
    }

    /// Appends the blocks that are published under these hashes to a block table, up to the first that is not.
    pub fn share(&mut self, hashes: &[BlockHash], table: &mut Vec<u32>) {
        for hash in hashes {
            let Some(&block) = self.by_hash.get(hash) else { return };
            let Some(state) = self.blocks.get_mut(block as usize) else { return };
            if state.holders == 0 {
                self.idle.remove(&state.released);
            }
            state.holders += 1;
            table.push(block);
            if let Some(sampler) = &mut self.sampler {
                sampler.taken_up(block, Instant::now());
            }
        }
    }

    /// Tells that a block which somebody holds is filled with the content of a hash. If another block is known to be,
    /// that one stays the one to share.
    pub fn publish(&mut self, block: u32, hash: BlockHash) {
        if let Some(state) = self.blocks.get_mut(block as usize)
            && state.hash.is_none()
            && !self.by_hash.contains_key(&hash)
        {
            state.hash = Some(hash);
            self.by_hash.insert(hash, block);
        }
    }

    /// Takes all blocks of a table back. Of a prefix, the end is given up before the beginning.
    pub fn release(&mut self, table: &mut Vec<u32>) {
        for block in table.drain(..).rev() {
            let Some(state) = self.blocks.get_mut(block as usize) else { continue };
            state.holders = state.holders.saturating_sub(1);
            if state.holders > 0 {
                continue;
            }
            if let Some(sampler) = &mut self.sampler {
                sampler.released(block, Instant::now());
            }
            if !self.keeps_content
                && let Some(hash) = state.hash.take()
            {
                self.by_hash.remove(&hash);
            }
            if state.hash.is_some() {
                state.released = self.releases;
                self.idle.insert(self.releases, block);
                self.releases += 1;
            } else {
                self.empty.push(block);
            }
        }
    }

    /// All blocks there are.
    pub fn capacity(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that nobody holds.
    pub fn free(&self) -> usize {
        self.empty.len() + self.idle.len()
    }

    /// Blocks in use over all blocks, in [0, 1].
    pub fn usage(&self) -> f64 {
        if self.blocks.is_empty() { 0.0 } else { 1.0 - self.free() as f64 / self.blocks.len() as f64 }
    }

    /// Gives up the content of the block that nobody has held for longest.
    fn forget_longest_unused(&mut self) -> Option<u32> {
        let (_, block) = self.idle.pop_first()?;
        if let Some(hash) = self.blocks.get_mut(block as usize).and_then(|state| state.hash.take()) {
            self.by_hash.remove(&hash);
        }
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::block_hash::BlockHasher;

    /// Hashes of as many blocks of one sequence.
    fn hashes(blocks: usize) -> Vec<BlockHash> {
        let mut hashes = Vec::new();
        BlockHasher::new(b"", Vec::new()).extend(0..(blocks * BLOCK_SIZE) as u32, &mut hashes);
        hashes
    }

    /// A table of as many published blocks.
    fn published(pool: &mut BlockPool, hashes: &[BlockHash]) -> Vec<u32> {
        let mut table = Vec::new();
        assert!(pool.grow(&mut table, hashes.len() * BLOCK_SIZE));
        for (block, hash) in table.iter().zip(hashes) {
            pool.publish(*block, *hash);
        }
        table
    }

    #[test]
    fn a_table_grows_by_whole_blocks_and_only_when_needed() {
        let mut pool = BlockPool::new(4);
        let mut table = Vec::new();
        assert!(pool.grow(&mut table, 1));
        assert_eq!(table, [0]);
        assert!(pool.grow(&mut table, BLOCK_SIZE));
        assert_eq!(table.len(), 1);
        assert!(pool.grow(&mut table, BLOCK_SIZE + 1));
        assert_eq!(table, [0, 1]);
    }

    #[test]
    fn growing_takes_all_or_nothing() {
        let mut pool = BlockPool::new(2);
        let mut table = Vec::new();
        assert!(!pool.grow(&mut table, 3 * BLOCK_SIZE));
        assert!(table.is_empty());
        assert_eq!(pool.usage(), 0.0);
    }

    #[test]
    fn released_blocks_can_be_taken_again() {
        let mut pool = BlockPool::new(2);
        let mut table = Vec::new();
        assert!(pool.grow(&mut table, 2 * BLOCK_SIZE));
        assert_eq!(pool.usage(), 1.0);
        pool.release(&mut table);
        assert_eq!(pool.usage(), 0.0);
        assert!(pool.grow(&mut table, 2 * BLOCK_SIZE));
    }

    #[test]
    fn a_shared_block_is_free_when_the_last_holder_is_gone_and_known_for_longer() {
        let (mut pool, hashes) = (BlockPool::new(4), hashes(2));
        let mut first = published(&mut pool, &hashes);
        let mut second = Vec::new();
        pool.share(&hashes, &mut second);
        assert_eq!(second, first);
        pool.release(&mut first);
        assert_eq!((pool.free(), pool.known(&hashes)), (2, Known { blocks: 2, idle: 0 }));
        pool.release(&mut second);
        assert_eq!((pool.free(), pool.known(&hashes)), (4, Known { blocks: 2, idle: 2 }));
    }

    #[test]
    fn content_is_given_up_last_and_the_end_of_a_prefix_before_its_beginning() {
        let (mut pool, hashes) = (BlockPool::new(4), hashes(3));
        let mut table = published(&mut pool, &hashes);
        pool.release(&mut table);
        let mut other = Vec::new();
        assert!(pool.grow(&mut other, BLOCK_SIZE));
        assert_eq!(pool.known(&hashes).blocks, 3);
        assert!(pool.grow(&mut other, 2 * BLOCK_SIZE));
        assert_eq!(pool.known(&hashes).blocks, 2);
        assert!(pool.grow(&mut other, 4 * BLOCK_SIZE));
        assert_eq!(pool.known(&hashes).blocks, 0);
        assert!(!pool.grow(&mut other, 5 * BLOCK_SIZE));
    }

    #[test]
    fn watched_blocks_are_told_of_when_their_place_is_taken() {
        let (mut pool, hashes) = (BlockPool::new(2).sampling(Some(1.0)), hashes(2));
        let mut first = published(&mut pool, &hashes);
        let mut second = Vec::new();
        pool.share(&hashes, &mut second);
        pool.release(&mut first);
        pool.release(&mut second);
        assert!(pool.take_residencies().is_empty(), "the content is still there");
        assert!(pool.grow(&mut first, 2 * BLOCK_SIZE));
        let gaps: Vec<_> = pool.take_residencies().iter().map(|block| block.reuse_gaps.len()).collect();
        assert_eq!(gaps, [1, 1]);
    }

    #[test]
    fn a_pool_that_forgets_shares_what_is_held_and_nothing_else() {
        let (mut pool, hashes) = (BlockPool::new(4).forgetting(), hashes(2));
        let mut first = published(&mut pool, &hashes);
        let mut second = Vec::new();
        pool.share(&hashes, &mut second);
        pool.release(&mut first);
        assert_eq!(pool.known(&hashes).blocks, 2);
        pool.release(&mut second);
        assert_eq!((pool.free(), pool.known(&hashes).blocks), (4, 0));
        assert!(pool.grow(&mut first, 2 * BLOCK_SIZE));
        assert_eq!(first, [0, 1], "the same memory is touched again");
    }

    #[test]
    fn the_first_block_of_a_content_stays_the_one_to_share() {
        let (mut pool, hashes) = (BlockPool::new(2), hashes(1));
        let mut first = published(&mut pool, &hashes);
        let mut second = published(&mut pool, &hashes);
        pool.release(&mut second);
        assert_eq!(pool.known(&hashes), Known { blocks: 1, idle: 0 });
        pool.release(&mut first);
        assert_eq!((pool.free(), pool.known(&hashes)), (2, Known { blocks: 1, idle: 1 }));
    }
}
