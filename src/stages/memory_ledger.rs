//! The account of a device's memory: what everything takes, and what is left for KV caches. It is made up before
//! anything is loaded.

use thiserror::Error;

use super::device_memory::{Bytes, DeviceMemory};
use crate::engine::BlockPool;

/// The account of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryLedger {
    /// What the device is called.
    device: String,
    /// What was found.
    memory: DeviceMemory,
    /// What is taken, by name.
    entries: Vec<(String, u64)>,
    /// Weights that stay in files. The system may drop and read them again, so they are shown, but take nothing.
    in_files: u64,
    /// The caches among which the rest is divided.
    caches: Vec<CacheClaim>,
    /// `--kv-cache-memory`: bytes that all caches get together, if it was said.
    cache_memory: Option<u64>,
}

/// What the KV caches of a stage ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheClaim {
    /// The stage.
    pub stage: String,
    /// Bytes of a block of tokens.
    pub bytes_per_block: u64,
    /// Tokens of the longest sequence, for which there must be room.
    pub max_model_len: usize,
    /// Sequences that run at the same time; more room than for as many of full length is of no use.
    pub max_num_seqs: usize,
    /// Replicas, each with a cache of its own.
    pub replicas: u16,
    /// How much of what is left is wanted, in proportion to the claims of others.
    pub weight: f64,
    /// `kv_cache_memory_bytes`: bytes of the cache of each replica, if it was said.
    pub memory: Option<u64>,
}

impl CacheClaim {
    /// Blocks for the longest sequence.
    fn blocks_of_one(&self) -> usize {
        BlockPool::blocks_for(self.max_model_len)
    }

    /// Bytes of the longest sequence.
    pub fn bytes_of_one(&self) -> u64 {
        (self.blocks_of_one() as u64).saturating_mul(self.bytes_per_block)
    }

    /// Bytes of the longest sequence in each replica.
    fn least(&self) -> u64 {
        self.bytes_of_one().saturating_mul(u64::from(self.replicas.max(1)))
    }

    /// Bytes of all replicas together, if it was said how much they get.
    fn fixed(&self) -> Option<u64> {
        Some(self.memory?.saturating_mul(u64::from(self.replicas)))
    }

    /// Blocks for each replica out of so many bytes for all; None if they do not hold the longest sequence.
    fn blocks(&self, bytes: u64) -> Option<usize> {
        let affordable = bytes / u64::from(self.replicas.max(1)) / self.bytes_per_block.max(1);
        let affordable = usize::try_from(affordable).unwrap_or(usize::MAX);
        (affordable >= self.blocks_of_one()).then_some(affordable)
    }

    /// Blocks that can be of use while sequences run.
    fn most_blocks(&self) -> usize {
        self.blocks_of_one().saturating_mul(self.max_num_seqs)
    }
}

/// What a stage's KV caches get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheGrant {
    /// The stage.
    pub stage: String,
    /// Blocks of the cache of each replica.
    pub blocks: usize,
    /// Bytes of the caches of all replicas.
    pub bytes: u64,
}

/// A device has too little memory.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MemoryError {
    /// Less than what is there anyway.
    #[error("{device}: {needed} of memory are needed ({entries}) where {found}")]
    TooLittle {
        /// The device.
        device: String,
        /// What is needed.
        needed: Bytes,
        /// By name.
        entries: String,
        /// What there is.
        found: String,
    },
    /// KV caches are asked for that do not fit.
    #[error("{device}: KV caches of {asked} are asked for, and {left} are left for them ({account})")]
    CachesTooLarge {
        /// The device.
        device: String,
        /// What is asked for.
        asked: Bytes,
        /// What is left.
        left: Bytes,
        /// What there is, and what the rest is needed for.
        account: String,
    },
    /// What is left does not hold the KV cache of one sequence.
    #[error(
        "{device}: the {stage}'s KV cache of one sequence of {tokens} tokens takes {needed}, and {left} are left for it \
         ({account}); give a smaller --max-model-len{or_more}"
    )]
    CacheTooLarge {
        /// The device.
        device: String,
        /// The stage.
        stage: String,
        /// Tokens of the longest sequence.
        tokens: usize,
        /// What they take in all replicas.
        needed: Bytes,
        /// What is left for them.
        left: Bytes,
        /// What there is, and what the rest is needed for.
        account: String,
        /// What else may be done about it.
        or_more: &'static str,
    },
}

impl MemoryError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLittle { .. } => "too_little_memory",
            Self::CacheTooLarge { .. } | Self::CachesTooLarge { .. } => "kv_cache_too_large",
        }
    }
}

impl MemoryLedger {
    /// An account without entries.
    pub fn new(device: &str, memory: DeviceMemory) -> Self {
        Self {
            device: device.to_owned(),
            memory,
            entries: Vec::new(),
            in_files: 0,
            caches: Vec::new(),
            cache_memory: None,
        }
    }

