//! What spoken answers tell of the replicas that made them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{ReplicaId, ReplicaKey, StageId};
use crate::metrics::families::{AudioFamilies, AudioSeries, ReplicaLabels};
use crate::metrics::{DeliveredAudio, MetricsError, StageDescription, StageTimes};

/// The audio of a pipeline, by the replica that made it.
#[derive(Debug)]
pub struct AudioLedger {
    /// Where it is shown.
    families: AudioFamilies,
    /// The stages that make audio.
    stages: BTreeSet<StageId>,
    /// The series of the replicas that are known.
    replicas: BTreeMap<(StageId, ReplicaId), AudioSeries>,
}

impl AudioLedger {
    /// A ledger with the series of all replicas that make audio at zero.
    pub fn new(families: AudioFamilies, stages: &[StageDescription]) -> Result<Self, MetricsError> {
        let mut ledger = Self { families, stages: BTreeSet::new(), replicas: BTreeMap::new() };
        for stage in stages.iter().filter(|stage| stage.makes_audio) {
            ledger.stages.insert(stage.stage);
            for replica in 0..stage.replicas {
                ledger.series(stage.stage, ReplicaId(replica))?;
            }
        }
        Ok(ledger)
    }

    /// Whether `stage` makes audio.
    pub fn is_made_by(&self, stage: StageId) -> bool {
        self.stages.contains(&stage)
    }

    /// Takes in what a request got from a replica.
    pub fn deliver(&mut self, replica: ReplicaKey, audio: &DeliveredAudio) -> Result<(), MetricsError> {
        self.series(replica.stage, replica.replica)?.observe(audio);
        Ok(())
    }

    /// Takes in a request that a replica which makes audio is done with.
    pub fn stage_done(&mut self, replica: ReplicaKey, times: &StageTimes) -> Result<(), MetricsError> {
        self.series(replica.stage, replica.replica)?.observe_stage(times);
        Ok(())
    }

    /// The series of a replica, created when it is first heard of.
    fn series(&mut self, stage: StageId, replica: ReplicaId) -> Result<&AudioSeries, MetricsError> {
        match self.replicas.entry((stage, replica)) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => Ok(new.insert(self.families.series(&ReplicaLabels::new(stage, replica))?)),
        }
    }
}
