//! The pool of KV-cache blocks.

use crate::tensor::BLOCK_SIZE;

/// Hands out the blocks of a paged KV cache and takes them back.
///
/// A block is a number below [`capacity`](Self::capacity); what lies in it is the model's business. Blocks are
/// handed out last in, first out, so that a lightly used cache keeps touching the same memory.
#[derive(Debug)]
pub struct BlockPool {
    /// Blocks that nobody holds.
    free: Vec<u32>,
    /// All blocks there are.
    capacity: usize,
}

impl BlockPool {
    /// A pool in which all `capacity` blocks are free.
    pub fn new(capacity: usize) -> Self {
        let free = (0..u32::try_from(capacity).unwrap_or(u32::MAX)).rev().collect();
        Self { free, capacity }
    }

    /// Blocks needed for a number of tokens.
    pub fn blocks_for(tokens: usize) -> usize {
        tokens.div_ceil(BLOCK_SIZE)
    }

    /// Extends a block table so that it covers `tokens` tokens. Takes all that is missing or nothing.
    pub fn grow(&mut self, table: &mut Vec<u32>, tokens: usize) -> bool {
        let missing = Self::blocks_for(tokens).saturating_sub(table.len());
        if missing > self.free.len() {
            return false;
        }
        table.extend(self.free.drain(self.free.len() - missing..).rev());
        true
    }

    /// Takes all blocks of a table back.
    pub fn release(&mut self, table: &mut Vec<u32>) {
        self.free.extend(table.drain(..).rev());
    }

    /// All blocks there are.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks in use over all blocks, in [0, 1].
    pub fn usage(&self) -> f64 {
        if self.capacity == 0 { 0.0 } else { 1.0 - self.free.len() as f64 / self.capacity as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
