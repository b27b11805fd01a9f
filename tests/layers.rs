//! The layering that ARCHITECTURE.md describes, read off the source.

#![allow(clippy::expect_used, reason = "a test says so when it fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// All Rust files below a directory of `src`.
fn sources(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(directory)];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(
                fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path()),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
    assert!(!found.is_empty(), "src/{directory} has no source");
    found
}

/// Lines below `directory` that contain one of the words; comments and tests in files of their own are left out.
fn mentions(directory: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in sources(directory) {
        let text = fs::read_to_string(&path).expect("a readable file");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let hits = code.filter(|line| words.iter().any(|word| line.contains(word)));
        found.extend(hits.map(|line| format!("{}: {}", path.display(), line.trim())));
    }
    found
}

#[test]
fn models_and_tensor_know_nothing_of_what_is_above_them() {
    let above =
        ["crate::actors", "crate::http", "crate::metrics", "crate::stages", "crate::server", "crate::cli"];
    for directory in ["models", "tensor"] {
        assert_eq!(mentions(directory, &above), Vec::<String>::new());
    }
}

#[test]
fn metrics_and_transport_use_neither_actors_nor_http() {
    for directory in ["metrics", "transport"] {
        assert_eq!(
            mentions(directory, &["crate::actors", "crate::http", "crate::server"]),
            Vec::<String>::new()
        );
    }
}

#[test]
fn only_the_metrics_touch_the_registry() {
    for directory in ["actors", "http", "stages", "engine", "server", "cli", "config", "text", "transport"] {
        assert_eq!(mentions(directory, &["prometheus::"]), Vec::<String>::new());
    }
}

#[test]
fn names_of_metrics_stand_in_the_definitions_alone() {
    for directory in ["actors", "http", "stages", "engine", "server", "text", "transport"] {
        assert_eq!(mentions(directory, &["\"vllm:", "\"vllm_omni:"]), Vec::<String>::new());
    }
}
