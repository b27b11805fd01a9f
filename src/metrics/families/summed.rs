//! A histogram that is given samples already counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::Opts;
use prometheus::core::{Desc, Describer, Metric};
use prometheus::proto::{self, Bucket, LabelPair, MetricType};

use crate::metrics::families::Series;
use crate::metrics::labelled::HistogramTotals;

/// A histogram that replicas count themselves: a report says how many samples fell into each bucket, so that one that
/// is lost loses none. The crate's own takes samples one by one. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct SummedHistogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    labels: Vec<LabelPair>,
    /// The finite upper bounds.
    bounds: Vec<f64>,
    totals: Mutex<HistogramTotals>,
}

impl SummedHistogram {
    /// Adds samples, counted with the bounds of this histogram.
    pub fn add(&self, samples: &HistogramTotals) {
        self.totals().merge(samples);
    }

    /// The samples so far. A thread that panicked cannot have left them half-changed.
    fn totals(&self) -> MutexGuard<'_, HistogramTotals> {
        self.0.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metric for SummedHistogram {
    fn metric(&self) -> proto::Metric {
        let totals = self.totals();
        let mut below = 0;
        let bucket = |(&bound, &count): (&f64, &u64)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(below);
            bucket
        };
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(self.0.bounds.iter().zip(&totals.buckets).map(bucket).collect());
        histogram.set_sample_count(totals.count());
        histogram.set_sample_sum(totals.sum);
        let mut metric = proto::Metric::from_label(self.0.labels.clone());
        metric.set_histogram(histogram);
        metric
    }
}

impl Series for SummedHistogram {
    const TYPE: MetricType = MetricType::HISTOGRAM;

    fn create(opts: Opts, bounds: Vec<f64>) -> prometheus::Result<Self> {
        let Desc { const_label_pairs: labels, .. } = opts.describe()?;
        let totals = Mutex::new(HistogramTotals::new(bounds.len()));
        Ok(Self(Arc::new(Inner { labels, bounds, totals })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_shown_as_a_histogram() {
        let opts = Opts::new("h", "H.").const_label("a", "b");
        let histogram = SummedHistogram::create(opts, vec![1.0, 2.0]).unwrap();
        for buckets in [vec![1, 0, 2], vec![0, 3, 1]] {
            histogram.clone().add(&HistogramTotals { buckets, sum: 5.5 });
        }
        let metric = histogram.metric();
        let shown = metric.get_histogram();
        let buckets =
            shown.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
        assert_eq!(buckets.collect::<Vec<_>>(), [(1.0, 1), (2.0, 4)]);
        assert_eq!((shown.get_sample_count(), shown.get_sample_sum()), (7, 11.0));
        assert_eq!((metric.get_label()[0].name(), metric.get_label()[0].value()), ("a", "b"));
    }
}
