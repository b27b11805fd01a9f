//! Qwen3-Omni-MoE: a thinker that reads and writes text, a talker and a vocoder that speak it.

pub mod code2wav;
pub mod config;
mod thinker;

pub use code2wav::{Code2Wav, CodecWindow};
pub use config::OmniConfig;
pub use thinker::Thinker;
