//! What came over the edges between replicas.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use prometheus::Histogram;

use crate::ids::{ReplicaId, ReplicaKey, StageId};
use crate::metrics::families::{Family, ReplicaLabels, TransferHistograms};
use crate::metrics::{FirstEvents, MetricsError, StageDescription, TransferSample};

/// The transfers of a pipeline, by edge.
#[derive(Debug)]
pub struct TransferLedger {
    /// Where they are shown.
    families: TransferHistograms<Family<Histogram>>,
    /// The histograms of the edges that are known.
    edges: BTreeMap<Edge, TransferHistograms<Histogram>>,
}

/// A sending and a receiving replica.
type Edge = [(StageId, ReplicaId); 2];

impl TransferLedger {
    /// A ledger with the series of all edges at zero: from every replica of a stage to every one of the next.
    pub fn new(
        families: TransferHistograms<Family<Histogram>>,
        stages: &[StageDescription],
    ) -> Result<Self, MetricsError> {
        let mut ledger = Self { families, edges: BTreeMap::new() };
        for (sender, receiver) in stages.iter().zip(stages.iter().skip(1)) {
            for from in replicas(sender) {
                for to in replicas(receiver) {
                    ledger.edge([from, to])?;
                }
            }
        }
        Ok(ledger)
    }

    /// Takes in a chunk that came over the edge between two replicas.
    pub fn observe(
        &mut self,
        from: ReplicaKey,
        to: ReplicaKey,
        sample: &TransferSample,
    ) -> Result<(), MetricsError> {
        self.edge([from, to].map(|key| (key.stage, key.replica)))?.observe(sample);
        Ok(())
    }

    /// Takes in when the first chunk of a request between two replicas came how far.
    pub fn observe_first(
        &mut self,
        from: ReplicaKey,
        to: ReplicaKey,
        events: &FirstEvents,
    ) -> Result<(), MetricsError> {
        self.edge([from, to].map(|key| (key.stage, key.replica)))?.observe_first(events);
        Ok(())
    }

    /// The histograms of an edge, created when it is first heard of.
    fn edge(&mut self, edge: Edge) -> Result<&TransferHistograms<Histogram>, MetricsError> {
        match self.edges.entry(edge) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let [from, to] = edge.map(|(stage, replica)| ReplicaLabels::new(stage, replica));
                Ok(new.insert(self.families.series(&from, &to)?))
            }
        }
    }
}

/// The replicas of a stage.
fn replicas(stage: &StageDescription) -> impl Iterator<Item = (StageId, ReplicaId)> {
    let id = stage.stage;
    (0..stage.replicas).map(move |replica| (id, ReplicaId(replica)))
}
