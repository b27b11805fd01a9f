//! What choosing tokens needs on the device.

use std::sync::Arc;

use super::backend::Cuda;
use super::batch::{CudaBatch, Part, grow};
use super::driver::{Driver, Launch, Memory};
use super::memory::CudaBuffer;
use super::stored::Stored;
use crate::tensor::device_steps::{ChainedRow, CountedToken, Selection};
use crate::tensor::error::{require, require_exact};
use crate::tensor::{BatchLimits, DeviceError};

/// Words of a `SamplingRow` of the kernel.
const ROW_WORDS: usize = 16;
/// Words of an `Edit`.
const EDIT_WORDS: usize = 2;
/// Edits that there is room for at first, for each row.
const FIRST_EDITS: usize = 32;
/// Stands for the history of a row without penalties.
const NO_HISTORY: u32 = u32::MAX;
/// Stands for the source of a row whose token came with the step.
const NO_SOURCE: u32 = u32::MAX;
/// Marks a token of the prompt in a history.
const IN_PROMPT: u32 = 1 << 31;
/// Tokens that are put into a history at a time.
const COUNTED_AT_ONCE: usize = 4096;

/// How the rows of a step choose their tokens, what was chosen last, and the histories of penalties.
#[derive(Debug)]
pub struct CudaSampling {
    /// Whose memory it takes.
    driver: Arc<dyn Driver>,
    /// The largest step it has room for.
    limits: BatchLimits,
    /// Width of a row of logits.
    vocabulary: usize,
    /// The source of each row, the selection of each logit row, and the edits, each in the place that the largest step
    /// leaves it.
    parts: Memory,
    /// The same, as they go to the device.
    words: Vec<u32>,
    /// How often `parts` was replaced by longer memory.
    pub(super) layout: u64,
    /// Rows of the step.
    rows: usize,
    /// Logit rows of the step.
    logit_rows: usize,
    /// The tokens chosen last, u32 `[logit_rows]`.
    tokens: Memory,
    /// Histories, u32 `[logit_rows, vocabulary]`.
    counts: Memory,
    /// Tokens on their way into a history, with their words.
    counted: Memory,
}

impl CudaSampling {
    pub(super) fn new(
        driver: &Arc<dyn Driver>,
        limits: BatchLimits,
        vocabulary: usize,
    ) -> Result<Self, DeviceError> {
        let words = limits.rows + limits.logit_rows * (ROW_WORDS + FIRST_EDITS * EDIT_WORDS);
        Ok(Self {
            driver: driver.clone(),
            limits,
            vocabulary,
            parts: Memory::zeros(driver, 4 * words)?,
            words: Vec::with_capacity(words),
            layout: 0,
            rows: 0,
            logit_rows: 0,
            tokens: Memory::zeros(driver, 4 * limits.logit_rows)?,
            counts: Memory::zeros(driver, 4 * limits.logit_rows * vocabulary)?,
            counted: Memory::zeros(driver, 8 * COUNTED_AT_ONCE)?,
        })
    }

    /// Where selections begin, in words.
    fn first_selection(&self) -> usize {
        self.limits.rows
    }

    /// Where edits begin, in words.
    fn first_edit(&self) -> usize {
        self.limits.rows + self.limits.logit_rows * ROW_WORDS
    }

    /// A word of `parts` on the device.
    fn word(&self, index: usize) -> u64 {
        self.parts.address() + 4 * index as u64
    }

    /// The tokens chosen last, and how many there are.
    pub(super) fn tokens(&self) -> (&Memory, usize) {
        (&self.tokens, self.logit_rows)
    }

    /// See [`DeviceSteps::upload_selections`](crate::tensor::DeviceSteps::upload_selections).
    pub(super) fn upload(
        &mut self,
        selections: &[Selection],
        chained: &[ChainedRow],
        batch: &CudaBatch,
    ) -> Result<(), DeviceError> {
        require("upload_selections", "rows", self.limits.rows, batch.rows)?;
        require_exact("upload_selections", "selections", selections.len(), batch.logit_rows)?;
        require("upload_selections", "logit rows", self.limits.logit_rows, selections.len())?;
        self.words.clear();
        self.words.resize(self.first_selection(), NO_SOURCE);
        for ChainedRow { row, logit_row } in chained {
            let known = (*logit_row as usize) < self.logit_rows && (*row as usize) < batch.rows;
            let source = self.words.get_mut(*row as usize).filter(|_| known).ok_or_else(|| {
                DeviceError::Batch(format!("row {row} is chained to row {logit_row}, which was not chosen"))
            })?;
            *source = *logit_row;
        }
        let mut edits = 0;
        for selection in selections {
            let row = self.row(selection, edits)?;
            self.words.extend(row);
            edits += selection.edits.len();
        }
        self.words.resize(self.first_edit(), 0);
        let all = selections.iter().flat_map(|selection| &selection.edits);
        self.words.extend(all.flat_map(|(token, bias)| [*token, bias.to_bits()]));
        self.layout += u64::from(grow(&self.driver, &mut self.parts, 4 * self.words.len())?);
        self.driver.upload(bytemuck::cast_slice(&self.words), self.parts.address())?;
        (self.rows, self.logit_rows) = (batch.rows, selections.len());
        Ok(())
    }

