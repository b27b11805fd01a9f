//! Qwen3-Omni-MoE: a thinker that reads and writes text, a talker and a vocoder that speak it.

pub mod code2wav;
pub mod code_predictor;
pub mod config;
mod projection;
pub mod talker;
pub mod talker_prompt;
mod thinker;

pub use code_predictor::{CodePredictor, CodePredictorWorkspace, FrameStart};
pub use code2wav::streaming::{CodecStream, StreamWindow, StreamingSchedule};
pub use code2wav::{Code2Wav, Code2WavWorkspace, CodecWindow};
pub use config::{Code2WavConfig, OmniConfig, TalkerConfig};
pub use talker::{CodecSide, Talker, TalkerRow, TalkerWorkspace, TextSide};
pub use talker_prompt::{PromptRow, PromptText, REPLY_ROWS, ReplyText, TalkerPrompt, TalkerPromptError};
pub use thinker::Thinker;
