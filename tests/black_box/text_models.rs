//! Plain text models, dense and with experts: pipelines of one stage.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::checkpoint_copy::{CheckpointCopy, StoredTensor, original};
use crate::client::{self, CHAT, COMPLETIONS};
use crate::deploy::{DeployFile, shown};
use crate::golden_sets::read_json;
use crate::server::ServerProcess;
use crate::startup::refusal;

/// The tokenizer of the small golden checkpoint with a model of its own.
fn model(config: &Value, tensors: BTreeMap<String, StoredTensor>) -> CheckpointCopy {
    let checkpoint = CheckpointCopy::without(&["preprocessor_config.json"]);
    checkpoint.write("config.json", config.to_string());
    checkpoint.change_weights(|all| *all = tensors);
    checkpoint
}

/// The configuration of a small dense model.
fn dense() -> Value {
    json!({
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "intermediate_size": 80, "vocab_size": 712, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048, "rope_theta": 1000000, "rope_scaling": null, "hidden_act": "silu",
        "attention_bias": false, "use_sliding_window": false, "sliding_window": null, "max_window_layers": 2,
        "tie_word_embeddings": true, "eos_token_id": 642
    })
}

/// The same with experts in the second layer, and an output projection of its own.
fn sparse() -> Value {
    let mut config = dense();
    for (key, value) in [
        ("model_type", json!("qwen3_moe")),
        ("architectures", json!(["Qwen3MoeForCausalLM"])),
        ("tie_word_embeddings", json!(false)),
        ("num_experts", json!(6)),
        ("num_experts_per_tok", json!(2)),
        ("moe_intermediate_size", json!(24)),
        ("norm_topk_prob", json!(true)),
        ("decoder_sparse_step", json!(2)),
        ("mlp_only_layers", json!([])),
    ] {
        config[key] = value;
    }
    config
}

/// Random weights under the names that a configuration asks for.
fn random_weights(config: &Value) -> BTreeMap<String, StoredTensor> {
    let size = |key: &str| config[key].as_u64().unwrap_or(0) as usize;
    let (hidden, width, head_dim) = (size("hidden_size"), size("intermediate_size"), size("head_dim"));
    let (queries, keys) = (size("num_attention_heads") * head_dim, size("num_key_value_heads") * head_dim);
    let mut shapes = vec![
        ("model.embed_tokens".to_owned(), vec![size("vocab_size"), hidden]),
        ("model.norm".to_owned(), vec![hidden]),
    ];
    if config["tie_word_embeddings"] == false {
        shapes.push(("lm_head".to_owned(), vec![size("vocab_size"), hidden]));
    }
    let gated = |shapes: &mut Vec<(String, Vec<usize>)>, prefix: &str, width: usize| {
        shapes.push((format!("{prefix}.gate_proj"), vec![width, hidden]));
        shapes.push((format!("{prefix}.up_proj"), vec![width, hidden]));
        shapes.push((format!("{prefix}.down_proj"), vec![hidden, width]));
    };
    for layer in 0..size("num_hidden_layers") {
        let prefix = format!("model.layers.{layer}");
        for (part, shape) in [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![queries, hidden]),
            ("self_attn.k_proj", vec![keys, hidden]),
            ("self_attn.v_proj", vec![keys, hidden]),
            ("self_attn.o_proj", vec![hidden, queries]),
            ("self_attn.q_norm", vec![head_dim]),
            ("self_attn.k_norm", vec![head_dim]),
        ] {
            shapes.push((format!("{prefix}.{part}"), shape));
        }
        if size("num_experts") == 0 || !(layer + 1).is_multiple_of(size("decoder_sparse_step")) {
            gated(&mut shapes, &format!("{prefix}.mlp"), width);
            continue;
        }
        shapes.push((format!("{prefix}.mlp.gate"), vec![size("num_experts"), hidden]));
        for expert in 0..size("num_experts") {
            gated(&mut shapes, &format!("{prefix}.mlp.experts.{expert}"), size("moe_intermediate_size"));
        }
    }
    let tensor = |(seed, (name, shape)): (u64, (String, Vec<usize>))| {
        (format!("{name}.weight"), StoredTensor::random(&shape, seed))
    };
    (1..).zip(shapes).map(tensor).collect()
}

