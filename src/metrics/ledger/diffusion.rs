//! What stages that make images tell of the requests that they are done with.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{ReplicaId, ReplicaKey, StageId};
use crate::metrics::families::{DiffusionFamilies, DiffusionSeries, ReplicaLabels};
use crate::metrics::{DiffusedRequest, MetricsError, StageDescription};

/// The images of a pipeline, by the replica that made them.
#[derive(Debug)]
pub struct DiffusionLedger {
    /// Where they are shown.
    families: DiffusionFamilies,
    /// The stages that make images.
    stages: BTreeSet<StageId>,
    /// The series of the replicas that are known.
    replicas: BTreeMap<(StageId, ReplicaId), DiffusionSeries>,
}

impl DiffusionLedger {
    /// A ledger with the series of all replicas that make images at zero.
    pub fn new(families: DiffusionFamilies, stages: &[StageDescription]) -> Result<Self, MetricsError> {
        let mut ledger = Self { families, stages: BTreeSet::new(), replicas: BTreeMap::new() };
        for stage in stages.iter().filter(|stage| stage.diffusion) {
            ledger.stages.insert(stage.stage);
            for replica in 0..stage.replicas {
                ledger.series(stage.stage, ReplicaId(replica))?;
            }
        }
        Ok(ledger)
    }

    /// Takes in the requests that a replica is done with; nothing of a stage that makes no images.
    pub fn observe(&mut self, replica: ReplicaKey, requests: &[DiffusedRequest]) -> Result<(), MetricsError> {
        if self.stages.contains(&replica.stage) {
            let series = self.series(replica.stage, replica.replica)?;
            requests.iter().for_each(|request| series.observe(request));
        }
        Ok(())
    }

    /// The series of a replica, created when it is first heard of.
    fn series(&mut self, stage: StageId, replica: ReplicaId) -> Result<&DiffusionSeries, MetricsError> {
        match self.replicas.entry((stage, replica)) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => Ok(new.insert(self.families.series(&ReplicaLabels::new(stage, replica))?)),
        }
    }
}
