//! The vocoder stage: codec frames in, sound out.
//!
//! Frames of a request are decoded in windows: a small one first, so that sound comes soon, then larger ones that
//! repeat some frames as left context. The windows of several requests are decoded together; when there are more than a
//! step takes, those go first whose listeners would otherwise be the first to hear a gap. A listener who is about to hear
//! one gets a smaller window. With many requests at a time first and smaller windows have more frames, which costs fewer
//! steps. None of this changes a sample.

mod utterance;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::utterance::Utterance;
use crate::engine::FinishReason;
use crate::ids::RequestId;
use crate::metrics::TokenCounts;
use crate::models::qwen3_omni::{
    Code2Wav, Code2WavWorkspace, CodecStream, CodecWindow, Demand, StreamWindow, StreamingSchedule,
};
use crate::stages::{
    AudioPacket, Output, Poll, Readiness, Stage, StageError, StageEvent, StageInput, StageOutput,
    StageRequest, Ticket,
};
use crate::tensor::{Convolution, InputRows};
use crate::transport::{Chunk, Payload};

/// Frames held before the stage takes no more while it has some to decode: five minutes of speech.
const MAX_FRAMES: usize = 4096;

/// How long before a gap a listener gets a smaller window, beside the time that a step takes.
const GAP_MARGIN: Duration = Duration::from_millis(100);

/// How a [`Code2WavStage`] works.
#[derive(Debug, Clone, Copy)]
pub struct Code2WavSettings {
    /// The sizes of windows.
    pub schedule: StreamingSchedule,
    /// Windows decoded in one step.
    pub max_windows: usize,
    /// Samples per second.
    pub sample_rate: u32,
}

/// Turns codec frames into sound.
pub struct Code2WavStage<B: Convolution + InputRows> {
    settings: Code2WavSettings,
    model: Arc<Code2Wav<B>>,
    workspace: Code2WavWorkspace<B>,
    utterances: BTreeMap<RequestId, Utterance>,
    /// Windows of the step that was planned last.
    planned: Vec<(RequestId, StreamWindow)>,
    /// How long the last step took.
    last_step: Duration,
    /// Outputs of the step that was launched.
    outputs: Vec<StageOutput>,
    steps: u64,
}

impl<B: Convolution + InputRows> Code2WavStage<B> {
    /// A stage without requests.
    pub fn new(model: Arc<Code2Wav<B>>, settings: Code2WavSettings) -> Result<Self, StageError> {
        let StreamingSchedule { initial_frames, chunk_frames, left_context_frames } = settings.schedule;
        let largest_window = left_context_frames + chunk_frames.max(initial_frames);
        Ok(Self {
            workspace: model.new_workspace(largest_window * settings.max_windows)?,
            settings,
            model,
            utterances: BTreeMap::new(),
            planned: Vec::new(),
            last_step: Duration::ZERO,
            outputs: Vec::new(),
            steps: 0,
        })
    }

    fn frames_held(&self) -> usize {
        let quantizers = self.quantizers();
        self.utterances.values().map(|utterance| utterance.frames_held(quantizers)).sum()
    }

    fn quantizers(&self) -> usize {
        self.model.config().num_quantizers
    }

    /// Decodes the planned windows and gives their samples out.
    fn decode(&mut self) -> Result<(), StageError> {
        let (quantizers, begun) = (self.quantizers(), Instant::now());
        let windows: Vec<CodecWindow<'_>> = self
            .planned
            .iter()
            .filter_map(|(id, window)| {
                let codes = self.utterances.get(id)?.codes_of(window, quantizers)?;
                Some(CodecWindow { codes, keep_from: window.keep.start })
            })
            .collect();
        if windows.len() != self.planned.len() {
            return Err(StageError::Protocol("a window asks for frames that are gone".into()));
        }
        self.model.forward(&windows, &mut self.workspace, None)?;
        let (samples, now) = (self.workspace.samples()?, Instant::now());
        self.last_step = now - begun;
        for ((id, window), samples) in self.planned.drain(..).zip(samples) {
            if let Some(utterance) = self.utterances.get_mut(&id) {
                utterance.decoded(&window, quantizers, now);
            }
            let packet = AudioPacket {
                samples: samples.to_vec(),
                sample_rate: self.settings.sample_rate,
                channels: 1,
            };
            let event = StageEvent::Client(Output::Audio(packet));
            self.outputs.push(StageOutput { request: id, event });
        }
        Ok(())
    }

    /// What is worth a window: new frames of a first one, and of one that ends within its segment. They double with the
    /// number of steps that the utterances which are being spoken take by turns.
    fn worth(&self) -> Demand {
        let StreamingSchedule { initial_frames, chunk_frames, .. } = self.settings.schedule;
        let spoken = self.utterances.values().filter(|utterance| utterance.is_spoken()).count();
        let turns = spoken.div_ceil(self.settings.max_windows.max(1));
        let frames = initial_frames.saturating_mul(turns.next_power_of_two());
        Demand { first_frames: frames, at_once: Some(frames.min(chunk_frames)) }
    }

