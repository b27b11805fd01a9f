//! The Qwen3-Omni pipeline: how a checkpoint becomes stages.

mod defaults;
mod measure;

use std::sync::Arc;

pub use self::defaults::built_in_deploy;
use self::defaults::read_config;
use crate::config::StageDeploy;
use crate::config::deploy::{CodecChunks, StageKind};
use crate::ids::StageId;
use crate::models::LoadError;
use crate::models::qwen3::{DecodeTraffic, LanguageModel};
use crate::models::qwen3_omni::{
    Code2Wav, Code2WavConfig, CodePredictor, OmniConfig, StreamingSchedule, Talker, TalkerConfig, Thinker,
};
use crate::stages::checkpoint_pipeline::{
    BuiltPipeline, LanguageModelDevice, LanguageModelStage, Loaded, ModelSource, PipelineError, StageDevice,
    bounds, decode_traffic, spec,
};
use crate::stages::code2wav::{Code2WavSettings, Code2WavStage};
use crate::stages::talker::{TalkerModels, TalkerSettings, TalkerStage};
use crate::stages::{Modality, Pipeline, Stage, StageFactory, StageSize, StageSpec};
use crate::tensor::{BLOCK_SIZE, Backend, Convolution, InputRows};
use crate::transport::PayloadKind;

/// `model_type` of the checkpoints that this pipeline serves.
pub const MODEL_TYPE: &str = "qwen3_omni_moe";

/// What the first stage is called.
const THINKER: &str = "thinker";
/// How much the thinker's KV cache gets of what its device has left, in proportion to the talker's.
const THINKER_CACHE_WEIGHT: f64 = 5.0;
/// The same for the talker's.
const TALKER_CACHE_WEIGHT: f64 = 2.0;
/// Samples per second of the vocoder.
const SAMPLE_RATE: u32 = 24_000;

/// The thinker's device.
pub struct ThinkerDevice<'a, T: Backend, S: Backend> {
    /// The device.
    pub device: LanguageModelDevice<'a, T>,
    /// The table of the thinker's embeddings on the device of the stages that speak, which the talker reads too.
    pub embedding: EmbeddingFor<'a, T, S>,
}

/// Gives the embedding table of a thinker on a device for another device.
type EmbeddingFor<'a, T, S> =
    &'a dyn Fn(&LanguageModel<T>, &OmniConfig) -> Result<<S as Backend>::Matrix, LoadError>;

/// Everything that the stages are built from.
struct Builder<'a, T: Backend, S: Backend> {
    source: ModelSource<'a>,
    thinker: ThinkerDevice<'a, T, S>,
    /// Where talker and vocoder run.
    speech: StageDevice<'a, S>,
    config: &'a OmniConfig,
    /// How the thinker is deployed.
    thinker_deploy: &'a StageDeploy,
}

/// Builds the pipeline of a checkpoint, all of it on one device with the memory of the process.
pub fn build<B: Backend + InputRows + Convolution>(
    source: ModelSource<'_>,
    (backend, name): (&B, &str),
) -> Result<BuiltPipeline, PipelineError> {
    let embedding = |thinker: &LanguageModel<B>, _: &_| Ok(thinker.embedding().clone());
    let device = LanguageModelDevice::of_process(backend, name);
    let speech = StageDevice::of_process(backend, name);
    build_on(source, ThinkerDevice { device, embedding: &embedding }, speech)
}

/// Builds the pipeline of a checkpoint with the thinker on one device and the stages that speak on another.
pub fn build_on<T: Backend, S: Backend + InputRows + Convolution>(
    source: ModelSource<'_>,
    thinker: ThinkerDevice<'_, T, S>,
    speech: StageDevice<'_, S>,
) -> Result<BuiltPipeline, PipelineError> {
    let config = read_config(source.checkpoint)?;
    let deploy = source.options.deploy.stage_of(&StageKind::Llm).cloned();
    let thinker_deploy = deploy.unwrap_or_else(|| StageDeploy::new(THINKER, StageKind::Llm));
    Builder { source, thinker, speech, config: &config, thinker_deploy: &thinker_deploy }.build()
}

