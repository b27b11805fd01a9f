//! Custom stages: the examples as programs, and what becomes of a request when a stage of one's own fails.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use omni_actors::{
    CustomStage, Emission, FunctionStage, Item, MetricFamily, Modality, NoSettings, Payload, PayloadKind,
    Registry, StageContext, StageRequest,
};
use serde_json::{Value, json};

use crate::client::{self, CHAT, COMPLETIONS};
use crate::deploy::DeployFile;
use crate::metrics_page::assert_nothing_but_what_is_forced;
use crate::page::Page;
use crate::server::{ServerProcess, ServerThread, example, example_in_vain};
use crate::speech::{spoken_question, streamed, whole};

/// The deployment of the first example, as a deploy file.
const LOUDNESS: &str = "tests/deploy/loudness.yaml";
/// The family of the first example.
const PACKETS: &str = "loudness_packets_total";
/// A sample of 16 bits is off by half a step at most, and so is the one that it is held against.
const STEP: f64 = 1.0 / 32767.0;

fn say(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

#[test]
fn the_example_changes_the_loudness_of_speech_as_its_setting_says() {
    let plain = ServerProcess::start(&[]);
    let question = spoken_question("Who are you?");
    let (choice, samples) = whole(plain.address, &question);
    let (in_pieces, _) = streamed(plain.address, &question);
    let scaled = |gain: f64, samples: &[f64], changed: &[f64]| {
        assert_eq!(samples.len(), changed.len());
        // Negated, every sample is exactly what it was.
        let bound = if gain == -1.0 { 0.0 } else { STEP };
        let off = samples.iter().zip(changed).map(|(plain, changed)| (plain * gain - changed).abs());
        assert!(off.fold(0.0, f64::max) <= bound, "gain {gain}");
    };
    let negated = json!({"3": {"settings": {"gain": -1.0}, "num_replicas": 2}}).to_string();
    let of_the_file = ["--deploy-config", LOUDNESS];
    for (gain, overrides) in [(0.5, &[][..]), (-1.0, &["--stage-overrides", &negated])] {
        for connector in [&[][..], &["--connector", "serialized"]] {
            let arguments = [&of_the_file, overrides, connector].concat();
            let server = ServerProcess::start_example("custom_stage", &arguments);
            let (changed_choice, changed) = whole(server.address, &question);
            scaled(gain, &samples, &changed);
            assert_eq!(changed_choice["message"]["content"], choice["message"]["content"]);
            let (changed, changed_packets) = streamed(server.address, &question);
            scaled(gain, &in_pieces, &changed);
            assert!(changed_packets > 1, "packets go on as they come");
        }
    }
}

#[test]
fn the_examples_family_stands_on_the_page_with_its_label() {
    let server = ServerProcess::start_example("custom_stage", &["--log-stats"]);
    let untouched = Page::of(server.address);
    assert_eq!(untouched.types[PACKETS], "counter");
    assert_eq!(untouched.helps[PACKETS], "Packets whose loudness was changed.");
    let (_, packets) = streamed(server.address, &spoken_question("Who are you?"));
    let page = Page::of(server.address);
    let labels = "clipped=\"no\",model_name=\"omni-demo\",replica=\"0\",stage=\"3\"";
    assert_eq!(page.sum_where(PACKETS, labels), packets as f64);
    assert_eq!(
        page.sum(PACKETS),
        packets as f64,
        "a child is created when it is counted, and none was clipped"
    );
    assert!(page.sum_where("vllm:omni_audio_frames_total", "stage=\"3\"") > 0.0, "clients get audio from it");
    assert!(page.sum_where("vllm:omni_transfer_size_bytes_count", "to_stage=\"3\"") >= packets as f64);
    assert_nothing_but_what_is_forced(&page);
}

#[test]
fn the_root_of_a_pipeline_without_a_model_is_where_its_deployment_stands() {
    let file = DeployFile::new(
        "pipeline: custom\nstages:\n- {stage_id: 0, custom_stage: words}\n\
         - {stage_id: 1, custom_stage: list, settings: {first: 1}}\n",
    );
    for (arguments, root) in
        [(&[][..], "the program's deployment"), (&["--deploy-config", file.path()], file.path())]
    {
        let server = ServerProcess::start_example("custom_pipeline", arguments);
        let models = client::get(server.address, "/v1/models").json();
        assert_eq!(models["data"][0]["root"], root, "{models}");
    }
}

#[test]
fn without_statistics_the_family_is_not_there() {
    let server = ServerProcess::start_example("custom_stage", &[]);
    whole(server.address, &spoken_question("hello"));
    assert!(!Page::of(server.address).has(PACKETS));
}

#[test]
fn without_arguments_the_examples_serve_what_they_show() {
    for (name, last) in [("custom_stage", "stage 3 replica 0"), ("custom_pipeline", "stage 1 replica 0")] {
        let mut child = Command::new(example(name)).stderr(Stdio::piped()).spawn().expect("an example");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut log = Vec::new();
        // The port may be taken, which is seen when all the rest is up.
        let came_up = |line: &str| {
            ["listening on http://127.0.0.1:8000", "cannot listen at 127.0.0.1:8000"]
                .iter()
                .any(|end| line.contains(end))
        };
        for line in stderr.lines().map_while(Result::ok) {
            log.push(line);
            if log.last().is_some_and(|line| came_up(line)) {
                break;
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        assert!(log.last().is_some_and(|line| came_up(line)), "{log:#?}");
        assert!(log.iter().any(|line| line.contains(last)), "{log:#?}");
    }
}

#[test]
fn the_examples_know_every_subcommand_and_wrong_settings_by_their_line() {
    for (arguments, place) in [
        (&[][..], "the program's deployment:8"),
        (&["--deploy-config", LOUDNESS], "tests/deploy/loudness.yaml:8"),
    ] {
        let shown = Command::new(example("custom_stage"))
            .args(["config", "show"])
            .args(arguments)
            .output()
            .expect("an example");
        let page = String::from_utf8(shown.stdout).expect("text");
        let settings = format!("settings: {{\"gain\":0.5}}  # {place}");
        assert!(page.contains("custom_stage: loudness") && page.contains(&settings), "{page}");
    }

    let text = std::fs::read_to_string(LOUDNESS).expect("the deploy file");
    for (settings, problem) in [
        ("{gain: loud}", "settings.gain: invalid type: string \"loud\", expected f32"),
        ("{gain: 1, gian: 2}", "settings.gian: the stage has no such setting"),
        ("{}", "settings: missing field `gain`"),
    ] {
        let file = DeployFile::new(&text.replace("{gain: 0.5}", settings));
        let (status, lines) = example_in_vain("custom_stage", &["serve", "--deploy-config", file.path()]);
        assert_eq!(status, Some(1));
        let expected = format!("error: {}:8: stage 3 (loudness): {problem}", file.path());
        assert_eq!(lines.last(), Some(&expected), "{lines:#?}");
    }
}

#[test]
fn stages_that_do_not_fit_are_refused_before_the_port_is_opened() {
    let text = std::fs::read_to_string(LOUDNESS).expect("the deploy file");
    let first =
        text.replace("stage_id: 3\n", "stage_id: 0\n").replacen("  - stage_id: 0\n  - stage_id: 1\n", "", 1);
    let alone = first
        .replace("  - stage_id: 2\n", "")
        .replace("    input_connectors: {from_stage_2: in_process}\n", "");
    let file = DeployFile::new(&format!("pipeline: custom\n{alone}"));
    let (status, lines) = example_in_vain("custom_stage", &["serve", "--deploy-config", file.path()]);
    let expected = "error: stage 0 (loudness) takes audio from a stage before it, but it is the first one";
    assert_eq!((status, lines.last().map(String::as_str)), (Some(1), Some(expected)), "{lines:#?}");
}

#[test]
fn a_pipeline_of_custom_stages_alone_answers_streamed_and_not() {
    let arguments = ["--served-model-name", "lister", "--log-stats"];
    let server = ServerProcess::start_example("custom_pipeline", &arguments);
    let list = "1. hello\n2. big\n3. world\n";
    let reply = client::post(server.address, CHAT, &say("hello big world")).json();
    assert_eq!(reply["choices"][0]["message"]["content"], list);
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    assert_eq!(reply["usage"], json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}));

    let mut request = say("hello big world");
    request["stream"] = json!(true);
    let events = client::post(server.address, CHAT, &request).events();
    assert_eq!(client::streamed_text(&events), list);
    let lines = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(lines.filter(|line| line.ends_with('\n')).count(), 3, "every word is a chunk of its own");

    let conversation = json!({"messages": [
        {"role": "system", "content": "one"}, {"role": "user", "content": "two"},
        {"role": "assistant", "content": "three"}, {"role": "user", "content": "four"},
    ]});
    let reply = client::post(server.address, CHAT, &conversation).json();
    assert_eq!(reply["choices"][0]["message"]["content"], "1. one\n2. two\n3. three\n4. four\n");
    let reply = client::post(server.address, COMPLETIONS, &json!({"prompt": ["a b", "c"]})).json();
    assert_eq!([0, 1].map(|choice| &reply["choices"][choice]["text"]), ["1. a\n2. b\n", "1. c\n"]);

    let page = Page::of(server.address);
    assert_eq!(page.sum("vllm:omni_requests_success_total"), 5.0);
    let engine = |family: &String| family.starts_with("vllm:") && !family.starts_with("vllm:omni_");
    assert!(!page.types.keys().any(engine), "there is no engine");
    let models = client::get(server.address, "/v1/models").json();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["max_model_len"]),
        (&json!("lister"), &Value::Null)
    );
}

