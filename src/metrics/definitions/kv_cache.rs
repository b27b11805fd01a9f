//! Families of the KV cache of an engine replica: how it is set up, and what other caches there could be beside it.

use super::labels::{
    BLOCK_SIZE, ENABLE_PREFIX_CACHING, KV_CACHE_SIZE_TOKENS, Label, MODEL_NAME, NUM_GPU_BLOCKS, REPLICA,
    STAGE,
};
use super::{Definition, Kind, Namespace, Unit, buckets};

const ENGINE: &[Label] = &[MODEL_NAME, STAGE, REPLICA];

const CONFIG: &[Label] =
    &[MODEL_NAME, STAGE, REPLICA, BLOCK_SIZE, NUM_GPU_BLOCKS, KV_CACHE_SIZE_TOKENS, ENABLE_PREFIX_CACHING];

/// `cache_config_info`
pub const CONFIG_INFO: Definition = Definition {
    suffix: "cache_config_info",
    namespace: Namespace::Engine,
    kind: Kind::Gauge,
    help: "How the KV cache of the replica is set up; always 1.",
    unit: Unit::State,
    labels: CONFIG,
    moves: "a life of the replica reports for the first time",
};

/// `external_prefix_cache_queries_total`
pub const EXTERNAL_QUERIES: Definition = Definition {
    suffix: "external_prefix_cache_queries_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Tokens looked up in caches outside the replica; there are none, so it stays 0.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "never: replicas keep keys and values for themselves",
};

/// `external_prefix_cache_hits_total`
pub const EXTERNAL_HITS: Definition = Definition {
    suffix: "external_prefix_cache_hits_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Tokens found in caches outside the replica; there are none, so it stays 0.",
    unit: Unit::Tokens,
    labels: ENGINE,
    moves: "never: replicas keep keys and values for themselves",
};

/// `mm_cache_queries_total`
pub const MEDIA_QUERIES: Definition = Definition {
    suffix: "mm_cache_queries_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Images, sounds and films looked up in the cache of what was made of them.",
    unit: Unit::Items,
    labels: ENGINE,
    moves: "a request with media is taken; 0 while the model takes none",
};

/// `mm_cache_hits_total`
pub const MEDIA_HITS: Definition = Definition {
    suffix: "mm_cache_hits_total",
    namespace: Namespace::Engine,
    kind: Kind::Counter,
    help: "Images, sounds and films found there.",
    unit: Unit::Items,
    labels: ENGINE,
    moves: "a request with media is taken; 0 while the model takes none",
};

/// Every family of KV caches that all engines have, in the order of `/metrics`.
pub const ALL: &[&Definition] =
    &[&CONFIG_INFO, &EXTERNAL_QUERIES, &EXTERNAL_HITS, &MEDIA_QUERIES, &MEDIA_HITS];

/// `kv_block_lifetime_seconds`
pub const BLOCK_LIFETIME: Definition = Definition {
    suffix: "kv_block_lifetime_seconds",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::RESIDENCY),
    help: "Seconds from handing a sampled KV-cache block out to giving its content up.",
    unit: Unit::Seconds,
    labels: ENGINE,
    moves: "the place of a sampled block is taken",
};

/// `kv_block_idle_before_evict_seconds`
pub const BLOCK_IDLE: Definition = Definition {
    suffix: "kv_block_idle_before_evict_seconds",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::RESIDENCY),
    help: "Seconds from the release of a sampled KV-cache block by its last holder to giving its content up.",
    unit: Unit::Seconds,
    labels: ENGINE,
    moves: "the place of a sampled block is taken",
};

/// `kv_block_reuse_gap_seconds`
pub const BLOCK_REUSE_GAP: Definition = Definition {
    suffix: "kv_block_reuse_gap_seconds",
    namespace: Namespace::Engine,
    kind: Kind::Histogram(buckets::RESIDENCY),
    help: "Seconds between two requests taking up the content of a sampled KV-cache block, of the last four that did.",
    unit: Unit::Seconds,
    labels: ENGINE,
    moves: "the place of a sampled block is taken",
};

/// Families of sampled blocks, in the order of `/metrics`. They exist with `--kv-cache-metrics`.
pub const SAMPLED: &[&Definition] = &[&BLOCK_LIFETIME, &BLOCK_IDLE, &BLOCK_REUSE_GAP];
