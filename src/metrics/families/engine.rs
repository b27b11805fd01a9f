//! The families of engine stages together, and the series of one replica.

use prometheus::{Counter, Histogram};

use crate::ids::{ReplicaId, StageId};
use crate::metrics::definitions::engine;
use crate::metrics::families::{
    CacheFamilies, CacheSeries, Catalogue, Family, RequestHistograms, SchedulerFamilies, StepHistograms,
    TotalsCounters, TotalsFamilies,
};
use crate::metrics::{BlockResidency, EngineTotals, FinishedRequest, MetricsError, TokenSample};

/// The families of engine stages. A pipeline without an engine stage does not have them.
#[derive(Debug)]
pub struct EngineFamilies {
    /// What the schedulers hold now.
    pub scheduler: SchedulerFamilies,
    /// What has been counted.
    totals: TotalsFamilies,
    /// What is sampled in steps.
    steps: StepHistograms<Family<Histogram>>,
    /// Requests that ended in a replica, by finished reason.
    success: Family<Counter>,
    /// What is sampled per request.
    requests: RequestHistograms<Family<Histogram>>,
    /// What is told of KV caches.
    pub cache: CacheFamilies,
}

/// The values of the labels `stage` and `replica`.
#[derive(Debug, Clone)]
pub struct ReplicaLabels {
    /// Index of the stage, decimal.
    stage: String,
    /// Index of the replica, decimal.
    replica: String,
}

/// The counters and histograms of one replica. They stay when it is gone and go on when its id is used again.
#[derive(Debug)]
pub struct ReplicaSeries {
    /// Whose they are.
    labels: ReplicaLabels,
    /// What has been counted.
    totals: TotalsCounters,
    /// What is sampled in steps.
    steps: StepHistograms<Histogram>,
    /// Requests that ended, by finished reason; all replicas'.
    success: Family<Counter>,
    /// What is sampled per request.
    requests: RequestHistograms<Histogram>,
    /// What is told of its KV cache.
    cache: CacheSeries,
}

impl EngineFamilies {
    /// Registers the families of [`engine::ALL`] and of KV caches; with `sampled_blocks` those of sampled blocks, too.
    pub fn register(catalogue: &mut Catalogue, sampled_blocks: bool) -> Result<Self, MetricsError> {
        Ok(Self {
            scheduler: SchedulerFamilies::register(catalogue)?,
            totals: TotalsFamilies::register(catalogue)?,
            steps: StepHistograms::register(catalogue)?,
            success: catalogue.register(&engine::REQUEST_SUCCESS)?,
            requests: RequestHistograms::register(catalogue)?,
            cache: CacheFamilies::register(catalogue, sampled_blocks)?,
        })
    }

    /// The series of a replica of a stage with this `max_model_len`, at zero if it had none.
    pub fn series(&self, labels: ReplicaLabels, max_model_len: u64) -> Result<ReplicaSeries, MetricsError> {
        self.success.create_known(&labels.values())?;
        Ok(ReplicaSeries {
            totals: self.totals.counters(&labels)?,
            steps: self.steps.series(&labels)?,
            success: self.success.clone(),
            requests: self.requests.series(&labels, max_model_len)?,
            cache: self.cache.series(&labels)?,
            labels,
        })
    }
}

impl ReplicaLabels {
    /// The labels of this replica.
    pub fn new(stage: StageId, replica: ReplicaId) -> Self {
        Self { stage: stage.to_string(), replica: replica.to_string() }
    }

    /// The values, for families without a further label.
    pub fn values(&self) -> [&str; 2] {
        [&self.stage, &self.replica]
    }

    /// The values with that of a further label.
    pub fn and<'a>(&'a self, value: &'a str) -> [&'a str; 3] {
        [&self.stage, &self.replica, value]
    }
}

impl ReplicaSeries {
    /// Adds what was counted since totals were last added.
    pub fn add(&self, difference: &EngineTotals) {
        self.totals.add(difference);
        self.cache.add(difference);
    }

    /// Takes a sample of a step in.
    pub fn observe(&self, sample: TokenSample) {
        self.steps.observe(sample);
    }

    /// Takes a sampled block in whose content was given up.
    pub fn give_up(&self, block: &BlockResidency) {
        self.cache.observe(block);
    }

    /// Takes a request in that ended in the replica.
    pub fn finish(&self, request: &FinishedRequest) -> Result<(), MetricsError> {
        self.success.series(&self.labels.and(request.reason.as_str()))?.inc();
        self.requests.observe(request);
        Ok(())
    }
}