#[test]
fn what_needs_a_tokenizer_is_refused_where_there_is_none() {
    let server = ServerProcess::start_example("custom_pipeline", &[]);
    for (name, value) in [("logprobs", json!(true)), ("n", json!(2)), ("return_token_ids", json!(true))] {
        let mut request = say("hello");
        request[name] = value;
        let reply = client::post(server.address, CHAT, &request);
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(name)), "{reply:?}");
    }
    for (path, body) in [("/tokenize", json!({"prompt": "a"})), ("/detokenize", json!({"tokens": []}))] {
        let reply = client::post(server.address, path, &body);
        assert_eq!(reply.status, 400, "{reply:?}");
        assert!(reply.body.contains("this pipeline has no tokenizer"), "{reply:?}");
    }
    let reply = client::post(server.address, CHAT, &say(" "));
    assert_eq!((reply.status, &reply.json()["error"]["reason"]), (400, &json!("invalid_input")), "{reply:?}");
    let (status, lines) = example_in_vain("custom_pipeline", &["serve", "some/model"]);
    assert_eq!(status, Some(1));
    assert!(lines.last().is_some_and(|line| line.contains("pipeline custom has no model")), "{lines:#?}");
}

/// A stage that shouts what the stage before it says.
fn shouting() -> Registry {
    let stage = CustomStage::new(|_: NoSettings, _: &StageContext| {
        Ok(FunctionStage::new(|_: &StageRequest, item: Item<'_>| match item {
            Item::Payload(Payload::Text(text)) => Ok(vec![Emission::text(text.to_uppercase())]),
            other => Err(other.unexpected("text")),
        }))
    });
    let mut registry = Registry::new();
    registry.stage("shouting", stage.takes(PayloadKind::Text).gives(Modality::Text)).expect("a stage");
    registry
}

