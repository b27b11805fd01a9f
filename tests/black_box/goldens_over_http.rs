//! Golden token ids over HTTP: streamed and not, alone and at the same time.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use crate::client::{self, CHAT};
use crate::golden_sets::{golden_directories, model_sets, read_json};
use crate::server::ServerProcess;

/// The cases that need text only.
const CASES: [&str; 2] = ["thinker_text", "thinker_text_system_history"];
/// How often all cases are asked for at the same time.
const ROUNDS: usize = 8;

/// What a case asks for, and what must come back.
struct Case {
    name: &'static str,
    request: Value,
    ids: Value,
}

/// The text cases of a set.
fn cases(set: &Path) -> Vec<Case> {
    let meta = read_json(&set.join("golden/meta.json")).expect("the set has a meta.json");
    let case = |name: &'static str| {
        let golden = &meta["cases"][name];
        let ids = golden["greedy_ids"].clone();
        let request = json!({
            "messages": golden["messages"],
            "modalities": ["text"],
            "temperature": 0,
            "max_tokens": ids.as_array().expect("greedy ids").len(),
            "ignore_eos": true,
            "return_token_ids": true,
        });
        Case { name, request, ids }
    };
    CASES.map(case).into()
}

/// The ids of an answer in one piece.
fn whole(server: SocketAddr, case: &Case) -> Value {
    client::post(server, CHAT, &case.request).json()["choices"][0]["token_ids"].clone()
}

/// The ids of a streamed answer, put together.
fn streamed(server: SocketAddr, case: &Case) -> Value {
    let mut request = case.request.clone();
    request["stream"] = json!(true);
    let events = client::post(server, CHAT, &request).events();
    let ids = events.iter().filter_map(|event| event["choices"][0]["token_ids"].as_array());
    Value::Array(ids.flatten().cloned().collect())
}

fn check(server: SocketAddr, set: &str, case: &Case) {
    assert_eq!(whole(server, case), case.ids, "{set} {}", case.name);
    assert_eq!(streamed(server, case), case.ids, "{set} {}, streamed", case.name);
}

/// Calls `check` for every Qwen3-Omni set, of which there must be one.
fn each_set(check: impl Fn(&str, SocketAddr, &[Case])) {
    let mut checked = 0;
    for directory in golden_directories() {
        for (name, set) in model_sets(&directory).expect("the golden directory can be read") {
            if name.starts_with("qwen3_omni/") {
                let checkpoint = set.join("checkpoint");
                let checkpoint = checkpoint.to_str().expect("a path in UTF-8");
                let server = ServerProcess::start(&[checkpoint, "--dtype", "float32"]);
                check(&name, server.address, &cases(&set));
                checked += 1;
            }
        }
    }
    assert!(checked > 0, "no set was found");
}

#[test]
fn golden_ids_come_back_streamed_and_not() {
    each_set(|set, server, cases| {
        for case in cases {
            check(server, set, case);
        }
    });
}

#[test]
fn golden_ids_do_not_depend_on_who_else_is_served() {
    each_set(|set, server, cases| {
        thread::scope(|scope| {
            for _ in 0..ROUNDS {
                for case in cases {
                    scope.spawn(move || check(server, set, case));
                }
            }
        });
    });
}
