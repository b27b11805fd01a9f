//! `/v1/chat/completions`: what is submitted and what is written.

use super::*;
use crate::actors::messages::{Rejection, RequestError};
use crate::http::testing::{Setup, TestServer};
use crate::ids::StageId;

const CHAT: &str = "/v1/chat/completions";
/// Tokens of the prompt that the fake frontend makes of `chat_body`.
const PROMPT: &str = "user: hi\nassistant: ";

fn contents(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

#[test]
fn an_answer_in_one_piece_has_text_reason_and_usage() {
    let server = TestServer::answering(hello());
    let reply = server.post(CHAT, &chat_body(json!({"model": "fake"})));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let json = reply.json();
    let id = reply.header("x-request-id").unwrap();
    assert_eq!(json["id"], format!("chatcmpl-{id}"));
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["model"], "fake");
    assert_eq!(json["choices"][0]["message"]["role"], "assistant");
    assert_eq!(json["choices"][0]["message"]["content"], "Hello");
    assert_eq!(json["choices"][0]["finish_reason"], "stop");
    assert_eq!(json["choices"][0]["stop_reason"], Value::Null);
    assert_eq!(json["choices"][0]["logprobs"], Value::Null);
    let prompt = PROMPT.len();
    assert_eq!(
        json["usage"],
        json!({"prompt_tokens": prompt, "completion_tokens": 3, "total_tokens": prompt + 3})
    );
    assert!(json.get("prompt_token_ids").is_none());
    assert!(server.seen(|seen| seen.aborts.is_empty() && seen.refusals.is_empty()));
}

#[test]
fn the_request_reaches_the_orchestrator_complete() {
    let server = TestServer::answering(hello());
    let body = chat_body(json!({"temperature": 0.25, "top_k": 3, "max_completion_tokens": 7, "seed": 11,
        "stop": "x", "logit_bias": {"5": 2}, "priority": -2, "ignore_eos": true,
        "sampling_params_list": [{"top_k": 4}]}));
    assert_eq!(server.post(CHAT, &body).status, 200);
    server.seen(|seen| {
        let request = &seen.requests[0];
        assert_eq!(request.prompt.text, PROMPT);
        assert_eq!(request.prompt.token_ids.len(), PROMPT.len());
        assert_eq!(request.priority, -2);
        let thinker = &request.sampling[0];
        assert_eq!((thinker.temperature, thinker.top_k, thinker.max_tokens), (0.25, 4, 7));
        assert_eq!((thinker.seed, thinker.ignore_eos), (Some(11), true));
        assert_eq!(thinker.stop, ["x"]);
        assert_eq!(thinker.logit_bias[&5], 2.0);
    });
}

