//! What a stage takes of its device's memory.

use crate::tensor::Taken;

/// What is known of a stage's memory, all replicas together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageSize {
    /// Its weights, which its replicas share. What it shares with an earlier stage is counted there.
    pub weights: Taken,
    /// Bytes of KV cache.
    pub cache_bytes: u64,
}

impl StageSize {
    /// A stage with these weights whose replicas have a KV cache of so many blocks each.
    pub fn new(weights: Taken, replicas: u16, blocks: usize, bytes_per_block: usize) -> Self {
        let blocks = blocks as u64 * u64::from(replicas);
        Self { weights, cache_bytes: blocks.saturating_mul(bytes_per_block as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_replica_has_a_cache_of_its_own() {
        let weights = Taken { parameters: 10, bytes: 20 };
        let size = StageSize::new(weights, 3, 4, 100);
        assert_eq!((size.weights, size.cache_bytes), (weights, 1200));
    }
}
