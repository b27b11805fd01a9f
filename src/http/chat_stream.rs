//! The answer of `/v1/chat/completions` as a stream of chunks.
//!
//! First one chunk per choice with the role, then one per engine output, the last of a choice with its
//! `finish_reason`, then one without choices with the usage, with what the request took, or with both, if that was asked
//! for.
//!
//! In an answer with speech, packets are chunks between those of the text, and the `finish_reason` is on a chunk of
//! its own when both have ended. Where text is not wanted, its chunks are left out.

use std::sync::Arc;

use serde::Serialize;

use crate::engine::FinishReason;
use crate::http::answer::{Head, SYSTEM_FINGERPRINT, StopReasonField, Usage, finish_word, sole_finish};
use crate::http::chat_response::ChatFormat;
use crate::http::errors::ApiError;
use crate::http::generation_fields::StreamOptions;
use crate::http::logprobs::ChatLogprobs;
use crate::http::modalities::word;
use crate::http::recording::layout_of;
use crate::http::spoken_message::{AudioMetadata, EncodedAudio, MessageAudio};
use crate::http::sse::{EventBuffer, StreamWriter};
use crate::http::stage_metrics::RequestMetrics;
use crate::http::state::AudioDelta;
use crate::media::AudioFormat;
use crate::metrics::RequestAccount;
use crate::stages::{AudioPacket, ChoiceFinish, Modality, TextDelta};

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
    /// What the request took, on the last chunk with `return_stage_metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<RequestMetrics>,
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
    /// What the sound in the chunk is.
    #[serde(skip_serializing_if = "Option::is_none")]
    audio_metadata: Option<AudioMetadata>,
}

impl ChunkChoice {
    /// A chunk with nothing beside its content.
    fn of(index: u32, delta: Delta) -> Self {
        Self {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
            audio_metadata: None,
        }
    }
}

/// What a chunk adds to a message.
#[derive(Debug, Default, Serialize)]
struct Delta {
    /// `assistant`, on the first chunk of a choice and on those with sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Text, which may be empty; or sound in base64, with [`AudioDelta::Content`].
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    /// Sound, with [`AudioDelta::OpenAi`].
    #[serde(skip_serializing_if = "Option::is_none")]
    audio: Option<MessageAudio>,
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
    /// How far the speech is, in an answer that has any.
    speech: Option<SpeechProgress>,
    /// The kind of output on the last chunk; `None` before the first.
    last: Option<Modality>,
    /// What the request took, once that is known, if it is to be written.
    metrics: Option<RequestMetrics>,
}

/// How far the speech of an answer is.
#[derive(Debug)]
struct SpeechProgress {
    /// What it is written as.
    format: AudioFormat,
    /// What all its chunks have in common, and the transcript that is still to be written.
    audio: MessageAudio,
    /// How the text ended, once it has.
    text_finish: Option<ChoiceFinish>,
}

impl SpeechProgress {
    /// Text that is, or will be, spoken.
    fn text(&mut self, delta: &mut TextDelta) {
        self.audio.transcript.get_or_insert_default().push_str(&delta.text);
        self.text_finish = delta.finish.take().or(self.text_finish.take());
    }

    /// What a chunk with this sound adds, if the sound, or a transcript that only fits in beside it, is there.
    fn delta(&mut self, data: Option<String>, place: AudioDelta) -> Delta {
        let role = data.is_some().then_some("assistant");
        match place {
            AudioDelta::Content => Delta { role, content: data, audio: None },
            AudioDelta::OpenAi => {
                let transcript = self.audio.transcript.take().filter(|text| !text.is_empty());
                let news = data.is_some() || transcript.is_some();
                let audio = news.then(|| MessageAudio { data, transcript, ..self.audio.clone() });
                Delta { role, content: None, audio }
            }
        }
    }
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
            speech: format.speech.map(|format| SpeechProgress {
                format,
                audio: MessageAudio::begin(),
                text_finish: None,
            }),
            last: None,
            metrics: None,
            format,
            options,
            choices: vec![ChoiceProgress::default(); choices as usize],
        }
    }

    /// Usage with this many tokens generated.
    fn usage(&self, completion_tokens: u64) -> Usage {
        Usage::new(self.format.prompt_token_ids.len() as u64, completion_tokens)
    }

    /// Usage on a chunk for a choice, where every chunk has it.
    fn running_usage(&self, choice: u32) -> Option<Usage> {
        let tokens = self.choices.get(choice as usize).map_or(0, |progress| progress.tokens);
        self.options.continuous_usage_stats.then(|| self.usage(tokens))
    }

    /// Writes a chunk for a choice.
    fn write_choice(&mut self, modality: Modality, choice: ChunkChoice, events: &mut EventBuffer) {
        let usage = self.running_usage(choice.index);
        self.write(modality, &[choice], (usage, None), events);
    }

    fn write(
        &mut self,
        modality: Modality,
        choices: &[ChunkChoice],
        (usage, metrics): (Option<Usage>, Option<RequestMetrics>),
        events: &mut EventBuffer,
    ) {
        self.last = Some(modality);
        let prompt_due = std::mem::take(&mut self.prompt_due);
        events.event(&Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices,
            system_fingerprint: SYSTEM_FINGERPRINT,
            modality: word(modality),
            usage,
            prompt_token_ids: prompt_due.then_some(self.format.prompt_token_ids.as_slice()),
            metrics,
        });
    }
}

