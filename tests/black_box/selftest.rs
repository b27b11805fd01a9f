//! `omni-actors selftest` on the CPU, and for a GPU that is not there.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn selftest(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omni-actors"));
    command.arg("selftest").args(arguments).env_remove("RUST_LOG").env_remove("OMNI_CPU_ISA");
    command.output().expect("the program can be run")
}

#[test]
fn the_cpu_passes_with_golden_outputs() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let goldens = goldens.to_str().expect("a path in UTF-8");
    let output = selftest(&["--device", "cpu", "--goldens", goldens, "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(output.status.success(), "{report:#}");
    assert_eq!((&report["ok"], &report["failed"]), (&Value::Bool(true), &Value::from(0)));
    assert!(report["copy_bytes_per_second"].as_f64().expect("a number") > 1e6);
    for section in report["checks"].as_array().expect("sections") {
        assert!(!section["checks"].as_array().expect("checks").is_empty(), "{}", section["name"]);
    }
}

#[test]
fn the_table_ends_with_a_count() {
    let output = selftest(&["--device", "cpu"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.starts_with("cpu ("), "{text}");
    let last = text.lines().last().expect("a line");
    assert!(last.contains(" checks, 0 failed, "), "{last}");
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let output = selftest(&["--device", "cuda:999"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("error: --device cuda:999: ") && text.contains("NVIDIA driver"), "{text}");
}

#[test]
fn a_directory_without_golden_sets_is_named() {
    let output = selftest(&["--device", "cpu", "--goldens", "/no/such/goldens"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(text.contains("/no/such/goldens holds no golden set"), "{text}");
}