    /// A selection as the kernel reads it.
    fn row(&self, selection: &Selection, first_edit: usize) -> Result<[u32; ROW_WORDS], DeviceError> {
        let history = match selection.history {
            Some(history) if history as usize >= self.limits.logit_rows => {
                return Err(DeviceError::Batch(format!("there is no history {history}")));
            }
            history => history.unwrap_or(NO_HISTORY),
        };
        let [step, choice, stage, within_step] = selection.counter;
        Ok([
            selection.temperature.to_bits(),
            selection.top_p.to_bits(),
            selection.min_p.to_bits(),
            selection.repetition_penalty.to_bits(),
            selection.presence_penalty.to_bits(),
            selection.frequency_penalty.to_bits(),
            selection.top_k,
            history,
            (selection.seed & u64::from(u32::MAX)) as u32,
            (selection.seed >> 32) as u32,
            step,
            choice,
            stage,
            within_step,
            first_edit as u32,
            selection.edits.len() as u32,
        ])
    }

    /// See [`DeviceSteps::start_history`](crate::tensor::DeviceSteps::start_history).
    pub(super) fn start_history(&self, history: u32, tokens: &[CountedToken]) -> Result<(), DeviceError> {
        require("start_history", "histories", self.limits.logit_rows, history as usize + 1)?;
        let row = self.counts.address() + 4 * (history as usize * self.vocabulary) as u64;
        let word = |token: &CountedToken| if token.generated == 0 { IN_PROMPT } else { token.generated };
        let mut rest = tokens;
        let mut fresh = true;
        while fresh || !rest.is_empty() {
            let (some, others) = rest.split_at(rest.len().min(COUNTED_AT_ONCE));
            let words: Vec<u32> = some.iter().flat_map(|token| [token.id, word(token)]).collect();
            if !words.is_empty() {
                self.driver.upload(bytemuck::cast_slice(&words), self.counted.address())?;
            }
            Launch::new("count_tokens", [1, 1, 1], 1024)
                .pointer(row)
                .count(self.vocabulary)
                .memory(&self.counted)
                .count(some.len())
                .count(usize::from(fresh))
                .queue(self.driver.as_ref())?;
            (rest, fresh) = (others, false);
        }
        Ok(())
    }
}

impl Cuda {
    /// See [`DeviceSteps::take_tokens`](crate::tensor::DeviceSteps::take_tokens).
    pub(super) fn launch_take_tokens(
        &self,
        sampling: &CudaSampling,
        batch: &CudaBatch,
    ) -> Result<(), DeviceError> {
        require_exact("take_tokens", "rows", sampling.rows, batch.rows)?;
        Launch::new("take_tokens", [batch.rows.div_ceil(256), 1, 1], 256)
            .memory(&sampling.tokens)
            .pointer(sampling.word(0))
            .count(batch.rows)
            .pointer(batch.part(Part::Tokens))
            .queue(self.driver())
    }

    /// See [`DeviceSteps::sample`](crate::tensor::DeviceSteps::sample).
    pub(super) fn launch_sample(
        &self,
        logits: &CudaBuffer,
        sampling: &CudaSampling,
    ) -> Result<(), DeviceError> {
        logits.check("sample", "logits", sampling.logit_rows * sampling.vocabulary, Stored::F32)?;
        Launch::new("sample", [sampling.logit_rows, 1, 1], 1024)
            .memory(&logits.memory)
            .count(sampling.vocabulary)
            .pointer(sampling.word(sampling.first_selection()))
            .pointer(sampling.word(sampling.first_edit()))
            .memory(&sampling.counts)
            .memory(&sampling.tokens)
            .queue(self.driver())
    }
}
