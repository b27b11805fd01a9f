//! How requests travel through pipelines of small test stages: order, replicas, failure, abort.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says so when it fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use omni_actors::actors::messages::{
    Abort, AbortCause, GetStages, OmniRequest, Rejection, RequestEvent, RequestStream, Submit,
};
use omni_actors::actors::runtime::{Runtime, RuntimeOptions};
use omni_actors::engine::{FinishReason, SamplingParams};
use omni_actors::ids::RequestId;
use omni_actors::stages::{
    AudioPacket, Emission, FunctionStage, Item, Modality, Output, Pipeline, Poll, Prompt, Readiness, Stage,
    StageError, StageInput, StageOutput, StageRequest, StageSpec, TextDelta, Ticket,
};
use omni_actors::transport::{Chunk, Connector, Payload};
use tokio::sync::mpsc;

type Emissions = Result<Vec<Emission>, StageError>;

fn stage<F>(name: &str, output: Option<Modality>, replicas: u16, function: F) -> StageSpec
where
    F: FnMut(&StageRequest, Item<'_>) -> Emissions + Clone + Send + Sync + 'static,
{
    StageSpec {
        name: name.into(),
        takes: None,
        output,
        sends: None,
        replicas,
        connector: Connector::InProcess,
        async_chunk: true,
        device: "cpu".into(),
        max_model_len: None,
        size: None,
        sampling: SamplingParams::default(),
        families: Vec::new(),
        factory: Arc::new(move || Ok(Box::new(FunctionStage::new(function.clone())) as Box<dyn Stage>)),
    }
}

/// Gives every word of the prompt to the client and to the next stage.
fn words(_: &StageRequest, item: Item<'_>) -> Emissions {
    let Item::Prompt(prompt) = item else { return Err(StageError::Protocol("expected a prompt".into())) };
    let mut emissions = Vec::new();
    for word in prompt.text.split_whitespace() {
        let delta = TextDelta { text: word.to_owned(), ..TextDelta::default() };
        emissions.push(Emission::Client(Output::Text(delta)));
        emissions.push(Emission::Next(Payload::Text(word.to_owned())));
    }
    Ok(emissions)
}

/// Passes text on with a mark.
fn mark(_: &StageRequest, item: Item<'_>) -> Emissions {
    match item {
        Item::Payload(Payload::Text(text)) => Ok(vec![Emission::Next(Payload::Text(format!("<{text}>")))]),
        other => Err(StageError::Protocol(format!("expected text, got {other:?}"))),
    }
}

/// Makes one audio packet of each text: its bytes as samples.
fn speak(_: &StageRequest, item: Item<'_>) -> Emissions {
    let Item::Payload(Payload::Text(text)) = item else {
        return Err(StageError::Protocol("expected text".into()));
    };
    let samples = text.bytes().map(f32::from).collect();
    Ok(vec![Emission::Client(Output::Audio(AudioPacket { samples, sample_rate: 24_000, channels: 1 }))])
}

fn pipeline(stages: Vec<StageSpec>) -> Arc<Pipeline> {
    Arc::new(Pipeline { name: "test".into(), stages, voices: Vec::new() })
}

async fn start(stages: Vec<StageSpec>) -> Runtime {
    start_with(stages, RuntimeOptions::default()).await
}

async fn start_with(stages: Vec<StageSpec>, options: RuntimeOptions) -> Runtime {
    let runtime = Runtime::start(pipeline(stages), options).expect("metrics set up");
    assert!(runtime.wait_until_up(Duration::from_secs(5)).await);
    runtime
}

fn request(text: &str, modalities: &[Modality]) -> OmniRequest {
    OmniRequest {
        arrived: Instant::now(),
        external_id: "test".into(),
        prompt: Arc::new(Prompt { text: text.into(), ..Prompt::default() }),
        choices: 1,
        sampling: Vec::new(),
        modalities: modalities.to_vec(),
        priority: 0,
        streamed: true,
        measured: false,
    }
}

async fn submit(
    runtime: &Runtime,
    text: &str,
    modalities: &[Modality],
) -> Result<(RequestId, RequestStream), Rejection> {
    submit_request(runtime, request(text, modalities)).await
}

async fn submit_request(
    runtime: &Runtime,
    request: OmniRequest,
) -> Result<(RequestId, RequestStream), Rejection> {
    let (events, stream) = mpsc::channel(4096);
    let id = runtime.orchestrator.send(Submit { request, events }).await.expect("orchestrator lives")?;
    Ok((id, stream))
}

/// All events up to the end of the stream.
async fn collect(mut stream: RequestStream) -> Vec<RequestEvent> {
    let mut events = Vec::new();
    while let Some(event) =
        tokio::time::timeout(Duration::from_secs(20), stream.recv()).await.expect("an event in time")
    {
        events.push(event);
    }
    events
}

fn texts(events: &[RequestEvent]) -> Vec<String> {
    let text = |event: &RequestEvent| match event {
        RequestEvent::Output(Output::Text(delta)) => Some(delta.text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

fn spoken(events: &[RequestEvent]) -> Vec<String> {
    let text = |event: &RequestEvent| match event {
        RequestEvent::Output(Output::Audio(packet)) => Some(
            String::from_utf8(packet.samples.iter().map(|&sample| sample as u8).collect()).expect("text"),
        ),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

fn terminals(events: &[RequestEvent]) -> usize {
    events.iter().filter(|event| !matches!(event, RequestEvent::Output(_))).count()
}

async fn assert_nothing_held(runtime: &Runtime) {
    let held = runtime.held().await.expect("orchestrator lives");
    assert_eq!((held.requests, held.bindings, held.jobs), (0, 0, 0));
}

#[actix_rt::test]
async fn one_stage_answers_and_ends_with_one_terminal_event() {
    let runtime = start(vec![stage("words", Some(Modality::Text), 1, words)]).await;
    let (_, stream) = submit(&runtime, "to be or not", &[Modality::Text]).await.expect("admitted");
    let events = collect(stream).await;
    assert_eq!(texts(&events), ["to", "be", "or", "not"]);
    assert_eq!(events.last(), Some(&RequestEvent::Finished(FinishReason::Stop)));
    assert_eq!(terminals(&events), 1);
    assert_nothing_held(&runtime).await;
}

#[actix_rt::test]
async fn three_stages_in_a_row_keep_the_order_of_chunks_on_both_connectors() {
    for connector in [Connector::InProcess, Connector::Serialized] {
        for async_chunk in [true, false] {
            three_stages_in_a_row(connector, async_chunk).await;
        }
    }
}

async fn three_stages_in_a_row(connector: Connector, async_chunk: bool) {
    let mut stages = vec![
        stage("words", Some(Modality::Text), 2, words),
        stage("mark", None, 3, mark),
        stage("speak", Some(Modality::Audio), 2, speak),
    ];
    for stage in &mut stages {
        (stage.connector, stage.async_chunk) = (connector, async_chunk);
    }
    let runtime = start(stages).await;
    let mut streams = Vec::new();
    for request in 0..20 {
        let text: Vec<_> = (0..50).map(|word| format!("{request}:{word}")).collect();
        let (_, stream) =
            submit(&runtime, &text.join(" "), &[Modality::Text, Modality::Audio]).await.expect("admitted");
        streams.push((text, stream));
    }
    for (text, stream) in streams {
        let events = collect(stream).await;
        assert_eq!(texts(&events), text);
        assert_eq!(spoken(&events), text.iter().map(|word| format!("<{word}>")).collect::<Vec<_>>());
        assert_eq!(terminals(&events), 1);
    }
    assert_nothing_held(&runtime).await;
}

#[actix_rt::test]
async fn without_async_chunk_a_stage_begins_when_the_one_before_is_done_with_however_many_chunks() {
    let done = Arc::new(AtomicUsize::new(0));
    let seen = done.clone();
    // Passes every word on by itself, so that the stage takes many steps.
    let pass = move |_: &StageRequest, item: Item<'_>| {
        done.fetch_add(1, Ordering::SeqCst);
        let Item::Payload(payload) = item else {
            return Err(StageError::Protocol("expected a payload".into()));
        };
        Ok(vec![Emission::Next(payload)])
    };
    const WORDS: usize = 1500;
    let judge = move |request: &StageRequest, item: Item<'_>| {
        assert_eq!(seen.load(Ordering::SeqCst), WORDS, "the stage before is not done");
        speak(request, item)
    };
    let mut stages = vec![
        stage("words", None, 1, words),
        stage("pass", None, 1, pass),
        stage("speak", Some(Modality::Audio), 1, judge),
    ];
    stages[2].async_chunk = false;
    let runtime = start(stages).await;
    let text: Vec<_> = (0..WORDS).map(|word| word.to_string()).collect();
    let (_, stream) = submit(&runtime, &text.join(" "), &[Modality::Audio]).await.expect("admitted");
    assert_eq!(spoken(&collect(stream).await), text);
    assert_nothing_held(&runtime).await;
}

#[actix_rt::test]
async fn a_text_request_is_bound_to_the_stages_it_needs_alone() {
    let fail = |_: &StageRequest, _: Item<'_>| Err(StageError::Failed("must not be visited".into()));
    let runtime = start(vec![
        stage("words", Some(Modality::Text), 1, words),
        stage("audio", Some(Modality::Audio), 1, fail),
    ])
    .await;
    let (_, stream) = submit(&runtime, "hello", &[Modality::Text]).await.expect("admitted");
    assert_eq!(collect(stream).await.last(), Some(&RequestEvent::Finished(FinishReason::Stop)));
    let rejection =
        submit(&runtime, "hello", &[Modality::Image]).await.map(|_| ()).expect_err("no such stage");
    assert_eq!(rejection, Rejection::UnsupportedModality(Modality::Image));
}

#[actix_rt::test]
async fn all_chunks_of_a_request_go_to_the_replica_it_was_bound_to() {
    let built = Arc::new(AtomicUsize::new(0));
    let factory = move || {
        let replica = built.fetch_add(1, Ordering::SeqCst);
        let tell = move |_: &StageRequest, item: Item<'_>| {
            let Item::Payload(_) = item else { return Ok(Vec::new()) };
            let delta = TextDelta { text: replica.to_string(), ..TextDelta::default() };
            Ok(vec![Emission::Client(Output::Text(delta))])
        };
        Ok(Box::new(FunctionStage::new(tell)) as Box<dyn Stage>)
    };
    let mut teller = stage("teller", Some(Modality::Text), 4, words);
    teller.factory = Arc::new(factory);
    let runtime = start(vec![stage("words", None, 2, words), teller]).await;
    // Only the second stage's text is wanted; the first stage has no output of its own kind here.
    let mut used = std::collections::BTreeSet::new();
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(submit(&runtime, "a b c d e f", &[Modality::Text]).await.expect("admitted").1);
    }
    for stream in streams {
        let told = texts(&collect(stream).await);
        let told: Vec<_> = told.iter().filter(|text| text.parse::<usize>().is_ok()).collect();
        assert_eq!(told.len(), 6);
        assert!(told.iter().all(|replica| *replica == told[0]), "{told:?}");
        used.insert(told[0].clone());
    }
    assert_eq!(used.len(), 4, "requests are spread over all replicas");
    assert_nothing_held(&runtime).await;
}

#[actix_rt::test]
async fn a_stage_that_fails_a_request_fails_it_alone_and_with_its_own_words() {
    let picky = |request: &StageRequest, item: Item<'_>| match item {
        Item::Payload(Payload::Text(text)) if text.contains("bad") => {
            Err(StageError::InvalidInput(format!("no {text}")))
        }
        item => speak(request, item),
    };
    let runtime = start(vec![
        stage("words", Some(Modality::Text), 1, words),
        stage("picky", Some(Modality::Audio), 1, picky),
    ])
    .await;
    let (_, bad) = submit(&runtime, "a bad word", &[Modality::Audio]).await.expect("admitted");
    let (_, good) = submit(&runtime, "a good word", &[Modality::Audio]).await.expect("admitted");
    let bad = collect(bad).await;
    let Some(RequestEvent::Failed(error)) = bad.last() else { panic!("{bad:?}") };
    assert_eq!((error.reason, error.stage.0, error.client_fault), ("invalid_input", 1, true));
    assert!(error.message.contains("no bad"));
    assert_eq!(terminals(&bad), 1);
    assert_eq!(spoken(&collect(good).await), ["a", "good", "word"]);
    assert_nothing_held(&runtime).await;
}

#[actix_rt::test]
async fn a_panic_takes_the_replicas_own_requests_along_and_the_replica_comes_back() {
    let moody = |request: &StageRequest, item: Item<'_>| {
        if let Item::Prompt(prompt) = &item {
            assert!(!prompt.text.contains("panic"), "told to");
            std::thread::sleep(Duration::from_millis(20));
        }
        words(request, item)
    };
    let runtime = start(vec![stage("moody", Some(Modality::Text), 2, moody)]).await;
    let mut streams = Vec::new();
    for text in ["fine", "panic", "fine", "fine"] {
        streams.push(submit(&runtime, text, &[Modality::Text]).await.expect("admitted").1);
    }
    let mut ends = Vec::new();
    for stream in streams {
        let events = collect(stream).await;
        assert_eq!(terminals(&events), 1);
        ends.push(events.last().cloned().expect("a terminal event"));
    }
    let Some(RequestEvent::Failed(error)) = ends.get(1) else { panic!("{ends:?}") };
    assert_eq!(error.reason, "replica_panic");
    assert!(error.message.contains("told to"), "{}", error.message);
    // The other replica's requests notice nothing.
    assert_eq!(ends[0], RequestEvent::Finished(FinishReason::Stop));
    assert_eq!(ends[2], RequestEvent::Finished(FinishReason::Stop));
    assert_nothing_held(&runtime).await;
    actix_rt::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..4 {
        let (_, stream) = submit(&runtime, "fine", &[Modality::Text]).await.expect("admitted");
        assert_eq!(collect(stream).await.last(), Some(&RequestEvent::Finished(FinishReason::Stop)));
    }
    // Whoever asks how the replicas are learns what happened to the one, in its life before.
    let stages = runtime.orchestrator.send(GetStages).await.expect("the orchestrator is there");
    let replicas = &stages[0].replicas;
    let fallen = replicas.iter().find(|replica| replica.last_error.is_some()).expect("one that fell");
    let (life, error) = (fallen.life.expect("it is back"), fallen.last_error.as_ref().expect("an error"));
    assert_eq!((life.epoch.0, error.reason), (1, "replica_panic"));
    assert!(error.message.contains("told to"), "{}", error.message);
    assert_eq!(replicas.iter().filter(|replica| replica.life.is_some()).count(), 2);
}

