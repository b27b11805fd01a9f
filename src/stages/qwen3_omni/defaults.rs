//! What a Qwen3-Omni pipeline is, and what its requests get, if nobody says anything in particular.

use serde_json::Value;

use super::{MODEL_TYPE, PipelineError};
use crate::config::deploy::StageKind;
use crate::config::{Checkpoint, CheckpointError, Deploy, Source, StageDeploy};
use crate::engine::SamplingParams;
use crate::models::qwen3_omni::OmniConfig;
use crate::stages::sampling_defaults::apply_generation_config;
use crate::text::Tokenizer;

/// The file with a checkpoint's sampling defaults.
const GENERATION_CONFIG: &str = "generation_config.json";
/// The demo's answers are one sentence.
const DEMO_MAX_TOKENS: u32 = 64;
/// Speech is the same each time unless a request brings a seed of its own.
const TALKER_SEED: u64 = 42;

/// The deployment of a checkpoint that nobody says anything about: built-in values, overridden by those of the
/// checkpoint's files. With `thinker_only`, what speaks is left away.
pub fn built_in_deploy(checkpoint: &Checkpoint, thinker_only: bool) -> Result<Deploy, PipelineError> {
    let config = read_config(checkpoint)?;
    let mut thinker = StageDeploy::new("thinker", StageKind::Thinker);
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
    let generation_config = checkpoint.generation_config()?;
    let path = checkpoint.path_of(GENERATION_CONFIG);
    for (stage, prefix) in stages.iter_mut().zip(["", "talker_"]) {
        stage.sources.note("max_model_len", Source::Checkpoint("config.json"));
        let Some(config) = &generation_config else { continue };
        for name in apply_generation_config(&mut stage.sampling, config, prefix, &path)? {
            let key = format!("default_sampling_params.{name}");
            stage.sources.note(key, Source::Checkpoint(GENERATION_CONFIG));
        }
    }
    let mut deploy = Deploy::new(MODEL_TYPE, stages);
    deploy.sources.note("pipeline", Source::Checkpoint("config.json"));
    Ok(deploy)
}

/// The configuration of a checkpoint.
pub(super) fn read_config(checkpoint: &Checkpoint) -> Result<OmniConfig, PipelineError> {
    let file = checkpoint.path_of("config.json");
    Ok(OmniConfig::parse(&checkpoint.config()?.to_string(), &file)?)
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
            path: checkpoint.path_of(GENERATION_CONFIG),
            message: "\"eos_token_id\" must be a token id or a list of them".to_owned(),
        })?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
