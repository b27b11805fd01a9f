//! `omni-actors selftest` on the CPU, and for a GPU that is not there.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::checkpoint_copy::CheckpointCopy;

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
    for weights in ["bf16", "f32"] {
        assert!(report["matrix_operations_per_second"][weights].as_f64().expect("a number") > 1e6);
    }
    assert_eq!((&report["products"], &report["thinker"]), (&Value::from("own kernels"), &Value::Null));
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
fn the_thinker_of_a_configuration_is_measured_beside_its_floor() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let demo = demo.to_str().expect("a path in UTF-8");
    let output = selftest(&["--device", "cpu", "--config", demo, "--without", "cublaslt", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(output.status.success(), "{report:#}");
    let speed = &report["thinker"];
    assert_eq!(speed["config"], demo);
    let decode = speed["decode"].as_array().expect("a list");
    let sequences: Vec<&Value> = decode.iter().map(|each| &each["sequences"]).collect();
    assert_eq!(sequences, [1, 8, 32]);
    for part in decode.iter().chain([&speed["prefill"]]) {
        for figure in ["seconds", "tokens_per_second", "floor_seconds"] {
            assert!(part[figure].as_f64().expect("a number") > 0.0, "{figure}: {part}");
        }
    }
}

#[test]
fn a_configuration_that_is_not_there_or_does_not_fit_is_named() {
    let output = selftest(&["--device", "cpu", "--config", "/no/such/model"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(text.starts_with("error: ") && text.contains("/no/such/model/config.json"), "{text}");

    let checkpoint = CheckpointCopy::new();
    let mut config: Value = serde_json::from_slice(&checkpoint.read("config.json")).expect("JSON");
    config["thinker_config"]["text_config"]["vocab_size"] = (1_u64 << 36).into();
    checkpoint.write("config.json", config.to_string());
    let output = selftest(&["--device", "cpu", "--config", checkpoint.path()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in [checkpoint.path(), "of memory are needed (thinker weights ", "GiB are free"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
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
