//! Clients that leave at any time: every request still ends exactly once, and nothing of it stays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::account::{ACCEPTED, E2E, ENDED, FAILED, page_at_rest, under_scrapes};
use crate::client::{self, CHAT};
use crate::page::Page;
use crate::server::ServerThread;

const REQUESTS: usize = 200;
const CONCURRENCY: usize = 16;
/// Tokens of an answer: enough that most clients who leave do so before its end.
const TOKENS: u64 = 200;
/// Tokens of an answer that is spoken, and first codes of its speech: speaking costs much more than writing.
const SPOKEN_TOKENS: u64 = 40;
/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Conduct {
    /// Reads the whole answer.
    Stays,
    /// Reads the whole stream.
    StaysForTheStream,
    /// Leaves while it waits for the answer.
    Leaves,
    /// Leaves when this many events of the stream have come.
    LeavesTheStream(u64),
}

impl Conduct {
    /// The same for the same request in every run, mixed over requests.
    fn of(request: usize) -> Self {
        // The finaliser of SplitMix64.
        let mut word = (request as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        match word % 4 {
            0 => Self::Stays,
            1 => Self::StaysForTheStream,
            2 => Self::Leaves,
            _ => Self::LeavesTheStream((word >> 2) % (TOKENS / 2)),
        }
    }
}

/// Whether an answer is only written, or also spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Written,
    Spoken,
}

impl Kind {
    /// Every second answer is spoken.
    fn mixed(request: usize) -> Self {
        if request.is_multiple_of(2) { Self::Written } else { Self::Spoken }
    }
}

fn body(request: usize, kind: Kind, stream: bool) -> Value {
    let mut body = json!({
        "messages": [{"role": "user", "content": format!("tell me in one sentence, please: what is stage {request}")}],
        "temperature": 1.0,
        "seed": request,
        "max_tokens": TOKENS,
        "ignore_eos": true,
        "stream": stream,
        "stream_options": if stream { json!({"include_usage": true}) } else { Value::Null },
    });
    if kind == Kind::Spoken {
        body["modalities"] = json!(["text", "audio"]);
        body["max_tokens"] = json!(SPOKEN_TOKENS);
        body["sampling_params_list"] = json!([{}, {"max_tokens": SPOKEN_TOKENS, "ignore_eos": true}, {}]);
    }
    body
}

/// Sends one request and behaves as told. Returns the tokens of prompt and answer if the client stayed.
fn converse(server: SocketAddr, request: usize, kind: Kind, conduct: Conduct) -> Option<(u64, u64)> {
    let tokens = |usage: &Value| {
        let count = |name: &str| usage[name].as_u64().expect("a count");
        Some((count("prompt_tokens"), count("completion_tokens")))
    };
    match conduct {
        Conduct::Stays => tokens(&client::post(server, CHAT, &body(request, kind, false)).json()["usage"]),
        Conduct::StaysForTheStream => {
            let events = client::post(server, CHAT, &body(request, kind, true)).events();
            tokens(&events.last().expect("events")["usage"])
        }
        Conduct::Leaves => {
            let connection = client::begin(server, CHAT, &body(request, kind, false));
            wait_for_admission(server);
            drop(connection);
            None
        }
        Conduct::LeavesTheStream(events) => {
            let mut connection = client::begin(server, CHAT, &body(request, kind, true));
            // A spoken answer has fewer events: a token each, and a few of sound.
            let events = if kind == Kind::Spoken { events % (SPOKEN_TOKENS / 2) } else { events };
            connection.read_events(events as usize + 1);
            None
        }
    }
}

/// Waits until what was sent before has been admitted. The server has one HTTP thread, which takes requests in their
/// order, and its orchestrator, which says how healthy it is, answers questions in theirs.
fn wait_for_admission(server: SocketAddr) {
    for _ in 0..2 {
        assert_eq!(client::get(server, "/health").status, 200);
    }
}