/// The thinker of the small golden checkpoint as a plain text model.
fn thinker_alone() -> CheckpointCopy {
    let checkpoint = CheckpointCopy::new();
    let config = read_json(&original().join("config.json")).expect("the checkpoint has a configuration");
    let mut config = config["thinker_config"]["text_config"].clone();
    config["model_type"] = json!("qwen3_moe");
    config["architectures"] = json!(["Qwen3MoeForCausalLM"]);
    checkpoint.write("config.json", config.to_string());
    checkpoint.change_weights(|tensors| {
        let renamed = std::mem::take(tensors).into_iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix("thinker.")?;
            (name.starts_with("model.") || name.starts_with("lm_head.")).then(|| (name.to_owned(), tensor))
        });
        *tensors = renamed.collect();
    });
    checkpoint
}

/// What a server answers to a greedy question of twelve tokens, as chat and as a completion; the token ids must be as
/// many as asked for.
fn answers(server: &ServerProcess) -> [Value; 2] {
    let chat = json!({
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 12, "ignore_eos": true, "return_token_ids": true,
    });
    let completion = json!({
        "prompt": "hello, hello", "max_tokens": 12, "temperature": 0, "ignore_eos": true, "return_token_ids": true,
    });
    [(CHAT, chat), (COMPLETIONS, completion)].map(|(path, body)| {
        let reply = client::post(server.address, path, &body);
        assert_eq!(reply.status, 200, "{reply:?}");
        let reply = reply.json();
        assert_eq!(reply["usage"]["completion_tokens"], 12, "{reply}");
        let ids = reply["choices"][0]["token_ids"].clone();
        assert_eq!(ids.as_array().map(Vec::len), Some(12), "{reply}");
        ids
    })
}

#[test]
fn dense_and_sparse_models_answer_chat_and_completions() {
    let mut untied = dense();
    untied["tie_word_embeddings"] = json!(false);
    for config in [dense(), untied, sparse()] {
        let checkpoint = model(&config, random_weights(&config));
        let server = ServerProcess::start(&[checkpoint.path()]);
        assert_eq!(answers(&server), answers(&server), "greedy answers are the same each time");
        let streamed = json!({
            "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "ignore_eos": true,
            "stream": true,
        });
        assert!(client::post(server.address, CHAT, &streamed).events().len() >= 3);
        let models = client::get(server.address, "/v1/models").json();
        assert_eq!(models["data"][0]["max_model_len"], 2048, "{models}");
        assert_eq!(models["data"][0]["root"], checkpoint.path(), "{models}");
        let spoken = json!({
            "messages": [{"role": "user", "content": "hello"}], "modalities": ["text", "audio"],
        });
        let refused = client::post(server.address, CHAT, &spoken);
        assert_eq!(refused.status, 400, "it has no voice: {refused:?}");
    }
}

#[test]
fn an_output_projection_that_equals_the_embeddings_is_as_good_as_a_tied_one() {
    let tied = random_weights(&dense());
    let mut untied_config = dense();
    untied_config["tie_word_embeddings"] = json!(false);
    let mut untied = tied.clone();
    untied.insert("lm_head.weight".to_owned(), tied["model.embed_tokens.weight"].clone());
    let [one, other] = [(dense(), tied), (untied_config, untied)].map(|(config, tensors)| {
        let checkpoint = model(&config, tensors);
        answers(&ServerProcess::start(&[checkpoint.path()]))
    });
    assert_eq!(one, other);
}

