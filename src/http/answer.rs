//! What the answers of chat and completions are made of.

use std::sync::Arc;

use serde::Serialize;

use crate::engine::FinishReason;
use crate::http::errors::ApiError;
use crate::http::recording::Recording;
use crate::http::running::{Progress, RunningRequests};
use crate::metrics::RequestAccount;
use crate::stages::{ChoiceFinish, Output, StopReason, TextDelta, TokenLogprobs};

/// What stands in responses so that clients can tell versions of the server apart.
pub const SYSTEM_FINGERPRINT: &str = concat!("omni-actors-", env!("CARGO_PKG_VERSION"));

/// The head of a response, the same on all chunks of a stream.
#[derive(Debug, Clone)]
pub struct Head {
    /// `chatcmpl-…` or `cmpl-…`, with the id of `X-Request-Id`.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The served name.
    pub model: String,
}

impl Head {
    /// The head of a response that begins now.
    pub fn new(prefix: &str, external_id: &str, model: &str) -> Self {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            id: format!("{prefix}-{external_id}"),
            created: since_1970.map_or(0, |duration| duration.as_secs()),
            model: model.to_owned(),
        }
    }
}

/// Token counts of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// The sum of both.
    pub total_tokens: u64,
    /// Tokens generated, over all choices.
    pub completion_tokens: u64,
}

impl Usage {
    /// Puts both counts together.
    pub fn new(prompt_tokens: u64, completion_tokens: u64) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

/// `stop_reason` of a choice: the token or string that was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum StopReasonField {
    /// A token id.
    Token(u32),
    /// A string.
    Text(String),
}

impl StopReasonField {
    /// As the stage reports it.
    pub fn of(finish: Option<&ChoiceFinish>) -> Option<Self> {
        Some(match finish?.stop_reason.as_ref()? {
            StopReason::Token(id) => Self::Token(*id),
            StopReason::Text(text) => Self::Text(text.clone()),
        })
    }
}

/// `finish_reason` of a choice.
pub fn finish_word(finish: Option<&ChoiceFinish>) -> Option<&'static str> {
    finish.map(|finish| finish.reason.as_str())
}

/// A whole choice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    /// All text.
    pub text: String,
    /// All tokens.
    pub token_ids: Vec<u32>,
    /// One entry per token, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// How it ended.
    pub finish: Option<ChoiceFinish>,
    /// All sound, if there is any.
    pub sound: Option<Recording>,
}

impl Choice {
    fn extend(&mut self, delta: TextDelta) {
        self.text.push_str(&delta.text);
        self.token_ids.extend(delta.token_ids);
        self.logprobs.extend(delta.logprobs);
        if delta.finish.is_some() {
            self.finish = delta.finish;
        }
    }

    fn end(&mut self, reason: FinishReason) {
        self.finish.get_or_insert(ChoiceFinish { reason, stop_reason: None });
    }
}

/// How the only choice of a request ended: as its text did, unless that came to its own end and a later stage did
/// not.
pub fn sole_finish(text: Option<ChoiceFinish>, request: FinishReason) -> ChoiceFinish {
    match text {
        Some(text) if text.reason != FinishReason::Stop || request == FinishReason::Stop => text,
        _ => ChoiceFinish { reason: request, stop_reason: None },
    }
}

/// All that came of the requests of one call.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The choices of the first prompt, of the second, …
    pub choices: Vec<Choice>,
    /// What the request took, if that was asked for.
    pub account: Option<Arc<RequestAccount>>,
}

/// Waits for all requests to end and gathers what comes of them.
pub async fn gather(
    running: &mut RunningRequests,
    prompts: usize,
    choices_per_prompt: usize,
) -> Result<Gathered, ApiError> {
    let mut account = None;
    let mut choices = vec![Choice::default(); prompts.saturating_mul(choices_per_prompt)];
    while let Some(result) = running.next().await {
        match result? {
            (prompt, Progress::Output(Output::Text(delta))) => {
                if let Some(choice) = choices.get_mut(prompt * choices_per_prompt + delta.choice as usize) {
                    choice.extend(delta);
                }
            }
            // Speech has one choice.
            (prompt, Progress::Output(Output::Audio(packet))) => {
                if let Some(choice) = choices.get_mut(prompt * choices_per_prompt) {
                    Recording::append(&mut choice.sound, packet)?;
                }
            }
            (_, Progress::Measured(taken)) => account = Some(taken),
            (prompt, Progress::Finished(reason)) if choices_per_prompt == 1 => {
                if let Some(choice) = choices.get_mut(prompt) {
                    choice.finish = Some(sole_finish(choice.finish.take(), reason));
                }
            }
            (prompt, Progress::Finished(reason)) => {
                let own = choices.iter_mut().skip(prompt * choices_per_prompt).take(choices_per_prompt);
                own.for_each(|choice| choice.end(reason));
            }
        }
    }
    Ok(Gathered { choices, account })
}

/// Tokens in all choices.
pub fn completion_tokens(choices: &[Choice]) -> u64 {
    choices.iter().map(|choice| choice.token_ids.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use FinishReason::{Length, Stop};

    #[test]
    fn the_first_end_that_is_no_stop_counts() {
        let met = ChoiceFinish { reason: Stop, stop_reason: Some(StopReason::Token(7)) };
        let full = ChoiceFinish { reason: Length, stop_reason: None };
        assert_eq!(sole_finish(Some(met.clone()), Stop), met);
        assert_eq!(sole_finish(Some(met), Length), full);
        assert_eq!(sole_finish(Some(full.clone()), Length), full);
        assert_eq!(sole_finish(None, Length), full);
    }
}
