//! The answer of `/v1/completions`, in one piece and as a stream of chunks, which have the same shape.

use std::sync::Arc;

use serde::Serialize;

use crate::engine::FinishReason;
use crate::http::answer::{
    Gathered, Head, SYSTEM_FINGERPRINT, StopReasonField, Usage, completion_tokens, finish_word,
};
use crate::http::errors::ApiError;
use crate::http::generation_fields::StreamOptions;
use crate::http::logprobs::CompletionsLogprobs;
use crate::http::sse::{EventBuffer, StreamWriter};
use crate::http::stage_metrics::{RequestMetrics, RequestMetricsWriter};
use crate::metrics::RequestAccount;
use crate::stages::{AudioPacket, ChoiceFinish, TextDelta};

/// A completions answer, or a chunk of one.
#[derive(Debug, Serialize)]
struct Completion<'a> {
    /// `cmpl-…`.
    id: &'a str,
    /// Always `text_completion`.
    object: &'static str,
    /// Seconds since 1970, the same on all chunks.
    created: u64,
    /// The served name.
    model: &'a str,
    /// All choices, or the one that a chunk adds to.
    choices: Vec<CompletionChoice>,
    /// Token counts; on chunks where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    /// Tells versions of the server apart.
    system_fingerprint: &'static str,
    /// What the request took, with `return_stage_metrics`: on a whole answer, or on the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<RequestMetrics>,
}

/// A choice of an answer, or what a chunk adds to one.
#[derive(Debug, Serialize)]
struct CompletionChoice {
    /// Index of the prompt times `n`, plus the choice.
    index: usize,
    /// All text, or what is new; may be empty.
    text: String,
    /// If asked for.
    logprobs: Option<CompletionsLogprobs>,
    /// How the choice ended; on its last chunk.
    finish_reason: Option<&'static str>,
    /// The token or string that stopped it.
    stop_reason: Option<StopReasonField>,
    /// The tokens, with `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    /// The prompt's tokens, with `return_token_ids`: on whole choices and on the first chunk of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

/// What beside the choices shapes an answer.
#[derive(Debug, Clone)]
pub struct CompletionsFormat {
    /// The tokens of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// Choices per prompt.
    pub choices: usize,
    /// Whether token ids are written.
    pub return_token_ids: bool,
    /// Whether log probabilities are written.
    pub logprobs: bool,
    /// What writes what the request took, if that is written.
    pub metrics: Option<RequestMetricsWriter>,
}

impl CompletionsFormat {
    /// The tokens of the prompt that a choice answers.
    fn prompt_of(&self, index: usize) -> &[u32] {
        index.checked_div(self.choices).and_then(|prompt| self.prompts.get(prompt)).map_or(&[], Vec::as_slice)
    }

    fn write_metrics(&self, account: Option<&RequestAccount>) -> Option<RequestMetrics> {
        Some(self.metrics.as_ref()?.write(account?))
    }

