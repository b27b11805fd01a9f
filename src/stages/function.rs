//! An adapter that makes a stage of a plain function.

use std::collections::{HashMap, VecDeque};

use crate::engine::FinishReason;
use crate::ids::RequestId;
use crate::stages::{
    Output, Poll, Prompt, Readiness, Stage, StageError, StageEvent, StageInput, StageOutput, StageRequest,
    Ticket,
};
use crate::transport::{Chunk, Payload};

/// Inputs that wait before the stage takes no more chunks.
const MAX_INPUTS: usize = 1024;

/// What the function is called with.
#[derive(Debug)]
pub enum Item<'a> {
    /// The prompt, if the stage is the first one.
    Prompt(&'a Prompt),
    /// A chunk from the stage before.
    Payload(Payload),
}

/// What the function gives back, any number of them per call.
#[derive(Debug, Clone, PartialEq)]
pub enum Emission {
    /// Output for the client.
    Client(Output),
    /// Data for the next stage.
    Next(Payload),
}

/// A stage that calls a function once for the prompt, or once for each chunk, on the worker's thread.
///
/// A request is finished when the function has seen its last input. An error of the function fails the request.
pub struct FunctionStage<F> {
    function: F,
    requests: HashMap<RequestId, StageRequest>,
    /// Inputs that wait, in order of arrival.
    inputs: VecDeque<Input>,
    /// Outputs of the step that was launched.
    outputs: Vec<StageOutput>,
    steps: u64,
}

struct Input {
    request: RequestId,
    /// `None` stands for the prompt.
    payload: Option<Payload>,
    first: bool,
    last: bool,
}

impl<F> FunctionStage<F>
where
    F: FnMut(&StageRequest, Item<'_>) -> Result<Vec<Emission>, StageError> + Send,
{
    /// A stage that calls `function`.
    pub fn new(function: F) -> Self {
        Self { function, requests: HashMap::new(), inputs: VecDeque::new(), outputs: Vec::new(), steps: 0 }
    }

    fn call(&mut self, input: Input) -> Result<Vec<Emission>, StageError> {
        let Some(request) = self.requests.get(&input.request) else { return Ok(Vec::new()) };
        match (input.payload, &request.input) {
            (Some(Payload::End), _) => Ok(Vec::new()),
            (Some(payload), _) => (self.function)(request, Item::Payload(payload)),
            (None, StageInput::Prompt(prompt) | StageInput::Upstream(prompt)) => {
                (self.function)(request, Item::Prompt(prompt))
            }
        }
    }
}

impl<F> Stage for FunctionStage<F>
where
    F: FnMut(&StageRequest, Item<'_>) -> Result<Vec<Emission>, StageError> + Send,
{
    fn add(&mut self, request: StageRequest) -> Result<(), StageError> {
        if matches!(request.input, StageInput::Prompt(_)) {
            self.inputs.push_back(Input { request: request.id, payload: None, first: true, last: true });
        }
        self.requests.insert(request.id, request);
        Ok(())
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), StageError> {
        let Chunk { request, sequence, last, payload } = chunk;
        self.inputs.push_back(Input { request, payload: Some(payload), first: sequence == 0, last });
        Ok(())
    }

    fn room(&self) -> usize {
        MAX_INPUTS.saturating_sub(self.inputs.len())
    }

    fn remove(&mut self, request: RequestId) {
        self.requests.remove(&request);
        self.inputs.retain(|input| input.request != request);
    }

    fn plan(&mut self) -> Readiness {
        if self.inputs.is_empty() { Readiness::Idle } else { Readiness::Ready }
    }

    fn launch(&mut self) -> Result<Ticket, StageError> {
        if let Some(input) = self.inputs.pop_front() {
            let (request, first, last) = (input.request, input.first, input.last);
            let mut report = |event| self.outputs.push(StageOutput { request, event });
            if first {
                report(StageEvent::Started);
            }
            match self.call(input) {
                Ok(emissions) => {
                    let mut report = |event| self.outputs.push(StageOutput { request, event });
                    for emission in emissions {
                        report(match emission {
                            Emission::Client(output) => StageEvent::Client(output),
                            Emission::Next(payload) => StageEvent::Next(payload),
                        });
                    }
                    if last {
                        report(StageEvent::Finished(FinishReason::Stop));
                        self.remove(request);
                    }
                }
                Err(error) => {
                    self.outputs.push(StageOutput { request, event: StageEvent::Failed(error) });
                    self.remove(request);
                }
            }
        }
        self.steps += 1;
        Ok(Ticket(self.steps - 1))
    }

    fn poll(&mut self, _: Ticket, _: bool, outputs: &mut Vec<StageOutput>) -> Result<Poll, StageError> {
        outputs.append(&mut self.outputs);
        Ok(Poll::Complete)
    }
}
