//! Choosing the next token from a row of logits.
//!
//! In this order: logit bias, repetition penalty, presence and frequency penalties, end tokens forbidden until
//! `min_tokens`, suppressed tokens, temperature, top-k, top-p, min-p; then one number is drawn.

use thiserror::Error;

use super::history::TokenHistory;
use super::logprobs::SampledLogprobs;
use super::nucleus::{Candidate, Nucleus};
use super::penalties::{forbid, penalise};
use super::philox::Draw;
use super::sampling::SamplingParams;
use super::selection::argmax;

/// Temperatures below this choose the most likely token: dividing by them would leave nothing else, or infinity.
const GREEDY_BELOW: f32 = 1e-5;

/// Chooses tokens for one stage. It owns the buffers that a choice needs, so a step allocates nothing.
#[derive(Debug, Clone, Default)]
pub struct Sampler {
    /// The model's end-of-sequence tokens, forbidden until `min_tokens`.
    end_ids: Vec<u32>,
    /// Tokens that this stage never chooses, such as a talker's control tokens.
    suppressed_ids: Vec<u32>,
    /// What is left to choose from.
    nucleus: Nucleus,
    /// The logits as the model gave them, where log probabilities are asked for.
    raw: Vec<f32>,
    /// For the search of the most likely tokens.
    values: Vec<f32>,
}

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Which.
    pub id: u32,
    /// Log probabilities, if asked for.
    pub logprobs: Option<SampledLogprobs>,
}

/// Why no token could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SampleError {
    /// Every token is forbidden, or the model computed no finite number.
    #[error("no token can be chosen: none has a finite logit")]
    NoFiniteLogit,
}

impl SampleError {
    /// A stable word for the kind of failure.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoFiniteLogit => "no_finite_logit",
        }
    }
}

impl Sampler {
    /// A sampler for a stage with these end-of-sequence tokens, which never chooses the suppressed ones.
    pub fn new(end_ids: Vec<u32>, suppressed_ids: Vec<u32>) -> Self {
        Self { end_ids, suppressed_ids, ..Self::default() }
    }

    /// Chooses a token. `logits` `[vocabulary]` is overwritten; `history` is of this sequence, without the token to
    /// be chosen.
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        params: &SamplingParams,
        history: &TokenHistory,
        draw: Draw,
    ) -> Result<Sampled, SampleError> {
        if params.logprobs.is_some() {
            self.raw.clear();
            self.raw.extend_from_slice(logits);
        }
        self.process(logits, params, history);
        let id = if params.temperature < GREEDY_BELOW {
            argmax(logits).filter(|(_, logit)| logit.is_finite()).map(|(id, _)| id as u32)
        } else {
            choose(self.nucleus.narrow(logits, params), draw.uniform())
        };
        let id = id.ok_or(SampleError::NoFiniteLogit)?;
        let logprobs = match params.logprobs {
            None => None,
            Some(count) => {
                let found = SampledLogprobs::of(&self.raw, id, count, &mut self.values);
                Some(found.ok_or(SampleError::NoFiniteLogit)?)
            }
        };
        Ok(Sampled { id, logprobs })
    }

    /// The tokens that may be drawn, in order of id. `logits` is overwritten. The temperature must not be 0.
    pub fn candidates(
        &mut self,
        logits: &mut [f32],
        params: &SamplingParams,
        history: &TokenHistory,
    ) -> &[Candidate] {
        self.process(logits, params, history);
        self.nucleus.narrow(logits, params)
    }

    /// Everything before the temperature.
    fn process(&self, logits: &mut [f32], params: &SamplingParams, history: &TokenHistory) {
        penalise(logits, params, history);
        for ids in self.forbidden(params, history.generated()) {
            forbid(logits, ids);
        }
    }

    /// The tokens that must not be chosen after `generated` tokens.
    pub(super) fn forbidden<'a>(
        &'a self,
        params: &'a SamplingParams,
        generated: u32,
    ) -> impl Iterator<Item = &'a [u32]> {
        let early: [&[u32]; 2] =
            if generated < params.min_tokens { [&self.end_ids, &params.stop_token_ids] } else { [&[]; 2] };
        early.into_iter().chain([self.suppressed_ids.as_slice()])
    }
}

