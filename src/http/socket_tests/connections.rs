//! Clients that go away, servers that fall silent, keys, ids and bounds: what holds for connections.

use std::net::Shutdown;
use std::time::Duration;

use super::*;
use crate::actors::messages::AbortCause;
use crate::http::testing::{Setup, TestServer, read_until};
use crate::http::{ApiKeys, Limits};
use crate::ids::RequestId;

const CHAT: &str = "/v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");

/// The only abort there is, a moment after it came.
fn only_abort(server: &TestServer) -> (RequestId, AbortCause) {
    server.wait_until("the request was aborted", |seen| !seen.aborts.is_empty());
    std::thread::sleep(Duration::from_millis(50));
    server.seen(|seen| {
        assert_eq!(seen.aborts.len(), 1, "aborted exactly once");
        seen.aborts[0]
    })
}

#[test]
fn a_client_that_leaves_a_stream_aborts_the_request_once() {
    let server = TestServer::answering(vec![token(0, "a", 1), Step::Hang]);
    let mut socket = server.open_chat(&chat_body(json!({"stream": true})));
    read_until(&mut socket, "\"content\":\"a\"");
    drop(socket);
    assert_eq!(only_abort(&server), (RequestId(1), AbortCause::ClientDisconnect));
}

#[test]
fn a_client_that_leaves_while_it_waits_aborts_the_request_once() {
    for stream in [false, true] {
        let server = TestServer::answering(vec![Step::Hang]);
        let socket = server.open_chat(&chat_body(json!({"stream": stream})));
        server.wait_until("the request came", |seen| seen.requests.len() == 1);
        drop(socket);
        assert_eq!(only_abort(&server), (RequestId(1), AbortCause::ClientDisconnect));
    }
}

#[test]
fn a_client_that_leaves_during_an_answer_in_one_piece_aborts_the_request_once() {
    let server = TestServer::answering(vec![token(0, "a", 1), Step::Hang]);
    let socket = server.open_chat(&chat_body(json!({})));
    server.wait_until("the request came", |seen| seen.requests.len() == 1);
    std::thread::sleep(Duration::from_millis(30));
    drop(socket);
    assert_eq!(only_abort(&server), (RequestId(1), AbortCause::ClientDisconnect));
}

#[test]
fn a_client_that_closes_its_side_has_left() {
    let server = TestServer::answering(vec![Step::Hang]);
    let socket = server.open_chat(&chat_body(json!({})));
    server.wait_until("the request came", |seen| seen.requests.len() == 1);
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(only_abort(&server), (RequestId(1), AbortCause::ClientDisconnect));
}

#[test]
fn a_client_that_leaves_during_admission_aborts_the_request_once() {
    let server = TestServer::start(Setup {
        scripts: vec![Ok(vec![Step::Hang])],
        admission_delay: Duration::from_millis(200),
        ..Setup::default()
    });
    let socket = server.open_chat(&chat_body(json!({})));
    server.wait_until("the request came", |seen| seen.requests.len() == 1);
    drop(socket);
    assert_eq!(only_abort(&server), (RequestId(1), AbortCause::ClientDisconnect));
}

