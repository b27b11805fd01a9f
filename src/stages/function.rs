//! An adapter that makes a stage of a plain function.

use std::collections::{HashMap, VecDeque};

use crate::engine::FinishReason;
use crate::ids::RequestId;
use crate::metrics::TokenCounts;
use crate::stages::{
    Output, Poll, Prompt, Readiness, Stage, StageError, StageEvent, StageInput, StageOutput, StageRequest,
    TextDelta, Ticket,
};
use crate::transport::{AudioPacket, Chunk, Payload};

/// Inputs that wait before the stage takes no more chunks.
const MAX_INPUTS: usize = 1024;

/// What the function is called with.
#[derive(Debug)]
pub enum Item<'a> {
    /// The prompt, if the stage is the first one.
    Prompt(&'a Prompt),
    /// A chunk from the stage before.
    Payload(Payload),
    /// All chunks were there. Only functions [`per_request`](FunctionStage::per_request) are told.
    End,
}

/// What the function gives back, any number of them per call.
#[derive(Debug, Clone, PartialEq)]
pub enum Emission {
    /// Output of the kind that the stage makes.
    Client(Output),
    /// Data for the next stage.
    Next(Payload),
    /// Tokens of the whole request that it took and gave so far, for its tables. The last ones count.
    Counted(TokenCounts),
}

/// What a call of the function comes to.
pub type Emissions = Result<Vec<Emission>, StageError>;

/// A stage that calls a function once for the prompt, or once for each chunk, on the worker's thread.
///
/// A request is finished when the function has seen its last input. An error of the function fails the request.
///
/// ```
/// use omni_actors::{Emission, FunctionStage, Item, StageRequest};
///
/// let shout = FunctionStage::new(|_: &StageRequest, item: Item<'_>| match item {
///     Item::Prompt(prompt) => Ok(vec![Emission::text(prompt.text.to_uppercase())]),
///     other => Err(other.unexpected("the prompt")),
/// });
/// ```
pub struct FunctionStage<R: Respond> {
    respond: R,
    requests: HashMap<RequestId, (StageRequest, R::State)>,
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

/// What answers the inputs of requests: a function, or one that makes a function for each request.
pub trait Respond: Send {
    /// What is kept of a request between its inputs.
    type State: Send;

    /// A request came.
    fn begin(&mut self, request: &StageRequest) -> Result<Self::State, StageError>;

    /// An input of a request came.
    fn respond(&mut self, state: &mut Self::State, request: &StageRequest, item: Item<'_>) -> Emissions;
}

impl<F: FnMut(&StageRequest, Item<'_>) -> Emissions + Send> Respond for F {
    type State = ();

    fn begin(&mut self, _: &StageRequest) -> Result<(), StageError> {
        Ok(())
    }

    fn respond(&mut self, (): &mut (), request: &StageRequest, item: Item<'_>) -> Emissions {
        match item {
            Item::End => Ok(Vec::new()),
            item => self(request, item),
        }
    }
}

/// Makes a function for each request, which may keep what it likes from one input to the next.
pub struct PerRequest<M>(M);

impl<M, F> Respond for PerRequest<M>
where
    M: FnMut(&StageRequest) -> Result<F, StageError> + Send,
    F: FnMut(Item<'_>) -> Emissions + Send,
{
    type State = F;

    fn begin(&mut self, request: &StageRequest) -> Result<F, StageError> {
        (self.0)(request)
    }

    fn respond(&mut self, function: &mut F, _: &StageRequest, item: Item<'_>) -> Emissions {
        function(item)
    }
}

impl<F: FnMut(&StageRequest, Item<'_>) -> Emissions + Send> FunctionStage<F> {
    /// A stage that calls `function` for every request.
    pub fn new(function: F) -> Self {
        Self::with(function)
    }
}

impl<M, F> FunctionStage<PerRequest<M>>
where
    M: FnMut(&StageRequest) -> Result<F, StageError> + Send,
    F: FnMut(Item<'_>) -> Emissions + Send,
{
    /// A stage that calls `make` for every request and the function that it gets for the inputs of that request. It is
    /// dropped with the request. An error of `make` fails the request.
    pub fn per_request(make: M) -> Self {
        Self::with(PerRequest(make))
    }
}

impl<R: Respond> FunctionStage<R> {
    fn with(respond: R) -> Self {
        Self { respond, requests: HashMap::new(), inputs: VecDeque::new(), outputs: Vec::new(), steps: 0 }
    }

    fn call(&mut self, input: Input) -> Emissions {
        let Some((request, state)) = self.requests.get_mut(&input.request) else { return Ok(Vec::new()) };
        let mut emissions = match (input.payload, &request.input) {
            (Some(Payload::End), _) => Vec::new(),
            (Some(payload), _) => self.respond.respond(state, request, Item::Payload(payload))?,
            (None, StageInput::Prompt(prompt) | StageInput::Upstream(prompt)) => {
                self.respond.respond(state, request, Item::Prompt(prompt))?
            }
        };
        if input.last && matches!(request.input, StageInput::Upstream(_)) {
            emissions.extend(self.respond.respond(state, request, Item::End)?);
        }
        Ok(emissions)
    }
}

impl<R: Respond> Stage for FunctionStage<R> {
    fn add(&mut self, request: StageRequest) -> Result<(), StageError> {
        let state = self.respond.begin(&request)?;
        if matches!(request.input, StageInput::Prompt(_)) {
            self.inputs.push_back(Input { request: request.id, payload: None, first: true, last: true });
        }
        self.requests.insert(request.id, (request, state));
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
                            Emission::Counted(tokens) => StageEvent::Counted(tokens),
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

impl Item<'_> {
    /// The error for an input that is not what the function takes, such as `"audio"`.
    pub fn unexpected(&self, expected: &str) -> StageError {
        let found = match self {
            Self::Prompt(_) => "the prompt",
            Self::Payload(payload) => payload.kind_name(),
            Self::End => "the end",
        };
        StageError::Protocol(format!("it takes {expected}, not {found}"))
    }
}

impl Emission {
    /// Text as output.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Client(Output::Text(TextDelta { text: text.into(), ..TextDelta::default() }))
    }

    /// Sound as output.
    pub fn audio(packet: AudioPacket) -> Self {
        Self::Client(Output::Audio(packet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::StageTrial;

    #[test]
    fn a_function_per_request_keeps_its_own_state_and_hears_of_the_end() {
        let stage = FunctionStage::per_request(|_: &StageRequest| {
            let mut texts = 0;
            Ok(move |item: Item<'_>| match item {
                Item::Payload(Payload::Text(_)) => {
                    texts += 1;
                    Ok(Vec::new())
                }
                Item::End => Ok(vec![Emission::text(texts.to_string())]),
                other => Err(other.unexpected("text")),
            })
        });
        let mut trial = StageTrial::new(Box::new(stage));
        for texts in [3, 1, 0] {
            let events = trial.chunks(vec![Payload::Text("a".into()); texts]).unwrap();
            let delta = TextDelta { text: texts.to_string(), ..TextDelta::default() };
            let due = [
                StageEvent::Started,
                StageEvent::Client(Output::Text(delta)),
                StageEvent::Finished(FinishReason::Stop),
            ];
            assert_eq!(events, due);
        }
    }

    #[test]
    fn an_input_of_the_wrong_kind_is_named() {
        let error = Item::Payload(Payload::Tokens(vec![1])).unexpected("audio");
        assert_eq!(error, StageError::Protocol("it takes audio, not tokens".into()));
    }
}
