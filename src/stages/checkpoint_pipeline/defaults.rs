//! What a checkpoint's own files say of its stages: how they sample, and what ends an answer.

use serde_json::Value;

use super::ModelSource;
use crate::config::{Checkpoint, CheckpointError, Deploy, Source, StageDeploy};
use crate::stages::sampling_defaults::apply_generation_config;

/// The file with a checkpoint's sampling defaults.
const GENERATION_CONFIG: &str = "generation_config.json";

/// The deployment of stages whose lengths are those of `config.json`, with what `generation_config.json` says of their
/// sampling. The keys there begin with a stage's prefix.
pub(in crate::stages) fn with_checkpoint_defaults(
    model_type: &str,
    checkpoint: &Checkpoint,
    mut stages: Vec<StageDeploy>,
    prefixes: &[&str],
) -> Result<Deploy, CheckpointError> {
    let generation_config = checkpoint.generation_config()?;
    let path = checkpoint.path_of(GENERATION_CONFIG);
    for (stage, prefix) in stages.iter_mut().zip(prefixes) {
        stage.sources.note("max_model_len", Source::Checkpoint("config.json"));
        let Some(config) = &generation_config else { continue };
        for name in apply_generation_config(&mut stage.sampling, config, prefix, &path)? {
            let key = format!("default_sampling_params.{name}");
            stage.sources.note(key, Source::Checkpoint(GENERATION_CONFIG));
        }
    }
    let mut deploy = Deploy::new(model_type, stages);
    deploy.sources.note("pipeline", Source::Checkpoint("config.json"));
    Ok(deploy)
}

impl ModelSource<'_> {
    /// Tokens that end an answer: the `own` ones of the model's configuration, what the tokenizer calls its end of
    /// sequence, and what `generation_config.json` lists.
    pub(in crate::stages) fn eos_ids(&self, own: &[u32]) -> Result<Vec<u32>, CheckpointError> {
        let mut ids = own.to_vec();
        ids.extend(self.tokenizer.eos_id());
        let config = self.checkpoint.generation_config()?;
        let listed = match config.as_ref().and_then(|config| config.get("eos_token_id")) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
        };
        for id in listed {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            ids.push(id.ok_or_else(|| CheckpointError::Invalid {
                path: self.checkpoint.path_of(GENERATION_CONFIG),
                message: "\"eos_token_id\" must be a token id or a list of them".to_owned(),
            })?);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}
