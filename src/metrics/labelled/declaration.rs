//! What a custom stage says of a metric family before the server starts.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::metrics::definitions::{self, DEFAULT_OMNI_PREFIX, ENGINE_PREFIX, labels};

/// Children that a family may have for one replica unless its declaration says otherwise.
const MAX_CHILDREN: usize = 256;
/// Labels that a declaration cannot have: every custom family carries the first three, and the text format gives the
/// others a meaning.
const RESERVED_LABELS: [&str; 5] =
    [labels::MODEL_NAME.name, labels::STAGE.name, labels::REPLICA.name, "le", "quantile"];
/// Ends of names that the text format gives a meaning.
const RESERVED_SUFFIXES: [&str; 5] = ["_bucket", "_sum", "_count", "_created", "_info"];

/// A metric family of a custom stage.
///
/// On `/metrics` it carries the labels `model_name`, `stage` and `replica`, and behind them those that it declares.
/// Which values these take need not be known: a child is created when it is first counted. Once a replica has
/// [`max_children`](Self::max_children) of them, further label values are counted together, as `overflow`.
///
/// ```
/// use omni_actors::MetricFamily;
///
/// let packets = MetricFamily::counter("loudness_packets_total", "Packets by what became of their loudness.")
///     .label("effect");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MetricFamily {
    name: String,
    help: String,
    kind: FamilyKind,
    labels: Vec<String>,
    max_children: usize,
}

/// The kind of numbers in a declared family.
#[derive(Debug, Clone, PartialEq)]
pub enum FamilyKind {
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down; the latest one is shown, while the replica lives.
    Gauge,
    /// Samples counted by size, up to these finite bounds.
    Histogram(Vec<f64>),
}

/// Why a declaration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("metric family {family:?}: {problem}")]
pub struct InvalidFamily {
    /// The family's name.
    pub family: String,
    /// What is wrong.
    pub problem: String,
}

impl FamilyKind {
    /// The word of the `# TYPE` line.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

impl MetricFamily {
    /// A family of sums that only grow. Its name ends in `_total`; `help` is a sentence for the reader of `/metrics`.
    pub fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, FamilyKind::Counter)
    }

    /// A family of values that go up and down.
    pub fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, FamilyKind::Gauge)
    }

    /// A family of samples, counted in buckets with these upper bounds. The one without a bound is implied.
    pub fn histogram(name: &str, help: &str, bounds: &[f64]) -> Self {
        Self::new(name, help, FamilyKind::Histogram(bounds.to_vec()))
    }

    fn new(name: &str, help: &str, kind: FamilyKind) -> Self {
        let (name, help) = (name.to_owned(), help.to_owned());
        Self { name, help, kind, labels: Vec::new(), max_children: MAX_CHILDREN }
    }

    /// Declares a further label.
    pub fn label(mut self, name: &str) -> Self {
        self.labels.push(name.to_owned());
        self
    }

    /// How many different label values one replica may count before the rest goes to `overflow`.
    pub fn max_children(mut self, children: usize) -> Self {
        self.max_children = children;
        self
    }

    /// The name on `/metrics`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name in OpenMetrics, where two families must not have the same.
    pub(crate) fn open_name(&self) -> &str {
        open_name(&self.name)
    }

    /// The sentence for the reader of `/metrics`.
    pub fn help(&self) -> &str {
        &self.help
    }

    /// The kind of its numbers.
    pub fn kind(&self) -> &FamilyKind {
        &self.kind
    }

    /// The labels that it declares, in order.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Children that one replica may have, beside the one for the rest.
    pub fn children_bound(&self) -> usize {
        self.max_children
    }

    /// Checks that Prometheus takes it and that no family of the server's own has its name.
    pub fn check(&self) -> Result<(), InvalidFamily> {
        let refused = |problem: String| Err(InvalidFamily { family: self.name.clone(), problem });
        if !is_name(&self.name, |c| c == ':') {
            return refused(
                "a name is made of ASCII letters, digits, '_' and ':', and begins with no digit".into(),
            );
        }
        if let Some(suffix) = RESERVED_SUFFIXES.iter().find(|suffix| self.name.ends_with(**suffix)) {
            return refused(format!("the ending {suffix:?} is reserved"));
        }
        if self.name.ends_with("_total") != (self.kind == FamilyKind::Counter) {
            return refused("the names of counters, and of nothing else, end in \"_total\"".into());
        }
        let built_in = definitions::all()
            .any(|definition| open_name(&definition.name(DEFAULT_OMNI_PREFIX)) == self.open_name());
        if built_in || self.name.starts_with(ENGINE_PREFIX) {
            return refused(format!("names that begin with {ENGINE_PREFIX:?} are the server's own"));
        }
        if self.help.trim().is_empty() {
            return refused("it needs a help text".into());
        }
        self.check_labels().or_else(refused)?;
        if self.max_children == 0 {
            return refused("it must be allowed at least one child".into());
        }
        match &self.kind {
            FamilyKind::Histogram(bounds) if bounds.is_empty() => refused("it has no bucket bounds".into()),
            FamilyKind::Histogram(bounds)
                if !bounds.is_sorted_by(|a, b| a < b) || bounds.iter().any(|bound| !bound.is_finite()) =>
            {
                refused("bucket bounds must be finite and increase".into())
            }
            FamilyKind::Counter | FamilyKind::Gauge | FamilyKind::Histogram(_) => Ok(()),
        }
    }

    fn check_labels(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for label in &self.labels {
            if !is_name(label, |_| false) || label.starts_with("__") {
                return Err(format!(
                    "the label {label:?} is not made of ASCII letters, digits and '_', or begins with a digit or \"__\""
                ));
            }
            if RESERVED_LABELS.contains(&label.as_str()) {
                return Err(format!("the label {label:?} is the server's own"));
            }
            if !seen.insert(label) {
                return Err(format!("the label {label:?} is declared twice"));
            }
        }
        Ok(())
    }
}

