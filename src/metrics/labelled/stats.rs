//! Labelled statistics on their way: metric → label values → value.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What was counted in declared families. In a report all sums go back to the beginning of the replica's life.
///
/// Two of them need not have the same metrics, nor the same label values: what one lacks, the other has alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelledStats(pub BTreeMap<Arc<str>, BTreeMap<LabelValues, LabelledValue>>);

/// The values of a family's declared labels, in the order of the declaration. Clones share them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelValues(Arc<[String]>);

/// The value of one child.
#[derive(Debug, Clone, PartialEq)]
pub enum LabelledValue {
    /// The sum so far.
    Counter(f64),
    /// The latest value.
    Gauge(f64),
    /// The samples so far.
    Histogram(HistogramTotals),
}

/// Samples counted by size.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramTotals {
    /// Samples in each bucket alone; the last one is for those above all bounds.
    pub buckets: Vec<u64>,
    /// The sum of all samples.
    pub sum: f64,
}

impl LabelledStats {
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in what was counted beside or after this: sums add up, of two gauges the later one stays.
    pub fn merge(&mut self, later: Self) {
        for (family, children) in later.0 {
            let known = self.0.entry(family).or_default();
            for (labels, value) in children {
                match known.get_mut(&labels) {
                    Some(before) => before.merge(value),
                    None => drop(known.insert(labels, value)),
                }
            }
        }
    }

    /// What these totals have more than `earlier` ones; 0 where they do not have more. Gauges are as they are.
    pub fn since(&self, earlier: &Self) -> Self {
        let children_since = |(family, children): (&Arc<str>, &BTreeMap<LabelValues, LabelledValue>)| {
            let before = earlier.0.get(family);
            let since = |(labels, value): (&LabelValues, &LabelledValue)| {
                let before = before.and_then(|children| children.get(labels));
                (labels.clone(), before.map_or_else(|| value.clone(), |before| value.since(before)))
            };
            (family.clone(), children.iter().map(since).collect())
        };
        Self(self.0.iter().map(children_since).collect())
    }
}

impl LabelledValue {
    /// Takes a later value of the same child in. One of another kind takes the place of this one.
    fn merge(&mut self, later: Self) {
        match (self, later) {
            (Self::Counter(sum), Self::Counter(more)) => *sum += more,
            (Self::Histogram(totals), Self::Histogram(more))
                if totals.buckets.len() == more.buckets.len() =>
            {
                totals.merge(&more);
            }
            (value, later) => *value = later,
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        match (self, earlier) {
            (Self::Counter(sum), Self::Counter(before)) => Self::Counter((sum - before).max(0.0)),
            (Self::Histogram(totals), Self::Histogram(before)) => Self::Histogram(totals.since(before)),
            (value, _) => value.clone(),
        }
    }
}

impl HistogramTotals {
    /// No samples, for this many finite bounds.
    pub fn new(bounds: usize) -> Self {
        Self { buckets: vec![0; bounds + 1], sum: 0.0 }
    }

    /// Counts a sample. `bounds` are the upper bounds, which belong to their buckets.
    pub fn observe(&mut self, bounds: &[f64], sample: f64) {
        let bucket = bounds.partition_point(|bound| *bound < sample);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
            self.sum += sample;
        }
    }

    /// How many samples there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds further samples, counted with the same bounds.
    pub fn merge(&mut self, more: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(&more.buckets) {
            *count = count.saturating_add(*more);
        }
        self.sum += more.sum;
    }

    /// The samples that are not among `earlier` ones; none if those are more.
    fn since(&self, earlier: &Self) -> Self {
        if self.count() <= earlier.count() || self.buckets.len() != earlier.buckets.len() {
            return Self::new(self.buckets.len().saturating_sub(1));
        }
        let buckets = self.buckets.iter().zip(&earlier.buckets);
        let buckets = buckets.map(|(now, before)| now.saturating_sub(*before)).collect();
        Self { buckets, sum: self.sum - earlier.sum }
    }
}

impl LabelValues {
    /// These values.
    pub fn new(values: &[&str]) -> Self {
        Self(values.iter().map(|value| (*value).to_owned()).collect())
    }

    /// The values, in the order of the declaration.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the family declares no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(values: &[(&str, &[&str], LabelledValue)]) -> LabelledStats {
        let mut stats = LabelledStats::default();
        for (family, labels, value) in values {
            let children = stats.0.entry((*family).into()).or_default();
            children.insert(LabelValues::new(labels), value.clone());
        }
        stats
    }

    fn samples(samples: &[f64]) -> LabelledValue {
        let mut totals = HistogramTotals::new(2);
        samples.iter().for_each(|sample| totals.observe(&[1.0, 2.0], *sample));
        LabelledValue::Histogram(totals)
    }

    use LabelledValue::{Counter, Gauge};

    #[test]
    fn counters_add_gauges_take_the_latest_and_histograms_take_the_samples_of_both() {
        let mut all =
            stats(&[("c", &["x"], Counter(2.0)), ("g", &[], Gauge(5.0)), ("h", &[], samples(&[0.5]))]);
        all.merge(stats(&[
            ("c", &["x"], Counter(3.0)),
            ("g", &[], Gauge(4.0)),
            ("h", &[], samples(&[9.0, 2.0])),
        ]));
        let expected = stats(&[
            ("c", &["x"], Counter(5.0)),
            ("g", &[], Gauge(4.0)),
            ("h", &[], samples(&[0.5, 9.0, 2.0])),
        ]);
        assert_eq!(all, expected);
    }

    #[test]
    fn what_one_lacks_the_other_has_alone() {
        let first = stats(&[("only_first", &[], Counter(1.0)), ("both", &["x"], Counter(2.0))]);
        let second = stats(&[("only_second", &[], Gauge(3.0)), ("both", &["y"], Counter(4.0))]);
        let expected = stats(&[
            ("only_first", &[], Counter(1.0)),
            ("only_second", &[], Gauge(3.0)),
            ("both", &["x"], Counter(2.0)),
            ("both", &["y"], Counter(4.0)),
        ]);
        for (one, other) in [(&first, &second), (&second, &first)] {
            let mut all = one.clone();
            all.merge(other.clone());
            assert_eq!(all, expected);
        }
        let mut unchanged = first.clone();
        unchanged.merge(LabelledStats::default());
        assert_eq!(unchanged, first);
    }

    #[test]
    fn the_difference_of_totals_is_what_was_counted_between_them() {
        let before = stats(&[("c", &["x"], Counter(2.0)), ("h", &[], samples(&[0.5, 3.0]))]);
        let now = stats(&[
            ("c", &["x"], Counter(2.5)),
            ("c", &["y"], Counter(1.0)),
            ("g", &[], Gauge(7.0)),
            ("h", &[], samples(&[0.5, 3.0, 1.5])),
        ]);
        let expected = stats(&[
            ("c", &["x"], Counter(0.5)),
            ("c", &["y"], Counter(1.0)),
            ("g", &[], Gauge(7.0)),
            ("h", &[], samples(&[1.5])),
        ]);
        assert_eq!(now.since(&before), expected);
        let nothing = stats(&[("c", &["x"], Counter(0.0)), ("h", &[], samples(&[]))]);
        assert_eq!(before.since(&now), nothing, "totals that were overtaken add nothing");
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let LabelledValue::Histogram(totals) = samples(&[1.0, 1.5, 2.0, 2.5]) else { panic!("a histogram") };
        assert_eq!((totals.buckets, totals.sum), (vec![1, 2, 1], 7.0));
    }
}
