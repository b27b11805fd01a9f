//! Whatever becomes of requests, the page accounts for each of them at every scrape: random workloads of clients that
//! leave, requests that fail, replicas that break, and sequences that are preempted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use omni_actors::Registry;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::account::{E2E, FAILED, await_page, page_at_rest, under_scrapes};
use crate::client::{self, CHAT};
use crate::gate::Gate;
use crate::page::Page;
use crate::server::ServerThread;
use crate::tiny_cache::TINY;
use crate::troubled::{Broken, Trouble, trouble_stage};

/// Clients at a time.
const CONCURRENCY: usize = 8;
/// Requests that are queued in front of a tiny cache before it does anything. Two of them fit into it with their prompts, and
/// not with their answers.
const QUEUED: usize = 4;
const REJECTED: &str = "vllm:omni_requests_rejected_total";
const RESTARTS: &str = "vllm:omni_replica_restarts_total";

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conduct {
    Stays,
    StaysForTheStream,
    /// Leaves at once.
    Leaves,
    /// Leaves when so many events of the stream have come.
    LeavesTheStream(usize),
}

#[derive(Debug, Clone)]
struct Ask {
    spoken: bool,
    tokens: usize,
    conduct: Conduct,
    /// In the thinker, or in the talker.
    trouble: Option<(&'static str, Trouble)>,
}

/// What may happen in a workload.
#[derive(Debug, Clone, Copy)]
struct Weather {
    /// The caches hold hardly more than one sequence.
    tiny_cache: bool,
    clients_leave: bool,
    requests_fail: bool,
    replicas_break: bool,
}

/// One of each kind, and all at once.
const WEATHERS: [Weather; 5] = [
    Weather { tiny_cache: true, clients_leave: false, requests_fail: false, replicas_break: false },
    Weather { tiny_cache: false, clients_leave: true, requests_fail: true, replicas_break: false },
    Weather { tiny_cache: false, clients_leave: false, requests_fail: false, replicas_break: true },
    Weather { tiny_cache: true, clients_leave: true, requests_fail: true, replicas_break: true },
    Weather { tiny_cache: false, clients_leave: true, requests_fail: true, replicas_break: true },
];

fn ask(weather: Weather) -> impl Strategy<Value = Ask> {
    let leaves = u32::from(weather.clients_leave);
    let conduct = prop_oneof![
        3 => Just(Conduct::Stays),
        3 => Just(Conduct::StaysForTheStream),
        2 * leaves => Just(Conduct::Leaves),
        3 * leaves => (1..12_usize).prop_map(Conduct::LeavesTheStream),
    ];
    let (fails, breaks) = (u32::from(weather.requests_fail), u32::from(weather.replicas_break));
    let trouble = prop_oneof![
        12 => Just(None),
        fails => Just(Some(Trouble::Refused)),
        3 * fails => (1..10_usize).prop_map(|after| Some(Trouble::Fails(after))),
        breaks => (1..10_usize).prop_map(|after| Some(Trouble::Panics(after))),
        breaks => (1..10_usize).prop_map(|after| Some(Trouble::Breaks(after))),
    ];
    (any::<bool>(), any::<bool>(), 2..24_usize, conduct, trouble).prop_map(
        |(spoken, in_talker, tokens, conduct, trouble)| {
            let stage = if spoken && in_talker { "talker" } else { "thinker" };
            Ask { spoken, tokens, conduct, trouble: trouble.map(|trouble| (stage, trouble)) }
        },
    )
}

impl Ask {
    fn body(&self, number: usize) -> Value {
        let stream = matches!(self.conduct, Conduct::StaysForTheStream | Conduct::LeavesTheStream(_));
        let trouble =
            self.trouble.map_or(String::new(), |(stage, trouble)| format!("{} ", trouble.words(stage)));
        let mut body = json!({
            "messages": [{"role": "user", "content": format!("{trouble}what is {number}")}],
            "temperature": 1.0,
            "seed": number,
            "max_tokens": self.tokens,
            "ignore_eos": true,
            "stream": stream,
            "stream_options": if stream { json!({"include_usage": true}) } else { Value::Null },
        });
        if self.spoken {
            body["modalities"] = json!(["text", "audio"]);
            body["sampling_params_list"] =
                json!([{}, {"max_tokens": 2 * self.tokens, "ignore_eos": true}, {}]);
        }
        body
    }