#[test]
fn a_stage_behind_the_thinker_changes_the_text_that_clients_get() {
    let file = DeployFile::new(
        "pipeline: qwen3_omni_moe_thinker_only\nstages:\n  - stage_id: 0\n  - {stage_id: 1, custom_stage: shouting}\n",
    );
    let server = ServerThread::start_with(shouting(), &["--deploy-config", file.path()]);
    let answer = "I AM A TINY OMNI MODEL THAT ANSWERS AND SPEAKS.";
    let reply = client::post(server.address, CHAT, &say("Who are you?")).json();
    assert_eq!(reply["choices"][0]["message"]["content"], answer);
    let mut request = say("Who are you?");
    request["stream"] = json!(true);
    assert_eq!(client::streamed_text(&client::post(server.address, CHAT, &request).events()), answer);
    request["max_tokens"] = json!(3);
    let events = client::post(server.address, CHAT, &request).events();
    let last = events.last().expect("a chunk with the end");
    assert_eq!(last["choices"][0]["finish_reason"], "length", "the thinker's own end is told");
    request["n"] = json!(2);
    assert_eq!(client::post(server.address, CHAT, &request).status, 400);
}

/// A first stage that counts what is said and repeats it, or panics when it is told to.
fn moody() -> Registry {
    let stage = CustomStage::new(|_: NoSettings, context: &StageContext| {
        let answers = context.counter("answers_total")?;
        Ok(FunctionStage::new(move |_: &StageRequest, item: Item<'_>| {
            let Item::Prompt(prompt) = item else { return Err(item.unexpected("the prompt")) };
            answers.increment([&prompt.text]);
            assert!(!prompt.text.contains("panic"), "it was told to");
            Ok(vec![Emission::text(&*prompt.text)])
        }))
    });
    let answers = MetricFamily::counter("answers_total", "Answers by their text.").label("text");
    let mut registry = Registry::new();
    registry.stage("moody", stage.gives(Modality::Text).counts(answers)).expect("a stage");
    registry
}

