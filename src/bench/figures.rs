//! Figures of many requests.

use std::time::{Duration, Instant};

use serde::Serialize;

/// A figure over all requests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The sum over the number.
    pub mean: f64,
    /// Half of the values are below.
    pub median: f64,
    /// 99 of 100 values are at most this.
    pub p99: f64,
}

impl Summary {
    /// Of some values; `None` if there are none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { mean, median: quantile(&values, 0.5)?, p99: quantile(&values, 0.99)? })
    }
}

/// The value below which this share of sorted values lies, between two of them in proportion.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = sorted.len().checked_sub(1)? as f64 * share;
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}

/// How many of some stretches of time run at once on average, while any of them does; `None` if none takes any time.
pub(super) fn mean_overlap(stretches: impl IntoIterator<Item = (Instant, Instant)>) -> Option<f64> {
    let mut stretches: Vec<_> = stretches.into_iter().collect();
    stretches.sort();
    let (mut all, mut covered) = (Duration::ZERO, Duration::ZERO);
    let mut until: Option<Instant> = None;
    for (from, to) in stretches {
        all += to.duration_since(from);
        let begins = until.map_or(from, |until| until.max(from));
        covered += to.saturating_duration_since(begins);
        until = Some(until.map_or(to, |until| until.max(to)));
    }
    (covered > Duration::ZERO).then(|| all.as_secs_f64() / covered.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values_in_proportion() {
        let summary = Summary::of((0..=100).rev().map(f64::from)).unwrap();
        assert_eq!(summary, Summary { mean: 50.0, median: 50.0, p99: 99.0 });
        assert_eq!(Summary::of([1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Summary::of([7.0]).unwrap(), Summary { mean: 7.0, median: 7.0, p99: 7.0 });
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn overlap_is_held_against_the_time_that_anything_runs() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(mean_overlap([(at(0), at(4)), (at(0), at(4))]), Some(2.0));
        assert_eq!(mean_overlap([(at(6), at(8)), (at(0), at(4))]), Some(1.0));
        assert_eq!(mean_overlap([(at(0), at(4)), (at(1), at(2)), (at(2), at(5))]), Some(8.0 / 5.0));
        assert_eq!(mean_overlap([(at(3), at(3))]), None);
    }
}
