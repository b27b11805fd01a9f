//! The answer of `/v1/chat/completions` in one piece.

use serde::Serialize;

use crate::http::answer::{
    Choice, Head, SYSTEM_FINGERPRINT, StopReasonField, Usage, completion_tokens, finish_word,
};
use crate::http::logprobs::ChatLogprobs;

/// A whole chat answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatCompletion {
    /// `chatcmpl-…`.
    pub id: String,
    /// Always `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The served name.
    pub model: String,
    /// One per choice.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
    /// Tells versions of the server apart.
    pub system_fingerprint: &'static str,
    /// The prompt's tokens, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// A choice of a chat answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatChoice {
    /// Counted from 0.
    pub index: usize,
    /// What the model says.
    pub message: ChatMessage,
    /// If asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// How the choice ended.
    pub finish_reason: Option<&'static str>,
    /// The token or string that stopped it.
    pub stop_reason: Option<StopReasonField>,
    /// The tokens, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// The message of a choice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatMessage {
    /// Always `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
    /// Always null: this server does not tell refusals from other text.
    pub refusal: Option<String>,
}

/// What beside the choices shapes an answer.
#[derive(Debug, Clone, Default)]
pub struct ChatFormat {
    /// The prompt's tokens.
    pub prompt_token_ids: Vec<u32>,
    /// Whether token ids are written.
    pub return_token_ids: bool,
    /// Whether log probabilities are written.
    pub logprobs: bool,
}

impl ChatCompletion {
    /// Writes an answer.
    pub fn new(head: Head, format: ChatFormat, choices: Vec<Choice>) -> Self {
        let usage = Usage::new(format.prompt_token_ids.len() as u64, completion_tokens(&choices));
        let choices = choices.into_iter().enumerate().map(|(index, choice)| ChatChoice {
            index,
            logprobs: format.logprobs.then(|| ChatLogprobs::new(&choice.logprobs)),
            finish_reason: finish_word(choice.finish.as_ref()),
            stop_reason: StopReasonField::of(choice.finish.as_ref()),
            message: ChatMessage { role: "assistant", content: choice.text, refusal: None },
            token_ids: format.return_token_ids.then_some(choice.token_ids),
        });
        Self {
            id: head.id,
            object: "chat.completion",
            created: head.created,
            model: head.model,
            choices: choices.collect(),
            usage,
            system_fingerprint: SYSTEM_FINGERPRINT,
            prompt_token_ids: format.return_token_ids.then_some(format.prompt_token_ids),
        }
    }
}
