//! What the metrics are told of requests, and how their page is sent.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;
use crate::http::testing::TestServer;

const CHAT: &str = "/v1/chat/completions";

#[test]
fn every_answer_is_told_with_its_route_status_and_sizes() {
    let server = TestServer::answering(hello());
    let body = chat_body(json!({})).to_string();
    let whole = server.post(CHAT, &chat_body(json!({}))).body.len() as u64;
    let streamed = server.post(CHAT, &chat_body(json!({"stream": true}))).body.len() as u64;
    server.get("/v1/models/fake");
    server.get("/no/such/route");
    ask(&server, "BREW /no/such/route", "");
    server.post(CHAT, &json!({"messages": 1}));
    server.wait_until("all answers are told", |seen| seen.exchanges.len() == 6);
    let told = server.seen(|seen| seen.exchanges.clone());
    let short: Vec<_> =
        told.iter().map(|exchange| (exchange.method, exchange.route.as_deref(), exchange.status)).collect();
    assert_eq!(
        short,
        [
            ("POST", Some(CHAT), 200),
            ("POST", Some(CHAT), 200),
            ("GET", Some("/v1/models/{name:.+}"), 200),
            ("GET", None, 404),
            ("OTHER", None, 404),
            ("POST", Some(CHAT), 400),
        ]
    );
    assert_eq!((told[0].request_bytes, told[0].response_bytes), (body.len() as u64, whole));
    assert_eq!(told[1].response_bytes, streamed, "of a stream, what was written");
    assert!(told.iter().all(|exchange| exchange.seconds > 0.0 && exchange.response_bytes > 0));
}

#[test]
fn routes_for_the_people_who_run_the_server_are_not_told() {
    let server = TestServer::answering(hello());
    for path in ["/health", "/metrics", "/ping", "/version", "/v1/models"] {
        server.get(path);
    }
    server.wait_until("the last one is told", |seen| !seen.exchanges.is_empty());
    let routes: Vec<_> = server.seen(|seen| seen.exchanges.iter().map(|told| told.route.clone()).collect());
    assert_eq!(routes, [Some("/v1/models".to_owned())]);
}

/// Sends a request without a body, and reads head and body of the response.
fn ask(server: &TestServer, line: &str, headers: &str) -> (String, Vec<u8>) {
    let mut socket = TcpStream::connect(server.address()).unwrap();
    write!(socket, "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut reply = Vec::new();
    socket.read_to_end(&mut reply).unwrap();
    let end = reply.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8_lossy(&reply[..end]).to_lowercase(), reply[end..].to_vec())
}

/// The page of metrics, for a client that takes these encodings.
fn page(server: &TestServer, encodings: &str) -> (String, Vec<u8>) {
    ask(server, "GET /metrics", &format!("Accept: a/b\r\nAccept-Encoding: {encodings}\r\n"))
}

#[test]
fn the_page_of_metrics_is_compressed_for_those_who_ask_for_it() {
    let server = TestServer::answering(hello());
    let (head, body) = page(&server, "gzip, deflate");
    assert!(
        head.contains("content-encoding: gzip") && head.contains("vary: accept, accept-encoding"),
        "{head}"
    );
    let mut text = String::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, "# accept: a/b\n");
    for encodings in ["identity", "gzip;q=0, identity", "br"] {
        let (head, body) = page(&server, encodings);
        assert!(!head.contains("content-encoding"), "{head}");
        assert_eq!(body, b"# accept: a/b\n");
    }
}
