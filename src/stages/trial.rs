//! A stage on trial: driven as a worker drives it, without a server. For tests of stages.

use std::sync::Arc;

use crate::ids::RequestId;
use crate::metrics::{LabelledStats, Recorder};
use crate::stages::{
    Poll, Prompt, Readiness, Stage, StageError, StageEvent, StageInput, StageOutput, StageRequest,
};
use crate::transport::{Chunk, Payload};

/// Drives a stage on the calling thread, one request after the other.
pub struct StageTrial {
    stage: Box<dyn Stage>,
    recorder: Recorder,
    requests: u64,
}

impl StageTrial {
    /// A trial of a stage.
    pub fn new(stage: Box<dyn Stage>) -> Self {
        Self { stage, recorder: Recorder::default(), requests: 0 }
    }

    /// The same of a stage that counts with `recorder`.
    pub(super) fn recorded_by(self, recorder: Recorder) -> Self {
        Self { recorder, ..self }
    }

    /// What a first stage makes of a prompt.
    ///
    /// # Errors
    ///
    /// The stage refused the request, or broke.
    pub fn prompt(&mut self, text: &str) -> Result<Vec<StageEvent>, StageError> {
        let prompt = Prompt { text: text.to_owned(), ..Prompt::default() };
        self.begin(StageInput::Prompt(Arc::new(prompt)))?;
        self.run()
    }

    /// What a later stage makes of chunks from the stage before, which come one by one.
    ///
    /// # Errors
    ///
    /// The stage refused the request or a chunk, or broke.
    pub fn chunks(
        &mut self,
        payloads: impl IntoIterator<Item = Payload>,
    ) -> Result<Vec<StageEvent>, StageError> {
        let request = self.begin(StageInput::Upstream(Arc::default()))?;
        let mut events = Vec::new();
        for (payload, sequence) in payloads.into_iter().chain([Payload::End]).zip(0..) {
            let last = payload == Payload::End;
            self.stage.push(Chunk { request, sequence, last, payload })?;
            events.extend(self.run()?);
        }
        Ok(events)
    }

    /// What the stage has counted in the families that it declares.
    pub fn counted(&self) -> LabelledStats {
        self.recorder.totals()
    }

    fn begin(&mut self, input: StageInput) -> Result<RequestId, StageError> {
        let request = RequestId(self.requests);
        self.requests += 1;
        self.stage.add(StageRequest::new(request, input))?;
        Ok(request)
    }

    /// Steps while there is something to do.
    fn run(&mut self) -> Result<Vec<StageEvent>, StageError> {
        let mut outputs: Vec<StageOutput> = Vec::new();
        while self.stage.plan() == Readiness::Ready {
            let ticket = self.stage.launch()?;
            while self.stage.poll(ticket, true, &mut outputs)? == Poll::Pending {}
        }
        Ok(outputs.into_iter().map(|output| output.event).collect())
    }
}
