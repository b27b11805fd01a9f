//! What one life of a replica counts in its declared families.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use super::{FamilyKind, HistogramTotals, LabelValues, LabelledStats, LabelledValue, MetricFamily};

/// The value of every declared label of the child that takes what no further child may be created for.
pub(in crate::metrics) const OVERFLOW: &str = "overflow";

/// Keeps what one life of a replica counts. Clones are handles to the same.
///
/// Without statistics nothing is kept and nothing allocated: the handles that it gives then do nothing.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    families: Arc<[MetricFamily]>,
    /// One per family; `None` without statistics.
    tables: Option<Arc<[Table]>>,
}

/// The children of one family.
#[derive(Debug)]
struct Table {
    declaration: MetricFamily,
    /// The family's name, shared with reports.
    name: Arc<str>,
    /// In the order of their label values.
    children: Mutex<Vec<(LabelValues, LabelledValue)>>,
}

/// Why a family cannot be counted in. It is the stage that is wrong, not the request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FamilyError {
    /// No such family was declared.
    #[error("the stage declares no metric family {family:?}")]
    Undeclared {
        /// What was asked for.
        family: String,
    },
    /// It was declared as another kind.
    #[error("metric family {family:?} is declared as a {declared}, not as a {asked}")]
    Kind {
        /// What was asked for.
        family: String,
        /// The word for its kind.
        declared: &'static str,
        /// The kind that was asked for.
        asked: &'static str,
    },
    /// It was declared with another number of labels.
    #[error("metric family {family:?} declares {declared} label(s), but is counted by {asked}")]
    Labels {
        /// What was asked for.
        family: String,
        /// Labels of the declaration.
        declared: usize,
        /// Label values that would be given.
        asked: usize,
    },
}

/// A place in a recorder's tables, if there are any.
#[derive(Debug, Clone)]
struct Handle(Option<(Arc<[Table]>, usize)>);

/// Counts in a family of sums with `LABELS` declared labels.
#[derive(Debug, Clone)]
pub struct CounterFamily<const LABELS: usize>(Handle);

/// Sets values of a family of gauges with `LABELS` declared labels.
#[derive(Debug, Clone)]
pub struct GaugeFamily<const LABELS: usize>(Handle);

/// Takes samples for a family of histograms with `LABELS` declared labels.
#[derive(Debug, Clone)]
pub struct HistogramFamily<const LABELS: usize>(Handle);

impl Recorder {
    /// A recorder of these families, which must have been checked; it keeps nothing unless `statistics` are on.
    pub fn new(families: Arc<[MetricFamily]>, statistics: bool) -> Self {
        let table = |declaration: &MetricFamily| Table {
            name: declaration.name().into(),
            declaration: declaration.clone(),
            children: Mutex::default(),
        };
        let tables = statistics.then(|| families.iter().map(table).collect());
        Self { families, tables }
    }

    /// Whether anything is kept.
    pub fn is_on(&self) -> bool {
        self.tables.is_some()
    }

    /// A handle to a family of sums.
    pub fn counter<const LABELS: usize>(&self, name: &str) -> Result<CounterFamily<LABELS>, FamilyError> {
        self.handle(name, LABELS, "counter").map(CounterFamily)
    }

    /// A handle to a family of gauges.
    pub fn gauge<const LABELS: usize>(&self, name: &str) -> Result<GaugeFamily<LABELS>, FamilyError> {
        self.handle(name, LABELS, "gauge").map(GaugeFamily)
    }

    /// A handle to a family of histograms.
    pub fn histogram<const LABELS: usize>(&self, name: &str) -> Result<HistogramFamily<LABELS>, FamilyError> {
        self.handle(name, LABELS, "histogram").map(HistogramFamily)
    }