    /// The device that it is the account of.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Enters what is needed whatever is served.
    pub fn claim(&mut self, what: &str, bytes: u64) {
        if bytes > 0 {
            self.entries.push((what.to_owned(), bytes));
        }
    }

    /// Enters weights that stay in files.
    pub fn map(&mut self, bytes: u64) {
        self.in_files += bytes;
    }

    /// Says how many bytes all caches get together.
    pub fn give_caches(&mut self, bytes: u64) {
        self.cache_memory = Some(bytes);
    }

    /// Enters caches, which get a part of what is left.
    pub fn claim_cache(&mut self, claim: CacheClaim) {
        self.caches.push(claim);
    }

    /// Divides what is left among the caches.
    pub fn settle(&self) -> Result<Vec<CacheGrant>, MemoryError> {
        let usable = self.memory.usable();
        let needed = self.entries.iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
        let left = usable.checked_sub(needed).ok_or_else(|| MemoryError::TooLittle {
            device: self.device.clone(),
            needed: Bytes(needed),
            entries: self.entry_list(),
            found: self.memory.to_string(),
        })?;
        let (usual, at_most) = self.shared_among_caches(left)?;
        let claims = || self.caches.iter().filter(|claim| claim.memory.is_none());
        let weights: f64 = claims().map(|claim| claim.weight).sum();
        let grant = |claim: &CacheClaim| {
            let fixed = claim.fixed();
            let part = |of: u64| (of as f64 * claim.weight / weights) as u64;
            // A share that does not hold one sequence is made larger rather than refused, as far as that is sensible.
            let bytes = fixed.unwrap_or_else(|| part(usual).max(claim.least().min(part(at_most))));
            let blocks = claim.blocks(bytes).ok_or_else(|| self.cache_too_large(claim, bytes))?;
            // What somebody asked for is given whole: what sequences do not need keeps prefixes.
            let said = fixed.or(self.cache_memory).is_some();
            let blocks = if said { blocks } else { blocks.min(claim.most_blocks()) };
            let bytes = blocks as u64 * claim.bytes_per_block * u64::from(claim.replicas.max(1));
            Ok(CacheGrant { stage: claim.stage.clone(), blocks, bytes })
        };
        self.caches.iter().map(grant).collect()
    }

    /// What those caches get together of which it was not said how much each gets: usually, and at most.
    fn shared_among_caches(&self, left: u64) -> Result<(u64, u64), MemoryError> {
        let fixed = self.caches.iter().filter_map(CacheClaim::fixed).fold(0, u64::saturating_add);
        let asked = self.cache_memory.unwrap_or(0).max(fixed);
        let room = self.cache_memory.map_or(left, |given| if fixed > given { given } else { left });
        if asked > room {
            return Err(MemoryError::CachesTooLarge {
                device: self.device.clone(),
                asked: Bytes(asked),
                left: Bytes(room),
                account: format!("{}; {}", self.memory, self.entry_list()),
            });
        }
        Ok(match self.cache_memory {
            Some(bytes) => (bytes.saturating_sub(fixed), bytes.saturating_sub(fixed)),
            None => {
                let share = |share: f64| ((left - fixed) as f64 * share) as u64;
                (share(self.memory.cache_share()), share(self.memory.cache_share_at_most()))
            }
        })
    }

    fn cache_too_large(&self, claim: &CacheClaim, left: u64) -> MemoryError {
        let or_more = match (claim.memory, self.cache_memory) {
            (Some(_), _) => " or more kv_cache_memory_bytes",
            (None, Some(_)) => " or more --kv-cache-memory",
            (None, None) => "",
        };
        MemoryError::CacheTooLarge {
            device: self.device.clone(),
            stage: claim.stage.clone(),
            tokens: claim.max_model_len,
            needed: Bytes(claim.least()),
            left: Bytes(left),
            account: format!("{}; {}", self.memory, self.entry_list()),
            or_more,
        }
    }

    /// The account in a line for the log.
    pub fn summary(&self, grants: &[CacheGrant]) -> String {
        let caches = grants.iter().map(|CacheGrant { stage, blocks, bytes }| {
            format!("; {stage} KV cache {} ({blocks} blocks a replica)", Bytes(*bytes))
        });
        let files = match self.in_files {
            0 => String::new(),
            bytes => format!("; weights mapped from files {}", Bytes(bytes)),
        };
        let (device, memory, entries) = (&self.device, self.memory, self.entry_list());
        format!("memory of {device}: {memory}; {entries}{files}{}", caches.collect::<String>())
    }

