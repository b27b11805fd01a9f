//! `omni-actors bench`: its figures held against each other, and what cannot be measured.

use std::process::{Command, Output};

use serde_json::Value;

use crate::check::assert_row;
use crate::deploy::DeployFile;
use crate::server::example;
use crate::tables::table;

/// Seconds of a codec frame.
const FRAME_SECONDS: f64 = 0.08;
/// Seconds at the end of speech that a vocoder would make only with frames that follow: 555 samples.
const LOOKAHEAD_SECONDS: f64 = 555.0 / 24_000.0;

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omni-actors"));
    command.arg("bench").args(arguments).env_remove("RUST_LOG").env_remove("OMNI_CPU_ISA");
    command.output().expect("the program can be run")
}

/// The report on what can be measured.
fn report(arguments: &[&str]) -> Value {
    let output = bench(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON and nothing else")
}

/// The one line about what cannot.
fn refusal(arguments: &[&str]) -> String {
    let output = bench(arguments);
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(output.stdout.is_empty(), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1, "{text}");
    lines[0].strip_prefix("error: ").unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

/// What a stage did in all; its rate must be that over the time of the measurement.
fn total(report: &Value, stage: usize, what: &str) -> f64 {
    let rate = &report["stages"][stage][what];
    let (total, seconds) = (number(&rate["total"]), number(&report["seconds"]));
    assert_near(number(&rate["per_second"]), total / seconds);
    total
}

fn assert_near(value: f64, due: f64) {
    assert!((value - due).abs() <= 1e-6 * due.abs().max(1e-9), "{value} instead of {due}");
}

/// Mean, median and 99th percentile of a time that is always above zero, in an order that is possible.
fn assert_summary(report: &Value, name: &str) {
    let [mean, median, p99] = ["mean", "median", "p99"].map(|key| number(&report[name][key]));
    assert!(mean > 0.0 && median > 0.0 && p99 >= median, "{name}: {mean} {median} {p99}");
}

/// The figures of decode must follow from each other.
fn assert_decode(report: &Value, most_sequences: f64, context: f64) {
    let decode = |key: &str| number(&report["decode"][key]);
    assert!(decode("sequences") >= 1.0 - 1e-9 && decode("sequences") <= most_sequences + 1e-9, "{report:#}");
    assert_near(decode("context"), context);
    assert_near(decode("step_seconds"), number(&report["inter_token_latency"]["median"]));
    assert_near(decode("bytes_per_second"), decode("bytes_per_step") / decode("step_seconds"));
    assert_near(decode("bandwidth_share"), decode("bytes_per_second") / decode("read_bandwidth"));
    assert!(decode("bytes_per_step") > 1e5 && decode("read_bandwidth") > 0.0, "{report:#}");
}

#[test]
fn latency_of_text_is_measured_over_the_batches_behind_those_that_warm_up() {
    let sizes = ["--input-len", "10", "--output-len", "6", "--batch-size", "3"];
    let report = report(&[&["latency", "--num-iters", "4", "--num-iters-warmup", "1"], &sizes[..]].concat());
    assert_eq!((&report["benchmark"], &report["modalities"]), (&"latency".into(), &"text".into()));
    assert_eq!((&report["requests"], &report["concurrency"]), (&12.into(), &3.into()));
    assert_eq!(total(&report, 0, "prefill_tokens"), 12.0 * 10.0);
    assert_eq!(total(&report, 0, "decode_tokens"), 12.0 * 6.0);
    assert_near(number(&report["requests_per_second"]), 12.0 / number(&report["seconds"]));
    assert_near(number(&report["batch_seconds"]["mean"]) * 4.0, number(&report["seconds"]));
    for name in ["batch_seconds", "time_to_first_token", "inter_token_latency", "end_to_end_latency"] {
        assert_summary(&report, name);
    }
    let [first, whole, batch] = ["time_to_first_token", "end_to_end_latency", "batch_seconds"]
        .map(|name| number(&report[name]["mean"]));
    assert!(first < whole && whole <= batch, "{report:#}");
    let between = number(&report["inter_token_latency"]["mean"]) * 5.0;
    assert!(first + between <= whole * (1.0 + 1e-9), "the first token and five more are all: {report:#}");
    assert_decode(&report, 3.0, 10.0 + 3.0);
    for silent in ["time_to_first_audio", "real_time_factor"] {
        assert_eq!(report[silent], Value::Null);
    }
    for idle in 1..3 {
        assert!(report["stages"][idle].get("codec_frames").is_none(), "{report:#}");
    }
}

#[test]
fn throughput_of_speech_counts_frames_and_seconds_of_sound() {
    let sizes = ["--input-len", "16", "--output-len", "5", "--codec-frames", "9"];
    let spoken = ["throughput", "--modalities", "audio", "--num-prompts", "4", "--max-concurrency", "2"];
    let report = report(&[&spoken[..], &sizes].concat());
    assert_eq!((&report["benchmark"], &report["modalities"]), (&"throughput".into(), &"audio".into()));
    assert_eq!((&report["requests"], &report["concurrency"]), (&4.into(), &2.into()));
    assert_eq!(total(&report, 0, "prefill_tokens"), 4.0 * 16.0);
    assert_eq!(total(&report, 0, "decode_tokens"), 4.0 * 5.0);
    assert_eq!(total(&report, 1, "codec_frames"), 4.0 * 9.0);
    let audio = total(&report, 2, "audio_seconds") / 4.0;
    assert_near(audio, 9.0 * FRAME_SECONDS - LOOKAHEAD_SECONDS);
    assert_eq!(report["batch_seconds"], Value::Null);
    for name in ["time_to_first_token", "time_to_first_audio", "end_to_end_latency", "real_time_factor"] {
        assert_summary(&report, name);
    }
    let [first_token, first_audio, whole, factor] =
        ["time_to_first_token", "time_to_first_audio", "end_to_end_latency", "real_time_factor"]
            .map(|name| number(&report[name]["mean"]));
    assert!(first_token < first_audio && first_audio <= whole, "{report:#}");
    assert_near(factor, whole / audio);
    assert_decode(&report, 2.0, 16.0 + 2.5);
}

#[test]
fn answers_of_one_token_have_no_decode_steps() {
    let report = report(&["throughput", "--num-prompts", "2", "--output-len", "1"]);
    assert_eq!(total(&report, 0, "decode_tokens"), 2.0);
    assert_eq!((&report["inter_token_latency"], &report["decode"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_table_has_a_line_for_every_stage_and_figure() {
    let arguments = ["latency", "--output-len", "4", "--num-iters", "1", "--num-iters-warmup", "0"];
    let output = bench(&[&arguments[..], &["--batch-size", "2", "--modalities", "audio"]].concat());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (name, value) in [
        ("model", "omni-demo (qwen3_omni_moe)"),
        ("a request", "32 tokens of prompt, 4 of answer, 16 codec frames"),
        ("requests", "2, 2 at a time"),
        ("thinker", "decode tokens/s"),
        ("talker", "codec frames/s"),
        ("code2wav", "audio seconds/s"),
        ("time to first audio", "ms"),
        ("inter-token latency", "ms"),
        ("real-time factor", "."),
        ("decode steps", "sequences of 34 tokens"),
        ("memory bandwidth", "GB/s"),
    ] {
        assert_row(&text, name, value);
    }
}

#[test]
fn what_cannot_be_measured_is_one_line_that_says_why() {
    let text_alone = DeployFile::new("pipeline: qwen3_omni_moe_thinker_only\n");
    for (arguments, due) in [
        (
            &["latency", "--input-len", "4000", "--output-len", "97"][..],
            "--input-len 4000 and --output-len 97 are 4097 tokens, and max_model_len of the thinker is 4096",
        ),
        (
            &["throughput", "--max-model-len", "64"],
            "--input-len 32 and --output-len 128 are 160 tokens, and max_model_len of the thinker is 64",
        ),
        (
            &["latency", "--modalities", "audio", "--deploy-config", text_alone.path()],
            "--modalities audio: pipeline qwen3_omni_moe_thinker_only makes no speech",
        ),
        (&["latency", "--codec-frames", "9"], "--codec-frames is for --modalities audio"),
        (
            &["latency", "--modalities", "audio", "--output-len", "1"],
            "--output-len 1: a spoken answer has at least 2 tokens, the last of which is not spoken",
        ),
        (
            &["latency", "--batch-size", "5000"],
            "--batch-size 5000 is more than the 1024 requests that are held at the same time",
        ),
        (
            &["throughput", "--max-concurrency", "1025"],
            "--max-concurrency 1025 is more than the 1024 requests that are held at the same time",
        ),
        (&["latency", "/no/such/model"], "/no/such/model does not exist"),
    ] {
        let line = refusal(arguments);
        assert!(line.starts_with(due), "{line}");
    }
    let line = refusal(&["latency", "--modalities", "audio", "--codec-frames", "16000000"]);
    assert!(line.contains("give a smaller --codec-frames"), "{line}");
}

#[test]
fn a_prompt_that_is_all_surroundings_is_refused() {
    let output = bench(&["latency", "--modalities", "audio", "--input-len", "3", "--log-level", "error"]);
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error: --input-len 3: a prompt to be spoken to takes at least "), "{text}");
}

#[test]
fn numbers_that_are_none_are_refused_with_their_option() {
    for option in ["--input-len", "--output-len", "--batch-size", "--num-iters", "--codec-frames"] {
        for value in ["0", "-1", "many"] {
            let output = bench(&["latency", &format!("{option}={value}")]);
            let text = String::from_utf8(output.stderr).expect("UTF-8");
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains(option) && text.contains(value), "{text}");
        }
    }
    let output = bench(&["throughput", "--num-prompts", "0"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_pipeline_without_a_model_has_nothing_to_measure() {
    let output = Command::new(example("custom_pipeline")).args(["bench", "latency"]).output();
    let output = output.expect("the example can be run");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(text, "error: pipeline custom has no language model to be measured\n");
}

#[test]
fn with_statistics_a_batch_is_summed_up_once_over_all_of_its_requests() {
    let sizes = ["--input-len", "10", "--output-len", "6", "--num-prompts", "5", "--max-concurrency", "2"];
    let output = bench(&[&["throughput", "--log-stats"], &sizes[..]].concat());
    let log = String::from_utf8(output.stderr).expect("UTF-8");
    let lines: Vec<String> = log.lines().map(str::to_owned).collect();
    let overall: Vec<usize> =
        (0..lines.len()).filter(|&line| lines[line].ends_with("[Overall Summary]")).collect();
    assert_eq!(overall.len(), 1, "{log}");
    let summary = table(&lines, "[Overall Summary]").expect("a table");
    assert_eq!((&summary["e2e_requests"][0][..], &summary["e2e_total_tokens"][0][..]), ("5", "80"));
    let of = |name: &str| summary[name][0].replace(',', "").parse::<f64>().expect("a number");
    assert!((of("e2e_avg_time_per_request_ms") - of("e2e_wall_time_ms") / 5.0).abs() < 2e-3);
    assert!(of("e2e_stage_0_wall_time_ms") <= of("e2e_wall_time_ms"));
    // What each of them took comes before.
    let own = lines.iter().filter(|line| line.contains("[StageRequestStats [request_id=bench-")).count();
    assert_eq!(own, 5, "{log}");
}
