//! What the tests of this module put in the place of the rest of the server: an orchestrator that follows a
//! script, a frontend whose tokens are bytes, and a server on a socket of its own.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::prelude::*;
use serde_json::Value;

use crate::actors::messages::{
    Abort, AbortCause, GetHealth, GetStages, Health, OmniRequest, Record, Rejection, RequestEvent, Submit,
};
use crate::engine::SamplingParams;
use crate::http::state::{
    AppState, AudioDelta, Limits, MetricsPage, MetricsText, OrchestratorPort, PipelineShape, ScrapeError,
    ServedModel, StageShape,
};
use crate::http::{ApiKeys, Conversation, FrontendError, ServerOptions, TextFrontend};
use crate::ids::RequestId;
use crate::metrics::{DeliveredAudio, HttpExchange, PipelineEvent, StatEvent, StatsSender};
use crate::stages::Modality;

/// Tokens are bytes; the template writes `role: content` lines.
struct ByteFrontend;

impl TextFrontend for ByteFrontend {
    fn render_chat(&self, conversation: &Conversation) -> Result<String, FrontendError> {
        let mut text = String::new();
        for message in &conversation.messages {
            let role = message["role"].as_str().unwrap();
            let content = match &message["content"] {
                Value::String(content) => content.clone(),
                parts => {
                    parts.as_array().unwrap().iter().map(|part| part["text"].as_str().unwrap()).collect()
                }
            };
            if content == "raise" {
                return Err(FrontendError::Template("raised by the template".into()));
            }
            text += &format!("{role}: {content}\n");
        }
        if conversation.add_generation_prompt {
            text += "assistant: ";
        }
        Ok(text)
    }

    fn encode(&self, text: &str, _add_special_tokens: bool) -> Result<Vec<u32>, FrontendError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn decode(&self, ids: &[u32], _skip_special_tokens: bool) -> Result<String, FrontendError> {
        let bytes: Vec<u8> = ids.iter().map(|id| *id as u8).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn token_text(&self, id: u32) -> Option<String> {
        char::from_u32(id).map(String::from)
    }

    fn vocab_size(&self) -> u32 {
        256
    }
}

struct FixedPage;

impl MetricsPage for FixedPage {
    fn scrape(&self, accept: &str) -> Pin<Box<dyn Future<Output = Result<MetricsText, ScrapeError>>>> {
        let body = format!("# accept: {accept}\n");
        Box::pin(async move { Ok(MetricsText { content_type: "text/plain; version=0.0.4", body }) })
    }
}

/// One step of the answer to a request.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Give this event.
    Event(RequestEvent),
    /// Wait a little.
    Pause(Duration),
    /// Never say anything again, but hold the stream open.
    Hang,
}

/// How a submitted request is answered.
pub(super) type Script = Result<Vec<Step>, Rejection>;

/// What the fake server saw.
#[derive(Default)]
pub(super) struct Seen {
    /// Requests that were submitted, admitted or not.
    pub(super) requests: Vec<OmniRequest>,
    /// Aborts, in order.
    pub(super) aborts: Vec<(RequestId, AbortCause)>,
    /// Reasons of refusals that the HTTP layer counted.
    pub(super) refusals: Vec<&'static str>,
    /// Scripts that were played to their end.
    pub(super) played: usize,
    /// What the HTTP layer told of spoken answers.
    pub(super) delivered: Vec<(RequestId, DeliveredAudio)>,
    /// What it told of requests that were answered.
    pub(super) exchanges: Vec<HttpExchange>,
}

/// Answers requests as scripted, in order; the last script is used again and again.
pub(super) struct FakeOrchestrator {
    /// What is still to be played.
    scripts: VecDeque<Script>,
    /// What the tests look at.
    seen: Arc<Mutex<Seen>>,
    /// The answer to [`GetHealth`].
    health: Health,
    /// How long an admission takes.
    admission_delay: Duration,
}

impl Actor for FakeOrchestrator {
    type Context = Context<Self>;
}

impl Handler<Submit> for FakeOrchestrator {
    type Result = ResponseFuture<Result<RequestId, Rejection>>;

