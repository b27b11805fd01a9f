//! What a text-generating stage asks of its model: steps that are launched now and collected later.

use std::time::Duration;

use crate::engine::{Draw, SampleError, Sampled, SamplingParams, SequenceKey, TokenHistory};
use crate::stages::StageError;
use crate::tensor::device_steps::ChainedRow;
use crate::tensor::{DeviceError, StepBatch};

/// A language model with its KV cache, which computes steps in the order of their launch and chooses tokens.
///
/// An error means that the device is broken.
pub trait StepModel: Send {
    /// Width of a row of logits.
    fn vocabulary_size(&self) -> usize;

    /// How many steps may be launched before the first of them is collected: 1, or 2 if it can chain rows.
    fn steps_in_flight(&self) -> usize {
        1
    }

    /// Starts a step.
    fn launch(&mut self, step: &ModelStep<'_>) -> Result<(), StageError>;

    /// The outcome of the oldest step in flight; `None` while it is computed, which with `wait` is waited for.
    fn collect(&mut self, wait: bool) -> Result<Option<StepOutcome>, StageError>;

    /// Lets go of what is kept of a sequence besides its tokens. It may come again, to be computed anew.
    fn release(&mut self, key: SequenceKey) {
        let _ = key;
    }
}

/// A step, and how it chooses tokens.
#[derive(Debug, Clone, Copy)]
pub struct ModelStep<'a> {
    /// Its rows.
    pub batch: &'a StepBatch,
    /// The rows whose token the step launched just before chooses; their token id in `batch` means nothing.
    pub chained: &'a [ChainedRow],
    /// How the token of each logit row is chosen, `[logit_rows]`.
    pub choices: &'a [TokenChoice<'a>],
}

/// How the token of a row is chosen.
#[derive(Debug, Clone, Copy)]
pub struct TokenChoice<'a> {
    /// The sequence that it continues.
    pub key: SequenceKey,
    /// What was asked for.
    pub params: &'a SamplingParams,
    /// The tokens of the sequence, without those that steps in flight choose.
    pub history: &'a TokenHistory,
    /// Which random number decides. Its step counts the tokens generated before, those in flight too.
    pub draw: Draw,
}

/// What a step gave.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// What was chosen for each logit row.
    pub chosen: Vec<Result<Sampled, SampleError>>,
    /// How long the device took for it.
    pub device_time: Duration,
}

impl<M: StepModel + ?Sized> StepModel for Box<M> {
    fn vocabulary_size(&self) -> usize {
        (**self).vocabulary_size()
    }

    fn steps_in_flight(&self) -> usize {
        (**self).steps_in_flight()
    }

    fn launch(&mut self, step: &ModelStep<'_>) -> Result<(), StageError> {
        (**self).launch(step)
    }

    fn collect(&mut self, wait: bool) -> Result<Option<StepOutcome>, StageError> {
        (**self).collect(wait)
    }

    fn release(&mut self, key: SequenceKey) {
        (**self).release(key);
    }
}

impl From<DeviceError> for StageError {
    fn from(error: DeviceError) -> Self {
        Self::Device(error.to_string())
    }
}
