//! Operations of a device that goes through a decode step without the host: it chooses tokens where the logits are,
//! feeds them to the next step, and repeats the launches of steps that look alike.

use std::time::Duration;

use super::{Backend, BatchLimits, DeviceError};

/// How the token of one logit row is chosen. The rules, and their order, are those of the sampler on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Logits are divided by it; next to 0 the most likely token is chosen.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the most likely one.
    pub min_p: f32,
    /// Keep so many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Divides or multiplies the logits of tokens in the history.
    pub repetition_penalty: f32,
    /// Subtracted once from tokens that were generated.
    pub presence_penalty: f32,
    /// Subtracted from tokens that were generated, times their count.
    pub frequency_penalty: f32,
    /// Which history the penalties look at, and the chosen token is counted in; `None` without penalties.
    pub history: Option<u32>,
    /// Key of the random number.
    pub seed: u64,
    /// Counter of the random number: token, choice, stage, and number within the token.
    pub counter: [u32; 4],
    /// Added to single logits; minus infinity forbids a token. A token at most once.
    pub edits: Vec<(u32, f32)>,
}

/// A token with what a history knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedToken {
    /// Which.
    pub id: u32,
    /// How often it was generated; 0 if it only appears in the prompt.
    pub generated: u32,
}

/// A row whose token is the one that the step launched just before chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainedRow {
    /// The row of this step.
    pub row: u32,
    /// The logit row of the step before.
    pub logit_row: u32,
}

/// A device that chooses tokens itself, so that the next step can be launched before the host knows them.
///
/// Of what [`Backend`] says only [`wait`](Self::wait) differs: it waits for one readback alone.
pub trait DeviceSteps: Backend {
    /// What choosing tokens needs on the device: how each row chooses, histories, the tokens chosen last.
    type Sampling: Send;
    /// Host memory in which values arrive without anybody waiting, and the time that a step took.
    type Readback: Send;
    /// What steps launched, to be launched again at once.
    type Recordings: Send;
    /// What must be equal for a step to launch what another one did.
    type StepShape: Send;

    /// Room for steps within `limits`, for as many histories as logit rows, and no recordings.
    fn sampling(&self, limits: BatchLimits, vocabulary: usize) -> Result<Self::Sampling, DeviceError>;

    /// Room for readings.
    fn readback(&self) -> Result<Self::Readback, DeviceError>;

    /// Nothing recorded yet.
    fn recordings(&self) -> Self::Recordings;

    /// Begins a history anew with what is in `tokens`, none of them twice.
    fn start_history(
        &self,
        sampling: &mut Self::Sampling,
        history: u32,
        tokens: &[CountedToken],
    ) -> Result<(), DeviceError>;

    /// Brings to the device how the step that was uploaded into `batch` chooses, one selection for each logit row,
    /// and which of its rows are chained.
    fn upload_selections(
        &self,
        selections: &[Selection],
        chained: &[ChainedRow],
        batch: &Self::Batch,
        sampling: &mut Self::Sampling,
    ) -> Result<(), DeviceError>;

    /// Puts the tokens that [`sample`](Self::sample) chose last in the place of the chained rows' token ids.
    fn take_tokens(&self, sampling: &Self::Sampling, batch: &mut Self::Batch) -> Result<(), DeviceError>;

    /// Chooses a token for every row of `logits`, `[logit_rows, vocabulary]`, which are overwritten, and counts it
    /// in the row's history.
    fn sample(&self, logits: &mut Self::Buffer, sampling: &mut Self::Sampling) -> Result<(), DeviceError>;

    /// The shape of the step that was uploaded; `None` for one that cannot be repeated.
    ///
    /// A decode step can be: each row is alone in its sequence and wants logits. What differs between two of one shape
    /// lies in memory whose place does not change: tokens, positions, contexts, block tables, selections.
    fn step_shape(&self, batch: &Self::Batch, sampling: &Self::Sampling) -> Option<Self::StepShape>;

    /// Has `work` launch a step, or launches what it launched for a step of the same shape.
    ///
    /// `work` calls operations alone, and those always the same for a shape; it may be called a second time.
    fn repeat(
        &self,
        shape: Option<Self::StepShape>,
        recordings: &mut Self::Recordings,
        work: impl FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError>;

    /// Empties a readback that was waited for or never used, makes room for so many values, and marks the beginning of
    /// a step.
    fn begin(&self, readback: &mut Self::Readback, values: usize) -> Result<(), DeviceError>;

    /// Lets `elements` f32 values of a precise buffer from `first` on arrive behind what is there.
    fn read_values(
        &self,
        buffer: &Self::Buffer,
        first: usize,
        elements: usize,
        readback: &mut Self::Readback,
    ) -> Result<(), DeviceError>;

    /// Lets the chosen tokens, one for each logit row, arrive behind what is there. `u32::MAX` stands for none: the row
    /// had no finite logit.
    fn read_tokens(
        &self,
        sampling: &Self::Sampling,
        readback: &mut Self::Readback,
    ) -> Result<(), DeviceError>;

    /// Marks the end of a step. Nothing further arrives in this readback.
    fn end(&self, readback: &mut Self::Readback) -> Result<(), DeviceError>;

    /// Whether all of it has arrived.
    fn arrived(&self, readback: &mut Self::Readback) -> Result<bool, DeviceError>;

    /// Waits until all of it has arrived and shows it as words, in the order in which it was asked for, with the time
    /// from beginning to end on the device.
    fn wait<'a>(&self, readback: &'a mut Self::Readback) -> Result<(&'a [u32], Duration), DeviceError>;
}
