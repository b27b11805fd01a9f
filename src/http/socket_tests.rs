//! The routes over real sockets, in front of an orchestrator that follows a script.

mod chat;
mod completions;
mod connections;
mod exchanges;
mod malformed;
mod service;
mod speech;

use serde_json::{Value, json};

use crate::actors::messages::RequestEvent;
use crate::engine::FinishReason;
use crate::http::testing::Step;
use crate::stages::{ChoiceFinish, Output, StopReason, TextDelta, TokenLogprob, TokenLogprobs};

/// One engine output of one token.
fn token(choice: u32, text: &str, id: u32) -> Step {
    let chosen = TokenLogprob { id, token: text.into(), bytes: text.as_bytes().to_vec(), logprob: -0.5 };
    let other = TokenLogprob { id: 0, token: "?".into(), bytes: b"?".to_vec(), logprob: -1.5 };
    Step::Event(RequestEvent::Output(Output::Text(TextDelta {
        choice,
        text: text.into(),
        token_ids: vec![id],
        logprobs: vec![TokenLogprobs { chosen: chosen.clone(), top: vec![chosen, other] }],
        finish: None,
    })))
}

/// The last engine output of a choice.
fn last(choice: u32, text: &str, id: u32, reason: FinishReason, stop_reason: Option<StopReason>) -> Step {
    match token(choice, text, id) {
        Step::Event(RequestEvent::Output(Output::Text(delta))) => {
            let finish = Some(ChoiceFinish { reason, stop_reason });
            Step::Event(RequestEvent::Output(Output::Text(TextDelta { finish, ..delta })))
        }
        other => other,
    }
}

/// The end of a request.
fn finished() -> Step {
    Step::Event(RequestEvent::Finished(FinishReason::Stop))
}

/// "Hel", nothing yet, "lo", in three tokens.
fn hello() -> Vec<Step> {
    vec![token(0, "Hel", 1), token(0, "", 2), last(0, "lo", 3, FinishReason::Stop, None), finished()]
}

/// A chat request with one message and these further fields.
fn chat_body(extra: Value) -> Value {
    with(json!({"messages": [{"role": "user", "content": "hi"}]}), extra)
}

/// An object with further fields.
fn with(mut body: Value, extra: Value) -> Value {
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}