impl<T: Backend, S: Backend + InputRows + Convolution> Builder<'_, T, S> {
    fn build(self) -> Result<BuiltPipeline, PipelineError> {
        let (blocks, notes) = self.measure()?;
        let deploy = &self.source.options.deploy;
        let loaded = self.load_thinker()?;
        let (thinker, decode) = (loaded.0.clone(), decode_traffic(&loaded));
        let vocabulary_size = thinker.config().vocab_size;
        let spec = self.thinker().spec(loaded, blocks.thinker)?;
        let max_model_len = spec.max_model_len.unwrap_or_default();
        let mut stages = vec![spec];
        let mut voices = Vec::new();
        if let (Some(config), Some(stage)) = (&self.config.talker, deploy.stage_of(&StageKind::Talker)) {
            stages.push(self.talker(self.load_talker(config, &thinker)?, stage, blocks.talker)?);
            voices = config.speakers.iter().map(|(name, _)| name.to_lowercase()).collect();
        }
        if let (Some(config), Some(stage)) = (&self.config.code2wav, deploy.stage_of(&StageKind::Vocoder)) {
            stages.push(self.code2wav(self.load_code2wav(config)?, stage));
        }
        let pipeline = Pipeline { name: MODEL_TYPE.to_owned(), stages, voices };
        Ok(BuiltPipeline { pipeline, vocabulary_size, max_model_len, decode, notes })
    }

    fn load_thinker(&self) -> Result<Loaded<LanguageModel<T>>, PipelineError> {
        let (backend, dtype) = (self.thinker.device.device.backend, self.source.options.deploy.dtype);
        let load = || Thinker::load(backend, self.config, self.source.store, dtype);
        self.source.load(|| load().map(Thinker::into_language_model))
    }

    fn thinker(&self) -> LanguageModelStage<'_, T> {
        LanguageModelStage {
            source: self.source,
            device: &self.thinker.device,
            deploy: self.thinker_deploy,
            positions: self.config.thinker.max_position_embeddings,
            end_ids: std::slice::from_ref(&self.config.tokens.im_end_token_id),
        }
    }

    fn load_talker(
        &self,
        config: &TalkerConfig,
        thinker: &LanguageModel<T>,
    ) -> Result<Loaded<TalkerModels<S>>, PipelineError> {
        let (backend, dtype) = (self.speech.backend, self.source.options.deploy.dtype);
        let store = self.source.store;
        self.source.load(|| {
            let predictor = CodePredictor::load(backend, config, store, dtype)?;
            let embedding = (self.thinker.embedding)(thinker, self.config)?;
            let talker = Talker::load(backend, self.config, config, embedding, &predictor, store, dtype)?;
            let (config, talker_config) = (self.config.clone(), config.clone());
            Ok(TalkerModels { config, talker_config, talker, predictor })
        })
    }

    fn talker(
        &self,
        (models, weights): Loaded<TalkerModels<S>>,
        stage: &StageDeploy,
        cache_blocks: usize,
    ) -> Result<StageSpec, PipelineError> {
        let max_model_len = self.source.max_model_len(stage, models.talker_config.max_position_embeddings)?;
        let settings = TalkerSettings {
            stage: StageId(1),
            scheduler: bounds(stage, max_model_len),
            cache_blocks,
            max_model_len,
            seed: self.source.options.seed,
            statistics: self.source.options.statistics.of_engine(|| DecodeTraffic {
                config: models.talker_config.decoder.clone(),
                bytes_per_weight: weights.bytes as f64 / weights.parameters.max(1) as f64,
                cache_bytes_per_token: models.talker.kv_bytes_per_block() as f64 / BLOCK_SIZE as f64,
            }),
        };
        let (replicas, bytes_per_block) = (stage.num_replicas, models.talker.kv_bytes_per_block());
        let size = StageSize::new(weights, replicas, settings.cache_blocks, bytes_per_block);
        let factory: StageFactory = Arc::new(move || {
            Ok(Box::new(TalkerStage::new(models.clone(), settings.clone())?) as Box<dyn Stage>)
        });
        Ok(StageSpec {
            takes: Some(PayloadKind::Tokens),
            sends: Some(PayloadKind::Codes),
            max_model_len: Some(max_model_len),
            size: Some(size),
            ..spec(stage, self.speech.ledger.device(), factory)
        })
    }

    fn load_code2wav(&self, config: &Code2WavConfig) -> Result<Loaded<Code2Wav<S>>, PipelineError> {
        let (backend, dtype) = (self.speech.backend, self.source.options.deploy.dtype);
        self.source.load(|| Code2Wav::load(backend, config, self.source.store, dtype))
    }

    fn code2wav(&self, (model, weights): Loaded<Code2Wav<S>>, stage: &StageDeploy) -> StageSpec {
        let size = StageSize::new(weights, stage.num_replicas, 0, 0);
        let CodecChunks { initial_frames, chunk_frames, left_context_frames, max_windows } =
            stage.input.codec;
        let schedule = StreamingSchedule { initial_frames, chunk_frames, left_context_frames };
        let settings = Code2WavSettings { schedule, max_windows, sample_rate: SAMPLE_RATE };
        let factory: StageFactory =
            Arc::new(move || Ok(Box::new(Code2WavStage::new(model.clone(), settings)?) as Box<dyn Stage>));
        StageSpec {
            takes: Some(PayloadKind::Codes),
            output: Some(Modality::Audio),
            size: Some(size),
            ..spec(stage, self.speech.ledger.device(), factory)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Checkpoint;
    use crate::stages::checkpoint_pipeline::PipelineOptions;
    use crate::tensor::WeightStore;
    use crate::tensor::cpu::Cpu;
    use crate::text::Tokenizer;

    fn demo_of_length(max_model_len: usize) -> Result<BuiltPipeline, PipelineError> {
        let demo = Checkpoint::demo();
        let store = WeightStore::embedded("model.safetensors", Checkpoint::demo_weights()).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_files(&demo.tokenizer_files().unwrap()).unwrap());
        let mut deploy = built_in_deploy(&demo, false).unwrap();
        deploy.stages[0].max_model_len = Some(max_model_len);
        let options = PipelineOptions { seed: 0, statistics: false.into(), deploy };
        let source =
            ModelSource { checkpoint: &demo, store: &store, tokenizer: &tokenizer, options: &options };
        build(source, (&Cpu::new(None).unwrap(), "cpu"))
    }

    #[test]
    fn a_length_beyond_the_models_is_refused() {
        assert!(matches!(demo_of_length(1 << 20), Err(PipelineError::TooLong { .. })));
        assert_eq!(demo_of_length(2).unwrap().max_model_len, 2);
    }
}
