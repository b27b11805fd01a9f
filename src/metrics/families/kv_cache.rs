//! Handles to the families of KV caches and of the work of engines, and the series of one replica.

use prometheus::{Counter, Gauge, Histogram};

use super::steps::observe_measured;
use crate::metrics::definitions::{kv_cache, work};
use crate::metrics::families::{Catalogue, Family, ReplicaLabels};
use crate::metrics::{BlockResidency, CacheConfiguration, EngineTotals, MetricsError};

/// The families of KV caches.
#[derive(Debug)]
pub struct CacheFamilies {
    /// How a cache is set up.
    configuration: Family<Gauge>,
    /// Counters that no event moves: no cache is shared with other replicas.
    external: [Family<Counter>; 2],
    /// Media looked up and found.
    media: [Family<Counter>; 2],
    /// Operations, bytes read and bytes written.
    work: [Family<Counter>; 3],
    /// Sampled blocks; `None` where none is sampled.
    blocks: Option<BlockHistograms<Family<Histogram>>>,
}

/// The counters and histograms of one replica.
#[derive(Debug)]
pub struct CacheSeries {
    media: [Counter; 2],
    work: [Counter; 3],
    blocks: Option<BlockHistograms<Histogram>>,
}

/// What is told of sampled blocks.
#[derive(Debug)]
struct BlockHistograms<H> {
    /// Seconds from being handed out to the end of the content.
    lifetime: H,
    /// Seconds from the last release to the end of the content.
    idle: H,
    /// Seconds between two that took the content up.
    reuse_gap: H,
}

impl CacheFamilies {
    /// Registers the families of [`kv_cache::ALL`] and [`work::ALL`], and with `sampled` those of
    /// [`kv_cache::SAMPLED`].
    pub fn register(catalogue: &mut Catalogue, sampled: bool) -> Result<Self, MetricsError> {
        Ok(Self {
            configuration: catalogue.register(&kv_cache::CONFIG_INFO)?,
            external: [
                catalogue.register(&kv_cache::EXTERNAL_QUERIES)?,
                catalogue.register(&kv_cache::EXTERNAL_HITS)?,
            ],
            media: [
                catalogue.register(&kv_cache::MEDIA_QUERIES)?,
                catalogue.register(&kv_cache::MEDIA_HITS)?,
            ],
            work: [
                catalogue.register(&work::FLOPS)?,
                catalogue.register(&work::READ_BYTES)?,
                catalogue.register(&work::WRITE_BYTES)?,
            ],
            blocks: match sampled {
                true => Some(BlockHistograms {
                    lifetime: catalogue.register(&kv_cache::BLOCK_LIFETIME)?,
                    idle: catalogue.register(&kv_cache::BLOCK_IDLE)?,
                    reuse_gap: catalogue.register(&kv_cache::BLOCK_REUSE_GAP)?,
                }),
                false => None,
            },
        })
    }

    /// The series of a replica, at zero if it had none.
    pub fn series(&self, replica: &ReplicaLabels) -> Result<CacheSeries, MetricsError> {
        for family in &self.external {
            family.series(&replica.values())?;
        }
        let counter = |family: &Family<Counter>| family.series(&replica.values());
        let histogram = |family: &Family<Histogram>| family.series(&replica.values());
        let [queries, hits] = &self.media;
        let [operations, read_bytes, write_bytes] = &self.work;
        Ok(CacheSeries {
            media: [counter(queries)?, counter(hits)?],
            work: [counter(operations)?, counter(read_bytes)?, counter(write_bytes)?],
            blocks: match &self.blocks {
                Some(blocks) => Some(BlockHistograms {
                    lifetime: histogram(&blocks.lifetime)?,
                    idle: histogram(&blocks.idle)?,
                    reuse_gap: histogram(&blocks.reuse_gap)?,
                }),
                None => None,
            },
        })
    }

    /// Shows how the cache of a replica is set up.
    pub fn show(
        &self,
        replica: &ReplicaLabels,
        configuration: &CacheConfiguration,
    ) -> Result<(), MetricsError> {
        let series = self.with_labels(replica, configuration, |labels| self.configuration.series(labels))?;
        series.set(1.0);
        Ok(())
    }

    /// Takes that off the page.
    pub fn remove(&self, replica: &ReplicaLabels, configuration: &CacheConfiguration) {
        self.with_labels(replica, configuration, |labels| self.configuration.remove(labels));
    }

    fn with_labels<T>(
        &self,
        replica: &ReplicaLabels,
        configuration: &CacheConfiguration,
        use_labels: impl FnOnce(&[&str]) -> T,
    ) -> T {
        let CacheConfiguration { block_size, blocks, prefix_caching } = *configuration;
        let [stage, replica] = replica.values();
        let tokens = block_size.saturating_mul(blocks).to_string();
        // As Python writes it, for the queries that there are.
        let prefix_caching = if prefix_caching { "True" } else { "False" };
        use_labels(&[stage, replica, &block_size.to_string(), &blocks.to_string(), &tokens, prefix_caching])
    }
}

impl CacheSeries {
    /// Adds what was counted since totals were last added.
    pub fn add(&self, difference: &EngineTotals) {
        let [queries, hits] = &self.media;
        queries.inc_by(difference.media_cache_queries as f64);
        hits.inc_by(difference.media_cache_hits as f64);
        let [operations, read_bytes, write_bytes] = &self.work;
        operations.inc_by(difference.work.operations);
        read_bytes.inc_by(difference.work.read_bytes);
        write_bytes.inc_by(difference.work.write_bytes);
    }

    /// Takes in a sampled block whose content was given up.
    pub fn observe(&self, block: &BlockResidency) {
        let Some(blocks) = &self.blocks else { return };
        observe_measured(&blocks.lifetime, block.lifetime_seconds);
        observe_measured(&blocks.idle, block.idle_seconds);
        for gap in &block.reuse_gap_seconds {
            observe_measured(&blocks.reuse_gap, *gap);
        }
    }
}
