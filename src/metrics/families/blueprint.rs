//! What a family is made from: a definition of the server's own, or the declaration of a custom stage.

use std::sync::Arc;

use prometheus::proto::MetricType;

use crate::metrics::definitions::{Definition, Kind, labels};
use crate::metrics::labelled::{FamilyKind, MetricFamily};

/// The labels in front of those that a custom stage declares.
const REPLICA: [&str; 3] = [labels::MODEL_NAME.name, labels::STAGE.name, labels::REPLICA.name];

/// Name, help, kind, labels and buckets of a family.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// The whole name.
    pub name: String,
    origin: Origin,
}

#[derive(Debug, Clone)]
enum Origin {
    Defined(&'static Definition),
    Declared(Arc<MetricFamily>),
}

impl Blueprint {
    /// A family of the server's own.
    pub fn defined(definition: &'static Definition, omni_prefix: &str) -> Self {
        Self { name: definition.name(omni_prefix), origin: Origin::Defined(definition) }
    }

    /// A family of a custom stage.
    pub fn declared(family: &MetricFamily) -> Self {
        Self { name: family.name().to_owned(), origin: Origin::Declared(Arc::new(family.clone())) }
    }

    /// One sentence for the reader of `/metrics`.
    pub fn help(&self) -> &str {
        match &self.origin {
            Origin::Defined(definition) => definition.help,
            Origin::Declared(family) => family.help(),
        }
    }

    /// The word of the `# TYPE` line.
    pub fn kind(&self) -> &'static str {
        match &self.origin {
            Origin::Defined(definition) => definition.kind.as_str(),
            Origin::Declared(family) => family.kind().as_str(),
        }
    }

    /// The same as the registry says it.
    pub fn metric_type(&self) -> MetricType {
        match &self.origin {
            Origin::Defined(definition) => match definition.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram(_) => MetricType::HISTOGRAM,
            },
            Origin::Declared(family) => match family.kind() {
                FamilyKind::Counter => MetricType::COUNTER,
                FamilyKind::Gauge => MetricType::GAUGE,
                FamilyKind::Histogram(_) => MetricType::HISTOGRAM,
            },
        }
    }

    /// The labels, `model_name` first.
    pub fn labels(&self) -> Vec<&str> {
        match &self.origin {
            Origin::Defined(definition) => definition.labels.iter().map(|label| label.name).collect(),
            Origin::Declared(family) => {
                REPLICA.into_iter().chain(family.labels().iter().map(String::as_str)).collect()
            }
        }
    }

    /// The values of the last label that are known from the start.
    pub fn known_values(&self) -> &'static [&'static str] {
        match &self.origin {
            Origin::Defined(definition) => definition.labels.last().map_or(&[], |label| label.known),
            Origin::Declared(_) => &[],
        }
    }

    /// The finite bucket bounds of a series that belongs to a stage with this `max_model_len`; none for a family that
    /// is no histogram.
    pub fn bounds(&self, max_model_len: u64) -> Vec<f64> {
        match &self.origin {
            Origin::Defined(definition) => definition.bounds(max_model_len),
            Origin::Declared(family) => match family.kind() {
                FamilyKind::Histogram(bounds) => bounds.clone(),
                FamilyKind::Counter | FamilyKind::Gauge => Vec::new(),
            },
        }
    }
}
