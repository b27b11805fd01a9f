//! Requests as `vllm bench serve` sends them, and what it reads from the answers.

use serde_json::{Value, json};

use crate::client::{self, CHAT, COMPLETIONS};
use crate::server::ServerProcess;

/// Tokens asked for. The demo would end its answer earlier, were it not for `ignore_eos`.
const TOKENS: u64 = 40;

/// The running numbers of tokens on the events that have choices, and the usage on the one event that has none, which
/// must be the last.
fn usage(mut events: Vec<Value>) -> (Vec<u64>, Value) {
    let last = events.pop().expect("events");
    assert_eq!(last["choices"], json!([]), "the last event has the usage alone");
    let running = events.iter().map(|event| {
        assert_eq!(event["choices"].as_array().map(Vec::len), Some(1), "{event}");
        let usage = &event["usage"];
        let (prompt, completion) = (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64());
        let (prompt, completion) = (prompt.expect("a count"), completion.expect("a count"));
        assert_eq!(usage["total_tokens"], prompt + completion, "{event}");
        assert_eq!(usage["prompt_tokens"], last["usage"]["prompt_tokens"], "{event}");
        completion
    });
    (running.collect(), last["usage"].clone())
}

#[test]
fn a_chat_benchmark_counts_every_token() {
    let server = ServerProcess::start(&[]);
    let body = json!({
        "model": "omni-demo",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "what is a stage"}]}],
        "temperature": 0.0,
        "max_tokens": TOKENS,
        "stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true},
        "ignore_eos": true,
    });
    let events = client::post(server.address, CHAT, &body).events();
    assert!(events.iter().all(|event| event["modality"] == "text"), "every event says what it carries");
    let finish = &events[events.len() - 2]["choices"][0]["finish_reason"];
    assert_eq!(finish, "length");
    let (running, total) = usage(events);
    // The first event carries the role and no token, each of the others one token.
    assert_eq!(running, (0..=TOKENS).collect::<Vec<_>>());
    assert_eq!(total["completion_tokens"], TOKENS);
}

#[test]
fn a_completions_benchmark_counts_every_token() {
    let server = ServerProcess::start(&[]);
    let body = json!({
        "model": "omni-demo",
        "prompt": "what is a stage",
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": TOKENS,
        "logprobs": null,
        "stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true},
        "ignore_eos": true,
    });
    let (running, total) = usage(client::post(server.address, COMPLETIONS, &body).events());
    assert_eq!(running, (1..=TOKENS).collect::<Vec<_>>());
    assert_eq!(total["completion_tokens"], TOKENS);
}

#[test]
fn an_event_comes_for_every_token_even_without_text() {
    let server = ServerProcess::start(&[]);
    let special = client::post(server.address, "/tokenize", &json!({"prompt": "<|im_end|>"})).json();
    assert_eq!(special["count"], 1, "{special}");
    let body = json!({
        "prompt": "what is a stage",
        "max_tokens": TOKENS,
        // Nothing else is drawn, and a special token has no text in an answer.
        "logit_bias": {special["tokens"][0].to_string(): 100},
        "stream": true,
        "stream_options": {"include_usage": true},
        "ignore_eos": true,
    });
    let mut events = client::post(server.address, COMPLETIONS, &body).events();
    let usage = events.pop().expect("events")["usage"].clone();
    assert_eq!(usage["completion_tokens"], TOKENS);
    assert_eq!(events.len() as u64, TOKENS);
    for event in events {
        assert_eq!(event["choices"][0]["text"], "", "{event}");
        assert!(event["usage"].is_null(), "running usage was not asked for: {event}");
    }
}