#[test]
fn a_panic_fails_the_request_and_the_replica_comes_back_with_its_counts() {
    let file = DeployFile::new("pipeline: custom\nstages:\n  - {stage_id: 0, custom_stage: moody}\n");
    let arguments = ["--deploy-config", file.path(), "--log-stats"];
    let server = ServerThread::start_with(moody(), &arguments);
    let answers = || Page::of(server.address).sum_where("answers_total", "text=\"fine\"");
    for _ in 0..2 {
        assert_eq!(client::post(server.address, CHAT, &say("fine")).status, 200);
    }
    assert_eq!(answers(), 2.0);
    let reply = client::post(server.address, CHAT, &say("panic"));
    let error = &reply.json()["error"];
    assert_eq!(
        (reply.status, &error["reason"], &error["error_stage_id"]),
        (500, &json!("replica_panic"), &json!(0))
    );
    assert!(error["message"].as_str().is_some_and(|message| message.contains("it was told to")), "{error}");
    let until = Instant::now() + Duration::from_secs(20);
    while client::post(server.address, CHAT, &say("fine")).status != 200 {
        assert!(Instant::now() < until, "the replica does not come back");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(answers(), 3.0, "neither lost nor doubled");
    let page = Page::of(server.address);
    let last = page.sum_where("answers_total", "text=\"panic\"");
    assert_eq!(last, 1.0, "what was counted just before the end is not lost");
    assert_eq!(page.sum_where("vllm:omni_requests_failed_total", "reason=\"replica_panic\""), 1.0);
    let held = server.held();
    assert_eq!((held.requests, held.bindings, held.jobs), (0, 0, 0));
}

#[test]
fn a_stage_that_cannot_be_built_ends_the_start_with_its_reason() {
    let stage = CustomStage::new(|_: NoSettings, context: &StageContext| {
        context.counter::<0>("undeclared_total")?;
        Ok(FunctionStage::new(|_: &StageRequest, _: Item<'_>| Ok(Vec::new())))
    });
    let mut registry = Registry::new();
    registry.stage("broken", stage.gives(Modality::Text)).expect("a stage");
    let file = DeployFile::new("pipeline: custom\nstages:\n  - {stage_id: 0, custom_stage: broken}\n");
    let complaint = ServerThread::refusal(registry, &["--deploy-config", file.path()]);
    assert_eq!(
        complaint,
        "stage 0 (broken) cannot be built: the stage declares no metric family \"undeclared_total\""
    );
}
