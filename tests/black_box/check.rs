//! `omni-actors check`: what it finds, and the one line when something is wrong.

use std::net::TcpListener;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::checkpoint_copy::{CheckpointCopy, WEIGHTS, original};
use crate::hub::{COMMIT, Hub, REPOSITORY};

fn check_in(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omni-actors"));
    command.arg("check").args(arguments);
    for variable in ["RUST_LOG", "OMNI_CPU_ISA", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"] {
        command.env_remove(variable);
    }
    command.envs(environment.iter().copied()).output().expect("the program can be run")
}

fn check(arguments: &[&str]) -> Output {
    check_in(arguments, &[])
}

/// The report on what must be in order.
fn report(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(result["ok"], true, "{result}");
    result["report"].clone()
}

/// A table must have a row of this name with this in it.
pub(crate) fn assert_row(table: &str, name: &str, value: &str) {
    let found = table.lines().any(|line| line.starts_with(name) && line.contains(value));
    assert!(found, "no {name} with {value:?} in\n{table}");
}

/// Sizes of the stages of a checkpoint must be those of its file.
fn assert_sized(report: &Value, weight_bytes: usize) {
    let stages = report["stages"].as_array().expect("stages");
    let sum = |field: &str| stages.iter().map(|stage| stage[field].as_u64().expect("a size")).sum::<u64>();
    let (parameters, bytes) = (sum("parameters"), sum("weight_bytes"));
    assert!(parameters > 0 && bytes >= parameters * 2, "{stages:#?}");
    // The file has a header, too; tensors of the encoders are not loaded.
    assert!(bytes < weight_bytes as u64 && bytes > weight_bytes as u64 / 2, "{bytes} of {weight_bytes}");
}

#[test]
fn the_demo_writes_and_speaks() {
    let report = report(&check(&["--json"]));
    assert_eq!(report["name"], "omni-demo");
    assert_eq!(report["model_type"], "qwen3_omni_moe");
    assert_eq!(report["chat_template"], true);
    assert_eq!(report["commit"], Value::Null);
    assert!(!report["voices"].as_array().expect("voices").is_empty(), "{report:#}");
    let names: Vec<_> = report["stages"].as_array().expect("stages").iter().map(|s| &s["name"]).collect();
    assert_eq!(names, ["thinker", "talker", "code2wav"]);
    for (stage, caches) in [(0, true), (1, true), (2, false)] {
        let stage = &report["stages"][stage];
        assert_eq!(stage["cache_bytes"].as_u64().expect("a size") > 0, caches, "{stage}");
        assert!(stage["device"].as_str().expect("a device").starts_with("cpu ("), "{stage}");
    }
    let [text, speech] = [0, 1].map(|answer| report["answers"][answer].clone());
    assert_eq!((&text["output"], &speech["output"]), (&json!("text"), &json!("audio")));
    assert!(text["tokens"].as_u64().expect("a count") > 1, "{text}");
    assert_eq!(text["speech_seconds"], Value::Null);
    assert_eq!(speech["text"], text["text"]);
    assert!(speech["speech_seconds"].as_f64().expect("a length") > 0.1, "{speech}");
}

#[test]
fn a_checkpoint_is_described_in_lines() {
    let directory = original();
    let directory = directory.to_str().expect("a path in UTF-8");
    let output = check(&[directory, "--dtype", "float32", "--num-replicas", "2"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}");
    for (name, value) in [
        ("model", "checkpoint"),
        ("from", directory),
        ("architecture", "(model_type qwen3_omni_moe)"),
        ("chat template", "yes"),
        ("voices", ""),
        ("thinker", "2"),
        ("code2wav", "0 B"),
        ("text", "tokens in "),
        ("audio", "s of sound in "),
    ] {
        assert_row(&text, name, value);
    }
}

#[test]
fn sizes_are_those_of_the_files() {
    let weights = original().join(WEIGHTS).metadata().expect("the weights are there").len();
    let directory = original();
    let report = report(&check(&[directory.to_str().expect("a path in UTF-8"), "--json"]));
    assert_sized(&report, usize::try_from(weights).expect("a length"));
}

#[test]
fn a_model_by_name_is_downloaded_and_its_commit_named() {
    let hub = Hub::start(&original());
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path().to_str().expect("a path in UTF-8");
    let report = report(&check_in(&[REPOSITORY, "--json"], &hub.environment(home)));
    assert_eq!((&report["name"], &report["revision"]), (&json!(REPOSITORY), &json!("main")));
    assert_eq!(report["commit"], COMMIT);
}

#[test]
fn no_port_is_opened() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    assert!(check(&["--port", &port]).status.success());
}

#[test]
fn what_cannot_be_served_is_the_one_line_that_serve_would_write() {
    let checkpoint = CheckpointCopy::without(&[WEIGHTS]);
    for arguments in [&[checkpoint.path()][..], &[checkpoint.path(), "--json"]] {
        let output = check(arguments);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        let errors: Vec<_> = text.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{text}");
        assert!(errors[0].contains(WEIGHTS) && errors[0].contains(checkpoint.path()), "{text}");
        if arguments.len() == 1 {
            assert!(output.stdout.is_empty());
        } else {
            let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(result["ok"], false);
            assert_eq!(format!("error: {}", result["error"].as_str().expect("a line")), errors[0]);
        }
    }
}

#[test]
fn a_model_that_has_no_room_for_an_answer_fails_by_its_request() {
    let output = check(&["--max-model-len", "2"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    let last = text.lines().last().expect("a line");
    assert!(last.starts_with("error: asked for text, the model fails: "), "{text}");
}
