//! A language model whose tokens are chosen on its device, as on a GPU.
//!
//! Nothing waits inside a step. Its description goes up, the launches of the forward pass and of the choice follow, and
//! the tokens come back by themselves while the next step is planned and launched, which takes them where they are. A
//! decode step whose shape was seen before is one launch. Where log probabilities are asked for, the rows of logits
//! come back with the tokens, and the host works them out when it collects the step; such a step is not recorded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::model::{ModelStep, StepModel, StepOutcome, TokenChoice};
use crate::engine::{SampleError, Sampled, SampledLogprobs, Sampler, SequenceKey};
use crate::models::qwen3::{LanguageModel, Workspace};
use crate::stages::StageError;
use crate::tensor::device_steps::{DeviceSteps, Selection};
use crate::tensor::{BatchLimits, DeviceError};

/// What the device gives for a row without a finite logit.
const NO_TOKEN: u32 = u32::MAX;

/// A [`LanguageModel`] with the memory that one replica works in. The weights are shared.
pub struct DeviceSampling<B: DeviceSteps> {
    model: Arc<LanguageModel<B>>,
    cache: B::Cache,
    workspace: Workspace<B>,
    sampling: B::Sampling,
    recordings: B::Recordings,
    histories: Histories,
    /// Knows which tokens must not be chosen.
    sampler: Sampler,
    /// Steps launched and not collected, oldest first.
    in_flight: VecDeque<StepInFlight<B>>,
    /// Readbacks that nothing is on its way to.
    spare: Vec<B::Readback>,
    /// For the search of the most likely tokens.
    values: Vec<f32>,
}

/// What comes back of a step: the logits of some rows, then all tokens.
struct StepInFlight<B: DeviceSteps> {
    readback: B::Readback,
    /// The rows whose logits come back, and how many log probabilities are wanted of each.
    logprobs: Vec<(usize, u32)>,
}

/// The histories on the device, and whose they are.
///
/// A history is begun when a sequence with penalties chooses its first token, or the first one after a preemption, and
/// the device counts what it chooses. It is handed on when its sequence is let go of: a step in flight may still count
/// a token in it then, but comes before the one that begins it anew.
struct Histories {
    taken: HashMap<SequenceKey, u32>,
    free: Vec<u32>,
}

impl<B: DeviceSteps> DeviceSampling<B> {
    /// Memory for a cache of `blocks` blocks and steps within `limits`.
    pub fn new(
        model: Arc<LanguageModel<B>>,
        blocks: usize,
        limits: BatchLimits,
        sampler: Sampler,
    ) -> Result<Self, DeviceError> {
        Ok(Self {
            cache: model.new_cache(blocks)?,
            workspace: model.new_workspace(limits.rows, limits.logit_rows)?,
            sampling: model.backend().sampling(limits, model.config().vocab_size)?,
            recordings: model.backend().recordings(),
            model,
            histories: Histories { taken: HashMap::new(), free: (0..limits.logit_rows as u32).collect() },
            sampler,
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            values: Vec::new(),
        })
    }

    /// How a row chooses. Its history is begun if it needs one and has none yet.
    fn selection(&mut self, choice: &TokenChoice<'_>) -> Result<Selection, StageError> {
        let mut history = self.histories.taken.get(&choice.key).copied();
        if history.is_none()
            && let Some(tokens) = choice.history.counted()
        {
            let free = self.histories.free.pop();
            let fresh = free.ok_or_else(|| StageError::Device("no history is free".into()))?;
            self.model.backend().start_history(&mut self.sampling, fresh, &tokens)?;
            self.histories.taken.insert(choice.key, fresh);
            history = Some(fresh);
        }
        Ok(self.sampler.selection(choice.params, choice.draw, history))
    }
}

impl<B: DeviceSteps> StepModel for DeviceSampling<B> {
    fn vocabulary_size(&self) -> usize {
        self.model.config().vocab_size
    }

    fn steps_in_flight(&self) -> usize {
        2
    }

    fn launch(&mut self, step: &ModelStep<'_>) -> Result<(), StageError> {
        let vocabulary = self.vocabulary_size();
        let asked = step.choices.iter().enumerate();
        let logprobs: Vec<(usize, u32)> =
            asked.filter_map(|(row, choice)| Some((row, choice.params.logprobs?))).collect();
        let mut readback = match self.spare.pop() {
            Some(readback) => readback,
            None => self.model.backend().readback()?,
        };
        self.model.backend().begin(&mut readback, logprobs.len() * vocabulary + step.choices.len())?;
        let selections =
            step.choices.iter().map(|choice| self.selection(choice)).collect::<Result<Vec<_>, _>>()?;

        let Self { model, cache, workspace, sampling, recordings, .. } = self;
        let backend = model.backend();
        model.upload(step.batch, workspace)?;
        backend.upload_selections(&selections, step.chained, workspace.batch(), sampling)?;
        let shape = backend.step_shape(workspace.batch(), sampling).filter(|_| logprobs.is_empty());
        backend.repeat(shape, recordings, || {
            backend.take_tokens(sampling, workspace.batch_mut())?;
            model.compute(step.batch, cache, workspace, None)?;
            for (row, _) in &logprobs {
                let logits = workspace.logits_on_device();
                backend.read_values(logits, row * vocabulary, vocabulary, &mut readback)?;
            }
            backend.sample(workspace.logits_on_device(), sampling)
        })?;
        backend.read_tokens(sampling, &mut readback)?;
        backend.end(&mut readback)?;
        self.in_flight.push_back(StepInFlight { readback, logprobs });
        Ok(())
    }

    fn collect(&mut self, wait: bool) -> Result<Option<StepOutcome>, StageError> {
        let backend = self.model.backend();
        let Some(oldest) = self.in_flight.front_mut() else { return Ok(None) };
        if !wait && !backend.arrived(&mut oldest.readback)? {
            return Ok(None);
        }
        let Some(StepInFlight { mut readback, logprobs }) = self.in_flight.pop_front() else {
            return Ok(None);
        };
        let (words, device_time) = backend.wait(&mut readback)?;
        let vocabulary = self.model.config().vocab_size;
        let (logits, tokens) = words.split_at(words.len().min(logprobs.len() * vocabulary));
        let mut chosen: Vec<Result<Sampled, SampleError>> = tokens
            .iter()
            .map(|id| match *id {
                NO_TOKEN => Err(SampleError::NoFiniteLogit),
                id => Ok(Sampled { id, logprobs: None }),
            })
            .collect();
        for ((row, count), logits) in logprobs.iter().zip(logits.chunks_exact(vocabulary)) {
            if let Some(Ok(sampled)) = chosen.get_mut(*row) {
                let logits = bytemuck::cast_slice(logits);
                sampled.logprobs = SampledLogprobs::of(logits, sampled.id, *count, &mut self.values);
            }
        }
        self.spare.push(readback);
        Ok(Some(StepOutcome { chosen, device_time }))
    }

    fn release(&mut self, key: SequenceKey) {
        self.histories.free.extend(self.histories.taken.remove(&key));
    }
}