/// Whether a text is a name: ASCII letters, digits, `_` and what is allowed besides, with no digit in front.
fn is_name(text: &str, besides: impl Fn(char) -> bool) -> bool {
    !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || besides(c))
}

/// The name of a family in OpenMetrics: that of a counter without `_total`.
fn open_name(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(family: MetricFamily) -> String {
        family.check().unwrap_err().to_string()
    }

    #[test]
    fn well_formed_declarations_are_taken() {
        for family in [
            MetricFamily::counter("a_total", "A.").label("x").label("y_2"),
            MetricFamily::gauge("team:b", "B.").max_children(1),
            MetricFamily::histogram("c_seconds", "C.", &[-1.0, 0.0, 0.5]),
        ] {
            assert_eq!(family.check(), Ok(()), "{family:?}");
        }
    }

    #[test]
    fn malformed_declarations_are_named_with_what_is_wrong() {
        for (family, problem) in [
            (MetricFamily::gauge("", "A."), "a name is made of"),
            (MetricFamily::gauge("2a", "A."), "begins with no digit"),
            (MetricFamily::gauge("a-b", "A."), "a name is made of"),
            (MetricFamily::gauge("ä", "A."), "a name is made of"),
            (MetricFamily::gauge("a_count", "A."), "\"_count\" is reserved"),
            (MetricFamily::counter("a", "A."), "end in \"_total\""),
            (MetricFamily::gauge("a_total", "A."), "end in \"_total\""),
            (MetricFamily::gauge("a", " "), "needs a help text"),
            (MetricFamily::gauge("a", "A.").label("b-c"), "\"b-c\" is not made of"),
            (MetricFamily::gauge("a", "A.").label("__b"), "\"__b\" is not made of"),
            (MetricFamily::gauge("a", "A.").label("replica"), "\"replica\" is the server's own"),
            (MetricFamily::gauge("a", "A.").label("b").label("b"), "\"b\" is declared twice"),
            (MetricFamily::gauge("a", "A.").max_children(0), "at least one child"),
            (MetricFamily::histogram("a", "A.", &[]), "no bucket bounds"),
            (MetricFamily::histogram("a", "A.", &[1.0, 1.0]), "must be finite and increase"),
            (MetricFamily::histogram("a", "A.", &[1.0, f64::INFINITY]), "must be finite and increase"),
            (MetricFamily::histogram("a", "A.", &[f64::NAN]), "must be finite and increase"),
        ] {
            let complaint = complaint(family.clone());
            assert!(complaint.contains(problem), "{complaint}");
            assert!(complaint.contains(&format!("{:?}", family.name())), "{complaint}");
        }
    }

    #[test]
    fn the_servers_own_families_cannot_be_declared() {
        for definition in definitions::all() {
            let name = definition.name(DEFAULT_OMNI_PREFIX);
            let family = MetricFamily::new(&name, "A.", FamilyKind::Counter);
            assert!(family.check().is_err(), "{name}");
        }
        assert!(complaint(MetricFamily::gauge("vllm:mine", "A.")).contains("are the server's own"));
    }
}