#[test]
fn a_stream_has_one_event_per_engine_output_even_without_text() {
    let server = TestServer::answering(hello());
    let reply =
        server.post(CHAT, &chat_body(json!({"stream": true, "stream_options": {"include_usage": true}})));
    assert_eq!(reply.status, 200);
    assert!(reply.header("content-type").unwrap().starts_with("text/event-stream"));
    let events = reply.events();
    assert_eq!(events.len(), 5, "role, three outputs, usage");
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(contents(&events), ["", "Hel", "", "lo"]);
    for event in &events {
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["modality"], "text");
        assert_eq!(event["id"], events[0]["id"]);
    }
    assert_eq!(events[2]["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(events[3]["choices"][0]["finish_reason"], "stop");
    assert!(events[3].get("usage").is_none());
    assert_eq!(events[4]["choices"], json!([]));
    assert_eq!(events[4]["usage"]["completion_tokens"], 3);
}

#[test]
fn continuous_usage_is_on_every_chunk() {
    let server = TestServer::answering(hello());
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let reply = server.post(CHAT, &chat_body(json!({"stream": true, "stream_options": options})));
    let counts: Vec<u64> =
        reply.events().iter().map(|event| event["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert_eq!(counts, [0, 1, 2, 3, 3]);
}

#[test]
fn choices_keep_their_index_and_their_own_end() {
    let stop = Some(StopReason::Text("END".into()));
    let steps = vec![
        token(1, "b", 1),
        token(0, "a", 2),
        last(1, "B", 3, FinishReason::Length, None),
        last(0, "A", 4, FinishReason::Stop, stop),
        finished(),
    ];
    let server = TestServer::answering(steps);
    let json = server.post(CHAT, &chat_body(json!({"n": 2}))).json();
    assert_eq!(json["choices"][0]["message"]["content"], "aA");
    assert_eq!(json["choices"][0]["stop_reason"], "END");
    assert_eq!(json["choices"][1]["message"]["content"], "bB");
    assert_eq!(json["choices"][1]["finish_reason"], "length");
    assert_eq!(json["usage"]["completion_tokens"], 4);

    let events = server.post(CHAT, &chat_body(json!({"n": 2, "stream": true}))).events();
    let order: Vec<u64> = events.iter().map(|event| event["choices"][0]["index"].as_u64().unwrap()).collect();
    assert_eq!(order, [0, 1, 1, 0, 1, 0], "two roles, then the outputs as they come");
    assert_eq!(events[4]["choices"][0]["finish_reason"], "length");
    assert_eq!(events[5]["choices"][0]["stop_reason"], "END");
}

#[test]
fn a_choice_without_an_end_gets_that_of_the_request() {
    let server = TestServer::answering(vec![token(0, "a", 1), finished()]);
    let json = server.post(CHAT, &chat_body(json!({}))).json();
    assert_eq!(json["choices"][0]["finish_reason"], "stop");
    let events = server.post(CHAT, &chat_body(json!({"stream": true}))).events();
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[test]
fn token_ids_are_written_when_asked_for() {
    let server = TestServer::answering(hello());
    let json = server.post(CHAT, &chat_body(json!({"return_token_ids": true}))).json();
    assert_eq!(json["prompt_token_ids"].as_array().unwrap().len(), PROMPT.len());
    assert_eq!(json["choices"][0]["token_ids"], json!([1, 2, 3]));

    let events = server.post(CHAT, &chat_body(json!({"return_token_ids": true, "stream": true}))).events();
    assert_eq!(events[0]["prompt_token_ids"].as_array().unwrap().len(), PROMPT.len());
    assert!(events[1].get("prompt_token_ids").is_none());
    assert_eq!(events[2]["choices"][0]["token_ids"], json!([2]));
}

#[test]
fn log_probabilities_are_written_when_asked_for() {
    let server = TestServer::answering(hello());
    let body = chat_body(json!({"logprobs": true, "top_logprobs": 2}));
    let json = server.post(CHAT, &body).json();
    let content = json["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 3);
    assert_eq!(content[0]["token"], "Hel");
    assert_eq!(content[0]["logprob"], -0.5);
    assert_eq!(content[0]["top_logprobs"][1]["token"], "?");
    assert_eq!(server.seen(|seen| seen.requests[0].sampling[0].logprobs), Some(2));
    let events = server.post(CHAT, &with(body, json!({"stream": true}))).events();
    assert_eq!(events[1]["choices"][0]["logprobs"]["content"][0]["bytes"], json!([72, 101, 108]));
}

#[test]
fn a_rejected_request_says_why_and_when_to_come_back() {
    let scripts = vec![
        Err(Rejection::Overloaded { limit: 3 }),
        Err(Rejection::StageUnavailable { stage: StageId(0) }),
        Err(Rejection::Draining),
    ];
    let server = TestServer::start(Setup { scripts, ..Setup::default() });
    for (status, reason) in [(429, "overloaded"), (503, "stage_unavailable"), (503, "shutting_down")] {
        let reply = server.post(CHAT, &chat_body(json!({"stream": true})));
        assert_eq!(reply.status, status);
        assert_eq!(reply.json()["error"]["reason"], reason);
        assert!(reply.header("retry-after").is_some());
    }
    assert!(server.seen(|seen| seen.aborts.is_empty() && seen.refusals.is_empty()));
}

fn failure(client_fault: bool) -> Step {
    Step::Event(RequestEvent::Failed(RequestError {
        reason: "stage_error",
        stage: StageId(0),
        message: "it broke".into(),
        client_fault,
    }))
}

#[test]
fn a_failure_before_the_first_output_has_an_error_status_streamed_or_not() {
    let server = TestServer::answering(vec![failure(true)]);
    for stream in [false, true] {
        let reply = server.post(CHAT, &chat_body(json!({"stream": stream})));
        assert_eq!(reply.status, 400);
        let error = &reply.json()["error"];
        assert_eq!(error["error_stage_id"], 0);
        assert_eq!(error["request_id"], reply.header("x-request-id").unwrap());
        assert_eq!(error["message"], "stage 0: it broke");
    }
}

#[test]
fn a_failure_in_the_stream_is_one_error_event_and_the_end() {
    let server = TestServer::answering(vec![token(0, "a", 1), failure(false)]);
    let reply = server.post(CHAT, &chat_body(json!({"stream": true})));
    assert_eq!(reply.status, 200);
    let events = reply.events();
    assert_eq!(events.len(), 3);
    assert_eq!(events[2]["error"]["code"], 500);
    assert_eq!(events[2]["error"]["reason"], "stage_error");
    assert_eq!(server.post(CHAT, &chat_body(json!({}))).status, 500);
    assert!(server.seen(|seen| seen.aborts.is_empty()));
}

#[test]
fn an_abort_by_the_server_and_a_lost_stream_are_errors() {
    let aborted = Ok(vec![
        token(0, "a", 1),
        Step::Event(RequestEvent::Aborted(crate::actors::messages::AbortCause::Shutdown)),
    ]);
    let server =
        TestServer::start(Setup { scripts: vec![aborted, Ok(vec![token(0, "a", 1)])], ..Setup::default() });
    let reply = server.post(CHAT, &chat_body(json!({})));
    assert_eq!((reply.status, reply.json()["error"]["reason"].as_str()), (503, Some("shutting_down")));
    let reply = server.post(CHAT, &chat_body(json!({})));
    assert_eq!((reply.status, reply.json()["error"]["reason"].as_str()), (500, Some("lost")));
    assert!(server.seen(|seen| seen.aborts.is_empty()));
}

#[test]
fn refusals_before_the_orchestrator_are_counted() {
    let server = TestServer::answering(hello());
    let reply = server.post(CHAT, &chat_body(json!({"temperature": -1})));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["param"], "temperature");
    let reply = server.post(CHAT, &chat_body(json!({"model": "other"})));
    assert_eq!((reply.status, reply.json()["error"]["type"].as_str()), (404, Some("NotFoundError")));
    let reply = server.post(CHAT, &json!({"messages": [{"role": "user", "content": "raise"}]}));
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("raised by the template"));
    server.wait_until("refusals were counted", |seen| {
        seen.refusals == ["invalid_value", "model_not_found", "template_error"]
    });
    assert!(server.seen(|seen| seen.requests.is_empty()));
}

#[test]
fn prompts_and_answers_that_do_not_fit_are_refused_with_the_numbers() {
    let server = TestServer::answering(hello());
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(2000)}]});
    let error = server.post(CHAT, &long).json();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("2018") && message.contains("1024"), "{message}");
    let reply = server.post(CHAT, &chat_body(json!({"max_tokens": 1020})));
    assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some("max_tokens")));
    // Long enough to be tokenised on the blocking pool.
    let longer = json!({"messages": [{"role": "user", "content": "x".repeat(100_000)}]});
    assert_eq!(server.post(CHAT, &longer).status, 400);
}

#[test]
fn the_request_of_vllm_bench_is_understood() {
    let server = TestServer::answering(hello());
    let body = json!({
        "model": "fake",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "max_completion_tokens": 3,
        "stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true},
        "ignore_eos": true,
    });
    let events = server.post(CHAT, &body).events();
    assert_eq!(contents(&events).concat(), "Hello");
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 3);
}
