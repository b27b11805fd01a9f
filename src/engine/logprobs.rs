//! Log probabilities of tokens, before temperature and filters.

use super::selection::{argmax, for_each_from, kth_greatest};

/// Log probabilities at one generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledLogprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// The most likely tokens with theirs, most likely first, lower ids first on ties.
    pub top: Vec<(u32, f32)>,
}

impl SampledLogprobs {
    /// Those of the chosen token `id` and of the `count` most likely ones, from the logits as the model gave them.
    /// `None` where no logit is finite. `scratch` is overwritten.
    pub fn of(logits: &[f32], id: u32, count: u32, scratch: &mut Vec<f32>) -> Option<Self> {
        let row = LogSoftmax::of(logits)?;
        Some(Self { chosen: row.at(id), top: row.top(count as usize, scratch) })
    }
}

/// log softmax of a row of logits, evaluated where it is asked for.
#[derive(Debug, Clone, Copy)]
struct LogSoftmax<'a> {
    /// The logits as the model gave them.
    logits: &'a [f32],
    /// log Σ exp(logit).
    log_sum: f64,
}

impl<'a> LogSoftmax<'a> {
    /// Sums a row up; `None` where no logit is finite.
    fn of(logits: &'a [f32]) -> Option<Self> {
        let (_, greatest) = argmax(logits).filter(|(_, greatest)| greatest.is_finite())?;
        let sum: f64 = logits
            .iter()
            .filter(|logit| !logit.is_nan())
            .map(|&logit| f64::from((logit - greatest).exp()))
            .sum();
        Some(Self { logits, log_sum: f64::from(greatest) + sum.ln() })
    }

    /// The log probability of a token; minus infinity for one that the model does not have.
    fn at(&self, id: u32) -> f32 {
        let logit = usize::try_from(id).ok().and_then(|id| self.logits.get(id));
        logit.map_or(f32::NEG_INFINITY, |&logit| self.normalised(logit))
    }

    /// The `count` most likely tokens. `scratch` is overwritten.
    fn top(&self, count: usize, scratch: &mut Vec<f32>) -> Vec<(u32, f32)> {
        let mut top = Vec::with_capacity(count);
        if count == 0 {
            return top;
        }
        let threshold = kth_greatest(self.logits, count, scratch);
        for_each_from(self.logits, threshold, |id, logit| top.push((id as u32, self.normalised(logit))));
        // Stable: lower ids stay first among equals.
        top.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        top.truncate(count);
        top
    }

    /// A logit's log probability.
    fn normalised(&self, logit: f32) -> f32 {
        (f64::from(logit) - self.log_sum) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one() {
        let logits = [1.0, -2.0, 0.5, f32::NEG_INFINITY];
        let row = LogSoftmax::of(&logits).unwrap();
        let sum: f32 = (0..4).map(|id| row.at(id).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(row.at(9), f32::NEG_INFINITY);
    }

    #[test]
    fn the_most_likely_come_first_and_lower_ids_on_ties() {
        let logits = [0.0, 2.0, 1.0, 1.0, 1.0];
        let top = LogSoftmax::of(&logits).unwrap().top(3, &mut Vec::new());
        assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn great_logits_do_not_overflow() {
        let row = [1e30, 1e30];
        assert!((LogSoftmax::of(&row).unwrap().at(0) - 0.0).abs() < 1.0);
        let row = [5000.0, 5000.0];
        assert!((LogSoftmax::of(&row).unwrap().at(1) - 0.5_f32.ln()).abs() < 1e-6);
    }
}