#[actix_rt::test]
async fn what_a_request_took_is_told_before_its_end_if_it_is_asked_for() {
    let runtime = start(vec![
        stage("words", Some(Modality::Text), 1, words),
        stage("speak", Some(Modality::Audio), 1, speak),
    ])
    .await;
    let request = request("a good word", &[Modality::Audio]);
    let (_, stream) =
        submit_request(&runtime, OmniRequest { measured: true, ..request }).await.expect("admitted");
    let events = collect(stream).await;
    let [.., RequestEvent::Measured(account), RequestEvent::Finished(reason)] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(account.reason, *reason);
    let [words, speech] = &account.stages[..] else { panic!("{account:?}") };
    assert!(account.arrived <= words.queued && words.started.is_some() && speech.released <= account.ended);
    let edge = speech.input.expect("words came over the edge");
    assert_eq!((edge.from, edge.to), (words.replica.stage, speech.replica.stage));
    assert!(edge.size_bytes > 0 && words.input.is_none() && speech.audio_frames > 0);

    let (_, stream) = submit(&runtime, "a good word", &[Modality::Audio]).await.expect("admitted");
    assert!(!collect(stream).await.iter().any(|event| matches!(event, RequestEvent::Measured(_))));
}

#[actix_rt::test]
async fn a_stage_without_a_live_replica_is_said_to_be_unavailable() {
    let mut broken = stage("broken", Some(Modality::Text), 1, words);
    broken.factory = Arc::new(|| Err(StageError::Device("no such device".into())));
    let runtime = Runtime::start(pipeline(vec![broken]), RuntimeOptions::default()).expect("metrics set up");
    assert!(!runtime.wait_until_up(Duration::from_millis(100)).await);
    let rejection = submit(&runtime, "hello", &[Modality::Text]).await.map(|_| ()).expect_err("no replica");
    assert_eq!(rejection.reason(), "stage_unavailable");
}