impl StreamWriter for ChatStream {
    fn begin(&mut self, events: &mut EventBuffer) {
        if !self.format.text {
            return;
        }
        for index in 0..self.choices.len() as u32 {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), audio: None };
            self.write_choice(Modality::Text, ChunkChoice::of(index, delta), events);
        }
    }

    fn output(&mut self, _prompt: usize, mut delta: TextDelta, events: &mut EventBuffer) {
        let Some(progress) = self.choices.get_mut(delta.choice as usize) else {
            tracing::error!(choice = delta.choice, "output for a choice that was not asked for");
            return;
        };
        progress.tokens += delta.token_ids.len() as u64;
        if let Some(speech) = &mut self.speech {
            speech.text(&mut delta);
        }
        progress.finished |= delta.finish.is_some();
        if !self.format.text {
            return;
        }
        let choice = ChunkChoice {
            logprobs: self.format.logprobs.then(|| ChatLogprobs::new(&delta.logprobs)),
            finish_reason: finish_word(delta.finish.as_ref()),
            stop_reason: delta.finish.as_ref().map(|finish| StopReasonField::of(Some(finish))),
            token_ids: self.format.return_token_ids.then_some(delta.token_ids),
            ..ChunkChoice::of(delta.choice, Delta { content: Some(delta.text), ..Delta::default() })
        };
        self.write_choice(Modality::Text, choice, events);
    }

    fn sound(
        &mut self,
        _prompt: usize,
        packet: AudioPacket,
        events: &mut EventBuffer,
    ) -> Result<(), ApiError> {
        let Some(speech) = &mut self.speech else {
            tracing::error!("sound that was not asked for");
            return Ok(());
        };
        if packet.samples.is_empty() {
            return Ok(());
        }
        let EncodedAudio { data, metadata } =
            EncodedAudio::new(speech.format, &packet.samples, layout_of(&packet))?;
        let choice = ChunkChoice {
            audio_metadata: Some(metadata),
            ..ChunkChoice::of(0, speech.delta(Some(data), self.format.audio_delta))
        };
        self.write_choice(Modality::Audio, choice, events);
        Ok(())
    }

    fn measured(&mut self, account: Arc<RequestAccount>) {
        self.metrics = self.format.metrics.as_ref().map(|metrics| metrics.write(&account));
    }

    fn finished(&mut self, prompt: usize, reason: FinishReason, events: &mut EventBuffer) {
        if let Some(mut speech) = self.speech.take() {
            let finish = sole_finish(speech.text_finish.take(), reason);
            let mut delta = speech.delta(None, self.format.audio_delta);
            delta.role = self.last.is_none().then_some("assistant");
            let choice = ChunkChoice {
                finish_reason: finish_word(Some(&finish)),
                stop_reason: Some(StopReasonField::of(Some(&finish))),
                ..ChunkChoice::of(0, delta)
            };
            // A kind of output that does not occur in the answer is not named on its last chunk either, so that a
            // client that watches for the first sound is not misled.
            self.write_choice(self.last.unwrap_or(Modality::Text), choice, events);
            return;
        }
        let open = |(index, progress): (usize, &ChoiceProgress)| (!progress.finished).then_some(index as u32);
        let unfinished: Vec<u32> = self.choices.iter().enumerate().filter_map(open).collect();
        for choice in unfinished {
            let finish = Some(ChoiceFinish { reason, stop_reason: None });
            self.output(prompt, TextDelta { choice, finish, ..TextDelta::default() }, events);
        }
    }

    fn end(&mut self, events: &mut EventBuffer) {
        let metrics = self.metrics.take();
        if self.options.include_usage || metrics.is_some() {
            let total = self.choices.iter().map(|choice| choice.tokens).sum();
            let usage = self.options.include_usage.then(|| self.usage(total));
            let modality = self.last.unwrap_or(Modality::Text);
            self.write(modality, &[], (usage, metrics), events);
        }
    }
}
