//! What a stage gives back.

use crate::engine::FinishReason;
use crate::ids::RequestId;
use crate::metrics::TokenCounts;
use crate::stages::StageError;
use crate::transport::Payload;

pub use crate::transport::AudioPacket;

/// Something that happened to one request in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StageOutput {
    /// The request.
    pub request: RequestId,
    /// What happened.
    pub event: StageEvent,
}

/// What can happen to a request in a step.
#[derive(Debug, Clone, PartialEq)]
pub enum StageEvent {
    /// It left the waiting queue; reported once.
    Started,
    /// Output of the kind that the stage makes. It goes to the client; or, if the next stage of the pipeline takes that
    /// kind of data, there, as a chunk.
    Client(Output),
    /// Data for the next stage. The worker numbers the chunks.
    Next(Payload),
    /// The tokens that it took and gave for the request, before it is finished; for the account of the request.
    Counted(TokenCounts),
    /// This stage is done with the request; it holds no state of it any more.
    Finished(FinishReason),
    /// This stage gave the request up; it holds no state of it any more.
    Failed(StageError),
}

/// Output for the client.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Text, as far as it is certain.
    Text(TextDelta),
    /// Sound.
    Audio(AudioPacket),
}

/// One engine output of one choice: usually one token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TextDelta {
    /// Which choice, counted from 0.
    pub choice: u32,
    /// Text that became certain; may be empty while a character is incomplete or a stop string may be beginning.
    pub text: String,
    /// The token ids of this output.
    pub token_ids: Vec<u32>,
    /// One entry per token id, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Set on the last output of the choice.
    pub finish: Option<ChoiceFinish>,
}

/// How a choice ended.
#[derive(Debug, Clone, PartialEq)]
pub struct ChoiceFinish {
    /// Why.
    pub reason: FinishReason,
    /// The stop token or string that was met, if any; an end-of-sequence token is not reported.
    pub stop_reason: Option<StopReason>,
}

/// What stopped a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// A token of `stop_token_ids`.
    Token(u32),
    /// A string of `stop`.
    Text(String),
}

/// Log probabilities at one generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The chosen token.
    pub chosen: TokenLogprob,
    /// The most likely tokens, most likely first; as many as were asked for.
    pub top: Vec<TokenLogprob>,
}

/// A token with its log probability (natural logarithm), before temperature and filters.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// The token alone as text.
    pub token: String,
    /// Its bytes, also where they are no complete character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of the probability.
    pub logprob: f32,
}

impl Output {
    /// The same as data for the next stage; `None` if there is nothing to hand on, as in text of no characters. Of text
    /// the characters alone go on: tokens, log probabilities and how a choice ended do not.
    pub fn into_payload(self) -> Option<Payload> {
        match self {
            Self::Text(delta) => (!delta.text.is_empty()).then_some(Payload::Text(delta.text)),
            Self::Audio(packet) => (!packet.samples.is_empty()).then_some(Payload::Audio(packet)),
        }
    }
}
