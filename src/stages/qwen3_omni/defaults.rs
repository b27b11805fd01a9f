//! What requests of a Qwen3-Omni pipeline get that ask for nothing in particular.

use serde::Deserialize;

use crate::config::{Checkpoint, CheckpointError};
use crate::engine::SamplingParams;
use crate::models::qwen3_omni::OmniConfig;
use crate::text::Tokenizer;

/// The demo's answers are one sentence.
const DEMO_MAX_TOKENS: u32 = 64;
/// The talker repeats itself unless told otherwise: seeds by chance make it ramble now and then.
pub(super) const TALKER_SEED: u64 = 42;

/// Sampling parameters of each stage: built-in values, overridden by the checkpoint's `generation_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Defaults {
    pub(super) thinker: SamplingParams,
    pub(super) talker: SamplingParams,
}

/// The part of `generation_config.json` that is read. What it gives, wins over built-in values.
#[derive(Debug, Default, Deserialize)]
struct GenerationConfig {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    repetition_penalty: Option<f32>,
    max_new_tokens: Option<u32>,
    talker_temperature: Option<f32>,
    talker_top_p: Option<f32>,
    talker_top_k: Option<u32>,
    talker_repetition_penalty: Option<f32>,
    talker_max_new_tokens: Option<u32>,
    eos_token_id: Option<OneOrMore>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

impl Defaults {
    pub(super) fn read(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let file = GenerationConfig::read(checkpoint)?;
        let max_tokens =
            if checkpoint.is_demo() { DEMO_MAX_TOKENS } else { SamplingParams::default().max_tokens };
        let thinker = SamplingParams {
            temperature: file.temperature.unwrap_or(0.0),
            top_p: file.top_p.unwrap_or(1.0),
            top_k: file.top_k.unwrap_or(0),
            repetition_penalty: file.repetition_penalty.unwrap_or(1.0),
            max_tokens: file.max_new_tokens.unwrap_or(max_tokens),
            ..SamplingParams::default()
        };
        let talker = SamplingParams {
            temperature: file.talker_temperature.unwrap_or(0.9),
            top_p: file.talker_top_p.unwrap_or(1.0),
            top_k: file.talker_top_k.unwrap_or(50),
            repetition_penalty: file.talker_repetition_penalty.unwrap_or(1.05),
            max_tokens: file.talker_max_new_tokens.unwrap_or(4096),
            seed: Some(TALKER_SEED),
            ..SamplingParams::default()
        };
        Ok(Self { thinker, talker })
    }
}

impl GenerationConfig {
    fn read(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let Some(value) = checkpoint.generation_config()? else { return Ok(Self::default()) };
        serde_json::from_value(value).map_err(|error| CheckpointError::Invalid {
            path: checkpoint.path_of("generation_config.json"),
            message: error.to_string(),
        })
    }
}

/// Tokens that end an answer: the end of a turn, what the tokenizer calls its end of sequence, and what
/// `generation_config.json` lists.
pub(super) fn eos_ids(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    config: &OmniConfig,
) -> Result<Vec<u32>, CheckpointError> {
    let mut ids = vec![config.tokens.im_end_token_id];
    ids.extend(tokenizer.eos_id());
    match GenerationConfig::read(checkpoint)?.eos_token_id {
        Some(OneOrMore::One(id)) => ids.push(id),
        Some(OneOrMore::More(listed)) => ids.extend(listed),
        None => {}
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
