//! Input that no client should send: every answer is an OpenAI error, and nothing panics.

use proptest::prelude::*;

use super::*;
use crate::http::chat_request::ChatRequest;
use crate::http::completions_request::CompletionsRequest;
use crate::http::testing::{TestServer, unconnected_state};

#[test]
fn malformed_bodies_are_400_and_say_where() {
    let server = TestServer::answering(hello());
    let bodies: &[&[u8]] = &[
        b"",
        b"{",
        b"null",
        b"[]",
        b"\"x\"",
        b"{\"messages\": [}",
        b"{\"messages\": {}}",
        b"{\"messages\": [null]}",
        b"{\"messages\": [{\"role\": 1, \"content\": 2}]}",
        b"\xff\xfe\x00",
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}",
        b"{\"temperature\": 1e999}",
        b"{\"temperature\": NaN}",
    ];
    let json = ("content-type", "application/json");
    for path in ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"] {
        for body in bodies {
            let reply = server.send("POST", path, &[json], Some(body));
            assert_eq!(reply.status, 400, "{path} {}", String::from_utf8_lossy(body));
            let error = &reply.json()["error"];
            assert_eq!(error["code"], 400);
            assert!(!error["message"].as_str().unwrap().is_empty());
        }
        let reply = server.send("POST", path, &[json], Some(&b"[".repeat(200_000)));
        assert_eq!((reply.status, reply.json()["error"]["reason"].as_str()), (400, Some("invalid_json")));
        assert_eq!(server.send("POST", path, &[("content-type", "text/plain")], Some(b"{}")).status, 415);
    }
    let reply = server.send("POST", "/v1/completions", &[json], Some(b"{\n \"prompt\": oops}"));
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("line 2, column 12"));
}

/// Any JSON, not too large.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop_oneof![Just("user"), Just("assistant"), Just("text"), Just("tool")].prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((field_name(), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Mostly names that mean something.
fn field_name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "messages",
        "role",
        "content",
        "type",
        "text",
        "prompt",
        "n",
        "stream",
        "stream_options",
        "stop",
        "logit_bias",
        "sampling_params_list",
        "max_tokens",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "seed",
        "modalities",
        "logprobs",
        "top_logprobs",
        "stop_token_ids",
        "include_usage",
        "temperature",
        "top_k",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => ".{0,8}"]
}

/// An object with known names at the top and anything below.
fn any_body() -> impl Strategy<Value = Value> {
    prop::collection::vec((field_name(), any_json()), 0..6)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

proptest! {
    #[test]
    fn no_json_makes_a_request_panic(body in any_body(), message in any_json()) {
        let state = unconnected_state(2);
        for body in [body.clone(), with(body, json!({"messages": [message], "prompt": [1]}))] {
            if let Ok(request) = ChatRequest::read(&body, &state) {
                prop_assert!(request.generation.choices >= 1);
                let _ = request.generation.sampling(&state.pipeline);
            }
            if let Ok(request) = CompletionsRequest::read(&body, &state) {
                prop_assert!(!request.prompts.is_empty());
            }
        }
    }
}