/// Sends all requests, `CONCURRENCY` at a time. Returns the sum of the tokens of prompts and answers that clients got
/// who stayed.
fn load(
    server: SocketAddr,
    kind: fn(usize) -> Kind,
    conduct: impl Fn(usize) -> Conduct + Sync,
) -> (u64, u64) {
    let next = AtomicUsize::new(0);
    let client = || {
        let mut sum = (0, 0);
        loop {
            let request = next.fetch_add(1, Ordering::Relaxed);
            if request >= REQUESTS {
                return sum;
            }
            if let Some((prompt, answer)) = converse(server, request, kind(request), conduct(request)) {
                sum = (sum.0 + prompt, sum.1 + answer);
            }
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CONCURRENCY).map(|_| scope.spawn(client)).collect();
        let sums = clients.into_iter().map(|client| client.join().expect("the client is content"));
        sums.fold((0, 0), |sum, tokens| (sum.0 + tokens.0, sum.1 + tokens.1))
    })
}

/// The page of a server at rest, which has taken all requests and ended all of them.
fn last_page(server: &ServerThread) -> Page {
    let page = page_at_rest(server);
    assert_eq!(page.sum(ACCEPTED), REQUESTS as f64);
    assert_eq!(page.sum(ENDED), REQUESTS as f64);
    page
}

fn start() -> ServerThread {
    ServerThread::start(&["--log-stats", "--api-server-count", "1", "--log-level", "warn"])
}

#[test]
fn conducts_are_mixed() {
    let mut counts = BTreeMap::new();
    for request in 0..REQUESTS {
        let conduct = match Conduct::of(request) {
            Conduct::LeavesTheStream(_) => Conduct::LeavesTheStream(0),
            other => other,
        };
        *counts.entry(conduct).or_insert(0) += 1;
    }
    assert!(counts.len() == 4 && counts.values().all(|count| *count > REQUESTS / 8), "{counts:?}");
}

#[test]
fn requests_of_clients_that_leave_end_once_and_leave_nothing() {
    let server = start();
    let (_, busy) = under_scrapes(server.address, || load(server.address, |_| Kind::Written, Conduct::of));
    assert!(busy > 0, "no page was scraped while requests were running");
    let page = last_page(&server);
    let aborted = page.sum_where(ENDED, "finished_reason=\"abort\"");
    let stayed = (0..REQUESTS)
        .filter(|request| matches!(Conduct::of(*request), Conduct::Stays | Conduct::StaysForTheStream));
    let left = REQUESTS - stayed.count();
    // A client may leave when its answer has just been completed; that is no abort.
    assert!(aborted > left as f64 / 2.0 && aborted <= left as f64, "{aborted} aborted, {left} left");
    assert_eq!(page.sum_where(FAILED, "reason=\"client_disconnect\""), aborted);
    assert_eq!(page.sum(FAILED), aborted);
    assert_eq!(page.sum(E2E), REQUESTS as f64 - aborted);
}

#[test]
fn spoken_requests_of_clients_that_leave_end_once_and_leave_nothing_in_any_stage() {
    let server = start();
    let (_, busy) = under_scrapes(server.address, || load(server.address, Kind::mixed, Conduct::of));
    assert!(busy > 0, "no page was scraped while requests were running");
    let page = last_page(&server);
    let aborted = page.sum_where(ENDED, "finished_reason=\"abort\"");
    assert!(aborted > REQUESTS as f64 / 8.0, "{aborted} aborted");
    assert_eq!(page.sum(FAILED), aborted);
    assert_eq!(page.sum(E2E), REQUESTS as f64 - aborted);
    assert!(page.sum("vllm:omni_audio_duration_s_count") > 0.0, "nothing was spoken to the end");
}

#[test]
fn tokens_on_the_page_are_those_that_clients_got() {
    let server = start();
    let stay = |request| if request % 2 == 0 { Conduct::Stays } else { Conduct::StaysForTheStream };
    let ((prompts, answers), _) =
        under_scrapes(server.address, || load(server.address, |_| Kind::Written, stay));
    let page = last_page(&server);
    assert_eq!(answers, REQUESTS as u64 * TOKENS);
    assert_eq!(page.sum("vllm:generation_tokens_total"), answers as f64);
    assert_eq!(page.sum("vllm:prompt_tokens_total"), prompts as f64);
    let cached = page.sum("vllm:prompt_tokens_cached_total");
    assert!(cached > 0.0, "all questions begin alike");
    assert_eq!(page.sum("vllm:iteration_tokens_total_sum"), (prompts + answers) as f64 - cached);
    assert_eq!(page.sum_where(ENDED, "finished_reason=\"length\""), REQUESTS as f64);
}