    fn entry_list(&self) -> String {
        if self.entries.is_empty() {
            return "nothing is taken".to_owned();
        }
        let entries = self.entries.iter().map(|(what, bytes)| format!("{what} {}", Bytes(*bytes)));
        entries.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn gpu(mebibytes: u64) -> MemoryLedger {
        let total = mebibytes * MIB;
        MemoryLedger::new(
            "cuda:0 (a GPU)",
            DeviceMemory::Gpu { total, free: total, held: 0, utilization: 1.0 },
        )
    }

    /// Sequences of 160 tokens, ten blocks of a mebibyte, of which four run at a time.
    fn claim(stage: &str, weight: f64) -> CacheClaim {
        CacheClaim {
            stage: stage.to_owned(),
            bytes_per_block: MIB,
            max_model_len: 160,
            max_num_seqs: 4,
            replicas: 1,
            weight,
            memory: None,
        }
    }

    #[test]
    fn caches_get_what_the_entries_leave_and_no_more_than_they_can_use() {
        let blocks = |mebibytes| {
            let mut ledger = gpu(mebibytes);
            ledger.claim("thinker weights", 100 * MIB);
            ledger.claim_cache(claim("thinker", 1.0));
            ledger.settle().map(|grants| grants[0].blocks)
        };
        assert_eq!(blocks(1000), Ok(40));
        assert_eq!(blocks(125), Ok(25));
        assert_eq!(blocks(110), Ok(10));
        let error = blocks(109).unwrap_err();
        assert_eq!(error.reason(), "kv_cache_too_large");
        let line = error.to_string();
        for part in
            ["cuda:0", "thinker", "160 tokens takes 10.0 MiB", "9.0 MiB are left", "weights 100.0 MiB"]
        {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named_with_what_was_found() {
        let mut ledger = gpu(100);
        ledger.claim("thinker weights", 90 * MIB);
        ledger.claim("thinker workspace", 11 * MIB);
        let error = ledger.settle().unwrap_err();
        assert_eq!(error.reason(), "too_little_memory");
        assert_eq!(
            error.to_string(),
            "cuda:0 (a GPU): 101.0 MiB of memory are needed (thinker weights 90.0 MiB, thinker workspace 11.0 MiB) where \
             100.0 MiB may be used (--gpu-memory-utilization 1 of 100.0 MiB, 100.0 MiB free)"
        );
    }

    #[test]
    fn the_rest_is_divided_by_weight_and_among_replicas() {
        let mut ledger = gpu(70);
        ledger.claim_cache(CacheClaim { replicas: 2, ..claim("thinker", 5.0) });
        ledger.claim_cache(claim("talker", 2.0));
        let grants = ledger.settle().unwrap();
        assert_eq!((grants[0].blocks, grants[0].bytes), (25, 50 * MIB));
        assert_eq!((grants[1].blocks, grants[1].bytes), (20, 20 * MIB));
    }

    #[test]
    fn what_is_asked_for_is_given_whole_or_not_at_all() {
        let settle = |mebibytes, thinker: Option<u64>| {
            let mut ledger = gpu(200);
            ledger.claim("thinker weights", 50 * MIB);
            ledger.give_caches(mebibytes * MIB);
            let memory = thinker.map(|mebibytes| mebibytes * MIB);
            ledger.claim_cache(CacheClaim { memory, replicas: 2, ..claim("thinker", 5.0) });
            ledger.claim_cache(claim("talker", 2.0));
            ledger.settle().map(|grants| [grants[0].blocks, grants[1].blocks])
        };
        assert_eq!(settle(140, None), Ok([50, 40]), "40 are all that four sequences need");
        assert_eq!(settle(140, Some(60)), Ok([60, 20]));
        let complaint = |result: Result<_, MemoryError>| result.unwrap_err().to_string();
        let line = complaint(settle(151, None));
        assert!(line.contains("KV caches of 151.0 MiB are asked for, and 150.0 MiB are left"), "{line}");
        let line = complaint(settle(30, None));
        assert!(line.contains("or more --kv-cache-memory"), "{line}");
        let line = complaint(settle(100, Some(60)));
        assert!(line.contains("KV caches of 120.0 MiB are asked for, and 100.0 MiB are left"), "{line}");
        let line = complaint(settle(140, Some(9)));
        assert!(line.contains("thinker's") && line.contains("or more kv_cache_memory_bytes"), "{line}");
    }

    #[test]
    fn beside_a_processor_most_of_the_rest_is_left_to_the_system() {
        let mut ledger = MemoryLedger::new("cpu", DeviceMemory::Process { free: 120 * MIB });
        ledger.claim("talker workspace", 20 * MIB);
        // More than there is: it stays in files.
        ledger.map(1000 * MIB);
        ledger.claim_cache(claim("thinker", 1.0));
        let grants = ledger.settle().unwrap();
        assert_eq!(grants[0].blocks, 35);
        // One sequence of 800 tokens takes half of what is left, one of 1,600 would take all of it.
        let longest = |max_model_len| {
            let mut ledger = MemoryLedger { caches: Vec::new(), ..ledger.clone() };
            ledger.claim_cache(CacheClaim { max_model_len, ..claim("thinker", 1.0) });
            ledger.settle().map(|grants| grants[0].blocks).ok()
        };
        assert_eq!((longest(800), longest(1600)), (Some(50), None));
        let line = ledger.summary(&grants);
        for part in [
            "memory of cpu: 120.0 MiB are free",
            "talker workspace 20.0 MiB",
            "files 1000.0 MiB",
            "35 blocks",
        ] {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
    }
}