#[test]
fn a_thinker_under_the_names_of_a_text_model_gives_its_golden_answer() {
    let meta = read_json(&original().join("../golden/meta.json")).expect("the set has a meta.json");
    let golden = &meta["cases"]["thinker_text"];
    let checkpoint = thinker_alone();
    let server = ServerProcess::start(&[checkpoint.path(), "--dtype", "float32"]);
    let common = json!({"max_tokens": 12, "ignore_eos": true, "temperature": 0, "return_token_ids": true});
    let with = |key: &str, value: &Value| {
        let mut body = common.clone();
        body[key] = value.clone();
        body
    };
    let chat = client::post(server.address, CHAT, &with("messages", &golden["messages"])).json();
    assert_eq!(chat["choices"][0]["token_ids"], golden["greedy_ids"], "{chat}");
    assert_eq!(chat["choices"][0]["message"]["content"], golden["greedy_text"]);
    assert_eq!(chat["usage"]["prompt_tokens"], golden["prompt_len"]);
    let completion = client::post(server.address, COMPLETIONS, &with("prompt", &golden["prompt"])).json();
    assert_eq!(completion["choices"][0]["token_ids"], golden["greedy_ids"], "{completion}");
}

#[test]
fn config_show_gives_a_deploy_file_of_the_one_stage() {
    let checkpoint = model(&sparse(), random_weights(&sparse()));
    let page = shown(&[checkpoint.path(), "--max-model-len", "100"]);
    assert!(page.contains("pipeline: qwen3_moe  # config.json"), "{page}");
    assert!(page.contains("- stage_id: 0  # llm") && !page.contains("stage_id: 1"), "{page}");
    assert!(page.contains("max_model_len: 100  # command line, --max-model-len"), "{page}");
    let file = DeployFile::new(&page);
    let server = ServerProcess::start(&[checkpoint.path(), "--deploy-config", file.path()]);
    let models = client::get(server.address, "/v1/models").json();
    assert_eq!(models["data"][0]["max_model_len"], 100, "{models}");
}

#[test]
fn the_pipeline_of_another_type_of_model_is_refused_with_its_place() {
    let checkpoint = model(&dense(), random_weights(&dense()));
    for named in ["qwen3_omni_moe", "qwen3_omni_moe_thinker_only", "qwen3_moe"] {
        let file = DeployFile::new(&format!("# one\npipeline: {named}\n"));
        let line = refusal(&[checkpoint.path(), "--deploy-config", file.path()], &[]);
        let due =
            format!("{}:2: pipeline {named} is not for this model, whose model_type is qwen3", file.path());
        assert_eq!(line, due);
    }
    let file = DeployFile::new("pipeline: qwen3\n");
    let line = refusal(&["--deploy-config", file.path()], &[]);
    assert!(
        line.ends_with("pipeline qwen3 is not for this model, whose model_type is qwen3_omni_moe"),
        "{line}"
    );
}

#[test]
fn what_a_text_model_asks_for_in_vain_is_named_with_file_and_key() {
    let checkpoint = model(&dense(), random_weights(&dense()));
    for (changes, part) in [
        (
            &[("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}))][..],
            "rope_scaling.rope_type is yarn",
        ),
        (
            &[
                ("use_sliding_window", json!(true)),
                ("sliding_window", json!(64)),
                ("max_window_layers", json!(1)),
            ],
            "sliding_window is 64",
        ),
        (&[("attention_bias", json!(true))], "attention_bias is true"),
        (&[("architectures", json!(["Qwen3ForSequenceClassification"]))], "Qwen3ForCausalLM is supported"),
        (&[("quantization_config", json!({"quant_method": "fp8"}))], "quantization_config"),
    ] {
        let mut config = dense();
        for (key, value) in changes {
            config[key] = value.clone();
        }
        checkpoint.write("config.json", config.to_string());
        let line = refusal(&[checkpoint.path()], &[]);
        let file = checkpoint.file("config.json").display().to_string();
        assert!(line.starts_with(&file) && line.contains(part), "{line}");
    }
}