    fn handle(&mut self, message: Submit, _: &mut Self::Context) -> Self::Result {
        let script = match self.scripts.len() {
            0 | 1 => self.scripts.front().cloned().unwrap_or(Ok(vec![Step::Hang])),
            _ => self.scripts.pop_front().unwrap(),
        };
        let seen = self.seen.clone();
        let id = {
            let mut seen = seen.lock().unwrap();
            seen.requests.push(message.request);
            RequestId(seen.requests.len() as u64)
        };
        let delay = self.admission_delay;
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            let steps = script?;
            let events = message.events;
            actix_rt::spawn(async move {
                for step in steps {
                    match step {
                        Step::Event(event) => {
                            if events.send(event).await.is_err() {
                                return;
                            }
                        }
                        Step::Pause(duration) => tokio::time::sleep(duration).await,
                        Step::Hang => events.closed().await,
                    }
                }
                seen.lock().unwrap().played += 1;
            });
            Ok(id)
        })
    }
}

impl Handler<Abort> for FakeOrchestrator {
    type Result = ();
    fn handle(&mut self, message: Abort, _: &mut Self::Context) {
        self.seen.lock().unwrap().aborts.push((message.request, message.cause));
    }
}

impl Handler<GetHealth> for FakeOrchestrator {
    type Result = Health;
    fn handle(&mut self, _: GetHealth, _: &mut Self::Context) -> Health {
        self.health.clone()
    }
}

impl Handler<GetStages> for FakeOrchestrator {
    type Result = MessageResult<GetStages>;
    fn handle(&mut self, _: GetStages, _: &mut Self::Context) -> Self::Result {
        MessageResult(Vec::new())
    }
}

impl Handler<Record> for FakeOrchestrator {
    type Result = ();
    fn handle(&mut self, message: Record, _: &mut Self::Context) {
        let mut seen = self.seen.lock().unwrap();
        match message.0 {
            StatEvent::Pipeline(PipelineEvent::Rejected { reason }) => seen.refusals.push(reason),
            StatEvent::Pipeline(PipelineEvent::AudioDelivered { request, audio }) => {
                seen.delivered.push((request, audio));
            }
            StatEvent::Http(exchange) => seen.exchanges.push(exchange),
            other => panic!("the HTTP layer tells nothing of this kind: {other:?}"),
        }
    }
}

/// A state of this many stages around a running fake orchestrator.
fn state_around(orchestrator: Addr<FakeOrchestrator>, stages: usize) -> AppState {
    let stage = |index| StageShape {
        name: format!("stage-{index}"),
        output: (index == 0).then_some(Modality::Text),
        default_sampling: SamplingParams::default(),
    };
    AppState {
        orchestrator: OrchestratorPort {
            submit: orchestrator.clone().recipient(),
            abort: orchestrator.clone().recipient(),
            health: orchestrator.clone().recipient(),
            stages: orchestrator.clone().recipient(),
        },
        text: Arc::new(ByteFrontend),
        served: ServedModel {
            names: vec!["fake".into(), "fake-alias".into()],
            created: 1_700_000_000,
            root: "/models/fake".into(),
            max_model_len: Some(1024),
            notice: Some("a fake".into()),
        },
        pipeline: PipelineShape {
            stages: (0..stages).map(stage).collect(),
            modalities: vec![Modality::Text],
            text_has_tokens: true,
            default_modalities: vec![Modality::Text],
            voices: Vec::new(),
        },
        metrics: Arc::new(FixedPage),
        statistics: StatsSender::new(move |event| orchestrator.do_send(Record(event))),
        limits: Limits::default(),
        api_keys: ApiKeys::default(),
        audio_delta: AudioDelta::default(),
    }
}

/// Makes a pipeline of thinker, talker and vocoder with two voices.
fn teach_to_speak(pipeline: &mut PipelineShape) {
    let outputs = [("thinker", Some(Modality::Text)), ("talker", None), ("code2wav", Some(Modality::Audio))];
    let stage = |(name, output): (&str, _)| StageShape {
        name: name.into(),
        output,
        default_sampling: SamplingParams::default(),
    };
    pipeline.stages = outputs.map(stage).into();
    pipeline.modalities = vec![Modality::Text, Modality::Audio];
    pipeline.voices = vec!["tiny".into(), "ember".into()];
}

/// As [`unconnected_state`], with a pipeline that speaks.
pub(super) fn speaking_state() -> AppState {
    let mut state = unconnected_state(1);
    teach_to_speak(&mut state.pipeline);
    state
}

/// A state whose orchestrator is not there any more, for what does not need one.
pub(super) fn unconnected_state(stages: usize) -> AppState {
    let system = System::new();
    system.block_on(async move {
        let orchestrator = FakeOrchestrator {
            scripts: VecDeque::new(),
            seen: Arc::default(),
            health: Health { stages_down: Vec::new(), not_built: Vec::new(), draining: false },
            admission_delay: Duration::ZERO,
        };
        state_around(orchestrator.start(), stages)
    })
}

