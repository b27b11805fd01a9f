//! The stage that reads the prompt and writes text: a thinker, or a plain text model.

use std::sync::Arc;

use super::{Loaded, ModelSource, PipelineError, StageDevice, bounds, cache_claim, enter_stage, spec};
use crate::config::StageDeploy;
use crate::engine::{BlockPool, Sampler, SchedulerConfig};
use crate::ids::StageId;
use crate::models::qwen3::{DecodeTraffic, LanguageModel};
use crate::stages::llm::{DeviceSampling, HostSampling, LlmSettings, LlmStage, StepModel};
use crate::stages::memory_ledger::MemoryLedger;
use crate::stages::{Modality, Stage, StageFactory, StageSize, StageSpec};
use crate::tensor::{BLOCK_SIZE, Backend, BatchLimits, DeviceError, Outline, Outlined};
use crate::transport::PayloadKind;

/// The device of a language model.
#[derive(Debug)]
pub struct LanguageModelDevice<'a, B: Backend> {
    /// The device.
    pub device: StageDevice<'a, B>,
    /// Makes what a replica works with.
    pub model: ReplicaModel<B>,
}

/// Makes what a replica works with of a model's weights, the blocks of its cache and its largest step: a model whose
/// tokens are chosen on the host, or one that chooses them on its device.
pub type ReplicaModel<B> =
    fn(Arc<LanguageModel<B>>, usize, BatchLimits, Sampler) -> Result<Box<dyn StepModel>, DeviceError>;

impl<'a, B: Backend> LanguageModelDevice<'a, B> {
    /// A device with the memory of the process.
    pub fn of_process(backend: &'a B, name: &str) -> Self {
        Self { device: StageDevice::of_process(backend, name), model: HostSampling::boxed }
    }

    /// The same with an outline in the place of the device.
    pub(in crate::stages) fn outline<'o>(&self, outline: &'o Outline) -> LanguageModelDevice<'o, Outline> {
        let model = match self.device.outlined {
            Outlined::Process => HostSampling::boxed,
            Outlined::Gpu(_) => DeviceSampling::boxed,
        };
        LanguageModelDevice { device: self.device.outline(outline), model }
    }
}

/// A language model as the first stage of a pipeline.
pub(in crate::stages) struct LanguageModelStage<'a, B: Backend> {
    /// What the pipeline is built from.
    pub(in crate::stages) source: ModelSource<'a>,
    /// Where it runs.
    pub(in crate::stages) device: &'a LanguageModelDevice<'a, B>,
    /// How it is deployed.
    pub(in crate::stages) deploy: &'a StageDeploy,
    /// The longest sequence that the model was made for.
    pub(in crate::stages) positions: usize,
    /// Tokens that end an answer, as far as the model's configuration names them.
    pub(in crate::stages) end_ids: &'a [u32],
}

impl<B: Backend> LanguageModelStage<'_, B> {
    /// The stage with a loaded model, with so many blocks in the KV cache of each replica.
    pub(in crate::stages) fn spec(
        &self,
        loaded: Loaded<LanguageModel<B>>,
        cache_blocks: usize,
    ) -> Result<StageSpec, PipelineError> {
        let statistics = self.source.options.statistics.of_engine(|| decode_traffic(&loaded));
        let (model, weights) = loaded;
        let max_model_len = self.source.max_model_len(self.deploy, self.positions)?;
        let settings = LlmSettings {
            stage: StageId(0),
            scheduler: bounds(self.deploy, max_model_len),
            cache_blocks,
            max_model_len,
            prefix_caching: self.deploy.prefix_caching,
            eos_ids: self.source.eos_ids(self.end_ids)?,
            seed: self.source.options.seed,
            statistics,
        };
        let (replicas, bytes_per_block) = (self.deploy.num_replicas, model.kv_bytes_per_block());
        let size = StageSize::new(weights, replicas, settings.cache_blocks, bytes_per_block);
        let (tokenizer, replica_model) = (self.source.tokenizer.clone(), self.device.model);
        let factory: StageFactory = Arc::new(move || {
            let SchedulerConfig { max_num_batched_tokens, max_num_seqs } = settings.scheduler;
            let limits = BatchLimits { rows: max_num_batched_tokens, logit_rows: max_num_seqs };
            let sampler = Sampler::new(settings.eos_ids.clone(), Vec::new());
            let model = replica_model(model.clone(), settings.cache_blocks, limits, sampler)?;
            Ok(Box::new(LlmStage::new(model, tokenizer.clone(), settings.clone())?) as Box<dyn Stage>)
        });
        Ok(StageSpec {
            output: Some(Modality::Text),
            sends: Some(PayloadKind::Tokens),
            max_model_len: Some(max_model_len),
            size: Some(size),
            ..spec(self.deploy, self.device.device.ledger.device(), factory)
        })
    }
}

/// What decode steps of a loaded model read.
pub(in crate::stages) fn decode_traffic<B: Backend>(
    (model, weights): &Loaded<LanguageModel<B>>,
) -> DecodeTraffic {
    DecodeTraffic {
        config: model.config().clone(),
        bytes_per_weight: weights.bytes as f64 / weights.parameters.max(1) as f64,
        cache_bytes_per_token: model.kv_bytes_per_block() as f64 / BLOCK_SIZE as f64,
    }
}

impl LanguageModelStage<'_, Outline> {
    /// Enters what the stage takes in the account of its device, with a model that has just been loaded there. Its KV
    /// caches want `weight` of what is left.
    pub(in crate::stages) fn enter(
        &self,
        ledger: &mut MemoryLedger,
        loaded: Loaded<LanguageModel<Outline>>,
        weight: f64,
    ) -> Result<(), PipelineError> {
        let max_model_len = self.source.max_model_len(self.deploy, self.positions)?;
        let cache = cache_claim(self.deploy, loaded.0.kv_bytes_per_block(), max_model_len, weight);
        let spec = self.spec(loaded, BlockPool::blocks_for(max_model_len))?;
        enter_stage(ledger, self.device.device.backend, &spec, Some(cache))
    }
}
