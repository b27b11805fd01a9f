//! The gauges of a replica's scheduler.

use prometheus::Gauge;

use crate::metrics::definitions::{engine, labels};
use crate::metrics::families::{Catalogue, Family, ReplicaLabels};
use crate::metrics::{MetricsError, SchedulerSnapshot};

/// The families that show what schedulers hold now.
#[derive(Debug)]
pub struct SchedulerFamilies {
    /// Sequences in the batch.
    running: Family<Gauge>,
    /// Sequences waiting, for whatever reason.
    waiting: Family<Gauge>,
    /// Sequences waiting, by reason.
    waiting_by_reason: Family<Gauge>,
    /// Part of the KV-cache blocks in use.
    kv_cache_usage: Family<Gauge>,
    /// Whether an engine sleeps.
    sleep_state: Family<Gauge>,
}

/// The gauges of one replica. They exist while the replica does.
#[derive(Debug)]
pub struct SchedulerGauges {
    /// Sequences in the batch.
    running: Gauge,
    /// Sequences waiting, for whatever reason.
    waiting: Gauge,
    /// Those that wait for capacity.
    waiting_for_capacity: Gauge,
    /// Those that wait for something else.
    waiting_deferred: Gauge,
    /// Part of the KV-cache blocks in use, in [0, 1].
    kv_cache_usage: Gauge,
}

impl SchedulerFamilies {
    /// Registers the families.
    pub fn register(catalogue: &mut Catalogue) -> Result<Self, MetricsError> {
        Ok(Self {
            running: catalogue.register(&engine::REQUESTS_RUNNING)?,
            waiting: catalogue.register(&engine::REQUESTS_WAITING)?,
            waiting_by_reason: catalogue.register(&engine::REQUESTS_WAITING_BY_REASON)?,
            kv_cache_usage: catalogue.register(&engine::KV_CACHE_USAGE)?,
            sleep_state: catalogue.register(&engine::ENGINE_SLEEP_STATE)?,
        })
    }

    /// The gauges of a replica, at zero if it had none.
    pub fn gauges(&self, replica: &ReplicaLabels) -> Result<SchedulerGauges, MetricsError> {
        let by_reason = |reason| self.waiting_by_reason.series(&replica.and(reason));
        Ok(SchedulerGauges {
            running: self.running.series(&replica.values())?,
            waiting: self.waiting.series(&replica.values())?,
            waiting_for_capacity: by_reason(labels::WAITING_CAPACITY)?,
            waiting_deferred: by_reason(labels::WAITING_DEFERRED)?,
            kv_cache_usage: self.kv_cache_usage.series(&replica.values())?,
        })
    }

    /// Shows that a replica, which lives, is awake.
    pub fn show_awake(&self, replica: &ReplicaLabels) -> Result<(), MetricsError> {
        self.sleep_state.create_known(&replica.values())?;
        self.sleep_state.series(&replica.and(labels::AWAKE))?.set(1.0);
        Ok(())
    }

    /// Takes the gauges of a replica off the page: of a replica that is gone, any value would be a lie.
    pub fn remove(&self, replica: &ReplicaLabels) {
        for family in [&self.running, &self.waiting, &self.kv_cache_usage] {
            family.remove(&replica.values());
        }
        for reason in labels::WAITING_REASON.known {
            self.waiting_by_reason.remove(&replica.and(reason));
        }
        for state in labels::SLEEP_STATE.known {
            self.sleep_state.remove(&replica.and(state));
        }
    }
}

impl SchedulerGauges {
    /// Shows these values.
    pub fn set(&self, snapshot: &SchedulerSnapshot) {
        let SchedulerSnapshot { running, waiting_for_capacity, waiting_deferred, kv_cache_usage } = *snapshot;
        self.running.set(running as f64);
        self.waiting.set(waiting_for_capacity.saturating_add(waiting_deferred) as f64);
        self.waiting_for_capacity.set(waiting_for_capacity as f64);
        self.waiting_deferred.set(waiting_deferred as f64);
        self.kv_cache_usage.set(kv_cache_usage);
    }
}