/// The candidate in whose share of the total weight `uniform`, in [0, 1), falls, shares being laid out in order of id.
fn choose(candidates: &[Candidate], uniform: f64) -> Option<u32> {
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let mut left = uniform * total;
    for candidate in candidates {
        left -= f64::from(candidate.weight);
        if left < 0.0 {
            return Some(candidate.id);
        }
    }
    // Rounding may leave a rest behind the last share.
    candidates.iter().rev().find(|candidate| candidate.weight > 0.0).map(|candidate| candidate.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sampler: &mut Sampler, logits: &[f32], params: &SamplingParams, step: u32) -> u32 {
        let draw = Draw { seed: 7, step, ..Draw::default() };
        let history = TokenHistory::new(params, &[]);
        sampler.sample(&mut logits.to_vec(), params, &history, draw).unwrap().id
    }

    #[test]
    fn greedy_takes_the_lowest_id_on_ties() {
        let params = SamplingParams::default();
        assert_eq!(sample(&mut Sampler::default(), &[0.0, 2.0, 2.0], &params, 0), 1);
        let nearly_zero = SamplingParams { temperature: 1e-30, ..params };
        assert_eq!(sample(&mut Sampler::default(), &[0.0, 2.0, 2.0], &nearly_zero, 0), 1);
    }

    #[test]
    fn end_and_stop_tokens_wait_for_min_tokens() {
        let params = SamplingParams { min_tokens: 1, stop_token_ids: vec![1], ..SamplingParams::default() };
        let mut sampler = Sampler::new(vec![2], Vec::new());
        let logits = [0.0, 1.0, 2.0];
        let mut history = TokenHistory::new(&params, &[]);
        let first = sampler.sample(&mut logits.to_vec(), &params, &history, Draw::default()).unwrap();
        history.push(first.id);
        let second = sampler.sample(&mut logits.to_vec(), &params, &history, Draw::default()).unwrap();
        assert_eq!((first.id, second.id), (0, 2));
    }

    #[test]
    fn suppressed_tokens_are_never_chosen() {
        let params = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
        let mut sampler = Sampler::new(Vec::new(), vec![0]);
        assert!((0..100).all(|step| sample(&mut sampler, &[9.0, 0.0, 0.0], &params, step) != 0));
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let params = SamplingParams { temperature: 0.5, ..SamplingParams::default() };
        let logits: Vec<f32> = [0.1_f32, 0.2, 0.3, 0.4].iter().map(|p| p.ln() * 0.5).collect();
        let mut sampler = Sampler::default();
        let history = TokenHistory::new(&params, &[]);
        let mut counts = [0; 4];
        for (seed, step) in (0..20).flat_map(|seed| (0..2000).map(move |step| (seed, step))) {
            let draw = Draw { seed, step, ..Draw::default() };
            let sampled = sampler.sample(&mut logits.clone(), &params, &history, draw).unwrap();
            counts[sampled.id as usize] += 1;
        }
        // Within four standard deviations of what 40,000 draws give.
        for (count, probability) in counts.into_iter().zip([0.1, 0.2, 0.3, 0.4]) {
            let (mean, variance) = (4e4 * probability, 4e4 * probability * (1.0 - probability));
            assert!((f64::from(count) - mean).abs() < 4.0 * f64::sqrt(variance), "{counts:?}");
        }
    }

    #[test]
    fn a_draw_depends_on_nothing_before_it() {
        let params = SamplingParams { temperature: 1.0, top_k: 3, ..SamplingParams::default() };
        let logits = [0.3, 0.1, 0.2, 0.4, 0.0];
        let mut used = Sampler::default();
        for step in 0..50 {
            let alone = sample(&mut Sampler::default(), &logits, &params, step);
            assert_eq!(sample(&mut used, &logits, &params, step), alone);
        }
    }

    #[test]
    fn log_probabilities_are_of_the_raw_logits() {
        let mut params = SamplingParams { logprobs: Some(2), ..SamplingParams::default() };
        params.logit_bias.insert(0, 50.0);
        let history = TokenHistory::new(&params, &[]);
        let mut logits = [0.0, 3.0_f32.ln()];
        let sampled = Sampler::default().sample(&mut logits, &params, &history, Draw::default()).unwrap();
        let logprobs = sampled.logprobs.unwrap();
        assert_eq!(sampled.id, 0);
        assert!((logprobs.chosen - 0.25_f32.ln()).abs() < 1e-6);
        assert_eq!(logprobs.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn a_row_without_a_choice_is_an_error() {
        let params = SamplingParams::default();
        let history = TokenHistory::new(&params, &[]);
        for temperature in [0.0, 1.0] {
            let params = SamplingParams { temperature, ..params.clone() };
            let mut sampler = Sampler::new(Vec::new(), vec![0]);
            let result = sampler.sample(&mut [1.0, f32::NAN], &params, &history, Draw::default());
            assert_eq!(result, Err(SampleError::NoFiniteLogit));
        }
    }
}
