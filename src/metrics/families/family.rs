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

use super::blueprint::Blueprint;
use crate::metrics::MetricsError;
use crate::metrics::definitions::labels::MODEL_NAME;

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
    blueprint: Blueprint,
    /// The value of the first label of every series, if that is `model_name`.
    model_name: Option<String>,
    /// What the registry wants to know of it.
    desc: Desc,
    /// The series by the values of their other labels.
    series: Mutex<BTreeMap<Vec<String>, S>>,
}

/// A kind of series: the crate's `Counter`, `Gauge` or `Histogram`.
pub trait Series: Metric + 'static {
    /// How the registry calls the kind.
    const TYPE: MetricType;

    /// A new series with the labels in `opts`. Histograms have these finite bounds; the others ignore them.
    fn create(opts: Opts, bounds: Vec<f64>) -> prometheus::Result<Self>;
}

impl Series for Counter {
    const TYPE: MetricType = MetricType::COUNTER;

    fn create(opts: Opts, _bounds: Vec<f64>) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for Gauge {
    const TYPE: MetricType = MetricType::GAUGE;

    fn create(opts: Opts, _bounds: Vec<f64>) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for Histogram {
    const TYPE: MetricType = MetricType::HISTOGRAM;

    fn create(opts: Opts, mut bounds: Vec<f64>) -> prometheus::Result<Self> {
        // The crate takes an empty list for a wish for its defaults, and drops an infinite bound.
        bounds.push(f64::INFINITY);
        Self::with_opts(HistogramOpts::from(opts).buckets(bounds))
    }
}

impl<S: Series> Family<S> {
    /// A family without series.
    pub fn new(blueprint: Blueprint, model_name: &str) -> Result<Self, MetricsError> {
        let name = &blueprint.name;
        if S::TYPE != blueprint.metric_type() {
            return Err(MetricsError::Kind { family: name.clone() });
        }
        let (help, labels) = (blueprint.help().to_owned(), blueprint.labels());
        let has_model_name = labels.first() == Some(&MODEL_NAME.name);
        let labels = labels.into_iter().map(str::to_owned).collect();
        let desc = Desc::new(name.clone(), help, labels, HashMap::new())
            .map_err(|source| MetricsError::Registry { family: name.clone(), source })?;
        let model_name = has_model_name.then(|| model_name.to_owned());
        let series = Mutex::default();
        Ok(Self { shared: Arc::new(Shared { blueprint, model_name, desc, series }) })
    }

    /// The series with these values of the labels after `model_name`, created if there is none. Fixed buckets.
    pub fn series(&self, values: &[&str]) -> Result<S, MetricsError> {
        self.series_of_stage(values, 0)
    }

    /// The same for a stage with this `max_model_len`, which bounds its token histograms. A series that exists
    /// keeps its bounds.
    pub fn series_of_stage(&self, values: &[&str], max_model_len: u64) -> Result<S, MetricsError> {
        let shared = &*self.shared;
        let (name, labels) = (&shared.blueprint.name, shared.blueprint.labels());
        let (expected, given) = (labels.len(), values.len() + usize::from(shared.model_name.is_some()));
        if given != expected {
            return Err(MetricsError::LabelCount { family: name.clone(), expected, given });
        }
        let key: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
        let mut all = self.lock();
        if let Some(series) = all.get(&key) {
            return Ok(series.clone());
        }
        let values = shared.model_name.as_deref().into_iter().chain(values.iter().copied());
        let labels = labels.into_iter().zip(values);
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned()));
        let opts = Opts::new(name.as_str(), shared.blueprint.help()).const_labels(labels.collect());
        let series = S::create(opts, shared.blueprint.bounds(max_model_len))
            .map_err(|source| MetricsError::Registry { family: name.clone(), source })?;
        all.insert(key, series.clone());
        Ok(series)
    }

    /// Creates the series for every known value of the last label, behind these values of the labels before it.
    pub fn create_known(&self, values: &[&str]) -> Result<(), MetricsError> {
        for value in self.shared.blueprint.known_values() {
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
        family.set_name(self.shared.blueprint.name.clone());
        family.set_help(self.shared.blueprint.help().to_owned());
        family.set_field_type(S::TYPE);
        family.set_metric(self.lock().values().map(Metric::metric).collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::definitions::{Definition, engine, pipeline};

    fn family<S: Series>(definition: &'static Definition) -> Result<Family<S>, MetricsError> {
        Family::new(Blueprint::defined(definition, ""), "m")
    }

    #[test]
    fn label_values_that_join_to_the_same_text_are_different_series() {
        let family: Family<Counter> = family(&engine::GENERATION_TOKENS).unwrap();
        family.series(&["1", "11"]).unwrap().inc();
        family.series(&["11", "1"]).unwrap().inc();
        let collected = family.collect();
        assert_eq!(collected[0].get_metric().len(), 2);
        assert!(collected[0].get_metric().iter().all(|metric| metric.get_counter().get_value() == 1.0));
    }

    #[test]
    fn series_of_one_family_have_the_buckets_of_their_stage() {
        let family: Family<Histogram> = family(&engine::REQUEST_PROMPT_TOKENS).unwrap();
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
        let counter: Family<Counter> = family(&engine::GENERATION_TOKENS).unwrap();
        let error = counter.series(&["1"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "metric vllm:generation_tokens_total has 3 labels, but 2 values were given"
        );
        let error = family::<Gauge>(&pipeline::REQUESTS_ACCEPTED).unwrap_err();
        assert_eq!(error.reason(), "metric_kind");
    }

    #[test]
    fn a_series_that_is_asked_for_again_goes_on_until_it_is_removed() {
        let family: Family<Gauge> = family(&engine::KV_CACHE_USAGE).unwrap();
        family.series(&["0", "0"]).unwrap().set(0.5);
        assert_eq!(family.series(&["0", "0"]).unwrap().get(), 0.5);
        family.remove(&["0", "0"]);
        assert!(family.collect()[0].get_metric().is_empty());
        assert_eq!(family.series(&["0", "0"]).unwrap().get(), 0.0);
    }
}
