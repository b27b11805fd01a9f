//! What a text-generating stage asks of its model.

use std::sync::Arc;

use crate::models::qwen3::{LanguageModel, Workspace};
use crate::stages::StageError;
use crate::tensor::{Backend, DeviceError, StepBatch};

/// A language model with its KV cache, one step at a time.
pub trait StepModel: Send {
    /// Width of a row of logits.
    fn vocabulary_size(&self) -> usize;

    /// Computes a step and gives the logits of its logit rows, `[logit_rows, vocabulary]`. The caller may change
    /// them. An error means that the device is broken.
    fn forward(&mut self, batch: &StepBatch) -> Result<&mut [f32], StageError>;
}

/// A [`LanguageModel`] with the memory that one replica works in. The weights are shared.
pub struct ModelRunner<B: Backend> {
    model: Arc<LanguageModel<B>>,
    cache: B::Cache,
    workspace: Workspace<B>,
    /// Logits of the last step, for the sampler to work on.
    logits: Vec<f32>,
}

impl<B: Backend> ModelRunner<B> {
    /// Memory for a cache of `blocks` blocks and steps of up to `max_rows` rows, of which `max_logit_rows` want logits.
    pub fn new(
        model: Arc<LanguageModel<B>>,
        blocks: usize,
        max_rows: usize,
        max_logit_rows: usize,
    ) -> Result<Self, DeviceError> {
        let cache = model.new_cache(blocks)?;
        let workspace = model.new_workspace(max_rows, max_logit_rows)?;
        Ok(Self { model, cache, workspace, logits: Vec::new() })
    }
}

impl<B: Backend> StepModel for ModelRunner<B> {
    fn vocabulary_size(&self) -> usize {
        self.model.config().vocab_size
    }

    fn forward(&mut self, batch: &StepBatch) -> Result<&mut [f32], StageError> {
        self.model.forward(batch, &mut self.cache, &mut self.workspace, None)?;
        self.logits.clear();
        self.logits.extend_from_slice(self.workspace.logits()?);
        Ok(&mut self.logits)
    }
}

impl From<DeviceError> for StageError {
    fn from(error: DeviceError) -> Self {
        Self::Device(error.to_string())
    }
}
