//! Why nothing is measured.

use thiserror::Error;

use crate::actors::messages::{AbortCause, Rejection, RequestError};
use crate::server::{LoadFailure, ServerError};
use crate::tensor::DeviceError;
use crate::text::{ChatTemplateError, TokenizerError};

/// Why nothing is measured. Each message is one line for the user.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The model cannot be deployed as asked.
    #[error(transparent)]
    Load(#[from] LoadFailure),
    /// It does not start.
    #[error(transparent)]
    Start(#[from] ServerError),
    /// There is nothing that reads tokens.
    #[error("pipeline {pipeline} has no language model to be measured")]
    NoLanguageModel {
        /// The pipeline.
        pipeline: String,
    },
    /// Speech of a model that has none.
    #[error("--modalities audio: pipeline {pipeline} makes no speech")]
    NoSpeech {
        /// The pipeline.
        pipeline: String,
    },
    /// Frames without speech.
    #[error("--codec-frames is for --modalities audio")]
    FramesOfText,
    /// An answer that is too short to be spoken.
    #[error("--output-len {asked}: a spoken answer has at least 2 tokens, the last of which is not spoken")]
    TooShortToSpeak {
        /// Tokens of the answer.
        asked: u32,
    },
    /// A prompt that leaves no room for whose turn it is.
    #[error(
        "--input-len {asked}: a prompt to be spoken to takes at least {needed} tokens, most of them around the turn"
    )]
    PromptTooShort {
        /// Tokens of the prompt.
        asked: usize,
        /// Tokens that it must have.
        needed: usize,
    },
    /// More tokens than a sequence may have.
    #[error(
        "--input-len {input_len} and --output-len {output_len} are {} tokens, and max_model_len of the {stage} is \
         {max_model_len}",
        *input_len as u64 + u64::from(*output_len)
    )]
    TooLong {
        /// Tokens of the prompt.
        input_len: usize,
        /// Tokens of the answer.
        output_len: u32,
        /// What the stage is called.
        stage: String,
        /// The most tokens of a sequence.
        max_model_len: usize,
    },
    /// More frames than a sequence of the talker may have.
    #[error(
        "a prompt of {input_len} tokens and {frames} codec frames take {rows} rows, and max_model_len of the {stage} is \
         {max_model_len}; give a smaller --codec-frames"
    )]
    SpeechTooLong {
        /// Tokens of the prompt.
        input_len: usize,
        /// Codec frames of the answer.
        frames: u32,
        /// Rows that both take.
        rows: u64,
        /// What the stage is called.
        stage: String,
        /// The most rows of a sequence.
        max_model_len: usize,
    },
    /// More requests at a time than there may be.
    #[error("{option} {asked} is more than the {limit} requests that are held at the same time")]
    TooMany {
        /// The option.
        option: &'static str,
        /// What it asks for.
        asked: usize,
        /// The most there may be.
        limit: usize,
    },
    /// Speech needs turns, and so a chat template.
    #[error("--modalities audio: the model has no chat template that marks a user's turn")]
    NoTurns,
    /// The chat template fails.
    #[error("chat template: {0}")]
    Template(#[from] ChatTemplateError),
    /// Its text cannot be tokenised.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A request was turned away.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// A request failed.
    #[error("a request failed: {0}")]
    Failed(RequestError),
    /// A request was aborted.
    #[error("a request was aborted: {}", .0.reason())]
    Aborted(AbortCause),
    /// Nobody says how a request ended.
    #[error("the actors are gone, and a request with them")]
    Lost,
    /// A request gives nothing for too long.
    #[error("a request has given nothing for {seconds} s")]
    Silent {
        /// How long.
        seconds: u64,
    },
    /// An answer is not as long as it was to be.
    #[error("an answer has {made} tokens instead of {asked}")]
    OtherLength {
        /// Tokens that it has.
        made: usize,
        /// Tokens that were asked for.
        asked: u32,
    },
    /// A spoken answer has no sound.
    #[error("an answer that was to be spoken has no sound")]
    NoSound,
    /// The device cannot be measured.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
