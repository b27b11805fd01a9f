//! Handles to the families of stages and their replicas.

use prometheus::{Counter, Gauge, Histogram};

use super::steps::observe_measured;
use crate::metrics::definitions::{labels, stage};
use crate::metrics::families::{Catalogue, Family, ReplicaLabels};
use crate::metrics::{MetricsError, ReplicaLoad, StageDescription, StageTimes};

/// The families of stages.
#[derive(Debug)]
pub struct StageFamilies {
    /// Requests that wait in a stage.
    waiting: Family<Gauge>,
    /// Requests that wait at a replica.
    queue_depth: Family<Gauge>,
    /// Requests that a replica holds.
    in_flight: Family<Gauge>,
    /// Seconds that requests wait in a stage.
    in_queue: Family<Histogram>,
    /// Seconds that a stage works on requests.
    generation_time: Family<Histogram>,
    /// Whether a replica lives.
    up: Family<Gauge>,
    /// Lives that ended, by reason.
    restarts: Family<Counter>,
}

/// The series of one stage.
#[derive(Debug)]
pub struct StageSeries {
    /// Requests that wait in it.
    pub waiting: Gauge,
    /// Seconds that requests wait in it.
    in_queue: Histogram,
    /// Seconds that it works on requests.
    generation_time: Histogram,
}

/// What one replica holds. The gauges exist while the replica does.
#[derive(Debug)]
pub struct LoadGauges {
    /// Requests that wait.
    queue_depth: Gauge,
    /// All requests.
    in_flight: Gauge,
}

impl StageFamilies {
    /// Registers the families of [`stage::ALL`].
    pub fn register(catalogue: &mut Catalogue) -> Result<Self, MetricsError> {
        Ok(Self {
            waiting: catalogue.register(&stage::WAITING_REQUESTS)?,
            queue_depth: catalogue.register(&stage::QUEUE_DEPTH)?,
            in_flight: catalogue.register(&stage::IN_FLIGHT)?,
            in_queue: catalogue.register(&stage::IN_QUEUE)?,
            generation_time: catalogue.register(&stage::GENERATION_TIME)?,
            up: catalogue.register(&stage::REPLICA_UP)?,
            restarts: catalogue.register(&stage::REPLICA_RESTARTS)?,
        })
    }

    /// The series of a stage.
    pub fn series(&self, description: &StageDescription) -> Result<StageSeries, MetricsError> {
        let stage = description.stage.to_string();
        Ok(StageSeries {
            waiting: self.waiting.series(&[&stage])?,
            in_queue: self.in_queue.series(&[&stage])?,
            generation_time: self.generation_time.series(&[&stage, stage_type(description)])?,
        })
    }

    /// The gauges of a replica, at zero if it had none.
    pub fn gauges(&self, replica: &ReplicaLabels) -> Result<LoadGauges, MetricsError> {
        Ok(LoadGauges {
            queue_depth: self.queue_depth.series(&replica.values())?,
            in_flight: self.in_flight.series(&replica.values())?,
        })
    }

    /// Takes the gauges of a replica off the page, but for the one that says whether it lives.
    pub fn remove(&self, replica: &ReplicaLabels) {
        self.queue_depth.remove(&replica.values());
        self.in_flight.remove(&replica.values());
    }

    /// Shows whether a replica lives.
    pub fn show_life(&self, replica: &ReplicaLabels, lives: bool) -> Result<(), MetricsError> {
        self.up.series(&replica.values())?.set(f64::from(u8::from(lives)));
        Ok(())
    }

    /// Creates the series of a replica's restarts, at zero for all reasons that are known.
    pub fn create_restarts(&self, replica: &ReplicaLabels) -> Result<(), MetricsError> {
        self.restarts.create_known(&replica.values())
    }

    /// A life of a replica ended, and it is started anew.
    pub fn restart(&self, replica: &ReplicaLabels, reason: &str) -> Result<(), MetricsError> {
        self.restarts.series(&replica.and(reason))?.inc();
        Ok(())
    }
}

impl StageSeries {
    /// Takes in a request that the stage is done with.
    pub fn observe(&self, times: &StageTimes) {
        observe_measured(&self.in_queue, times.queue_seconds);
        observe_measured(&self.generation_time, times.work_seconds);
    }
}

impl LoadGauges {
    /// Shows what the replica holds.
    pub fn set(&self, load: ReplicaLoad) {
        self.queue_depth.set(load.waiting as f64);
        self.in_flight.set(load.in_flight as f64);
    }
}

/// How a stage works, as the label has it.
fn stage_type(description: &StageDescription) -> &'static str {
    match description {
        StageDescription { diffusion: true, .. } => labels::STAGE_TYPE_DIFFUSION,
        StageDescription { max_model_len: Some(_), .. } => labels::STAGE_TYPE_LLM,
        _ => labels::STAGE_TYPE_OTHER,
    }
}
