//! What a custom stage is told when it is built.

use crate::config::StageDeploy;
use crate::ids::StageId;
use crate::metrics::labelled::FamilyError;
use crate::metrics::{CounterFamily, GaugeFamily, HistogramFamily, Recorder};
use crate::stages::StageError;

/// What one life of a replica of a custom stage is told: where it stands, and where it counts.
#[derive(Debug)]
pub struct StageContext {
    pub(super) stage: StageId,
    pub(super) deploy: StageDeploy,
    pub(super) recorder: Recorder,
}

impl StageContext {
    /// The place of the stage in the pipeline, counted from 0: its `stage_id`.
    pub fn stage(&self) -> StageId {
        self.stage
    }

    /// How many replicas serve the stage. Each is built by itself.
    pub fn replicas(&self) -> u16 {
        self.deploy.num_replicas
    }

    /// What the deploy file says of the stage beside its settings: device, bounds of its steps, sampling.
    pub fn deploy(&self) -> &StageDeploy {
        &self.deploy
    }

    /// Whether statistics are kept. If not, counting does nothing and costs nothing.
    pub fn statistics(&self) -> bool {
        self.recorder.is_on()
    }

    /// A family of sums that the stage declares, with as many label values as it declares labels.
    pub fn counter<const LABELS: usize>(&self, name: &str) -> Result<CounterFamily<LABELS>, StageError> {
        Ok(self.recorder.counter(name)?)
    }

    /// The same for gauges.
    pub fn gauge<const LABELS: usize>(&self, name: &str) -> Result<GaugeFamily<LABELS>, StageError> {
        Ok(self.recorder.gauge(name)?)
    }

    /// The same for histograms.
    pub fn histogram<const LABELS: usize>(&self, name: &str) -> Result<HistogramFamily<LABELS>, StageError> {
        Ok(self.recorder.histogram(name)?)
    }
}

impl From<FamilyError> for StageError {
    fn from(error: FamilyError) -> Self {
        Self::Failed(error.to_string())
    }
}
