//! KV caches that hold hardly more than one sequence: the engine preempts, and nobody notices.

use std::net::SocketAddr;
use std::thread;

use serde_json::{Value, json};

use crate::client::{self, CHAT};
use crate::page::Page;
use crate::server::ServerProcess;
use crate::speech::whole;
use crate::startup::refusal;

/// A thinker's cache of 8 blocks of 32 KiB, which is one sequence of 128 tokens, and a talker's of 16 blocks of 80 KiB.
pub(crate) const TINY: &[&str] = &[
    "--log-stats",
    "--max-model-len",
    "128",
    "--stage-overrides",
    r#"{"0": {"kv_cache_memory_bytes": 262144}, "1": {"kv_cache_memory_bytes": 1310720, "max_model_len": 256}}"#,
];

/// Questions that begin alike, every second one of which is answered aloud.
fn question(number: usize) -> Value {
    json!({
        "messages": [
            {"role": "system", "content": "Say what a stage is, and what it is for."},
            {"role": "user", "content": format!("what is stage {number}")},
        ],
        "modalities": if number.is_multiple_of(2) { json!(["text", "audio"]) } else { json!(["text"]) },
        "temperature": 1.0,
        "seed": number,
        "max_tokens": 30,
        "ignore_eos": true,
        "sampling_params_list": [{}, {"max_tokens": 60, "ignore_eos": true, "seed": number}, {}],
        "n": if number % 4 == 1 { 2 } else { 1 },
    })
}

/// All answers to twelve questions at once: texts, and samples where there are some.
fn answers(server: SocketAddr) -> Vec<(Vec<Value>, Vec<f64>)> {
    let answer = move |number: usize| {
        let question = question(number);
        if number.is_multiple_of(2) {
            let (choice, samples) = whole(server, &question);
            (vec![choice["message"]["content"].clone()], samples)
        } else {
            let reply = client::post(server, CHAT, &question);
            assert_eq!(reply.status, 200, "{reply:?}");
            let choices = reply.json()["choices"].as_array().expect("choices").clone();
            (choices.iter().map(|choice| choice["message"]["content"].clone()).collect(), Vec::new())
        }
    };
    let asked: Vec<_> = (0..12).map(|number| thread::spawn(move || answer(number))).collect();
    asked.into_iter().map(|answer| answer.join().expect("an answer")).collect()
}

#[test]
fn forced_preemption_of_thinker_and_talker_changes_no_answer_and_leaves_no_block_in_use() {
    let roomy = ServerProcess::start(&["--no-enable-prefix-caching"]);
    let due = answers(roomy.address);
    assert!(due.iter().step_by(2).all(|(_, samples)| !samples.is_empty()));
    let tiny = ServerProcess::start(TINY);
    assert_eq!(answers(tiny.address), due);
    let page = Page::of(tiny.address);
    for stage in ["stage=\"0\"", "stage=\"1\""] {
        assert!(page.sum_where("vllm:num_preemptions_total", stage) > 0.0, "{stage}\n{}", page.text);
        assert_eq!(page.sum_where("vllm:kv_cache_usage_perc", stage), 0.0, "{stage}");
    }
    assert!(page.sum_where("vllm:prefix_cache_hits_total", "stage=\"0\"") > 0.0, "{}", page.text);
}

#[test]
fn caches_that_do_not_fit_are_refused_with_what_there_is_and_what_is_needed() {
    for (arguments, parts) in [
        (&["--kv-cache-memory", "1MiB"][..], ["one sequence of 4096 tokens", "or more --kv-cache-memory"]),
        (&["--kv-cache-memory", "900TiB"], ["KV caches of", "are left for them"]),
    ] {
        let line = refusal(arguments, &[]);
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
}
