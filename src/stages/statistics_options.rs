//! What is counted, as far as it can be chosen.

use crate::models::qwen3::DecodeTraffic;

/// What the stages of a server count.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StatisticsOptions {
    /// Whether anything is.
    pub kept: bool,
    /// Which share of the blocks of KV caches is watched; none with `None`.
    pub kv_block_share: Option<f64>,
    /// Whether the work of steps is estimated.
    pub work: bool,
}

/// What one engine stage counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineStatisticsOptions {
    /// Whether anything is.
    pub kept: bool,
    /// Which share of the blocks of its KV cache is watched; none with `None`.
    pub kv_block_share: Option<f64>,
    /// What its work depends on, if that is estimated.
    pub work: Option<DecodeTraffic>,
}

impl StatisticsOptions {
    /// The same for an engine with this decoder.
    pub fn of_engine(self, work: impl FnOnce() -> DecodeTraffic) -> EngineStatisticsOptions {
        EngineStatisticsOptions {
            kept: self.kept,
            kv_block_share: self.kv_block_share.filter(|_| self.kept),
            work: (self.kept && self.work).then(work),
        }
    }
}

impl From<bool> for StatisticsOptions {
    fn from(kept: bool) -> Self {
        Self { kept, ..Self::default() }
    }
}

impl From<bool> for EngineStatisticsOptions {
    fn from(kept: bool) -> Self {
        Self { kept, ..Self::default() }
    }
}
