//! Signals: the first lets running requests end, the second does not.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{self, CHAT};
use crate::page::Page;
use crate::server::ServerProcess;

/// Tokens of an answer that takes long enough for a signal to come in between.
const TOKENS: u64 = 3000;
/// Longer than such an answer takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Much shorter than the answers take that are cut off.
const AT_ONCE: Duration = Duration::from_secs(2);

fn long_answer(choices: u32) -> Value {
    json!({
        "messages": [{"role": "user", "content": "hello"}],
        "n": choices,
        "max_tokens": TOKENS,
        "ignore_eos": true,
        "stream": true,
        "stream_options": {"include_usage": true},
    })
}

/// Waits until the server takes no new requests.
fn wait_until_draining(server: &ServerProcess) {
    let until = Instant::now() + AT_ONCE;
    while client::get(server.address, "/health").status == 200 {
        assert!(Instant::now() < until, "the server takes no notice of the signal");
        thread::sleep(Duration::from_millis(1));
    }
}

fn a_running_stream_ends_whole(signal: &str) {
    let server = ServerProcess::start(&[]);
    let mut stream = client::begin(server.address, CHAT, &long_answer(1));
    stream.read_events(2);
    server.signal(signal);
    wait_until_draining(&server);

    let refused = client::post(server.address, CHAT, &long_answer(1));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.json()["error"]["reason"], "shutting_down");

    let events = stream.finish().expect("the stream ends whole").events();
    let usage = &events.last().expect("events")["usage"];
    assert_eq!(usage["completion_tokens"], TOKENS);
    let address = server.address;
    let status = server.exit_status(PATIENCE).expect("the server ends");
    assert_eq!(status.code(), Some(0));
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_stream_that_runs_when_sigterm_comes_ends_whole() {
    a_running_stream_ends_whole("TERM");
}

#[test]
fn a_stream_that_runs_when_sigint_comes_ends_whole() {
    a_running_stream_ends_whole("INT");
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let server = ServerProcess::start(&[]);
    let mut stream = client::begin(server.address, CHAT, &long_answer(16));
    stream.read_events(32);
    server.signal("TERM");
    wait_until_draining(&server);
    server.signal("INT");
    assert!(server.exit_status(AT_ONCE).is_some(), "the server goes on");
    assert!(stream.finish().is_none(), "the stream was cut off");
}

#[test]
fn an_idle_server_ends_at_once_with_the_first_signal() {
    let server = ServerProcess::start(&[]);
    server.signal("TERM");
    assert_eq!(server.exit_status(AT_ONCE).expect("the server ends").code(), Some(0));
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    // The tables of so many requests are more than a pipe holds.
    const REQUESTS: usize = 100;
    let server = ServerProcess::start_unread(&["--log-stats"]);
    let request = json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1});
    for _ in 0..REQUESTS {
        assert_eq!(client::post(server.address, CHAT, &request).status, 200);
    }
    let page = Page::of(server.address);
    assert_eq!(page.sum("vllm:omni_requests_accepted_total"), REQUESTS as f64);
    server.signal("TERM");
    let status = server.exit_status(PATIENCE).expect("the server ends");
    assert_eq!(status.code(), Some(0));
}
