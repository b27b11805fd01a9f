//! A language model whose tokens are chosen on the host, as on a CPU.

use std::sync::Arc;
use std::time::Instant;

use super::model::{ModelStep, StepModel, StepOutcome};
use crate::engine::Sampler;
use crate::models::qwen3::{LanguageModel, Workspace};
use crate::stages::StageError;
use crate::tensor::{Backend, BatchLimits, DeviceError};

/// A [`LanguageModel`] with the memory that one replica works in. The weights are shared. A step is complete when it
/// is launched.
pub struct HostSampling<B: Backend> {
    model: Arc<LanguageModel<B>>,
    cache: B::Cache,
    workspace: Workspace<B>,
    sampler: Sampler,
    /// Logits of the last step, for the sampler to work on.
    logits: Vec<f32>,
    /// What the step in flight gave.
    outcome: Option<StepOutcome>,
}

impl<B: Backend> HostSampling<B> {
    /// Memory for a cache of `blocks` blocks and steps within `limits`.
    pub fn new(
        model: Arc<LanguageModel<B>>,
        blocks: usize,
        limits: BatchLimits,
        sampler: Sampler,
    ) -> Result<Self, DeviceError> {
        let cache = model.new_cache(blocks)?;
        let workspace = model.new_workspace(limits.rows, limits.logit_rows)?;
        Ok(Self { model, cache, workspace, sampler, logits: Vec::new(), outcome: None })
    }
}

impl<B: Backend> StepModel for HostSampling<B> {
    fn vocabulary_size(&self) -> usize {
        self.model.config().vocab_size
    }

    fn launch(&mut self, step: &ModelStep<'_>) -> Result<(), StageError> {
        let started = Instant::now();
        self.model.forward(step.batch, &mut self.cache, &mut self.workspace, None)?;
        self.logits.clear();
        self.logits.extend_from_slice(self.workspace.logits()?);
        let device_time = started.elapsed();
        let rows = self.logits.chunks_exact_mut(self.model.config().vocab_size);
        let chosen = rows
            .zip(step.choices)
            .map(|(logits, choice)| self.sampler.sample(logits, choice.params, choice.history, choice.draw));
        self.outcome = Some(StepOutcome { chosen: chosen.collect(), device_time });
        Ok(())
    }

    fn collect(&mut self, _: bool) -> Result<Option<StepOutcome>, StageError> {
        Ok(self.outcome.take())
    }
}
