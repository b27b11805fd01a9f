//! What custom stages count in the families that they declare.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::presence::Presence;
use crate::ids::{ReplicaId, ReplicaKey, StageId};
use crate::metrics::families::{Catalogue, LabelledFamily, LabelledSeries, ReplicaLabels};
use crate::metrics::labelled::{LabelValues, LabelledStats, LabelledValue, OVERFLOW};
use crate::metrics::{MetricsError, ReplicaReport, StageDescription};

/// The declared families of a pipeline, and what replicas counted in them.
///
/// A series is created when it is first heard of. Counters and histograms go on from life to life of a replica; gauges
/// show the present one only.
#[derive(Debug)]
pub struct LabelledLedger {
    /// By name.
    families: BTreeMap<String, LabelledFamily>,
    /// The names of the families that each stage declares.
    declared: BTreeMap<StageId, Vec<String>>,
    replicas: BTreeMap<(StageId, ReplicaId), Replica>,
}

/// One replica of a stage with declared families.
#[derive(Debug)]
struct Replica {
    labels: ReplicaLabels,
    presence: Presence,
    /// Its series by family and the values of declared labels.
    series: BTreeMap<String, BTreeMap<LabelValues, LabelledSeries>>,
}

impl LabelledLedger {
    /// Registers the families of all stages. Series without declared labels stand at zero for every replica.
    pub fn new(catalogue: &mut Catalogue, stages: &[StageDescription]) -> Result<Self, MetricsError> {
        let mut ledger =
            Self { families: BTreeMap::new(), declared: BTreeMap::new(), replicas: BTreeMap::new() };
        for stage in stages {
            for declaration in &stage.families {
                match ledger.families.entry(declaration.name().to_owned()) {
                    Entry::Occupied(known) if known.get().declaration == *declaration => {}
                    Entry::Occupied(known) => {
                        let family = known.key().clone();
                        let declares = |(_, names): &(&StageId, &Vec<String>)| names.contains(&family);
                        let first = ledger.declared.iter().find(declares).map_or(stage.stage, |(id, _)| *id);
                        return Err(MetricsError::Ambiguous { family, first, second: stage.stage });
                    }
                    Entry::Vacant(new) => drop(new.insert(LabelledFamily::register(catalogue, declaration)?)),
                }
                ledger.declared.entry(stage.stage).or_default().push(declaration.name().to_owned());
            }
            for replica in (0..stage.replicas).map(ReplicaId) {
                ledger.replica(stage.stage, replica)?;
            }
        }
        Ok(ledger)
    }

    /// A life of a replica began.
    pub fn begin(&mut self, key: ReplicaKey) -> Result<(), MetricsError> {
        let Some((replica, families)) = self.replica(key.stage, key.replica)? else { return Ok(()) };
        if replica.presence.begins(key.epoch) {
            replica.create_known(&families)?;
        }
        Ok(())
    }

    /// A life of a replica ended: its gauges go, if no later life has begun.
    pub fn end(&mut self, key: ReplicaKey) {
        if let Ok(Some((replica, families))) = self.replica(key.stage, key.replica)
            && replica.presence.ends(key.epoch)
        {
            replica.remove_gauges(&families);
        }
    }

    /// Takes in what a report adds to those before it. All of it is taken in that can be.
    ///
    /// # Errors
    ///
    /// The first of what could not be taken in.
    pub fn report(&mut self, report: &ReplicaReport, added: &LabelledStats) -> Result<(), MetricsError> {
        self.begin(report.key)?;
        let key = report.key;
        let Some((replica, families)) = self.replica(key.stage, key.replica)? else { return Ok(()) };
        let is_news = replica.presence.is_news(key.epoch, report.sequence);
        let mut outcome = Ok(());
        for (name, children) in &added.0 {
            let declared = families.iter().find(|family| family.declaration.name() == &**name);
            for (labels, value) in children {
                let taken = match declared {
                    Some(family) if family.is_gauge() && !is_news => continue,
                    Some(family) => replica.take(family, labels, value),
                    None => Ok(false),
                };
                let taken = taken.and_then(|taken| match taken {
                    true => Ok(()),
                    false => Err(MetricsError::Undeclared { family: name.to_string(), replica: key }),
                });
                outcome = outcome.and(taken);
            }
        }
        outcome
    }

    /// A replica, which is known from when it is first heard of, and the families of its stage; `None` if that declares
    /// none.
    fn replica(
        &mut self,
        stage: StageId,
        replica: ReplicaId,
    ) -> Result<Option<(&mut Replica, Vec<&LabelledFamily>)>, MetricsError> {
        let Some(names) = self.declared.get(&stage) else { return Ok(None) };
        let families: Vec<_> = names.iter().filter_map(|name| self.families.get(name)).collect();
        let replica = match self.replicas.entry((stage, replica)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let labels = ReplicaLabels::new(stage, replica);
                let replica =
                    new.insert(Replica { labels, presence: Presence::default(), series: BTreeMap::new() });
                replica.create_known(&families)?;
                replica
            }
        };
        Ok(Some((replica, families)))
    }
}

impl Replica {
    /// Creates the series whose labels are known before anything is counted: those without declared labels.
    fn create_known(&mut self, families: &[&LabelledFamily]) -> Result<(), MetricsError> {
        for family in families.iter().filter(|family| family.declaration.labels().is_empty()) {
            self.series(family, &LabelValues::new(&[]))?;
        }
        Ok(())
    }

    fn remove_gauges(&mut self, families: &[&LabelledFamily]) {
        for family in families.iter().filter(|family| family.is_gauge()) {
            for labels in self.series.remove(family.declaration.name()).unwrap_or_default().keys() {
                family.remove(&self.labels, labels);
            }
        }
    }

    /// Takes a value in. Whether it is of the family's kind.
    fn take(
        &mut self,
        family: &LabelledFamily,
        labels: &LabelValues,
        value: &LabelledValue,
    ) -> Result<bool, MetricsError> {
        Ok(self.series(family, labels)?.take(value))
    }

    /// A series, created when it is first heard of; that of the rest if there are too many, over all lives.
    fn series(
        &mut self,
        family: &LabelledFamily,
        labels: &LabelValues,
    ) -> Result<&LabelledSeries, MetricsError> {
        let known = self.series.entry(family.declaration.name().to_owned()).or_default();
        let rest = LabelValues::new(&vec![OVERFLOW; labels.len()]);
        let beside_the_rest = known.len() - usize::from(known.contains_key(&rest));
        let is_one_too_many =
            !known.contains_key(labels) && beside_the_rest >= family.declaration.children_bound();
        let labels = if is_one_too_many { rest } else { labels.clone() };
        match known.entry(labels) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let series = family.series(&self.labels, new.key())?;
                Ok(new.insert(series))
            }
        }
    }
}
