//! How a device that chooses tokens itself is told to choose as the [`Sampler`] would.

use std::collections::BTreeMap;

use super::history::TokenHistory;
use super::philox::Draw;
use super::sampler::Sampler;
use super::sampling::SamplingParams;
use crate::tensor::device_steps::{CountedToken, Selection};

impl Sampler {
    /// What a device needs to choose the token that [`sample`](Self::sample) chooses. `history` is where the device
    /// counts the tokens of the sequence, for one that has penalties; `draw.step` is the number of tokens generated.
    pub fn selection(&self, params: &SamplingParams, draw: Draw, history: Option<u32>) -> Selection {
        Selection {
            temperature: params.temperature,
            top_p: params.top_p,
            min_p: params.min_p,
            top_k: params.top_k,
            repetition_penalty: params.repetition_penalty,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            history,
            seed: draw.seed,
            counter: [draw.step, draw.choice, u32::from(draw.stage), draw.within_step],
            edits: self.edits(params, draw.step).into_iter().collect(),
        }
    }

    /// What is added to single logits: minus infinity to those of tokens that must not be chosen after `generated`
    /// tokens, to others their bias. The sampler forbids tokens after the penalties and a device before them, which is
    /// the same: they leave minus infinity as it is.
    fn edits(&self, params: &SamplingParams, generated: u32) -> BTreeMap<u32, f32> {
        let mut edits = params.logit_bias.clone();
        for id in self.forbidden(params, generated).flatten() {
            edits.insert(*id, f32::NEG_INFINITY);
        }
        edits
    }
}

impl TokenHistory {
    /// The tokens as a device counts them; `None` without penalties, when they need not be counted.
    pub fn counted(&self) -> Option<Vec<CountedToken>> {
        let seen = self.seen().iter().map(|token| CountedToken { id: token.id, generated: token.generated });
        self.counts().then(|| seen.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_what_is_done_to_single_tokens() {
        let params = SamplingParams {
            min_tokens: 1,
            stop_token_ids: vec![1],
            logit_bias: [(1, 2.0), (4, -3.0)].into(),
            ..SamplingParams::default()
        };
        let sampler = Sampler::new(vec![2], vec![3]);
        let forbidden = |ids: &[u32]| ids.iter().map(|id| (*id, f32::NEG_INFINITY)).collect::<Vec<_>>();
        let edits = |step| sampler.selection(&params, Draw { step, ..Draw::default() }, None).edits;
        assert_eq!(edits(0), [forbidden(&[1, 2, 3]), vec![(4, -3.0)]].concat());
        assert_eq!(edits(1), [vec![(1, 2.0)], forbidden(&[3]), vec![(4, -3.0)]].concat());
    }

    #[test]
    fn a_history_is_counted_only_for_penalties() {
        let mut history = TokenHistory::new(&SamplingParams::default(), &[5]);
        history.push(5);
        assert_eq!(history.counted(), None);
        let params = SamplingParams { repetition_penalty: 1.1, ..SamplingParams::default() };
        let mut history = TokenHistory::new(&params, &[5, 6]);
        history.push(6);
        let counted = [(5, 0), (6, 1)].map(|(id, generated)| CountedToken { id, generated });
        assert_eq!(history.counted(), Some(counted.to_vec()));
    }
}
