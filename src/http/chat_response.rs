//! The answer of `/v1/chat/completions` in one piece. Text and speech share one choice.

use serde::Serialize;

use crate::http::answer::{
    Choice, Gathered, Head, SYSTEM_FINGERPRINT, StopReasonField, Usage, completion_tokens, finish_word,
};
use crate::http::errors::ApiError;
use crate::http::logprobs::ChatLogprobs;
use crate::http::spoken_message::{AudioMetadata, EncodedAudio, MessageAudio};
use crate::http::stage_metrics::{RequestMetrics, RequestMetricsWriter};
use crate::http::state::AudioDelta;
use crate::media::AudioFormat;

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
    /// What the request took, with `return_stage_metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RequestMetrics>,
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
    /// What the speech of the message is, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_metadata: Option<AudioMetadata>,
}

/// The message of a choice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatMessage {
    /// Always `assistant`.
    pub role: &'static str,
    /// The text; null in an answer that is only spoken.
    pub content: Option<String>,
    /// Always null: this server does not tell refusals from other text.
    pub refusal: Option<String>,
    /// The speech, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<MessageAudio>,
}

/// What beside the choices shapes an answer.
#[derive(Debug, Clone)]
pub struct ChatFormat {
    /// The prompt's tokens.
    pub prompt_token_ids: Vec<u32>,
    /// Whether token ids are written.
    pub return_token_ids: bool,
    /// Whether log probabilities are written.
    pub logprobs: bool,
    /// Whether text is written as such, and not only as a transcript.
    pub text: bool,
    /// What speech is written as; `None` for an answer without sound.
    pub speech: Option<AudioFormat>,
    /// Where streamed speech stands.
    pub audio_delta: AudioDelta,
    /// What writes what the request took, if that is written.
    pub metrics: Option<RequestMetricsWriter>,
}

impl ChatCompletion {
    /// Writes an answer, with its speech encoded.
    pub async fn write(head: Head, format: ChatFormat, gathered: Gathered) -> Result<Self, ApiError> {
        let Gathered { choices, account } = gathered;
        let usage = Usage::new(format.prompt_token_ids.len() as u64, completion_tokens(&choices));
        let mut written = Vec::with_capacity(choices.len());
        for (index, mut choice) in choices.into_iter().enumerate() {
            let spoken = match (format.speech, choice.sound.take()) {
                (Some(format), Some(sound)) => Some(EncodedAudio::of_recording(format, sound).await?),
                _ => None,
            };
            written.push(ChatChoice::new(index, &format, choice, spoken));
        }
        Ok(Self {
            id: head.id,
            object: "chat.completion",
            created: head.created,
            model: head.model,
            choices: written,
            usage,
            system_fingerprint: SYSTEM_FINGERPRINT,
            prompt_token_ids: format.return_token_ids.then_some(format.prompt_token_ids),
            metrics: format.metrics.zip(account).map(|(metrics, account)| metrics.write(&account)),
        })
    }
}

impl ChatChoice {
    fn new(index: usize, format: &ChatFormat, choice: Choice, spoken: Option<EncodedAudio>) -> Self {
        let audio_metadata = spoken.as_ref().map(|spoken| spoken.metadata);
        let audio = spoken.map(|spoken| MessageAudio {
            data: Some(spoken.data),
            transcript: Some(choice.text.clone()),
            ..MessageAudio::begin()
        });
        Self {
            index,
            logprobs: format.logprobs.then(|| ChatLogprobs::new(&choice.logprobs)),
            finish_reason: finish_word(choice.finish.as_ref()),
            stop_reason: StopReasonField::of(choice.finish.as_ref()),
            message: ChatMessage {
                role: "assistant",
                content: format.text.then_some(choice.text),
                refusal: None,
                audio,
            },
            token_ids: format.return_token_ids.then_some(choice.token_ids),
            audio_metadata,
        }
    }
}
