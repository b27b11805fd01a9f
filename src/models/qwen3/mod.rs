//! The Qwen3 decoder: RMS norms, grouped-query attention with normalised queries and keys, rotary embedding,
//! and a gated feed-forward network, dense or a mixture of experts.
//!
//! The thinker and the talker of Qwen3-Omni are such decoders, and so is a plain Qwen3 text model; they differ in
//! the names of their weights, in what is fed in and in what is read out.

mod attention;
pub mod config;
mod decoder;
mod embedded;
mod feed_forward;
mod language_model;
mod size;
pub mod taps;
#[cfg(test)]
mod tests;
pub mod text_model;
pub mod work;
mod workspace;

pub use config::{DecoderConfig, FeedForwardConfig, TextConfig};
pub use decoder::Decoder;
pub use embedded::EmbeddedDecoder;
pub use language_model::{LanguageModel, Names};
pub use size::DecodeTraffic;
pub use taps::{TapPoint, Taps};
pub use text_model::{TEXT_MODEL_NAMES, TextModelConfig};
pub use work::{StepShape, Work};
pub(crate) use workspace::Loader;
pub use workspace::Workspace;
