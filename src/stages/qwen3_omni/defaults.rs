//! What a Qwen3-Omni pipeline is, and what its requests get, if nobody says anything in particular.

use super::{MODEL_TYPE, PipelineError, THINKER};
use crate::config::deploy::StageKind;
use crate::config::{Checkpoint, Deploy, StageDeploy};
use crate::engine::SamplingParams;
use crate::models::qwen3_omni::OmniConfig;
use crate::stages::checkpoint_pipeline::with_checkpoint_defaults;

/// The demo's answers are one sentence.
const DEMO_MAX_TOKENS: u32 = 64;
/// Speech is the same each time unless a request brings a seed of its own.
const TALKER_SEED: u64 = 42;

/// The deployment of a checkpoint that nobody says anything about: built-in values, overridden by those of the
/// checkpoint's files. With `thinker_only`, what speaks is left away.
pub fn built_in_deploy(checkpoint: &Checkpoint, thinker_only: bool) -> Result<Deploy, PipelineError> {
    let config = read_config(checkpoint)?;
    let mut thinker = StageDeploy::new(THINKER, StageKind::Llm);
    if checkpoint.is_demo() {
        thinker.sampling.max_tokens = DEMO_MAX_TOKENS;
    }
    thinker.max_model_len = Some(config.thinker.max_position_embeddings);
    let mut stages = vec![thinker];
    if let (Some(config), Some(_), false) = (&config.talker, &config.code2wav, thinker_only) {
        let mut talker = StageDeploy::new("talker", StageKind::Talker);
        talker.sampling = SamplingParams {
            temperature: 0.9,
            top_k: 50,
            repetition_penalty: 1.05,
            max_tokens: 4096,
            seed: Some(TALKER_SEED),
            ..SamplingParams::default()
        };
        talker.max_model_len = Some(config.max_position_embeddings);
        stages.extend([talker, StageDeploy::new("code2wav", StageKind::Vocoder)]);
    }
    Ok(with_checkpoint_defaults(MODEL_TYPE, checkpoint, stages, &["", "talker_"])?)
}

/// The configuration of a checkpoint.
pub(super) fn read_config(checkpoint: &Checkpoint) -> Result<OmniConfig, PipelineError> {
    let file = checkpoint.path_of("config.json");
    Ok(OmniConfig::parse(&checkpoint.config()?.to_string(), &file)?)
}