    fn handle(&self, name: &str, labels: usize, asked: &'static str) -> Result<Handle, FamilyError> {
        let family = name.to_owned();
        let found = self.families.iter().enumerate().find(|(_, declared)| declared.name() == name);
        let Some((index, declaration)) = found else { return Err(FamilyError::Undeclared { family }) };
        let declared = declaration.kind().as_str();
        if declared != asked {
            return Err(FamilyError::Kind { family, declared, asked });
        }
        let declared = declaration.labels().len();
        if declared != labels {
            return Err(FamilyError::Labels { family, declared, asked: labels });
        }
        Ok(Handle(self.tables.as_ref().map(|tables| (tables.clone(), index))))
    }

    /// Everything that was counted in this life so far.
    pub fn totals(&self) -> LabelledStats {
        let mut totals = LabelledStats::default();
        for table in self.tables.iter().flat_map(|tables| tables.iter()) {
            let children = table.lock();
            if !children.is_empty() {
                totals.0.insert(table.name.clone(), children.iter().cloned().collect());
            }
        }
        totals
    }
}

impl Table {
    /// The children. A thread that panicked cannot have left them half-changed.
    fn lock(&self) -> MutexGuard<'_, Vec<(LabelValues, LabelledValue)>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the child with these label values, which is created if there is none; that of the rest if there are
    /// too many.
    fn change<const LABELS: usize>(&self, labels: [&str; LABELS], change: impl FnOnce(&mut LabelledValue)) {
        let mut children = self.lock();
        let place = |children: &[(LabelValues, LabelledValue)], labels: [&str; LABELS]| {
            children.binary_search_by(|(known, _)| known.iter().cmp(labels))
        };
        let (labels, place) = match place(&children, labels) {
            Err(_) if children.len() >= self.declaration.children_bound() => {
                let rest = [OVERFLOW; LABELS];
                (rest, place(&children, rest))
            }
            place => (labels, place),
        };
        let index = place.unwrap_or_else(|index| {
            children.insert(index, (LabelValues::new(&labels), LabelledValue::zero(self.declaration.kind())));
            index
        });
        if let Some((_, value)) = children.get_mut(index) {
            change(value);
        }
    }
}

impl LabelledValue {
    /// The value of a child of which nothing was counted yet.
    pub(in crate::metrics) fn zero(kind: &FamilyKind) -> Self {
        match kind {
            FamilyKind::Counter => Self::Counter(0.0),
            FamilyKind::Gauge => Self::Gauge(0.0),
            FamilyKind::Histogram(bounds) => Self::Histogram(HistogramTotals::new(bounds.len())),
        }
    }
}

impl Handle {
    fn change<const LABELS: usize>(
        &self,
        labels: [&str; LABELS],
        change: impl FnOnce(&MetricFamily, &mut LabelledValue),
    ) {
        let Some((tables, index)) = &self.0 else { return };
        if let Some(table) = tables.get(*index) {
            table.change(labels, |value| change(&table.declaration, value));
        }
    }
}

impl<const LABELS: usize> CounterFamily<LABELS> {
    /// Adds to the sum with these label values. What is negative or no number adds nothing.
    pub fn add(&self, labels: [&str; LABELS], amount: f64) {
        self.0.change(labels, |family, value| match value {
            LabelledValue::Counter(sum) if amount.is_finite() && amount >= 0.0 => *sum += amount,
            _ => tracing::warn!(family = family.name(), amount, "a counter was told to add what it cannot"),
        });
    }

    /// Adds one.
    pub fn increment(&self, labels: [&str; LABELS]) {
        self.add(labels, 1.0);
    }
}

impl<const LABELS: usize> GaugeFamily<LABELS> {
    /// Sets the value with these label values.
    pub fn set(&self, labels: [&str; LABELS], value: f64) {
        self.0.change(labels, |_, gauge| *gauge = LabelledValue::Gauge(value));
    }
}

