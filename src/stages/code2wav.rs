//! The vocoder stage: codec frames in, sound out.
//!
//! Frames of a request are decoded in windows: a small one first, so that sound comes soon, then larger ones that
//! repeat some frames as left context. The windows of several requests are decoded together.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::engine::FinishReason;
use crate::ids::RequestId;
use crate::models::qwen3_omni::{
    Code2Wav, Code2WavWorkspace, CodecStream, CodecWindow, StreamWindow, StreamingSchedule,
};
use crate::stages::{
    AudioPacket, Output, Poll, Readiness, Stage, StageError, StageEvent, StageInput, StageOutput,
    StageRequest, Ticket,
};
use crate::tensor::{Convolution, InputRows};
use crate::transport::{Chunk, Payload};

/// Frames held before the stage takes no more while it has some to decode: five minutes of speech.
const MAX_FRAMES: usize = 4096;

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
    /// Requests that may have something to do, longest waiting first.
    waiting: VecDeque<RequestId>,
    /// Windows of the step that was planned last.
    planned: Vec<(RequestId, StreamWindow)>,
    /// Outputs of the step that was launched.
    outputs: Vec<StageOutput>,
    steps: u64,
}

/// What is held of a request.
struct Utterance {
    /// Codes from frame `first_frame` on, `[frames, quantizers]`.
    codes: Vec<u32>,
    /// The frame that `codes` begin with; earlier ones are needed no more.
    first_frame: usize,
    /// What has been decoded.
    stream: CodecStream,
    /// All frames are there.
    complete: bool,
    started: bool,
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
            waiting: VecDeque::new(),
            planned: Vec::new(),
            outputs: Vec::new(),
            steps: 0,
        })
    }

    fn frames_held(&self) -> usize {
        let codes: usize = self.utterances.values().map(|utterance| utterance.codes.len()).sum();
        codes / self.quantizers().max(1)
    }

    fn quantizers(&self) -> usize {
        self.model.config().num_quantizers
    }

    /// Decodes the planned windows and gives their samples out.
    fn decode(&mut self) -> Result<(), StageError> {
        let quantizers = self.quantizers();
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
        let samples = self.workspace.samples()?;
        for ((id, _), samples) in self.planned.iter().zip(samples) {
            let packet = AudioPacket {
                samples: samples.to_vec(),
                sample_rate: self.settings.sample_rate,
                channels: 1,
            };
            let event = StageEvent::Client(Output::Audio(packet));
            self.outputs.push(StageOutput { request: *id, event });
        }
        Ok(())
    }

    /// Lets go of frames that are needed no more, and of requests that are done.
    fn settle(&mut self) {
        let quantizers = self.quantizers();
        for (id, _) in self.planned.drain(..) {
            let Some(utterance) = self.utterances.get_mut(&id) else { continue };
            utterance.forget_old_frames(quantizers);
            self.waiting.push_back(id);
        }
    }
}

impl Utterance {
    /// Frames that have come.
    fn available(&self, quantizers: usize) -> usize {
        self.first_frame + self.codes.len() / quantizers
    }

    fn codes_of(&self, window: &StreamWindow, quantizers: usize) -> Option<&[u32]> {
        let place = |frame: usize| frame.checked_sub(self.first_frame).map(|frame| frame * quantizers);
        self.codes.get(place(window.frames.start)?..place(window.frames.end)?)
    }

    fn forget_old_frames(&mut self, quantizers: usize) {
        let old = self.stream.oldest_needed_frame().saturating_sub(self.first_frame);
        self.codes.drain(..(old * quantizers).min(self.codes.len()));
        self.first_frame += old;
    }
}

impl<B: Convolution + InputRows> Stage for Code2WavStage<B> {
    fn add(&mut self, request: StageRequest) -> Result<(), StageError> {
        if matches!(request.input, StageInput::Prompt(_)) {
            return Err(StageError::Protocol("a vocoder takes its input as chunks".into()));
        }
        let utterance = Utterance {
            codes: Vec::new(),
            first_frame: 0,
            stream: CodecStream::new(self.model.config(), self.settings.schedule),
            complete: false,
            started: false,
        };
        self.utterances.insert(request.id, utterance);
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
                utterance.codes.extend(codes);
            }
            other => {
                return Err(StageError::Protocol(format!(
                    "a vocoder takes frames of {quantizers} codes, not {}",
                    other.kind_name()
                )));
            }
        }
        utterance.complete |= chunk.last;
        if !self.waiting.contains(&chunk.request) {
            self.waiting.push_back(chunk.request);
        }
        Ok(())
    }

    fn room(&self) -> usize {
        // While nothing can be decoded, only further frames help.
        if self.waiting.is_empty() { usize::MAX } else { MAX_FRAMES.saturating_sub(self.frames_held()) }
    }

    fn remove(&mut self, request: RequestId) {
        self.utterances.remove(&request);
        self.waiting.retain(|id| *id != request);
        self.planned.retain(|(id, _)| *id != request);
    }

    fn plan(&mut self) -> Readiness {
        let quantizers = self.quantizers();
        for _ in 0..self.waiting.len() {
            if self.planned.len() == self.settings.max_windows {
                break;
            }
            let Some(id) = self.waiting.pop_front() else { break };
            let Some(utterance) = self.utterances.get_mut(&id) else { continue };
            let available = utterance.available(quantizers);
            match utterance.stream.next_window(available, utterance.complete) {
                Some(window) => {
                    if !std::mem::replace(&mut utterance.started, true) {
                        self.outputs.push(StageOutput { request: id, event: StageEvent::Started });
                    }
                    self.planned.push((id, window));
                }
                None if utterance.complete => {
                    self.utterances.remove(&id);
                    let event = StageEvent::Finished(FinishReason::Stop);
                    self.outputs.push(StageOutput { request: id, event });
                }
                None => {} // More frames will bring it back.
            }
        }
        if self.planned.is_empty() && self.outputs.is_empty() { Readiness::Idle } else { Readiness::Ready }
    }

    fn launch(&mut self) -> Result<Ticket, StageError> {
        if !self.planned.is_empty() {
            self.decode()?;
            self.settle();
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
