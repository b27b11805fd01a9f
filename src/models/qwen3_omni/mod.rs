//! Qwen3-Omni-MoE: a thinker that reads and writes text, a talker and a vocoder that speak it.

pub mod config;
mod thinker;

pub use config::OmniConfig;
pub use thinker::Thinker;
