//! What requests of a Qwen3-Omni pipeline get that ask for nothing in particular.

use serde_json::Value;

use crate::config::{Checkpoint, CheckpointError};
use crate::engine::SamplingParams;
use crate::models::qwen3_omni::OmniConfig;
use crate::stages::sampling_defaults::apply_generation_config;
use crate::text::Tokenizer;

/// The demo's answers are one sentence.
const DEMO_MAX_TOKENS: u32 = 64;
/// Speech is the same each time unless a request brings a seed of its own.
const TALKER_SEED: u64 = 42;

/// Sampling parameters of each stage: built-in values, overridden by the checkpoint's `generation_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Defaults {
    pub(super) thinker: SamplingParams,
    pub(super) talker: SamplingParams,
}

impl Defaults {
    pub(super) fn read(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let mut thinker = SamplingParams::default();
        if checkpoint.is_demo() {
            thinker.max_tokens = DEMO_MAX_TOKENS;
        }
        let mut talker = SamplingParams {
            temperature: 0.9,
            top_k: 50,
            repetition_penalty: 1.05,
            max_tokens: 4096,
            seed: Some(TALKER_SEED),
            ..SamplingParams::default()
        };
        if let Some(config) = checkpoint.generation_config()? {
            let path = checkpoint.path_of("generation_config.json");
            apply_generation_config(&mut thinker, &config, "", &path)?;
            apply_generation_config(&mut talker, &config, "talker_", &path)?;
        }
        Ok(Self { thinker, talker })
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
    let listed = checkpoint.generation_config()?.and_then(|config| config.get("eos_token_id").cloned());
    let listed = match listed {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(ids)) => ids,
        Some(id) => vec![id],
    };
    for id in listed {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        ids.push(id.ok_or_else(|| CheckpointError::Invalid {
            path: checkpoint.path_of("generation_config.json"),
            message: "\"eos_token_id\" must be a token id or a list of them".to_owned(),
        })?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
