//! The answer of `/v1/chat/completions` as a stream of chunks.
//!
//! First one chunk per choice with the role, then one per engine output, the last of a choice with its
//! `finish_reason`, then one with the usage and no choices if that was asked for.

use serde::Serialize;

use crate::engine::FinishReason;
use crate::http::answer::{Head, SYSTEM_FINGERPRINT, StopReasonField, Usage, finish_word};
use crate::http::chat_response::ChatFormat;
use crate::http::generation_fields::StreamOptions;
use crate::http::logprobs::ChatLogprobs;
use crate::http::sse::{EventBuffer, StreamWriter};
use crate::stages::{ChoiceFinish, TextDelta};

/// A chunk of a chat answer.
#[derive(Debug, Serialize)]
struct Chunk<'a> {
    /// `chatcmpl-…`.
    id: &'a str,
    /// Always `chat.completion.chunk`.
    object: &'static str,
    /// Seconds since 1970, the same on all chunks.
    created: u64,
    /// The served name.
    model: &'a str,
    /// One choice; none on the chunk with the usage of the whole request.
    choices: &'a [ChunkChoice],
    /// Tells versions of the server apart.
    system_fingerprint: &'static str,
    /// The kind of output that the chunk carries.
    modality: &'static str,
    /// Token counts, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    /// The prompt's tokens, on the first chunk with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

/// What a chunk adds to a choice.
#[derive(Debug, Serialize)]
struct ChunkChoice {
    /// Counted from 0.
    index: u32,
    /// What is new.
    delta: Delta,
    /// Of the new tokens, if asked for.
    logprobs: Option<ChatLogprobs>,
    /// How the choice ended, on its last chunk.
    finish_reason: Option<&'static str>,
    /// The token or string that stopped it; written, if only as null, on the last chunk of the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<Option<StopReasonField>>,
    /// The new tokens, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// What a chunk adds to a message.
#[derive(Debug, Serialize)]
struct Delta {
    /// `assistant`, on the first chunk of a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Text; may be empty.
    content: String,
}

/// Writes a chat answer chunk by chunk.
#[derive(Debug)]
pub struct ChatStream {
    /// The same on all chunks.
    head: Head,
    /// What the chunks carry beside text.
    format: ChatFormat,
    /// Where usage is written.
    options: StreamOptions,
    /// How far each choice is.
    choices: Vec<ChoiceProgress>,
    /// The prompt's tokens still have to be written.
    prompt_due: bool,
}

/// How far a choice is.
#[derive(Debug, Clone, Default)]
struct ChoiceProgress {
    /// Tokens so far.
    tokens: u64,
    /// Its `finish_reason` was written.
    finished: bool,
}

impl ChatStream {
    /// A stream of this many choices.
    pub fn new(head: Head, format: ChatFormat, options: StreamOptions, choices: u32) -> Self {
        Self {
            head,
            prompt_due: format.return_token_ids,
            format,
            options,
            choices: vec![ChoiceProgress::default(); choices as usize],
        }
    }

    /// Usage with this many tokens generated.
    fn usage(&self, completion_tokens: u64) -> Usage {
        Usage::new(self.format.prompt_token_ids.len() as u64, completion_tokens)
    }

    fn write(&mut self, choices: &[ChunkChoice], usage: Option<Usage>, events: &mut EventBuffer) {
        let prompt_due = std::mem::take(&mut self.prompt_due);
        events.event(&Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices,
            system_fingerprint: SYSTEM_FINGERPRINT,
            modality: "text",
            usage,
            prompt_token_ids: prompt_due.then_some(self.format.prompt_token_ids.as_slice()),
        });
    }
}

impl StreamWriter for ChatStream {
    fn begin(&mut self, events: &mut EventBuffer) {
        for index in 0..self.choices.len() as u32 {
            let choice = ChunkChoice {
                index,
                delta: Delta { role: Some("assistant"), content: String::new() },
                logprobs: None,
                finish_reason: None,
                stop_reason: None,
                token_ids: None,
            };
            let usage = self.options.continuous_usage_stats.then(|| self.usage(0));
            self.write(&[choice], usage, events);
        }
    }

    fn output(&mut self, _prompt: usize, delta: TextDelta, events: &mut EventBuffer) {
        let Some(progress) = self.choices.get_mut(delta.choice as usize) else {
            tracing::error!(choice = delta.choice, "output for a choice that was not asked for");
            return;
        };
        progress.tokens += delta.token_ids.len() as u64;
        progress.finished |= delta.finish.is_some();
        let tokens = progress.tokens;
        let choice = ChunkChoice {
            index: delta.choice,
            logprobs: self.format.logprobs.then(|| ChatLogprobs::new(&delta.logprobs)),
            finish_reason: finish_word(delta.finish.as_ref()),
            stop_reason: delta.finish.as_ref().map(|finish| StopReasonField::of(Some(finish))),
            token_ids: self.format.return_token_ids.then_some(delta.token_ids),
            delta: Delta { role: None, content: delta.text },
        };
        let usage = self.options.continuous_usage_stats.then(|| self.usage(tokens));
        self.write(&[choice], usage, events);
    }

    fn finished(&mut self, prompt: usize, reason: FinishReason, events: &mut EventBuffer) {
        let open = |(index, progress): (usize, &ChoiceProgress)| (!progress.finished).then_some(index as u32);
        let unfinished: Vec<u32> = self.choices.iter().enumerate().filter_map(open).collect();
        for choice in unfinished {
            let finish = Some(ChoiceFinish { reason, stop_reason: None });
            self.output(prompt, TextDelta { choice, finish, ..TextDelta::default() }, events);
        }
    }

    fn end(&mut self, events: &mut EventBuffer) {
        if self.options.include_usage {
            let total = self.choices.iter().map(|choice| choice.tokens).sum();
            self.write(&[], Some(self.usage(total)), events);
        }
    }
}
