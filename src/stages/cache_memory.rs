//! How many blocks a KV cache gets.

use thiserror::Error;

use crate::engine::BlockPool;

/// One sequence of full length does not fit into the memory that its cache may take.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the KV cache of one sequence of {tokens} tokens takes {} MiB, and {} MiB are to be had; give a smaller \
     --max-model-len",
    needed >> 20,
    available >> 20
)]
pub struct CacheTooLarge {
    /// Tokens of the longest sequence.
    pub tokens: usize,
    /// Bytes that they take.
    pub needed: u64,
    /// Bytes that there are.
    pub available: u64,
}

/// Blocks for as many sequences of `max_model_len` tokens as may run at the same time, or as many as `budget` bytes
/// hold, but at least for one.
pub fn cache_blocks(
    bytes_per_block: usize,
    max_model_len: usize,
    max_num_seqs: usize,
    budget: u64,
) -> Result<usize, CacheTooLarge> {
    let one = BlockPool::blocks_for(max_model_len);
    let affordable = usize::try_from(budget / bytes_per_block.max(1) as u64).unwrap_or(usize::MAX);
    if affordable < one {
        let needed = one as u64 * bytes_per_block as u64;
        return Err(CacheTooLarge { tokens: max_model_len, needed, available: budget });
    }
    Ok((one * max_num_seqs).min(affordable))
}

/// Bytes of memory that are free, as Linux estimates it; 4 GiB where it does not say.
pub fn free_memory() -> u64 {
    const UNKNOWN: u64 = 4 << 30;
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else { return UNKNOWN };
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes =
        line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|n| n.trim().parse::<u64>().ok());
    kibibytes.map_or(UNKNOWN, |kibibytes| kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_holds_all_sequences_if_it_can_and_one_at_least() {
        assert_eq!(cache_blocks(1024, 160, 4, 1 << 30), Ok(40));
        assert_eq!(cache_blocks(1024, 160, 4, 25 << 10), Ok(25));
        let error = cache_blocks(1024, 160, 4, 9 << 10).expect_err("one sequence takes ten blocks");
        assert_eq!((error.needed, error.available), (10 << 10, 9 << 10));
    }
}
