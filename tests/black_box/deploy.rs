//! Deploy files: wrong ones are refused with one line, right ones do what they say.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::client::{self, CHAT};
use crate::golden_sets::{golden_directories, model_sets};
use crate::page::Page;
use crate::server::ServerProcess;
use crate::speech::{self, CASES, Golden, spoken_question};
use crate::startup::refusal;

/// A deployment with the keys that vLLM-Omni's own file for Qwen3-Omni has.
const UPSTREAM: &str = "tests/deploy/qwen3_omni_moe.yaml";
/// One thinker, two talkers, one vocoder.
const TWO_TALKERS: &str = "tests/deploy/two_talkers.yaml";
/// Deploy files that are wrong.
const WRONG: &str = "tests/deploy/wrong";
/// What is said of them.
const REFUSALS: &str = "tests/deploy/wrong/refusals.txt";

/// A deploy file for one test.
pub(crate) struct DeployFile(tempfile::NamedTempFile);

impl DeployFile {
    pub(crate) fn new(text: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("the file can be written");
        Self(file)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().expect("a path in UTF-8")
    }
}

/// What `omni-actors config show …` prints.
pub(crate) fn shown(arguments: &[&str]) -> String {
    let program = Command::new(env!("CARGO_BIN_EXE_omni-actors"))
        .args(["config", "show"])
        .args(arguments)
        .output()
        .expect("the program can be run");
    assert!(program.status.success(), "{}", String::from_utf8_lossy(&program.stderr));
    String::from_utf8(program.stdout).expect("text")
}

/// The same without the comments.
fn values(page: &str) -> Vec<&str> {
    let value = |line: &'_ str| line.split("  #").next().unwrap_or_default().len();
    page.lines().filter(|line| !line.starts_with('#')).map(|line| &line[..value(line)]).collect()
}

