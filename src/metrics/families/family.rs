//! One family: its series by label values.
//!
//! The crate's own vectors do not do: all series of one must share a bucket list, while token histograms follow the
//! `max_model_len` of the stage each series belongs to; and they find a series by a hash of the joined label
//! values, in which stage 1, replica 11 is stage 11, replica 1. So a family is a collector of our own over the
//! crate's counters, gauges and histograms.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::{Collector, Desc, Metric};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Counter, Gauge, Histogram, HistogramOpts, Opts};

use crate::metrics::MetricsError;
use crate::metrics::definitions::{Definition, Kind};

/// A family whose series are of type `S`. Clones are handles to the same family.
#[derive(Debug)]
pub struct Family<S> {
    /// Shared by the handle that creates series and the one that the registry collects from.
    shared: Arc<Shared<S>>,
}

/// What the handles of a family share.
#[derive(Debug)]
struct Shared<S> {
    /// What the family is.
    definition: &'static Definition,
    /// Its whole name.
    name: String,
    /// The value of the first label of every series.
    model_name: String,
    /// What the registry wants to know of it.
    desc: Desc,
    /// The series by the values of their labels, without `model_name`.
    series: Mutex<BTreeMap<Vec<String>, S>>,
}

/// A kind of series: the crate's `Counter`, `Gauge` or `Histogram`.
pub trait Series: Metric + 'static {
    /// How the registry calls the kind.
    const TYPE: MetricType;

    /// Whether a definition is of this kind.
    fn is_kind(kind: Kind) -> bool;

    /// A new series with the labels in `opts`. Histograms have these finite bounds; the others ignore them.
    fn create(opts: Opts, bounds: Vec<f64>) -> prometheus::Result<Self>;
}

impl Series for Counter {
    const TYPE: MetricType = MetricType::COUNTER;

    fn is_kind(kind: Kind) -> bool {
        matches!(kind, Kind::Counter)
    }

