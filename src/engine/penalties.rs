//! What is done to single logits before a token is chosen: bias, penalties, forbidden tokens.

use super::history::TokenHistory;
use super::sampling::SamplingParams;

/// Adds `logit_bias`, then applies the penalties.
///
/// The repetition penalty r turns the logit l of every token in prompt or output into l / r where l ≥ 0, and l · r
/// where it is negative. Presence and frequency penalties are subtracted from tokens that were generated: the one
/// once, the other times their count.
pub(super) fn penalise(logits: &mut [f32], params: &SamplingParams, history: &TokenHistory) {
    for (&id, &bias) in &params.logit_bias {
        change(logits, id, |logit| logit + bias);
    }
    for token in history.seen() {
        change(logits, token.id, |logit| {
            let repetition = params.repetition_penalty;
            let mut logit = if logit >= 0.0 { logit / repetition } else { logit * repetition };
            if token.generated > 0 {
                logit -= params.presence_penalty + params.frequency_penalty * token.generated as f32;
            }
            logit
        });
    }
}

/// Makes tokens impossible.
pub(super) fn forbid(logits: &mut [f32], ids: &[u32]) {
    for &id in ids {
        change(logits, id, |_| f32::NEG_INFINITY);
    }
}

/// Changes the logit of one token, if the model has it.
fn change(logits: &mut [f32], id: u32, change: impl FnOnce(f32) -> f32) {
    if let Some(logit) = usize::try_from(id).ok().and_then(|id| logits.get_mut(id)) {
        *logit = change(*logit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repetition_penalty_divides_positive_logits_and_multiplies_negative_ones() {
        let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
        let mut history = TokenHistory::new(&params, &[0]);
        history.push(1);
        history.push(1);
        let mut logits = [4.0, -4.0, 4.0];
        penalise(&mut logits, &params, &history);
        assert_eq!(logits, [2.0, -8.0, 4.0]);
    }

    #[test]
    fn presence_is_subtracted_once_and_frequency_per_occurrence() {
        let params =
            SamplingParams { presence_penalty: 1.0, frequency_penalty: 0.5, ..SamplingParams::default() };
        let mut history = TokenHistory::new(&params, &[0]);
        for id in [1, 1, 2] {
            history.push(id);
        }
        let mut logits = [0.0; 3];
        penalise(&mut logits, &params, &history);
        assert_eq!(logits, [0.0, -2.0, -1.5]);
    }

    #[test]
    fn the_bias_comes_before_the_penalty() {
        let mut params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
        params.logit_bias.insert(0, 3.0);
        params.logit_bias.insert(9, 3.0);
        let mut logits = [-1.0];
        penalise(&mut logits, &params, &TokenHistory::new(&params, &[0]));
        assert_eq!(logits, [1.0]);
    }

    #[test]
    fn forbidden_tokens_become_impossible() {
        let mut logits = [1.0, 2.0];
        forbid(&mut logits, &[1, 7]);
        assert_eq!(logits, [1.0, f32::NEG_INFINITY]);
    }
}
