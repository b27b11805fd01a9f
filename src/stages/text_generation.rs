//! The pipeline of a plain text model: one stage, which reads the prompt and writes the answer.

use crate::config::deploy::StageKind;
use crate::config::{Checkpoint, Deploy, StageDeploy};
use crate::models::qwen3::{LanguageModel, TEXT_MODEL_NAMES, TextModelConfig};
use crate::stages::Pipeline;
use crate::stages::checkpoint_pipeline::{
    BuiltPipeline, LanguageModelDevice, LanguageModelStage, Loaded, ModelSource, PipelineError,
    decode_traffic, granted_blocks, with_checkpoint_defaults,
};
use crate::tensor::{Backend, Outline};

/// What the stage is called.
const STAGE: &str = "llm";

/// The deployment of a checkpoint that nobody says anything about: built-in values, overridden by those of the
/// checkpoint's files.
pub fn built_in_deploy(checkpoint: &Checkpoint) -> Result<Deploy, PipelineError> {
    let config = read_config(checkpoint)?;
    let mut stage = StageDeploy::new(STAGE, StageKind::Llm);
    stage.max_model_len = Some(config.max_position_embeddings);
    Ok(with_checkpoint_defaults(config.model_type, checkpoint, vec![stage], &[""])?)
}

/// Builds the pipeline of a checkpoint on a device.
pub fn build<B: Backend>(
    source: ModelSource<'_>,
    device: LanguageModelDevice<'_, B>,
) -> Result<BuiltPipeline, PipelineError> {
    let config = read_config(source.checkpoint)?;
    let deploy = source.options.deploy.stage_of(&StageKind::Llm).cloned();
    let deploy = deploy.unwrap_or_else(|| StageDeploy::new(STAGE, StageKind::Llm));
    Builder { source, device: &device, config: &config, deploy: &deploy }.build()
}

/// Everything that the stage is built from.
struct Builder<'a, B: Backend> {
    source: ModelSource<'a>,
    device: &'a LanguageModelDevice<'a, B>,
    config: &'a TextModelConfig,
    deploy: &'a StageDeploy,
}

impl<B: Backend> Builder<'_, B> {
    fn build(&self) -> Result<BuiltPipeline, PipelineError> {
        let (cache_blocks, memory) = self.measure()?;
        let loaded = self.load()?;
        let decode = decode_traffic(&loaded);
        let spec = self.stage().spec(loaded, cache_blocks)?;
        let max_model_len = spec.max_model_len.unwrap_or_default();
        let pipeline =
            Pipeline { name: self.config.model_type.to_owned(), stages: vec![spec], voices: Vec::new() };
        let vocabulary_size = self.config.decoder.vocab_size;
        Ok(BuiltPipeline { pipeline, vocabulary_size, max_model_len, decode, notes: vec![memory] })
    }

    /// Makes up the account of the device: blocks of each replica's KV cache, and a line. Nothing is loaded.
    fn measure(&self) -> Result<(usize, String), PipelineError> {
        let outline = Outline::of(self.device.device.outlined);
        let device = self.device.outline(&outline);
        let outlined =
            Builder { source: self.source, device: &device, config: self.config, deploy: self.deploy };
        let mut ledger = self.source.account(&self.device.device);
        outlined.stage().enter(&mut ledger, outlined.load()?, 1.0)?;
        let grants = ledger.settle()?;
        Ok((granted_blocks(&grants, &self.deploy.name), ledger.summary(&grants)))
    }

    fn load(&self) -> Result<Loaded<LanguageModel<B>>, PipelineError> {
        let (backend, dtype) = (self.device.device.backend, self.source.options.deploy.dtype);
        let decoder = self.config.decoder.clone();
        self.source.load(|| LanguageModel::load(backend, TEXT_MODEL_NAMES, decoder, self.source.store, dtype))
    }

    fn stage(&self) -> LanguageModelStage<'_, B> {
        LanguageModelStage {
            source: self.source,
            device: self.device,
            deploy: self.deploy,
            positions: self.config.max_position_embeddings,
            end_ids: &self.config.eos_token_ids,
        }
    }
}

/// The configuration of a checkpoint.
fn read_config(checkpoint: &Checkpoint) -> Result<TextModelConfig, PipelineError> {
    Ok(TextModelConfig::parse(&checkpoint.config()?, &checkpoint.path_of("config.json"))?)
}
