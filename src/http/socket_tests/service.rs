//! The routes beside generation.

use super::*;
use crate::actors::messages::Health;
use crate::http::testing::{Setup, TestServer};
use crate::ids::StageId;

#[test]
fn a_healthy_server_says_so() {
    let server = TestServer::answering(hello());
    for path in ["/health", "/ping"] {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.json()), (200, json!({"status": "healthy"})));
    }
    assert_eq!(server.get("/version").json(), json!({"version": env!("CARGO_PKG_VERSION")}));
}

#[test]
fn a_stage_without_replicas_and_a_shutdown_are_unhealthy() {
    for (health, word) in [
        (
            Health { stages_down: vec![StageId(0)], not_built: Vec::new(), draining: false },
            "stage 0 (stage-0)",
        ),
        (Health { stages_down: Vec::new(), not_built: Vec::new(), draining: true }, "shutting down"),
    ] {
        let server = TestServer::start(Setup { health, ..Setup::default() });
        let reply = server.get("/health");
        assert_eq!(reply.status, 503);
        let json = reply.json();
        assert_eq!(json["status"], "unhealthy");
        assert!(json["reason"].as_str().unwrap().contains(word), "{json}");
    }
}

#[test]
fn models_are_listed_under_each_name_with_what_is_to_be_said_of_them() {
    let server = TestServer::answering(hello());
    let json = server.get("/v1/models").json();
    assert_eq!(json["object"], "list");
    assert_eq!(json["data"].as_array().unwrap().len(), 2);
    assert_eq!(
        json["data"][0],
        json!({"id": "fake", "object": "model", "created": 1_700_000_000, "owned_by": "omni-actors",
               "root": "/models/fake", "parent": null, "max_model_len": 1024, "description": "a fake"})
    );
    assert_eq!(server.get("/v1/models/fake-alias").json()["id"], "fake-alias");
    assert_eq!(server.get("/v1/models/org/other").status, 404);
}

#[test]
fn metrics_are_written_in_the_format_asked_for() {
    let server = TestServer::answering(hello());
    let reply = server.send("GET", "/metrics", &[("accept", "application/openmetrics-text")], None);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4"));
    assert_eq!(reply.body, "# accept: application/openmetrics-text\n");
}

#[test]
fn text_goes_to_tokens_and_back() {
    let server = TestServer::answering(hello());
    let json = server.post("/tokenize", &json!({"model": "fake", "prompt": "ab"})).json();
    assert_eq!(json, json!({"count": 2, "max_model_len": 1024, "tokens": [97, 98], "token_strs": null}));
    let json = server.post("/detokenize", &json!({"tokens": [97, 98]})).json();
    assert_eq!(json, json!({"prompt": "ab"}));
}

#[test]
fn what_is_not_there_is_an_openai_error() {
    let server = TestServer::answering(hello());
    for path in ["/nothing", "/v1/nothing"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 404);
        assert_eq!(reply.json()["error"]["type"], "NotFoundError");
    }
    let reply = server.get("/v1/chat/completions");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("does not take GET"));
    assert_eq!(server.post("/health", &json!({})).header("allow"), Some("GET"));
}
