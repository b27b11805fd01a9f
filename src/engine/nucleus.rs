//! The tokens that temperature, top-k, top-p and min-p leave to choose from.

use std::cmp::Ordering;

use super::sampling::SamplingParams;
use super::selection::{argmax, for_each_from, kth_greatest};

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Which.
    pub id: u32,
    /// Its logit after all processing.
    pub logit: f32,
    /// exp(logit − greatest logit): its probability up to a common factor.
    pub weight: f32,
}

impl Candidate {
    /// Most likely first; of equal ones the higher id first, as a stable ascending sort leaves them in the reference.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(other.id.cmp(&self.id))
    }
}

/// Narrows a row of logits down to candidates, with buffers that are used again.
#[derive(Debug, Clone, Default)]
pub(super) struct Nucleus {
    /// The candidates, in order of id.
    kept: Vec<Candidate>,
    /// The candidates in the order in which top-p looks at them.
    ranked: Vec<Candidate>,
    /// For the search of the k-th greatest logit.
    values: Vec<f32>,
}

/// As few candidates are put in order instead of being halved again.
const SORTED_AT_ONCE: usize = 64;

impl Nucleus {
    /// Divides the logits by the temperature and keeps what the filters leave, in order of id. Nothing is left where
    /// no logit is finite.
    pub(super) fn narrow(&mut self, logits: &mut [f32], params: &SamplingParams) -> &[Candidate] {
        for logit in logits.iter_mut() {
            *logit /= params.temperature;
        }
        self.kept.clear();
        let Some((_, greatest)) = argmax(logits).filter(|(_, greatest)| greatest.is_finite()) else {
            return &self.kept;
        };
        let threshold = match usize::try_from(params.top_k) {
            Ok(k) if k > 0 => kth_greatest(logits, k, &mut self.values),
            _ => f32::NEG_INFINITY,
        };
        let kept = &mut self.kept;
        for_each_from(logits, threshold, |id, logit| {
            kept.push(Candidate { id: id as u32, logit, weight: (logit - greatest).exp() });
        });
        if params.top_p < 1.0 {
            self.keep_nucleus(f64::from(params.top_p));
        }
        if params.min_p > 0.0 {
            self.kept.retain(|candidate| candidate.weight >= params.min_p);
        }
        &self.kept
    }

    /// Keeps the most likely candidates up to the first with which their probability reaches `top_p`: a candidate
    /// stays if those before it have less. The most likely one always stays.
    fn keep_nucleus(&mut self, top_p: f64) {
        let total: f64 = self.kept.iter().map(|candidate| f64::from(candidate.weight)).sum();
        let wanted = top_p * total;
        self.ranked.clear();
        self.ranked.extend_from_slice(&self.kept);
        // The last candidate that stays lies in one half or the other; only that half is looked at further.
        let mut within = self.ranked.as_mut_slice();
        let mut before = 0.0;
        while within.len() > SORTED_AT_ONCE {
            let half = within.len() / 2;
            within.select_nth_unstable_by(half, Candidate::rank);
            let (leading, others) = within.split_at_mut(half);
            let mass: f64 = leading.iter().map(|candidate| f64::from(candidate.weight)).sum();
            if before + mass >= wanted {
                within = leading;
            } else {
                before += mass;
                within = others;
            }
        }
        within.sort_unstable_by(Candidate::rank);
        let mut last = None;
        for candidate in within.iter() {
            if last.is_some() && before >= wanted {
                break;
            }
            before += f64::from(candidate.weight);
            last = Some(*candidate);
        }
        if let Some(last) = last {
            self.kept.retain(|candidate| candidate.rank(&last) != Ordering::Greater);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn narrow(logits: &[f32], params: &SamplingParams) -> Vec<u32> {
        let mut nucleus = Nucleus::default();
        nucleus.narrow(&mut logits.to_vec(), params).iter().map(|candidate| candidate.id).collect()
    }

    fn sampled() -> SamplingParams {
        SamplingParams { temperature: 1.0, ..SamplingParams::default() }
    }

    #[test]
    fn top_k_keeps_ties_with_the_kth() {
        let params = SamplingParams { top_k: 2, ..sampled() };
        assert_eq!(narrow(&[1.0, 3.0, 2.0, 2.0, 0.0], &params), [1, 2, 3]);
    }

    #[test]
    fn top_k_beyond_the_vocabulary_keeps_all() {
        let params = SamplingParams { top_k: 9, ..sampled() };
        assert_eq!(narrow(&[1.0, 3.0, f32::NEG_INFINITY], &params), [0, 1]);
    }

    #[test]
    fn top_p_keeps_the_token_that_reaches_it() {
        // Probabilities 0.5, 0.25, 0.25.
        let logits = [2.0_f32.ln(), 0.0, 0.0];
        assert_eq!(narrow(&logits, &SamplingParams { top_p: 0.4, ..sampled() }), [0]);
        assert_eq!(narrow(&logits, &SamplingParams { top_p: 0.6, ..sampled() }), [0, 2]);
        assert_eq!(narrow(&logits, &SamplingParams { top_p: 0.8, ..sampled() }), [0, 1, 2]);
    }

    #[test]
    fn the_most_likely_token_always_stays() {
        let params = SamplingParams { top_p: 1e-6, min_p: 1.0, ..sampled() };
        assert_eq!(narrow(&[0.0, 1.0, -1.0], &params), [1]);
    }

    #[test]
    fn min_p_is_relative_to_the_most_likely() {
        let logits = [0.0, 0.4_f32.ln(), 0.2_f32.ln()];
        assert_eq!(narrow(&logits, &SamplingParams { min_p: 0.3, ..sampled() }), [0, 1]);
    }

    #[test]
    fn nothing_is_left_of_a_row_without_a_finite_logit() {
        assert!(narrow(&[f32::NAN, f32::NEG_INFINITY], &sampled()).is_empty());
        assert!(narrow(&[0.0, f32::INFINITY], &sampled()).is_empty());
    }

    proptest! {
        #[test]
        fn the_nucleus_is_what_a_full_sort_gives(
            logits in proptest::collection::vec(-3.0..3.0_f32, 1..2000),
            top_p in 0.01..1.0_f32,
        ) {
            let mut all: Vec<(f64, u32)> = logits.iter().zip(0..).map(|(logit, id)| (f64::from(logit.exp()), id)).collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            let total: f64 = all.iter().map(|(weight, _)| weight).sum();
            let mut above = 0.0;
            let mut expected: Vec<u32> = Vec::new();
            let mut nearest = f64::INFINITY;
            for (weight, id) in all {
                nearest = nearest.min((above / total - f64::from(top_p)).abs());
                if above / total < f64::from(top_p) {
                    expected.push(id);
                }
                above += weight;
            }
            // Where rounding decides there is no right answer.
            prop_assume!(nearest > 1e-6);
            expected.sort_unstable();
            prop_assert_eq!(narrow(&logits, &SamplingParams { top_p, ..sampled() }), expected);
        }
    }
}