#[test]
fn every_wrong_file_is_refused_with_file_line_and_key() {
    let mut names: Vec<String> = fs::read_dir(WRONG)
        .expect("a directory")
        .map(|file| file.expect("a file").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    let refusals: Vec<String> = names
        .iter()
        .map(|name| refusal(&["--deploy-config", &Path::new(WRONG).join(name).to_string_lossy()], &[]))
        .collect();
    assert_eq!(refusals.join("\n") + "\n", fs::read_to_string(REFUSALS).expect("the texts are there"));
}

#[test]
fn wrong_overrides_are_refused_with_their_path() {
    for (overrides, expected) in [
        (
            r#"{"1": {"num_replica": 2}}"#,
            "--stage-overrides 1.num_replica: key \"num_replica\" is not known; did you mean \"num_replicas\"?",
        ),
        (
            r#"{"1": {"num_replicas": 0}}"#,
            "--stage-overrides 1.num_replicas: key \"num_replicas\" must be a whole number from 1 to 64, not 0",
        ),
        (
            r#"{"1": {"default_sampling_params": {"top_p": 0}}}"#,
            "--stage-overrides 1.default_sampling_params.top_p: key \"top_p\" must be above 0 and at most 1; it is 0",
        ),
        (r#"{"1": 2}"#, "--stage-overrides 1: key \"1\" must be a mapping of keys to values, not 2"),
        (
            r#"{"talker": {}}"#,
            "--stage-overrides talker: this must be an object from stage ids to keys, such as \
             {\"1\": {\"num_replicas\": 2}}, not the key \"talker\"",
        ),
        (
            r#"{"7": {"num_replicas": 2}}"#,
            "--stage-overrides 7: pipeline qwen3_omni_moe has no stage 7; a stage of your own needs the key \"custom_stage\"",
        ),
        (
            r#"{"1": {"num_replicas": 2, "num_replicas": 3}}"#,
            "--stage-overrides 1.num_replicas: key \"num_replicas\" stands here for the second time; the first is at \
             --stage-overrides 1.num_replicas",
        ),
        ("{1: 2}", "--stage-overrides: this is not valid JSON: key must be a string at line 1 column 2"),
    ] {
        assert_eq!(refusal(&["--stage-overrides", overrides], &[]), expected);
    }
}

#[test]
fn a_gpu_that_a_file_asks_for_and_that_is_not_there_is_named_with_its_line() {
    let file = DeployFile::new("stages:\n- stage_id: 0\n  devices: cuda:999\n- stage_id: 1\n- stage_id: 2\n");
    let line = refusal(&["--deploy-config", file.path()], &[]);
    assert!(line.starts_with(&format!("{}:3: devices cuda:999: ", file.path())), "{line}");
    // On the command line the CPU is asked for, and that wins.
    ServerProcess::start(&["--deploy-config", file.path(), "--device", "cpu"]);
}

#[test]
fn a_file_of_upstreams_is_served_as_it_is_and_what_has_no_effect_is_named_once() {
    let server = ServerProcess::start(&["--deploy-config", UPSTREAM]);
    let log = server.startup_log.concat();
    for key in [
        "gpu_memory_utilization",
        "moe_backend",
        "enforce_eager",
        "enable_prefix_caching",
        "enable_chunked_prefill",
        "async_scheduling",
        "connector_get_sleep_s",
        "npu",
        "rocm",
    ] {
        assert_eq!(log.matches(&format!("key \"{key}\" has no effect")).count(), 1, "{key} in {log}");
    }
    assert_eq!(log.matches("SharedMemoryConnector is taken for in_process").count(), 1, "{log}");
    assert_eq!(log.matches("GPU indices have no effect").count(), 1, "{log}");
    let (choice, samples) = speech::whole(server.address, &spoken_question("Who are you?"));
    assert_eq!(choice["message"]["content"], "I am a tiny omni model that answers and speaks.");
    assert!(samples.len() > 24_000);
}

#[test]
fn two_talkers_serve_sixteen_golden_requests_at_once() {
    let mut checked = 0;
    for directory in golden_directories() {
        for (name, set) in model_sets(&directory).expect("the golden directory can be read") {
            if !name.starts_with("qwen3_omni/") {
                continue;
            }
            let checkpoint = set.join("checkpoint");
            let checkpoint = checkpoint.to_str().expect("a path in UTF-8");
            let options = [checkpoint, "--dtype", "float32", "--log-stats", "--deploy-config", TWO_TALKERS];
            let server = ServerProcess::start(&options);
            let address = server.address;
            thread::scope(|scope| {
                for (round, case) in (0..4).flat_map(|round| CASES.map(|case| (round, case))) {
                    let set = &set;
                    scope.spawn(move || Golden::read(set, case).check(address, &format!("{case} {round}")));
                }
            });
            assert_both_talkers_worked(&Page::of(address));
            checked += 1;
        }
    }
    assert!(checked > 0, "no set was found");
}

#[test]
fn two_talkers_say_what_one_says_when_sixteen_ask_at_once() {
    let questions = ["hello", "how are you", "what is a stage", "tell me a joke"];
    let one = ServerProcess::start(&[]);
    let alone = questions.map(|question| speech::whole(one.address, &spoken_question(question)).1);
    let two = ServerProcess::start(&["--deploy-config", TWO_TALKERS, "--log-stats"]);
    let address = two.address;
    thread::scope(|scope| {
        for (question, alone) in (0..4).flat_map(|_| questions.iter().zip(&alone)) {
            scope.spawn(move || {
                let (_, samples) = speech::whole(address, &spoken_question(question));
                assert!(samples == *alone, "{question}: the sound differs");
            });
        }
    });
    let page = Page::of(address);
    assert_both_talkers_worked(&page);
    assert_eq!(page.sum_where("vllm:request_success_total", "stage=\"1\""), 16.0);
}

fn assert_both_talkers_worked(page: &Page) {
    for replica in ["0", "1"] {
        let labels = format!("replica=\"{replica}\",stage=\"1\"");
        for name in ["vllm:request_success_total", "vllm:generation_tokens_total"] {
            assert!(page.sum_where(name, &labels) > 0.0, "{name} of talker {replica} in\n{}", page.text);
        }
    }
    let other = |stage: &str| page.samples.iter().any(|(_, labels, _)| labels.contains(stage));
    for stage in ["replica=\"1\",stage=\"0\"", "replica=\"1\",stage=\"2\""] {
        assert!(!other(stage), "{stage} in\n{}", page.text);
    }
}

#[test]
fn without_async_chunk_speech_begins_when_the_text_is_complete_and_sounds_the_same() {
    let request = spoken_question("tell me a story");
    let overlapping = speech::streamed(ServerProcess::start(&[]).address, &request).0;
    let file = DeployFile::new("async_chunk: false\n");
    let server = ServerProcess::start(&["--deploy-config", file.path()]);
    assert!(speech::streamed(server.address, &request).0 == overlapping, "the sound differs");
    let mut request = request;
    request["stream"] = json!(true);
    let events = client::post(server.address, CHAT, &request).events();
    let place = |kind: &str| {
        let mut places =
            events.iter().enumerate().filter(|(_, event)| event["modality"] == kind).map(|(at, _)| at);
        if kind == "audio" { places.next() } else { places.next_back() }
    };
    assert!(place("text").expect("text") < place("audio").expect("sound"));
}

#[test]
fn a_pipeline_of_the_thinker_alone_makes_no_speech() {
    let file = DeployFile::new("pipeline: qwen3_omni_moe_thinker_only\n");
    let server = ServerProcess::start(&["--deploy-config", file.path()]);
    assert_eq!(server.startup_log.iter().filter(|line| line.contains("replica(s) on")).count(), 1);
    let reply = client::post(server.address, CHAT, &spoken_question("hello"));
    assert_eq!(reply.status, 400, "{reply:?}");
    let text = json!({"messages": [{"role": "user", "content": "hello"}]});
    assert_eq!(client::post(server.address, CHAT, &text).status, 200);
}

#[test]
fn sampling_of_the_file_holds_for_requests_that_say_nothing() {
    let tokens = |server: &ServerProcess, limit: Value| {
        let body = json!({"messages": [{"role": "user", "content": "tell me a story"}], "max_tokens": limit});
        client::post(server.address, CHAT, &body).json()["usage"]["completion_tokens"].clone()
    };
    let overrides = r#"{"0": {"default_sampling_params": {"max_tokens": 3}}}"#;
    let server = ServerProcess::start(&["--stage-overrides", overrides]);
    assert_eq!(tokens(&server, Value::Null), 3);
    assert_eq!(tokens(&server, json!(5)), 5);
}

#[test]
fn codec_windows_are_as_large_as_the_file_says() {
    let file = DeployFile::new(
        "connectors:\n  frames:\n    name: in_process\n    extra: {initial_codec_chunk_frames: 2, codec_chunk_frames: 5}\n\
         stages:\n  - {stage_id: 0}\n  - {stage_id: 1}\n  - {stage_id: 2, input_connectors: {from_stage_1: frames}}\n",
    );
    let usual = speech::streamed(ServerProcess::start(&[]).address, &spoken_question("hello"));
    let server = ServerProcess::start(&["--deploy-config", file.path()]);
    let small = speech::streamed(server.address, &spoken_question("hello"));
    assert_eq!(small.0.len(), usual.0.len());
    assert!(small.1 > 2 * usual.1, "{} packets, and {} usually", small.1, usual.1);
}

#[test]
fn a_talker_of_small_length_stops_speaking_there() {
    let overrides = r#"{"1": {"max_model_len": 40, "max_num_batched_tokens": 8, "max_num_seqs": 1}}"#;
    let server = ServerProcess::start(&["--stage-overrides", overrides]);
    let (_, samples) = speech::whole(server.address, &spoken_question("tell me a story"));
    assert!(samples.len() < 40 * 1920, "{} samples", samples.len());
}

#[test]
fn what_config_show_prints_is_a_file_that_gives_the_same_again() {
    let overrides =
        r#"{"1": {"default_sampling_params": {"stop_token_ids": [3, 4], "logit_bias": {"7": -1.5}}}}"#;
    for arguments in [
        &[] as &[&str],
        &["--deploy-config", UPSTREAM],
        &["--deploy-config", TWO_TALKERS, "--num-replicas", "3", "--dtype", "float32"],
        &["--stage-overrides", overrides, "--connector", "serialized"],
    ] {
        let page = shown(arguments);
        let file = DeployFile::new(&page);
        let again = shown(&["--deploy-config", file.path()]);
        assert_eq!(values(&again), values(&page), "{arguments:?}");
    }
}

#[test]
fn config_show_says_where_each_value_comes_from() {
    let overrides = r#"{"2": {"num_replicas": 4}}"#;
    let page =
        shown(&["--deploy-config", TWO_TALKERS, "--max-model-len", "1000", "--stage-overrides", overrides]);
    for line in [
        "pipeline: qwen3_omni_moe  # config.json",
        "async_chunk: true  # built-in default",
        "    name: serialized  # tests/deploy/two_talkers.yaml:5",
        "    num_replicas: 1  # built-in default",
        "    num_replicas: 2  # tests/deploy/two_talkers.yaml:12",
        "    num_replicas: 4  # --stage-overrides 2.num_replicas",
        "    max_model_len: 1000  # command line, --max-model-len",
        "      max_tokens: 64  # built-in default",
    ] {
        assert!(page.lines().any(|shown| shown == line), "no {line:?} in\n{page}");
    }
    assert!(page.contains("  # generation_config.json"), "{page}");
}
