//! `/v1/completions`: several prompts, log probabilities, streams.

use super::*;
use crate::actors::messages::{AbortCause, Rejection};
use crate::http::testing::{Setup, TestServer};
use crate::ids::RequestId;

const COMPLETIONS: &str = "/v1/completions";

fn say(text: &str) -> Vec<Step> {
    vec![last(0, text, 1, FinishReason::Length, None), finished()]
}

#[test]
fn each_prompt_is_a_request_and_choices_are_numbered_through() {
    let two = |a: &str, b: &str| {
        vec![last(1, b, 1, FinishReason::Stop, None), last(0, a, 1, FinishReason::Stop, None), finished()]
    };
    let scripts = vec![Ok(two("p0c0", "p0c1")), Ok(two("p1c0", "p1c1"))];
    let server = TestServer::start(Setup { scripts, ..Setup::default() });
    let json = server.post(COMPLETIONS, &json!({"prompt": ["a", "bc"], "n": 2})).json();
    assert_eq!(json["object"], "text_completion");
    let texts: Vec<&str> =
        json["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["p0c0", "p0c1", "p1c0", "p1c1"]);
    assert_eq!(json["choices"][3]["index"], 3);
    assert_eq!(json["usage"], json!({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}));
    assert_eq!(server.seen(|seen| seen.requests.len()), 2);
}

#[test]
fn token_ids_are_taken_as_they_are() {
    let server = TestServer::answering(say("x"));
    let body = json!({"prompt": [5, 6, 7], "return_token_ids": true});
    let json = server.post(COMPLETIONS, &body).json();
    assert_eq!(json["choices"][0]["prompt_token_ids"], json!([5, 6, 7]));
    assert_eq!(json["choices"][0]["token_ids"], json!([1]));
    assert_eq!(server.seen(|seen| seen.requests[0].prompt.token_ids.clone()), [5, 6, 7]);
}

#[test]
fn a_stream_has_one_event_per_engine_output_and_the_usage() {
    let server = TestServer::answering(hello());
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let body = json!({"prompt": "abc", "max_tokens": 3, "repetition_penalty": 1.0, "logprobs": null,
                      "stream": true, "stream_options": options});
    let events = server.post(COMPLETIONS, &body).events();
    assert_eq!(events.len(), 4, "three outputs, usage");
    let texts: Vec<&str> =
        events[..3].iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["Hel", "", "lo"]);
    assert_eq!(events[2]["choices"][0]["finish_reason"], "stop");
    let counts: Vec<u64> =
        events.iter().map(|event| event["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 2, 3, 3]);
    assert_eq!(events[3]["usage"]["prompt_tokens"], 3);
}

#[test]
fn log_probabilities_are_lists_and_offsets_go_on_through_a_stream() {
    let server = TestServer::answering(hello());
    let json = server.post(COMPLETIONS, &json!({"prompt": "a", "logprobs": 1})).json();
    let logprobs = &json["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["Hel", "", "lo"]));
    assert_eq!(logprobs["text_offset"], json!([0, 3, 3]));
    assert_eq!(logprobs["token_logprobs"], json!([-0.5, -0.5, -0.5]));
    assert_eq!(logprobs["top_logprobs"][0], json!({"Hel": -0.5, "?": -1.5}));
    let events = server.post(COMPLETIONS, &json!({"prompt": "a", "logprobs": 1, "stream": true})).events();
    assert_eq!(events[2]["choices"][0]["logprobs"]["text_offset"], json!([3]));
}

#[test]
fn a_prompt_that_is_turned_away_takes_its_siblings_along() {
    let scripts = vec![Ok(vec![Step::Hang]), Err(Rejection::Overloaded { limit: 1 })];
    let server = TestServer::start(Setup { scripts, ..Setup::default() });
    let reply = server.post(COMPLETIONS, &json!({"prompt": ["a", "b"]}));
    assert_eq!(reply.status, 429);
    server.wait_until("the sibling was aborted", |seen| {
        seen.aborts == [(RequestId(1), AbortCause::SiblingFailed)]
    });
}

#[test]
fn a_prompt_without_tokens_is_refused() {
    let server = TestServer::answering(hello());
    for prompt in [json!(""), json!([[]]), json!(["a", ""])] {
        let reply = server.post(COMPLETIONS, &json!({ "prompt": prompt }));
        assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some("prompt")));
    }
}
