//! What stages and their replicas hold, how long they take, and whether they are there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

use super::presence::Presence;
use super::publication::Publication;
use crate::ids::{ReplicaId, ReplicaKey, StageId};
use crate::metrics::definitions::labels;
use crate::metrics::families::{LoadGauges, ReplicaLabels, StageFamilies, StageSeries};
use crate::metrics::{MetricsError, ReplicaLoad, ReplicaReport, StageDescription};

/// The stages of a pipeline and their replicas.
#[derive(Debug)]
pub struct StageLedger {
    /// Where it is shown.
    families: StageFamilies,
    /// The stages.
    stages: BTreeMap<StageId, StageSeries>,
    /// The replicas that are known.
    replicas: BTreeMap<(StageId, ReplicaId), Replica>,
}

/// One replica.
#[derive(Debug)]
struct Replica {
    /// What it is on the page.
    labels: ReplicaLabels,
    /// Which life is present.
    presence: Presence,
    /// When its load is shown.
    publication: Publication<ReplicaLoad>,
    /// The load that is shown.
    load: ReplicaLoad,
    /// Where; `None` while the replica does not live.
    gauges: Option<LoadGauges>,
}

impl StageLedger {
    /// A ledger with the series of all stages and replicas at zero.
    pub fn new(families: StageFamilies, stages: &[StageDescription]) -> Result<Self, MetricsError> {
        let mut ledger = Self { families, stages: BTreeMap::new(), replicas: BTreeMap::new() };
        for stage in stages {
            ledger.stages.insert(stage.stage, ledger.families.series(stage)?);
            for replica in (0..stage.replicas).map(ReplicaId) {
                ledger.replica(stage.stage, replica)?;
            }
        }
        Ok(ledger)
    }

    /// Statistics are kept: shows that no replica lives yet.
    pub fn show_lives(&self) -> Result<(), MetricsError> {
        self.replicas.values().try_for_each(|replica| self.families.show_life(&replica.labels, false))
    }

    /// A life of a replica began.
    pub fn begin(&mut self, key: ReplicaKey) -> Result<(), MetricsError> {
        let (replica, families) = self.replica(key.stage, key.replica)?;
        if replica.presence.begins(key.epoch) {
            let gauges = families.gauges(&replica.labels)?;
            gauges.set(ReplicaLoad::default());
            families.show_life(&replica.labels, true)?;
            replica.gauges = Some(gauges);
            self.show(key, Some(ReplicaLoad::default()));
        }
        Ok(())
    }

    /// A life of a replica ended, for this reason.
    pub fn end(&mut self, key: ReplicaKey, reason: &str) -> Result<(), MetricsError> {
        let (replica, families) = self.replica(key.stage, key.replica)?;
        if reason != labels::STOPPED {
            families.restart(&replica.labels, reason)?;
        }
        if replica.presence.ends(key.epoch) {
            families.show_life(&replica.labels, false)?;
            families.remove(&replica.labels);
            replica.gauges = None;
            replica.publication = Publication::default();
            self.show(key, Some(ReplicaLoad::default()));
        }
        Ok(())
    }

    /// Takes in a report that was not seen before. One of a life that was not announced announces it.
    pub fn report(&mut self, report: &ReplicaReport, now: Instant) -> Result<(), MetricsError> {
        let key = report.key;
        self.begin(key)?;
        if let Some(stage) = self.stages.get(&key.stage) {
            report.stats.stage_times.iter().for_each(|times| stage.observe(times));
        }
        let (replica, _) = self.replica(key.stage, key.replica)?;
        if replica.presence.is_news(key.epoch, report.sequence)
            && let Some(load) = report.stats.load
        {
            let shown = replica.publication.offer(load, report.idle, now);
            self.show(key, shown);
        }
        Ok(())
    }

    /// Shows the loads that were held back, when their second is over.
    pub fn tick(&mut self, now: Instant) {
        let mut changed: Vec<StageId> = Vec::new();
        for ((stage, _), replica) in &mut self.replicas {
            if let Some(load) = replica.publication.take_due(now) {
                replica.show(load);
                changed.push(*stage);
            }
        }
        for stage in changed {
            self.show_waiting(stage);
        }
    }

    /// Shows a load of a replica.
    fn show(&mut self, key: ReplicaKey, load: Option<ReplicaLoad>) {
        let Some(load) = load else { return };
        if let Some(replica) = self.replicas.get_mut(&(key.stage, key.replica)) {
            replica.show(load);
        }
        self.show_waiting(key.stage);
    }

    /// Shows how many requests wait in a stage, as far as it is shown of its replicas.
    fn show_waiting(&self, stage: StageId) {
        let Some(series) = self.stages.get(&stage) else { return };
        let replicas = self.replicas.range((stage, ReplicaId(0))..=(stage, ReplicaId(u16::MAX)));
        series.waiting.set(replicas.map(|(_, replica)| replica.load.waiting as f64).sum());
    }

    /// A replica, which is known from when it is first heard of.
    fn replica(
        &mut self,
        stage: StageId,
        replica: ReplicaId,
    ) -> Result<(&mut Replica, &StageFamilies), MetricsError> {
        let replica = match self.replicas.entry((stage, replica)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let labels = ReplicaLabels::new(stage, replica);
                self.families.create_restarts(&labels)?;
                let gauges = Some(self.families.gauges(&labels)?);
                let (presence, publication, load) = Default::default();
                new.insert(Replica { labels, presence, publication, load, gauges })
            }
        };
        Ok((replica, &self.families))
    }
}

impl Replica {
    fn show(&mut self, load: ReplicaLoad) {
        self.load = load;
        if let Some(gauges) = &self.gauges {
            gauges.set(load);
        }
    }
}