#[actix_rt::test]
async fn an_abort_removes_the_request_from_every_stage() {
    let slow = |request: &StageRequest, item: Item<'_>| {
        std::thread::sleep(Duration::from_millis(10));
        speak(request, item)
    };
    let runtime = start(vec![
        stage("words", Some(Modality::Text), 1, words),
        stage("slow", Some(Modality::Audio), 1, slow),
    ])
    .await;
    let text = vec!["word"; 500].join(" ");
    let (id, mut stream) = submit(&runtime, &text, &[Modality::Audio]).await.expect("admitted");
    assert!(stream.recv().await.is_some());
    runtime.orchestrator.do_send(Abort { request: id, cause: AbortCause::ClientDisconnect });
    let events = collect(stream).await;
    assert_eq!(events.last(), Some(&RequestEvent::Aborted(AbortCause::ClientDisconnect)));
    assert!(spoken(&events).len() < 100, "the slow stage stopped early");
    assert_nothing_held(&runtime).await;
}

#[actix_rt::test]
async fn a_slow_stage_holds_its_feeder_up_and_loses_no_chunk() {
    let slow = |request: &StageRequest, item: Item<'_>| {
        std::thread::sleep(Duration::from_micros(50));
        speak(request, item)
    };
    let runtime =
        start(vec![stage("words", None, 1, words), stage("slow", Some(Modality::Audio), 1, slow)]).await;
    let text: Vec<_> = (0..3000).map(|word| word.to_string()).collect();
    let (events, stream) = mpsc::channel(10_000);
    let request = request(&text.join(" "), &[Modality::Audio]);
    runtime.orchestrator.send(Submit { request, events }).await.expect("lives").expect("admitted");
    assert_eq!(spoken(&collect(stream).await), text);
    assert_nothing_held(&runtime).await;
}