    /// Sends it and behaves as told. `None` if the client left.
    fn send(&self, server: SocketAddr, number: usize) -> Option<Outcome> {
        let mut connection = client::begin(server, CHAT, &self.body(number));
        match self.conduct {
            Conduct::Leaves => return None,
            Conduct::LeavesTheStream(events) => {
                connection.read_up_to(events);
                return None;
            }
            Conduct::Stays | Conduct::StaysForTheStream => {}
        }
        let reply = connection.finish().expect("a whole response");
        let streamed = reply.status == 200 && self.conduct == Conduct::StaysForTheStream;
        let last = if streamed { reply.events().pop().expect("events") } else { reply.json() };
        Some(match last["error"]["reason"].as_str() {
            Some(reason) => Outcome::Error(reason.to_owned()),
            None => {
                let count = |name: &str| last["usage"][name].as_u64().expect("a count");
                Outcome::Answer { prompt: count("prompt_tokens"), tokens: count("completion_tokens") }
            }
        })
    }
}

/// What a client got that stayed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Answer {
        prompt: u64,
        tokens: u64,
    },
    /// The reason in the body of the error.
    Error(String),
}

/// Sends requests, a few at a time.
fn load(server: SocketAddr, asks: &[Ask], first: usize, clients: usize) -> Vec<Option<Outcome>> {
    let next = AtomicUsize::new(0);
    let client = || {
        let mut outcomes = Vec::new();
        while let Some((number, ask)) = {
            let number = next.fetch_add(1, Ordering::Relaxed);
            asks.get(number).map(|ask| (number, ask))
        } {
            outcomes.push(ask.send(server, first + number));
        }
        outcomes
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().expect("the client is content")).collect()
    })
}

fn live_through(weather: Weather, asks: &[Ask]) {
    let (gate, broken, mut registry) = (Arc::new(Gate::default()), Broken::default(), Registry::new());
    // Only before the thinker is a gate: it alone knows how many requests have come.
    let open = Arc::new(Gate::opened());
    for (stage, gate) in [("thinker", &gate), ("talker", &open)] {
        trouble_stage(&mut registry, stage, gate, &broken);
    }
    let options: &[&str] = if weather.tiny_cache { TINY } else { &["--log-stats", "--num-replicas", "2"] };
    let server = ServerThread::start_with(registry, options);
    let address = server.address;
    let (outcomes, _) = under_scrapes(address, || {
        let queued = if weather.tiny_cache { QUEUED } else { 0 };
        let long = Ask { spoken: false, tokens: 70, conduct: Conduct::Stays, trouble: None };
        let mut outcomes = thread::scope(|scope| {
            let waiting = scope.spawn(|| load(address, &vec![long.clone(); queued], asks.len(), queued));
            gate.await_taken(queued);
            if weather.clients_leave {
                let connection = client::begin(address, CHAT, &long.body(0));
                gate.await_taken(queued + 1);
                drop(connection);
                let has_left = |page: &Page| page.sum_where(FAILED, "reason=\"client_disconnect\"") == 1.0;
                await_page(address, "nobody notices that a client left", has_left);
            }
            gate.open();
            waiting.join().expect("the clients are content")
        });
        outcomes.extend(weather.clients_leave.then_some(None));
        outcomes.append(&mut load(address, asks, 0, CONCURRENCY));
        // Once more what may happen, to a server at rest, where it does happen.
        let fails = [Trouble::Refused, Trouble::Fails(1)].map(|trouble| (trouble, weather.requests_fail));
        let breaks =
            [Trouble::Panics(1), Trouble::Breaks(1)].map(|trouble| (trouble, weather.replicas_break));
        for (trouble, _) in fails.into_iter().chain(breaks).filter(|(_, is_due)| *is_due) {
            page_at_rest(&server);
            let ask = Ask { trouble: Some(("thinker", trouble)), ..long.clone() };
            outcomes.push(ask.send(address, 0));
        }
        outcomes
    });
    let page = page_at_rest(&server);
    assert_told(&page, weather, &outcomes);
    let broken = broken.lock().expect("nobody panicked");
    assert_eq!(page.sum(RESTARTS), broken.values().sum::<usize>() as f64);
    for (reason, times) in broken.iter() {
        assert_eq!(page.sum_where(RESTARTS, &format!("reason=\"{reason}\"")), *times as f64, "{reason}");
    }
    let failed = |reason: &str| page.sum_where(FAILED, &format!("reason=\"{reason}\""));
    let preemptions = page.sum_where("vllm:num_preemptions_total", "stage=\"0\"");
    for (is_due, came, what) in [
        (weather.tiny_cache, preemptions, "preemptions"),
        (weather.clients_leave, failed("client_disconnect"), "aborts"),
        (weather.requests_fail, failed("invalid_input"), "refusals"),
        (weather.requests_fail, failed("stage_error"), "failures"),
        (weather.replicas_break, failed("replica_panic"), "panics"),
        (weather.replicas_break, failed("device_error"), "broken replicas"),
    ] {
        assert!(came > 0.0 || !is_due, "no {what}: {}", page.text);
    }
}