    fn prompt_tokens(&self) -> u64 {
        self.prompts.iter().map(|prompt| prompt.len() as u64).sum()
    }
}

fn completion(head: &Head, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion<'_> {
    Completion {
        id: &head.id,
        object: "text_completion",
        created: head.created,
        model: &head.model,
        choices,
        usage,
        system_fingerprint: SYSTEM_FINGERPRINT,
        metrics: None,
    }
}

/// An answer in one piece.
pub fn whole(head: &Head, format: &CompletionsFormat, gathered: Gathered) -> impl Serialize {
    let Gathered { choices, account } = gathered;
    let usage = Usage::new(format.prompt_tokens(), completion_tokens(&choices));
    let choices = choices
        .into_iter()
        .enumerate()
        .map(|(index, choice)| CompletionChoice {
            index,
            logprobs: format.logprobs.then(|| CompletionsLogprobs::new(&choice.logprobs, &mut 0)),
            finish_reason: finish_word(choice.finish.as_ref()),
            stop_reason: StopReasonField::of(choice.finish.as_ref()),
            text: choice.text,
            token_ids: format.return_token_ids.then_some(choice.token_ids),
            prompt_token_ids: format.return_token_ids.then(|| format.prompt_of(index).to_vec()),
        })
        .collect();
    Completion { metrics: format.write_metrics(account.as_deref()), ..completion(head, choices, Some(usage)) }
}

/// Writes an answer chunk by chunk: one per engine output, the last of a choice with its `finish_reason`, then one
/// without choices with the usage, with what the request took, or with both, if that was asked for.
#[derive(Debug)]
pub struct CompletionsStream {
    /// The same on all chunks.
    head: Head,
    /// What the chunks carry beside text.
    format: CompletionsFormat,
    /// Where usage is written.
    options: StreamOptions,
    /// How far each choice is: those of the first prompt, of the second, …
    choices: Vec<ChoiceProgress>,
    /// What the request took, once that is known, if it is to be written.
    metrics: Option<RequestMetrics>,
}

/// How far a choice is.
#[derive(Debug, Clone, Default)]
struct ChoiceProgress {
    /// Tokens so far.
    tokens: u64,
    /// Characters of the tokens' texts so far.
    text_offset: usize,
    /// A chunk was written.
    begun: bool,
    /// Its `finish_reason` was written.
    finished: bool,
}

impl CompletionsStream {
    /// A stream for all prompts of the format.
    pub fn new(head: Head, format: CompletionsFormat, options: StreamOptions) -> Self {
        let choices = vec![ChoiceProgress::default(); format.prompts.len().saturating_mul(format.choices)];
        Self { head, format, options, choices, metrics: None }
    }
}

impl StreamWriter for CompletionsStream {
    /// Completions have no opening chunk.
    fn begin(&mut self, _events: &mut EventBuffer) {}

    fn output(&mut self, prompt: usize, delta: TextDelta, events: &mut EventBuffer) {
        let index = prompt * self.format.choices + delta.choice as usize;
        let Some(progress) = self.choices.get_mut(index) else {
            tracing::error!(choice = delta.choice, "output for a choice that was not asked for");
            return;
        };
        let first = !std::mem::replace(&mut progress.begun, true);
        progress.tokens += delta.token_ids.len() as u64;
        progress.finished |= delta.finish.is_some();
        let usage = self
            .options
            .continuous_usage_stats
            .then(|| Usage::new(self.format.prompt_of(index).len() as u64, progress.tokens));
        let choice = CompletionChoice {
            index,
            logprobs: self
                .format
                .logprobs
                .then(|| CompletionsLogprobs::new(&delta.logprobs, &mut progress.text_offset)),
            finish_reason: finish_word(delta.finish.as_ref()),
            stop_reason: StopReasonField::of(delta.finish.as_ref()),
            text: delta.text,
            token_ids: self.format.return_token_ids.then_some(delta.token_ids),
            prompt_token_ids: (first && self.format.return_token_ids)
                .then(|| self.format.prompt_of(index).to_vec()),
        };
        events.event(&completion(&self.head, vec![choice], usage));
    }

    /// Completions ask for text alone.
    fn sound(&mut self, _: usize, _: AudioPacket, _: &mut EventBuffer) -> Result<(), ApiError> {
        tracing::error!("sound that was not asked for");
        Ok(())
    }

    fn measured(&mut self, account: Arc<RequestAccount>) {
        self.metrics = self.format.write_metrics(Some(&account));
    }

    fn finished(&mut self, prompt: usize, reason: FinishReason, events: &mut EventBuffer) {
        for choice in 0..self.format.choices {
            let index = prompt * self.format.choices + choice;
            if self.choices.get(index).is_some_and(|progress| !progress.finished) {
                let finish = Some(ChoiceFinish { reason, stop_reason: None });
                let choice = choice as u32;
                self.output(prompt, TextDelta { choice, finish, ..TextDelta::default() }, events);
            }
        }
    }

    fn end(&mut self, events: &mut EventBuffer) {
        let metrics = self.metrics.take();
        if self.options.include_usage || metrics.is_some() {
            let total = self.choices.iter().map(|choice| choice.tokens).sum();
            let usage = self.options.include_usage.then(|| Usage::new(self.format.prompt_tokens(), total));
            events.event(&Completion { metrics, ..completion(&self.head, Vec::new(), usage) });
        }
    }
}