#[test]
fn no_abort_follows_the_end_of_a_request() {
    let server = TestServer::answering(hello());
    for stream in [false, true] {
        let mut socket = server.open_chat(&chat_body(json!({"stream": stream})));
        read_until(&mut socket, if stream { "[DONE]" } else { "total_tokens" });
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(server.seen(|seen| seen.aborts.is_empty()));
}

#[test]
fn silence_for_too_long_is_a_timeout_and_aborts_the_request_once() {
    let limits = Limits { request_timeout: Duration::from_millis(150), ..Limits::default() };
    let steps = vec![token(0, "a", 1), Step::Hang];
    let server = TestServer::start(Setup {
        scripts: vec![Ok(vec![Step::Hang]), Ok(steps)],
        limits,
        ..Setup::default()
    });
    let reply = server.post(CHAT, &chat_body(json!({})));
    assert_eq!((reply.status, reply.json()["error"]["reason"].as_str()), (504, Some("timeout")));
    assert_eq!(only_abort(&server), (RequestId(1), AbortCause::Timeout));

    let events = server.post(CHAT, &chat_body(json!({"stream": true}))).events();
    assert_eq!(events.last().unwrap()["error"]["code"], 504);
    server.wait_until("both were aborted", |seen| {
        seen.aborts.iter().map(|(_, cause)| *cause).eq([AbortCause::Timeout; 2])
    });
}

#[test]
fn output_puts_the_timeout_off() {
    let limits = Limits { request_timeout: Duration::from_millis(200), ..Limits::default() };
    let mut steps = Vec::new();
    for id in 1..5 {
        steps.extend([token(0, "a", id), Step::Pause(Duration::from_millis(100))]);
    }
    steps.push(finished());
    let server = TestServer::start(Setup { scripts: vec![Ok(steps)], limits, ..Setup::default() });
    assert_eq!(server.post(CHAT, &chat_body(json!({}))).json()["choices"][0]["message"]["content"], "aaaa");
}

#[test]
fn a_reader_that_stops_never_makes_a_worker_wait() {
    // 18 MB, more than the sockets' buffers take.
    let text = "a".repeat(20_000);
    let mut steps: Vec<Step> = (0..900).map(|_| token(0, &text, 1)).collect();
    steps.push(finished());
    let server = TestServer::answering(steps);
    let mut socket = server.open_chat(&chat_body(json!({"stream": true, "max_tokens": 900})));
    server.wait_until("the whole answer was given", |seen| seen.played == 1);
    assert!(read_until(&mut socket, "[DONE]").len() > 900 * text.len(), "and nothing of it is lost");
}

#[test]
fn an_admission_that_takes_too_long_is_a_timeout_and_aborts_the_request_once() {
    let server = TestServer::start(Setup {
        scripts: vec![Ok(vec![Step::Hang])],
        admission_delay: Duration::from_millis(200),
        limits: Limits { request_timeout: Duration::from_millis(50), ..Limits::default() },
        ..Setup::default()
    });
    assert_eq!(server.post(CHAT, &chat_body(json!({}))).status, 504);
    assert_eq!(only_abort(&server), (RequestId(1), AbortCause::Timeout));
}

#[test]
fn guarded_routes_need_a_key_however_their_path_is_written() {
    let server = TestServer::start(Setup {
        scripts: vec![Ok(hello())],
        api_keys: ApiKeys::new(["secret".to_owned()]),
        ..Setup::default()
    });
    for path in ["/v1/models", "/%76%31/models", "/v1/nothing", "/v1/models/fake"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 401, "{path}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        assert!(reply.header("x-request-id").is_some());
    }
    for path in [CHAT, "/v1/completions", "/tokenize", "/%74okenize", "/detokenize"] {
        assert_eq!(server.post(path, &chat_body(json!({}))).status, 401, "{path}");
    }
    for path in ["/health", "/ping", "/version", "/metrics"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let key = ("authorization", "Bearer secret");
    assert_eq!(server.send("GET", "/v1/models", &[key], None).status, 200);
    let body = chat_body(json!({})).to_string();
    assert_eq!(server.send("POST", CHAT, &[JSON, key], Some(body.as_bytes())).status, 200);
}

#[test]
fn the_request_id_of_the_client_comes_back() {
    let server = TestServer::answering(hello());
    let body = chat_body(json!({})).to_string();
    let id = ("x-request-id", "trace-7");
    let reply = server.send("POST", CHAT, &[JSON, id], Some(body.as_bytes()));
    assert_eq!(reply.header("x-request-id"), Some("trace-7"));
    assert_eq!(reply.json()["id"], "chatcmpl-trace-7");
    assert_eq!(server.seen(|seen| seen.requests[0].external_id.clone()), "trace-7");

    let reply = server.send("GET", "/health", &[("x-request-id", "a b")], None);
    assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some("X-Request-Id")));
    assert!(reply.header("x-request-id").is_some());
}

#[test]
fn a_body_over_the_limit_is_refused_with_or_without_its_length() {
    let limits = Limits { body_bytes: 1000, ..Limits::default() };
    let server = TestServer::start(Setup { scripts: vec![Ok(hello())], limits, ..Setup::default() });
    let large = json!({"messages": [{"role": "user", "content": "x".repeat(1000)}]}).to_string();
    let reply = server.send("POST", CHAT, &[JSON], Some(large.as_bytes()));
    assert_eq!((reply.status, reply.json()["error"]["reason"].as_str()), (413, Some("body_too_large")));
    let chunked = [JSON, ("transfer-encoding", "chunked")];
    assert_eq!(server.send("POST", CHAT, &chunked, Some(large.as_bytes())).status, 413);
    assert_eq!(server.post(CHAT, &chat_body(json!({}))).status, 200);
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let limits = Limits { body_timeout: Duration::from_millis(100), ..Limits::default() };
    let server = TestServer::start(Setup { limits, ..Setup::default() });
    let mut socket = server.open_chat(&json!({}));
    use std::io::Write;
    read_until(&mut socket, "messages");
    write!(
        socket,
        "POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{{"
    )
    .unwrap();
    assert!(read_until(&mut socket, "body_timeout").contains("408"));
}
