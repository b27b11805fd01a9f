//! Which tokens a sequence has seen: what penalties and `min_tokens` need to know.

use std::collections::HashMap;

use super::SamplingParams;

/// The tokens of one sequence, counted. Adding one takes constant time.
#[derive(Debug, Clone, Default)]
pub struct TokenHistory {
    /// Whether tokens are counted at all; without penalties there is no need.
    counts: bool,
    /// Every distinct token, in order of first appearance.
    seen: Vec<SeenToken>,
    /// Where each token stands in `seen`.
    places: HashMap<u32, usize>,
    /// Number of tokens generated.
    generated: u32,
}

/// A token that appears in the prompt or was generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SeenToken {
    /// Which.
    pub(super) id: u32,
    /// How often it was generated; 0 if it only appears in the prompt.
    pub(super) generated: u32,
}

impl TokenHistory {
    /// The history of a sequence that begins. `prompt` counts for the repetition penalty; a stage whose penalty
    /// looks at its own output only, as a talker's does, gives none.
    pub fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let repetition = params.repetition_penalty != 1.0;
        let counts = repetition || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
        let mut history = Self { counts, ..Self::default() };
        if repetition {
            for &id in prompt {
                history.place(id);
            }
        }
        history
    }

    /// Adds a token that was generated.
    pub fn push(&mut self, id: u32) {
        self.generated += 1;
        if self.counts {
            let place = self.place(id);
            if let Some(token) = self.seen.get_mut(place) {
                token.generated += 1;
            }
        }
    }

    /// Number of tokens generated.
    pub fn generated(&self) -> u32 {
        self.generated
    }

    /// Whether tokens are counted.
    pub(super) fn counts(&self) -> bool {
        self.counts
    }

    /// Every distinct token.
    pub(super) fn seen(&self) -> &[SeenToken] {
        &self.seen
    }

    /// Where a token stands in `seen`; it is put there if it is new.
    fn place(&mut self, id: u32) -> usize {
        *self.places.entry(id).or_insert_with(|| {
            self.seen.push(SeenToken { id, generated: 0 });
            self.seen.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_tokens_are_seen_but_not_generated() {
        let params = SamplingParams { repetition_penalty: 1.1, ..SamplingParams::default() };
        let mut history = TokenHistory::new(&params, &[5, 5, 7]);
        history.push(7);
        history.push(7);
        let expected = [SeenToken { id: 5, generated: 0 }, SeenToken { id: 7, generated: 2 }];
        assert_eq!(history.seen(), expected);
        assert_eq!(history.generated(), 2);
    }

    #[test]
    fn without_penalties_nothing_is_kept_but_the_number() {
        let mut history = TokenHistory::new(&SamplingParams::default(), &[5, 5, 7]);
        history.push(7);
        assert!(history.seen().is_empty());
        assert_eq!(history.generated(), 1);
    }

    #[test]
    fn the_prompt_does_not_count_for_presence_and_frequency() {
        let params = SamplingParams { presence_penalty: 1.0, ..SamplingParams::default() };
        assert!(TokenHistory::new(&params, &[5]).seen().is_empty());
    }
}
