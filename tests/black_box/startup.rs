//! What cannot be served is refused with one line that names what is wrong, before the port is opened.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::checkpoint_copy::{CheckpointCopy, WEIGHTS, original};
use crate::client::{self, CHAT};
use crate::golden_sets::read_json;
use crate::server::{ServerProcess, serve_in_vain};

/// A tensor that every thinker has, `[hidden]`.
const NORM: &str = "thinker.model.norm.weight";
/// A tensor that every thinker has, `[vocabulary, hidden]`.
const HEAD: &str = "thinker.lm_head.weight";

/// Runs the server, which must refuse with exit status 1 and one line; returns what the line says.
///
/// The port that it is told to open is taken. A server that tried to open it would complain of that instead.
pub(crate) fn refusal(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let (status, lines) = serve_in_vain(&[arguments, &["--port", &port]].concat(), environment);
    assert_eq!(status, Some(1), "{lines:#?}");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let line = lines[0].strip_prefix("error: ").unwrap_or_else(|| panic!("{lines:#?}"));
    assert!(!line.contains(&port), "{line}");
    line.to_owned()
}

/// Runs the server, which must refuse with a line that has all `parts`.
fn assert_refused_with(arguments: &[&str], environment: &[(&str, &str)], parts: &[&str]) {
    let line = refusal(arguments, environment);
    for part in parts {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

/// Serves a spoilt checkpoint, which must be refused with a line that names the directory and has all `parts`.
fn assert_refused(checkpoint: &CheckpointCopy, parts: &[&str]) {
    assert_refused_with(&[checkpoint.path()], &[], &[&[checkpoint.path()], parts].concat());
}

#[test]
fn a_missing_config_is_named() {
    assert_refused(&CheckpointCopy::without(&["config.json"]), &["config.json does not exist"]);
}

#[test]
fn a_config_that_is_not_json_is_located() {
    let checkpoint = CheckpointCopy::new();
    checkpoint.write("config.json", "{\n  \"model_type\": qwen\n}");
    assert_refused(&checkpoint, &["config.json is not valid JSON", "line 2, column 17"]);
}

#[test]
fn a_config_without_a_field_names_the_field() {
    let checkpoint = CheckpointCopy::new();
    let mut config: Value = serde_json::from_slice(&checkpoint.read("config.json")).expect("JSON");
    let text = config["thinker_config"]["text_config"].as_object_mut().expect("the thinker's configuration");
    text.remove("num_hidden_layers").expect("the field");
    checkpoint.write("config.json", config.to_string());
    assert_refused(&checkpoint, &["config.json", "num_hidden_layers"]);
}

#[test]
fn an_unknown_model_type_is_named() {
    let checkpoint = CheckpointCopy::new();
    checkpoint.write("config.json", r#"{"model_type": "perceptron"}"#);
    assert_refused(
        &checkpoint,
        &["\"perceptron\" is not served", "served are qwen3_omni_moe, qwen3, qwen3_moe"],
    );
}

#[test]
fn a_missing_tensor_is_named_with_its_file() {
    let checkpoint = CheckpointCopy::new();
    checkpoint.change_weights(|tensors| drop(tensors.remove(NORM).expect("the tensor")));
    assert_refused(&checkpoint, &[WEIGHTS, NORM, "missing"]);
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let checkpoint = CheckpointCopy::new();
    let (mut need, mut have) = (Vec::new(), Vec::new());
    checkpoint.change_weights(|tensors| {
        let head = tensors.get_mut(HEAD).expect("the tensor");
        need = head.shape.clone();
        head.shape.reverse();
        have = head.shape.clone();
    });
    assert_refused(&checkpoint, &[WEIGHTS, HEAD, &format!("{need:?}"), &format!("{have:?}")]);
}

#[test]
fn a_truncated_file_of_weights_is_named() {
    let checkpoint = CheckpointCopy::new();
    let bytes = checkpoint.read(WEIGHTS);
    for length in [0, 100, bytes.len() / 2, bytes.len() - 1] {
        checkpoint.write(WEIGHTS, &bytes[..length]);
        assert_refused(&checkpoint, &[WEIGHTS]);
    }
}

#[test]
fn missing_weights_are_named() {
    assert_refused(&CheckpointCopy::without(&[WEIGHTS]), &[WEIGHTS]);
}

#[test]
fn a_shard_that_the_index_names_and_that_is_missing_is_named() {
    let checkpoint = CheckpointCopy::new();
    let index = json!({"metadata": {}, "weight_map": {NORM: "model-00002-of-00002.safetensors"}});
    checkpoint.write("model.safetensors.index.json", index.to_string());
    assert_refused(&checkpoint, &["model-00002-of-00002.safetensors"]);
}

#[test]
fn a_tensor_that_is_not_in_the_shard_that_the_index_names_is_named() {
    let checkpoint = CheckpointCopy::new();
    let index = json!({"metadata": {}, "weight_map": {"thinker.model.nothing": WEIGHTS}});
    checkpoint.write("model.safetensors.index.json", index.to_string());
    assert_refused(&checkpoint, &["model.safetensors.index.json", "thinker.model.nothing", WEIGHTS]);
}

#[test]
fn a_missing_tokenizer_is_named() {
    assert_refused(
        &CheckpointCopy::without(&["tokenizer.json", "vocab.json"]),
        &["vocab.json does not exist"],
    );
    let checkpoint = CheckpointCopy::without(&["tokenizer.json", "vocab.json", "merges.txt"]);
    assert_refused(&checkpoint, &["neither tokenizer.json nor vocab.json with merges.txt"]);
}

#[test]
fn a_spoilt_tokenizer_is_named() {
    let checkpoint = CheckpointCopy::new();
    checkpoint.write("tokenizer.json", "{\"model\": 1}");
    assert_refused(&checkpoint, &["tokenizer.json"]);
}

#[test]
fn a_path_that_is_no_directory_is_named() {
    let file = original().join("config.json");
    let file = file.to_str().expect("a path in UTF-8");
    assert_refused_with(&[file], &[], &[file, "is not a directory"]);
    assert_refused_with(&["/no/such/model"], &[], &["/no/such/model does not exist"]);
}

#[test]
fn a_word_that_is_neither_directory_nor_repository_is_named() {
    assert_refused_with(&["omni"], &[], &["\"omni\"", "neither a directory", "organisation/name"]);
}

#[test]
fn a_revision_of_what_has_none_is_refused() {
    assert_refused_with(&["--revision", "v1"], &[], &["--revision v1", "omni-demo"]);
    let checkpoint = CheckpointCopy::new();
    assert_refused_with(&[checkpoint.path(), "--revision", "v1"], &[], &["--revision v1", checkpoint.path()]);
}

#[test]
fn a_length_beyond_the_models_is_refused() {
    assert_refused_with(&["--max-model-len", "1000000"], &[], &["--max-model-len 1000000", "omni-demo"]);
}

#[test]
fn an_unknown_instruction_set_is_named() {
    assert_refused_with(&[], &[("OMNI_CPU_ISA", "avx1024")], &["avx1024", "plain"]);
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    // Nobody has so many: where there is a driver it says how many it sees, elsewhere there is none.
    assert_refused_with(&["--device", "cuda:999"], &[], &["--device cuda:999", "NVIDIA driver"]);
}

/// A copy of the checkpoint whose thinker has another value for a field.
fn with_thinker_field(field: &str, value: u64) -> CheckpointCopy {
    let checkpoint = CheckpointCopy::new();
    let mut config: Value = serde_json::from_slice(&checkpoint.read("config.json")).expect("JSON");
    config["thinker_config"]["text_config"][field] = value.into();
    checkpoint.write("config.json", config.to_string());
    checkpoint
}

#[test]
fn weights_that_do_not_fit_are_refused_before_they_are_made() {
    // Terabytes of embeddings.
    let checkpoint = with_thinker_field("vocab_size", 1 << 36);
    assert_refused_with(
        &[checkpoint.path(), "--load-format", "dummy"],
        &[],
        &["cpu (", "of memory are needed (thinker weights ", "GiB are free"],
    );
}

#[test]
fn a_cache_that_does_not_hold_one_sequence_is_refused() {
    let checkpoint = with_thinker_field("max_position_embeddings", 1 << 40);
    assert_refused_with(
        &[checkpoint.path()],
        &[],
        &["the thinker's KV cache of one sequence", "GiB are free", "give a smaller --max-model-len"],
    );
}

#[test]
fn a_share_of_memory_that_is_none_is_named() {
    let (status, lines) = serve_in_vain(&["--gpu-memory-utilization", "1.5"], &[]);
    assert_eq!(status, Some(2), "{lines:#?}");
    assert!(lines[0].contains("--gpu-memory-utilization") && lines[0].contains("at most 1"), "{lines:#?}");
}

#[test]
fn a_metric_prefix_that_cannot_be_one_is_named() {
    assert_refused_with(&["--metrics-omni-prefix", "9 lives"], &[], &["--metrics-omni-prefix", "9 lives"]);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let (_, port) = address.split_once(':').expect("a port");
    let (status, lines) = serve_in_vain(&["--log-level", "error", "--port", port], &[]);
    assert_eq!(status, Some(1), "{lines:#?}");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].starts_with("error: ") && lines[0].contains(&address), "{lines:#?}");
}

#[test]
fn dummy_weights_need_none_on_disk() {
    let checkpoint = CheckpointCopy::without(&[WEIGHTS]);
    let server = ServerProcess::start(&[checkpoint.path(), "--load-format", "dummy"]);
    let body = json!({
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 5,
        "ignore_eos": true,
    });
    let reply = client::post(server.address, CHAT, &body).json();
    assert_eq!(reply["usage"]["completion_tokens"], 5, "{reply}");
    let memory = server.startup_log.iter().find(|line| line.contains("memory of cpu ("));
    let memory = memory.unwrap_or_else(|| panic!("{:#?}", server.startup_log));
    for part in ["are free; thinker weights ", "talker workspace ", "thinker KV cache "] {
        assert!(memory.contains(part), "no {part:?} in {memory}");
    }
}

#[test]
fn vocabulary_and_merges_are_as_good_as_a_whole_tokenizer() {
    let meta = original().join("../golden/meta.json");
    let golden = read_json(&meta).expect("the set has a meta.json")["cases"]["thinker_text"].clone();
    let checkpoint = CheckpointCopy::without(&["tokenizer.json"]);
    let server = ServerProcess::start(&[checkpoint.path(), "--dtype", "float32"]);
    let body = json!({
        "messages": golden["messages"],
        "max_tokens": 12,
        "ignore_eos": true,
        "return_token_ids": true,
    });
    let reply = client::post(server.address, CHAT, &body).json();
    assert_eq!(reply["choices"][0]["token_ids"], golden["greedy_ids"]);
    assert_eq!(reply["choices"][0]["message"]["content"], golden["greedy_text"]);
}