#[actix_rt::test]
async fn more_requests_than_the_bound_are_turned_away() {
    let slow = |request: &StageRequest, item: Item<'_>| {
        std::thread::sleep(Duration::from_millis(50));
        words(request, item)
    };
    let runtime = start_with(
        vec![stage("slow", Some(Modality::Text), 1, slow)],
        RuntimeOptions { max_requests: 2, ..RuntimeOptions::default() },
    )
    .await;
    let first = submit(&runtime, "a", &[Modality::Text]).await.expect("admitted").1;
    let second = submit(&runtime, "b", &[Modality::Text]).await.expect("admitted").1;
    let rejection = submit(&runtime, "c", &[Modality::Text]).await.map(|_| ()).expect_err("full");
    assert_eq!(rejection, Rejection::Overloaded { limit: 2 });
    collect(first).await;
    collect(second).await;
    assert!(submit(&runtime, "d", &[Modality::Text]).await.is_ok());
}

#[actix_rt::test]
async fn draining_lets_running_requests_end_and_takes_no_new_ones() {
    let slow = |request: &StageRequest, item: Item<'_>| {
        std::thread::sleep(Duration::from_millis(50));
        words(request, item)
    };
    let runtime = start(vec![stage("slow", Some(Modality::Text), 1, slow)]).await;
    let (_, stream) = submit(&runtime, "a", &[Modality::Text]).await.expect("admitted");
    let drained = actix_rt::spawn({
        let runtime = runtime.clone();
        async move { runtime.drain(Duration::from_secs(5)).await }
    });
    actix_rt::time::sleep(Duration::from_millis(10)).await;
    let rejection = submit(&runtime, "b", &[Modality::Text]).await.map(|_| ()).expect_err("draining");
    assert_eq!(rejection, Rejection::Draining);
    assert_eq!(collect(stream).await.last(), Some(&RequestEvent::Finished(FinishReason::Stop)));
    drained.await.expect("drained");
}