/// What a test changes of the server.
pub(super) struct Setup {
    /// How requests are answered, in order.
    pub(super) scripts: Vec<Script>,
    /// What the orchestrator says of itself.
    pub(super) health: Health,
    /// How long an admission takes.
    pub(super) admission_delay: Duration,
    /// Bounds on requests.
    pub(super) limits: Limits,
    /// Keys of the guarded routes.
    pub(super) api_keys: ApiKeys,
    /// Whether the pipeline speaks.
    pub(super) speaks: bool,
    /// Where streamed speech stands.
    pub(super) audio_delta: AudioDelta,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            scripts: Vec::new(),
            health: Health { stages_down: Vec::new(), not_built: Vec::new(), draining: false },
            admission_delay: Duration::ZERO,
            limits: Limits::default(),
            api_keys: ApiKeys::default(),
            speaks: false,
            audio_delta: AudioDelta::default(),
        }
    }
}

/// A server on a port of its own, stopped when dropped.
pub(super) struct TestServer {
    /// Where it listens.
    address: SocketAddr,
    /// What it saw.
    seen: Arc<Mutex<Seen>>,
    /// Stops it.
    handle: actix_web::dev::ServerHandle,
    /// Its actix system.
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A response, read to its end.
#[derive(Debug)]
pub(super) struct Reply {
    /// The HTTP status.
    pub(super) status: u16,
    /// All headers.
    pub(super) headers: ureq::http::HeaderMap,
    /// The body as text.
    pub(super) body: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The data of all server-sent events; the last one is `[DONE]`, which is taken off.
    pub(super) fn events(&self) -> Vec<Value> {
        let mut data: Vec<&str> =
            self.body.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{}", self.body);
        data.into_iter().map(|json| serde_json::from_str(json).unwrap()).collect()
    }
}

impl TestServer {
    /// A server that answers every request with these steps.
    pub(super) fn answering(steps: Vec<Step>) -> Self {
        Self::start(Setup { scripts: vec![Ok(steps)], ..Setup::default() })
    }

    pub(super) fn start(setup: Setup) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (ready, started) = std::sync::mpsc::channel();
        let of_server = seen.clone();
        let thread = std::thread::spawn(move || {
            System::new().block_on(async move {
                let orchestrator = FakeOrchestrator {
                    scripts: setup.scripts.into(),
                    seen: of_server,
                    health: setup.health,
                    admission_delay: setup.admission_delay,
                };
                let mut state = state_around(orchestrator.start(), 1);
                state.limits = setup.limits;
                state.api_keys = setup.api_keys;
                state.audio_delta = setup.audio_delta;
                if setup.speaks {
                    teach_to_speak(&mut state.pipeline);
                }
                let options = ServerOptions { port: 0, workers: 1, ..ServerOptions::default() };
                let (server, addresses) = crate::http::start(state, &options).unwrap();
                ready.send((addresses[0], server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (address, handle) = started.recv().unwrap();
        Self { address, seen, handle, thread: Some(thread) }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], None)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], Some(body.to_string().as_bytes()))
    }

    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Reply {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .build()
            .into();
        let url = format!("http://{}{path}", self.address);
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = match body {
            Some(body) => agent.run(request.body(body).unwrap()),
            None => agent.run(request.body(()).unwrap()),
        }
        .unwrap();
        Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.body_mut().read_to_string().unwrap(),
        }
    }

    /// Sends a chat request on a connection of its own, without waiting for anything.
    pub(super) fn open_chat(&self, body: &Value) -> TcpStream {
        let body = body.to_string();
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(
            socket,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        socket
    }

    /// What the server saw so far, looked at.
    pub(super) fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    /// Waits until the server saw something, for a few seconds at most.
    pub(super) fn wait_until(&self, what: &str, condition: impl Fn(&Seen) -> bool) {
        let begun = Instant::now();
        while !self.seen(&condition) {
            assert!(begun.elapsed() < Duration::from_secs(10), "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads from a socket until `marker` came.
pub(super) fn read_until(socket: &mut TcpStream, marker: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 65536];
    loop {
        let count = socket.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "closed before {marker}: {text}");
        let unsearched = text.len().saturating_sub(marker.len());
        text += &String::from_utf8_lossy(&buffer[..count]);
        if text[unsearched..].contains(marker) {
            return text;
        }
    }
}