/// Asserts that the page tells what clients got. What becomes of requests whose clients left, nobody but the page knows.
fn assert_told(page: &Page, weather: Weather, outcomes: &[Option<Outcome>]) {
    let left = outcomes.iter().filter(|outcome| outcome.is_none()).count() as f64;
    let mut errors: BTreeMap<&str, f64> = BTreeMap::new();
    let (mut answers, mut prompts, mut tokens) = (0.0, 0.0, 0.0);
    for outcome in outcomes.iter().flatten() {
        match outcome {
            Outcome::Answer { prompt, tokens: count } => {
                answers += 1.0;
                prompts += *prompt as f64;
                tokens += *count as f64;
            }
            Outcome::Error(reason) => *errors.entry(reason).or_default() += 1.0,
        }
    }
    let is_told = |told: f64, due: f64, what: &str| {
        assert!(
            told >= due && told <= due + left,
            "{what}: {told} on the page, {due} told, {left} clients left"
        );
    };
    is_told(page.sum(E2E), answers, "answers");
    let reasons = |family: &str| {
        let samples = page.samples.iter().filter(|(name, _, _)| name == family);
        let reason = |labels: &str| {
            labels.split("reason=\"").nth(1).map(|rest| rest.split('"').next().unwrap_or("").to_owned())
        };
        samples
            .map(|(_, labels, value)| (reason(labels).expect("a reason"), *value))
            .collect::<BTreeMap<_, _>>()
    };
    let mut told = reasons(FAILED);
    for (reason, count) in reasons(REJECTED) {
        *told.entry(reason).or_default() += count;
    }
    assert!(told["client_disconnect"] <= left);
    for (reason, count) in told.iter().filter(|(reason, _)| *reason != "client_disconnect") {
        is_told(*count, errors.remove(reason.as_str()).unwrap_or(0.0), reason);
    }
    assert!(errors.is_empty(), "not on the page: {errors:?}");

    let of_the_thinker = |family: &str| page.sum_where(family, "stage=\"0\"");
    let told = [
        (page.sum("vllm:omni_prompt_tokens_total"), prompts),
        (of_the_thinker("vllm:prompt_tokens_total"), prompts),
        (of_the_thinker("vllm:request_generation_tokens_sum"), tokens),
        (of_the_thinker("vllm:generation_tokens_total"), tokens),
    ];
    let all_answered = answers == outcomes.len() as f64;
    assert!(all_answered || weather.clients_leave || weather.requests_fail || weather.replicas_break);
    for (told, due) in told {
        assert!(if all_answered { told == due } else { told >= due }, "{told} tokens, but clients got {due}");
    }
}

#[test]
fn every_request_is_accounted_for_at_every_scrape_whatever_becomes_of_it() {
    for (seed, weather) in (0_u8..).zip(WEATHERS) {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
        let asks = proptest::collection::vec(ask(weather), 16..28);
        let asks = asks.new_tree(&mut runner).expect("a workload").current();
        let lived = std::panic::catch_unwind(|| live_through(weather, &asks));
        assert!(lived.is_ok(), "seed {seed}, {weather:?}: {asks:#?}");
    }
}