    fn create(opts: Opts, _bounds: Vec<f64>) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for Gauge {
    const TYPE: MetricType = MetricType::GAUGE;

    fn is_kind(kind: Kind) -> bool {
        matches!(kind, Kind::Gauge)
    }

    fn create(opts: Opts, _bounds: Vec<f64>) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for Histogram {
    const TYPE: MetricType = MetricType::HISTOGRAM;

    fn is_kind(kind: Kind) -> bool {
        matches!(kind, Kind::Histogram(_))
    }

    fn create(opts: Opts, mut bounds: Vec<f64>) -> prometheus::Result<Self> {
        // The crate takes an empty list for a wish for its defaults, and drops an infinite bound.
        bounds.push(f64::INFINITY);
        Self::with_opts(HistogramOpts::from(opts).buckets(bounds))
    }
}

impl<S: Series> Family<S> {
    /// A family without series.
    pub fn new(
        definition: &'static Definition,
        omni_prefix: &str,
        model_name: &str,
    ) -> Result<Self, MetricsError> {
        let name = definition.name(omni_prefix);
        if !S::is_kind(definition.kind) {
            return Err(MetricsError::Kind { family: name });
        }
        let labels = definition.labels.iter().map(|label| label.name.to_owned()).collect();
        let desc = Desc::new(name.clone(), definition.help.to_owned(), labels, HashMap::new())
            .map_err(|source| MetricsError::Registry { family: name.clone(), source })?;
        let model_name = model_name.to_owned();
        let series = Mutex::default();
        Ok(Self { shared: Arc::new(Shared { definition, name, model_name, desc, series }) })
    }

    /// The series with these values of the labels after `model_name`, created if there is none. Fixed buckets.
    pub fn series(&self, values: &[&str]) -> Result<S, MetricsError> {
        self.series_of_stage(values, 0)
    }

    /// The same for a stage with this `max_model_len`, which bounds its token histograms. A series that exists
    /// keeps its bounds.
    pub fn series_of_stage(&self, values: &[&str], max_model_len: u64) -> Result<S, MetricsError> {
        let shared = &*self.shared;
        let expected = shared.definition.labels.len();
        if values.len() + 1 != expected {
            let (family, given) = (shared.name.clone(), values.len() + 1);
            return Err(MetricsError::LabelCount { family, expected, given });
        }
        let key: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
        let mut all = self.lock();
        if let Some(series) = all.get(&key) {
            return Ok(series.clone());
        }
        let values = std::iter::once(shared.model_name.as_str()).chain(values.iter().copied());
        let labels = shared.definition.labels.iter().map(|label| label.name.to_owned());
        let opts = Opts::new(shared.name.as_str(), shared.definition.help)
            .const_labels(labels.zip(values.map(str::to_owned)).collect());
        let series = S::create(opts, shared.definition.bounds(max_model_len))
            .map_err(|source| MetricsError::Registry { family: shared.name.clone(), source })?;
        all.insert(key, series.clone());
        Ok(series)
    }

    /// Creates the series for every known value of the last label, behind these values of the labels before it.
    pub fn create_known(&self, values: &[&str]) -> Result<(), MetricsError> {
        let known = self.shared.definition.labels.last().map_or(&[][..], |label| label.known);
        for value in known {
            self.series(&[values, &[value]].concat())?;
        }
        Ok(())
    }

    /// Takes a series off the page. A handle that is still held moves nothing any more.
    pub fn remove(&self, values: &[&str]) {
        let key: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
        self.lock().remove(&key);
    }

    /// The series. A thread that panicked cannot have left the map half-changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, S>> {
        self.shared.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Clone for Family<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Series> Collector for Family<S> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.shared.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.shared.name.clone());
        family.set_help(self.shared.definition.help.to_owned());
        family.set_field_type(S::TYPE);
        family.set_metric(self.lock().values().map(Metric::metric).collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::definitions::{engine, pipeline};

    #[test]
    fn label_values_that_join_to_the_same_text_are_different_series() {
        let family: Family<Counter> = Family::new(&engine::GENERATION_TOKENS, "", "m").unwrap();
        family.series(&["1", "11"]).unwrap().inc();
        family.series(&["11", "1"]).unwrap().inc();
        let collected = family.collect();
        assert_eq!(collected[0].get_metric().len(), 2);
        assert!(collected[0].get_metric().iter().all(|metric| metric.get_counter().get_value() == 1.0));
    }

    #[test]
    fn series_of_one_family_have_the_buckets_of_their_stage() {
        let family: Family<Histogram> = Family::new(&engine::REQUEST_PROMPT_TOKENS, "", "m").unwrap();
        for (stage, max_model_len) in [("0", 10), ("1", 100), ("2", 0)] {
            family.series_of_stage(&[stage, "0"], max_model_len).unwrap();
        }
        let collected = family.collect();
        let lengths: Vec<_> = collected[0]
            .get_metric()
            .iter()
            .map(|metric| metric.get_histogram().get_bucket().len())
            .collect();
        assert_eq!(lengths, [4, 7, 0]);
    }

    #[test]
    fn a_wrong_number_of_values_and_a_wrong_kind_are_errors_that_name_the_family() {
        let family: Family<Counter> = Family::new(&engine::GENERATION_TOKENS, "", "m").unwrap();
        let error = family.series(&["1"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "metric vllm:generation_tokens_total has 3 labels, but 2 values were given"
        );
        let error = Family::<Gauge>::new(&pipeline::REQUESTS_ACCEPTED, "o_", "m").unwrap_err();
        assert_eq!(error.reason(), "metric_kind");
    }

    #[test]
    fn a_series_that_is_asked_for_again_goes_on_until_it_is_removed() {
        let family: Family<Gauge> = Family::new(&engine::KV_CACHE_USAGE, "", "m").unwrap();
        family.series(&["0", "0"]).unwrap().set(0.5);
        assert_eq!(family.series(&["0", "0"]).unwrap().get(), 0.5);
        family.remove(&["0", "0"]);
        assert!(family.collect()[0].get_metric().is_empty());
        assert_eq!(family.series(&["0", "0"]).unwrap().get(), 0.0);
    }
}
