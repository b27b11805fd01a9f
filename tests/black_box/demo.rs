//! The built-in demo: what it says of itself and what it answers.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::client::{self, CHAT};
use crate::server::ServerProcess;

/// What it calls itself in the log and to clients.
const NOTICE: &str = "tiny demo model";

/// Questions with the answers that the demo must give.
fn questions() -> Vec<(String, String)> {
    let file: Value =
        serde_json::from_str(include_str!("../questions.json")).expect("questions.json is JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let cases = file["cases"].as_array().expect("cases").iter();
    cases.map(|case| (text(&case["question"]), text(&case["answer"]))).collect()
}

fn answer(server: SocketAddr, question: &str) -> String {
    let body = json!({"messages": [{"role": "user", "content": question}]});
    let reply = client::post(server, CHAT, &body).json();
    assert_eq!(reply["choices"][0]["finish_reason"], "stop", "{reply}");
    reply["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
}

fn streamed_answer(server: SocketAddr, question: &str) -> String {
    let body = json!({"messages": [{"role": "user", "content": question}], "stream": true});
    let events = client::post(server, CHAT, &body).events();
    assert_eq!(events.last().expect("events")["choices"][0]["finish_reason"], "stop");
    client::streamed_text(&events)
}

fn every_question_is_answered(dtype: &str) {
    let server = ServerProcess::start(&["--dtype", dtype]);
    for (question, expected) in questions() {
        assert_eq!(answer(server.address, &question), expected, "{question}");
        assert_eq!(streamed_answer(server.address, &question), expected, "{question}, streamed");
    }
}

#[test]
fn the_demo_says_who_it_is() {
    let server = ServerProcess::start(&[]);
    let expected = "I am a tiny omni model that answers and speaks.";
    assert_eq!(answer(server.address, "Who are you?"), expected);
    assert_eq!(streamed_answer(server.address, "Who are you?"), expected);
}

#[test]
fn the_demo_answers_every_question_in_f32() {
    every_question_is_answered("float32");
}

#[test]
fn the_demo_answers_every_question_in_bf16() {
    every_question_is_answered("bfloat16");
}

#[test]
fn log_and_model_list_say_that_it_is_a_tiny_demo() {
    let server = ServerProcess::start(&[]);
    let notices = server.startup_log.iter().filter(|line| line.contains(NOTICE)).count();
    assert_eq!(notices, 1, "{:#?}", server.startup_log);
    let models = client::get(server.address, "/v1/models").json();
    assert_eq!(models["data"][0]["id"], "omni-demo");
    assert!(models["data"][0]["description"].as_str().expect("a description").contains(NOTICE), "{models}");
}

#[test]
fn startup_says_what_is_served_where_on_which_device_and_whether_statistics_are_on() {
    for (arguments, statistics) in [(&[] as &[&str], "statistics off"), (&["--log-stats"], "statistics on")] {
        let server = ServerProcess::start(arguments);
        let log = server.startup_log.concat();
        for part in ["omni-demo", "stage 0: thinker", "on cpu", statistics, &server.address.to_string()] {
            assert!(log.contains(part), "no {part:?} in {log}");
        }
    }
}
