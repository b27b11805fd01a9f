//! Handles to the families that custom stages declare.

use prometheus::{Counter, Gauge};

use crate::metrics::MetricsError;
use crate::metrics::families::{Catalogue, Family, ReplicaLabels, SummedHistogram};
use crate::metrics::labelled::{FamilyKind, LabelValues, LabelledValue, MetricFamily};

/// A declared family on the page.
#[derive(Debug)]
pub struct LabelledFamily {
    /// What its stage says of it.
    pub declaration: MetricFamily,
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    Counter(Family<Counter>),
    Gauge(Family<Gauge>),
    Histogram(Family<SummedHistogram>),
}

/// A series of a declared family.
#[derive(Debug, Clone)]
pub enum LabelledSeries {
    /// A sum.
    Counter(Counter),
    /// The latest value.
    Gauge(Gauge),
    /// Samples.
    Histogram(SummedHistogram),
}

impl LabelledFamily {
    /// Registers a family.
    pub fn register(catalogue: &mut Catalogue, declaration: &MetricFamily) -> Result<Self, MetricsError> {
        let handle = match declaration.kind() {
            FamilyKind::Counter => Handle::Counter(catalogue.register_declared(declaration)?),
            FamilyKind::Gauge => Handle::Gauge(catalogue.register_declared(declaration)?),
            FamilyKind::Histogram(_) => Handle::Histogram(catalogue.register_declared(declaration)?),
        };
        Ok(Self { declaration: declaration.clone(), handle })
    }

    /// Whether it shows the present only.
    pub fn is_gauge(&self) -> bool {
        matches!(self.handle, Handle::Gauge(_))
    }

    /// The series of a replica with these values of the declared labels, at zero if there was none.
    pub fn series(
        &self,
        replica: &ReplicaLabels,
        labels: &LabelValues,
    ) -> Result<LabelledSeries, MetricsError> {
        let values: Vec<&str> = replica.values().into_iter().chain(labels.iter()).collect();
        Ok(match &self.handle {
            Handle::Counter(family) => LabelledSeries::Counter(family.series(&values)?),
            Handle::Gauge(family) => LabelledSeries::Gauge(family.series(&values)?),
            Handle::Histogram(family) => LabelledSeries::Histogram(family.series(&values)?),
        })
    }

    /// Takes a series off the page.
    pub fn remove(&self, replica: &ReplicaLabels, labels: &LabelValues) {
        let values: Vec<&str> = replica.values().into_iter().chain(labels.iter()).collect();
        match &self.handle {
            Handle::Counter(family) => family.remove(&values),
            Handle::Gauge(family) => family.remove(&values),
            Handle::Histogram(family) => family.remove(&values),
        }
    }
}

impl LabelledSeries {
    /// Takes in what was counted since the last time, or the latest value. Whether the value was of this kind.
    pub fn take(&self, value: &LabelledValue) -> bool {
        match (self, value) {
            (Self::Counter(counter), LabelledValue::Counter(more)) => counter.inc_by(*more),
            (Self::Gauge(gauge), LabelledValue::Gauge(latest)) => gauge.set(*latest),
            (Self::Histogram(histogram), LabelledValue::Histogram(more)) => histogram.add(more),
            _ => return false,
        }
        true
    }
}
