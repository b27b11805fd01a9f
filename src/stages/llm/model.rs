//! What a text-generating stage asks of its model.

use crate::stages::StageError;
use crate::tensor::StepBatch;

/// A language model with its KV cache.
pub trait LanguageModel: Send {
    /// Width of a row of logits.
    fn vocabulary_size(&self) -> usize;

    /// Computes a step and gives the logits of its logit rows, `[logit_rows, vocabulary]`. The caller may change
    /// them. An error means that the device is broken.
    fn forward(&mut self, batch: &StepBatch) -> Result<&mut [f32], StageError>;
}