impl<const LABELS: usize> HistogramFamily<LABELS> {
    /// Takes a sample with these label values. One that is no finite number is left out: it would spoil the sum.
    pub fn observe(&self, labels: [&str; LABELS], sample: f64) {
        self.0.change(labels, |family, value| match (value, family.kind()) {
            (LabelledValue::Histogram(totals), FamilyKind::Histogram(bounds)) if sample.is_finite() => {
                totals.observe(bounds, sample);
            }
            _ => tracing::warn!(family = family.name(), sample, "a histogram was given what is no sample"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(statistics: bool) -> Recorder {
        let families = [
            MetricFamily::counter("words_total", "Words.").label("language").max_children(2),
            MetricFamily::gauge("level", "Level."),
            MetricFamily::histogram("length", "Length.", &[1.0, 2.0]),
        ];
        Recorder::new(families.into(), statistics)
    }

    fn value(recorder: &Recorder, family: &str, labels: &[&str]) -> Option<LabelledValue> {
        recorder.totals().0.get(family)?.get(&LabelValues::new(labels)).cloned()
    }

    #[test]
    fn counters_add_gauges_take_the_latest_and_histograms_take_samples() {
        let recorder = recorder(true);
        let words = recorder.counter::<1>("words_total").unwrap();
        let level = recorder.gauge::<0>("level").unwrap();
        let length = recorder.histogram::<0>("length").unwrap();
        for amount in [1.0, 2.5, -1.0, f64::NAN] {
            words.add(["en"], amount);
        }
        words.clone().increment(["de"]);
        level.set([], 3.0);
        level.set([], -2.0);
        for sample in [0.5, 3.0, f64::INFINITY] {
            length.observe([], sample);
        }
        assert_eq!(value(&recorder, "words_total", &["en"]), Some(LabelledValue::Counter(3.5)));
        assert_eq!(value(&recorder, "words_total", &["de"]), Some(LabelledValue::Counter(1.0)));
        assert_eq!(value(&recorder, "level", &[]), Some(LabelledValue::Gauge(-2.0)));
        let totals = HistogramTotals { buckets: vec![1, 0, 1], sum: 3.5 };
        assert_eq!(value(&recorder, "length", &[]), Some(LabelledValue::Histogram(totals)));
    }

    #[test]
    fn a_child_exists_from_its_first_count_on() {
        let recorder = recorder(true);
        let words = recorder.counter::<1>("words_total").unwrap();
        assert!(recorder.totals().is_empty());
        words.add(["en"], 0.0);
        assert_eq!(value(&recorder, "words_total", &["en"]), Some(LabelledValue::Counter(0.0)));
    }

    #[test]
    fn what_is_beyond_the_bound_is_counted_as_overflow() {
        let recorder = recorder(true);
        let words = recorder.counter::<1>("words_total").unwrap();
        for language in ["en", "de", "fr", "it", "en", "es"] {
            words.increment([language]);
        }
        let children = recorder.totals().0.remove("words_total").unwrap();
        let counted: Vec<_> =
            children.iter().map(|(labels, value)| (labels.iter().collect(), value)).collect();
        let [two, one, three] = [2.0, 1.0, 3.0].map(LabelledValue::Counter);
        let expected: Vec<(String, _)> =
            vec![("de".into(), &one), ("en".into(), &two), (OVERFLOW.into(), &three)];
        assert_eq!(counted, expected);
    }

    #[test]
    fn a_family_is_asked_for_as_it_was_declared() {
        for statistics in [true, false] {
            let recorder = recorder(statistics);
            let undeclared = recorder.counter::<1>("word_total").unwrap_err().to_string();
            assert_eq!(undeclared, "the stage declares no metric family \"word_total\"");
            let kind = recorder.gauge::<1>("words_total").unwrap_err().to_string();
            assert_eq!(kind, "metric family \"words_total\" is declared as a counter, not as a gauge");
            let labels = recorder.counter::<2>("words_total").unwrap_err().to_string();
            assert_eq!(labels, "metric family \"words_total\" declares 1 label(s), but is counted by 2");
        }
    }

    #[test]
    fn without_statistics_there_is_nothing_to_count_in() {
        let recorder = recorder(false);
        let words = recorder.counter::<1>("words_total").unwrap();
        assert!(words.0.0.is_none() && recorder.tables.is_none());
        words.increment(["en"]);
        assert!(recorder.totals().is_empty());
    }
}