/// A stage that panics when it is given the prompt "panic", before it looks at anything else.
struct Fragile(Box<dyn Stage>);

impl Stage for Fragile {
    fn add(&mut self, request: StageRequest) -> Result<(), StageError> {
        if let StageInput::Prompt(prompt) = &request.input {
            assert!(prompt.text != "panic", "told to");
        }
        self.0.add(request)
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), StageError> {
        self.0.push(chunk)
    }

    fn remove(&mut self, request: RequestId) {
        self.0.remove(request);
    }

    fn plan(&mut self) -> Readiness {
        self.0.plan()
    }

    fn launch(&mut self) -> Result<Ticket, StageError> {
        self.0.launch()
    }

    fn poll(
        &mut self,
        ticket: Ticket,
        wait: bool,
        outputs: &mut Vec<StageOutput>,
    ) -> Result<Poll, StageError> {
        self.0.poll(ticket, wait, outputs)
    }
}

#[actix_rt::test]
async fn chunks_lost_with_a_replica_fail_the_request_even_if_the_replica_had_finished_it() {
    let gate = Arc::new(AtomicUsize::new(0));
    let mut first = stage("words", Some(Modality::Text), 1, words);
    first.factory = Arc::new(|| Ok(Box::new(Fragile(Box::new(FunctionStage::new(words)))) as Box<dyn Stage>));
    let waits = {
        let gate = gate.clone();
        move |request: &StageRequest, item: Item<'_>| {
            while gate.load(Ordering::SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            speak(request, item)
        }
    };
    let runtime = start(vec![first, stage("waits", Some(Modality::Audio), 1, waits)]).await;
    // More than the edge and the second stage take while the latter waits.
    let words = vec!["word"; 3000].join(" ");
    let (_, mut stream) =
        submit(&runtime, &words, &[Modality::Text, Modality::Audio]).await.expect("admitted");
    for _ in 0..3000 {
        assert!(matches!(stream.recv().await, Some(RequestEvent::Output(Output::Text(_)))));
    }
    let (_, panics) = submit(&runtime, "panic", &[Modality::Text]).await.expect("admitted");
    assert!(matches!(collect(panics).await.last(), Some(RequestEvent::Failed(_))));
    gate.store(1, Ordering::SeqCst);
    let events = collect(stream).await;
    let Some(RequestEvent::Failed(error)) = events.last() else { panic!("{:?}", events.last()) };
    assert_eq!((error.reason, error.stage.0), ("replica_panic", 0));
    assert_eq!(terminals(&events), 1);
    assert_nothing_held(&runtime).await;
}