    /// How long before a gap a listener gets a smaller window.
    fn gap_margin(&self) -> Duration {
        GAP_MARGIN + 2 * self.last_step
    }

    /// Ends the utterances of which all has been decoded.
    fn finish_decoded(&mut self) {
        let quantizers = self.quantizers();
        let outputs = &mut self.outputs;
        self.utterances.retain(|id, utterance| {
            let decoded = utterance.is_decoded(quantizers);
            if decoded {
                let tokens = TokenCounts { input: utterance.codes_taken(), output: 0 };
                for event in [StageEvent::Counted(tokens), StageEvent::Finished(FinishReason::Stop)] {
                    outputs.push(StageOutput { request: *id, event });
                }
            }
            !decoded
        });
    }
}

impl<B: Convolution + InputRows> Stage for Code2WavStage<B> {
    fn add(&mut self, request: StageRequest) -> Result<(), StageError> {
        if matches!(request.input, StageInput::Prompt(_)) {
            return Err(StageError::Protocol("a vocoder takes its input as chunks".into()));
        }
        let stream = CodecStream::new(self.model.config(), self.settings.schedule);
        self.utterances.insert(request.id, Utterance::new(stream, request.streamed));
        Ok(())
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), StageError> {
        let (quantizers, codebook) = (self.quantizers(), self.model.config().codebook_size);
        let Some(utterance) = self.utterances.get_mut(&chunk.request) else { return Ok(()) };
        match chunk.payload {
            Payload::End => {}
            Payload::Codes { groups, codes }
                if groups as usize == quantizers && codes.len() % quantizers == 0 =>
            {
                // Here it is one request that is wrong; in a step it would be all of them.
                if let Some(code) = codes.iter().find(|code| **code as usize >= codebook) {
                    let text = format!("code {code} is beyond a vocoder's codebooks of {codebook}");
                    return Err(StageError::Protocol(text));
                }
                utterance.push(codes, Instant::now());
            }
            other => {
                return Err(StageError::Protocol(format!(
                    "a vocoder takes frames of {quantizers} codes, not {}",
                    other.kind_name()
                )));
            }
        }
        if chunk.last {
            utterance.complete();
        }
        Ok(())
    }

    fn room(&self) -> usize {
        // While nothing can be decoded, only further frames help.
        let quantizers = self.quantizers();
        let demand = Demand { at_once: None, ..self.worth() };
        let ready = |utterance: &Utterance| utterance.window(quantizers, demand).is_some();
        if self.utterances.values().any(ready) {
            MAX_FRAMES.saturating_sub(self.frames_held())
        } else {
            usize::MAX
        }
    }

    fn remove(&mut self, request: RequestId) {
        self.utterances.remove(&request);
        self.planned.retain(|(id, _)| *id != request);
    }

    fn plan(&mut self) -> Readiness {
        self.finish_decoded();
        let (quantizers, worth) = (self.quantizers(), self.worth());
        let sample_rate = self.settings.sample_rate;
        let soon = Instant::now() + self.gap_margin();
        let mut ready: Vec<_> = self
            .utterances
            .iter()
            .filter_map(|(id, utterance)| {
                let demand = utterance.demand(worth, sample_rate, soon);
                let window = utterance.window(quantizers, demand)?;
                Some((utterance.deadline(sample_rate), *id, window))
            })
            .collect();
        ready.sort_by_key(|(deadline, id, _)| (*deadline, *id));
        ready.truncate(self.settings.max_windows);
        self.planned.clear();
        for (_, id, window) in ready {
            if let Some(utterance) = self.utterances.get_mut(&id)
                && utterance.begin()
            {
                self.outputs.push(StageOutput { request: id, event: StageEvent::Started });
            }
            self.planned.push((id, window));
        }
        if self.planned.is_empty() && self.outputs.is_empty() { Readiness::Idle } else { Readiness::Ready }
    }

    fn wake_at(&self) -> Option<Instant> {
        let (quantizers, worth) = (self.quantizers(), self.worth());
        let urgent_from =
            |utterance: &Utterance| utterance.urgent_from(quantizers, worth, self.settings.sample_rate);
        let first = self.utterances.values().filter_map(urgent_from).min()?;
        Some(first.checked_sub(self.gap_margin()).unwrap_or(first))
    }

    fn launch(&mut self) -> Result<Ticket, StageError> {
        if !self.planned.is_empty() {
            self.decode()?;
        }
        self.steps += 1;
        Ok(Ticket(self.steps - 1))
    }

    fn poll(&mut self, _: Ticket, _: bool, outputs: &mut Vec<StageOutput>) -> Result<Poll, StageError> {
        outputs.append(&mut self.outputs);
        Ok(Poll::Complete)
    }
}

#[cfg(test)]
mod tests;
