//! What a request took: in the answer, with `return_stage_metrics`, and in the log, with `--log-stats`.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{self, CHAT, COMPLETIONS};
use crate::gate::Gate;
use crate::server::{ServerProcess, ServerThread};
use crate::tables::{Table, table};

fn spoken() -> Value {
    json!({
        "messages": [{"role": "user", "content": "Who are you?"}],
        "modalities": ["text", "audio"],
        "return_stage_metrics": true,
    })
}

/// A number as tables have it.
fn written(value: &Value) -> String {
    let text = match value.as_u64() {
        Some(count) => count.to_string(),
        None => format!("{:.3}", value.as_f64().expect("a number")),
    };
    let (integer, decimals) = text.split_once('.').map_or((text.as_str(), ""), |(whole, part)| (whole, part));
    let groups: Vec<&str> =
        integer.as_bytes().rchunks(3).rev().map(|it| str::from_utf8(it).expect("digits")).collect();
    let point = if decimals.is_empty() { "" } else { "." };
    format!("{}{point}{decimals}", groups.join(","))
}

/// Asserts that what an answer says of its request agrees with the answer and with itself.
fn check(metrics: &Value, usage: &Value, frames: u64) {
    let stages = metrics["stage_metrics"].as_object().expect("stages");
    assert_eq!(stages.keys().collect::<Vec<_>>(), ["0", "1", "2"]);
    let count = |stage: &str, name: &str| stages[stage][name].as_u64().expect("a count");
    assert_eq!(count("0", "num_tokens_in"), usage["prompt_tokens"].as_u64().expect("a count"));
    assert_eq!(count("0", "num_tokens_out"), usage["completion_tokens"].as_u64().expect("a count"));
    // A talker's last code ends the speech and begins no frame; a vocoder takes all codes of the others.
    let codec_frames = count("1", "num_tokens_out") - 1;
    assert!(count("1", "num_tokens_in") > 0 && codec_frames > 0);
    assert!(count("2", "num_tokens_in").is_multiple_of(codec_frames), "{metrics}");
    assert_eq!((count("2", "num_tokens_out"), count("2", "audio_generated_frames")), (0, frames));
    let seconds = frames as f64 / stages["2"]["audio_sample_rate"].as_f64().expect("a number");
    assert_eq!(stages["2"]["audio_duration_s"], seconds);

    let e2e = &metrics["e2e_metrics"];
    let out: u64 = ["0", "1", "2"].iter().map(|stage| count(stage, "num_tokens_out")).sum();
    assert_eq!(e2e["e2e_total_tokens"], count("0", "num_tokens_in") + out);
    let transfers = metrics["transfer_metrics"].as_object().expect("edges");
    assert_eq!(transfers.keys().collect::<Vec<_>>(), ["0->1", "1->2"]);
    let of = |edge: &Value, name: &str| edge[name].as_f64().expect("a number");
    let times = ["tx_time_ms", "rx_decode_time_ms", "in_flight_time_ms"];
    let time: f64 = transfers.values().map(|edge| times.map(|name| of(edge, name)).iter().sum::<f64>()).sum();
    assert!((of(e2e, "transfers_total_time_ms") - time).abs() < 1e-9 && time > 0.0);
    let size: f64 = transfers.values().map(|edge| of(edge, "size_kbytes")).sum();
    assert!((of(e2e, "transfers_total_kbytes") - size).abs() < 1e-9 && size > 0.0);

    let total = of(e2e, "e2e_total_ms");
    for (stage, name) in ["thinker", "talker", "code2wav"].iter().enumerate() {
        let metrics = &stages[&stage.to_string()];
        assert_eq!((&metrics["stage_name"], &metrics["finish_reason"]), (&json!(name), &json!("stop")));
        let spent = of(metrics, "queue_time_ms") + of(metrics, "stage_gen_time_ms");
        assert!(spent > 0.0 && spent + of(metrics, "postprocess_time_ms") <= total, "{metrics}");
        assert!(of(metrics, "serving_time_to_first_output_ms") <= total);
        assert_eq!(metrics["batch_size"], 1);
    }
    assert_eq!((&metrics["stage_id"], &metrics["final_output_type"]), (&json!(2), &json!("audio")));
}

#[test]
fn an_answer_tells_what_it_took_with_or_without_statistics() {
    for options in [&[][..], &["--log-stats"]] {
        let server = ServerProcess::start(options);
        let answer = client::post(server.address, CHAT, &spoken()).json();
        let frames = answer["choices"][0]["audio_metadata"]["frame_count"].as_u64().expect("sound");
        check(&answer["metrics"], &answer["usage"], frames);
        let plain = json!({"messages": [{"role": "user", "content": "hello"}]});
        assert_eq!(client::post(server.address, CHAT, &plain).json().get("metrics"), None);
    }
}

#[test]
fn a_stream_tells_what_it_took_on_its_last_chunk() {
    let server = ServerProcess::start(&[]);
    let mut request = spoken();
    request["stream"] = json!(true);
    request["stream_options"] = json!({"include_usage": true});
    let events = client::post(server.address, CHAT, &request).events();
    let (last, before) = events.split_last().expect("chunks");
    assert!(before.iter().all(|chunk| chunk.get("metrics").is_none()));
    assert_eq!(last["choices"], json!([]));
    let frames = last["metrics"]["stage_metrics"]["2"]["audio_generated_frames"].as_u64().expect("a count");
    assert!(frames > 0);
    check(&last["metrics"], &last["usage"], frames);

    let request = json!({"prompt": "hello", "stream": true, "max_tokens": 3, "return_stage_metrics": true});
    let events = client::post(server.address, COMPLETIONS, &request).events();
    let last = events.last().expect("chunks");
    assert_eq!(
        (last.get("usage"), &last["metrics"]["stage_metrics"]["0"]["num_tokens_out"]),
        (None, &json!(3))
    );
}

#[test]
fn completions_tell_what_one_prompt_took_and_refuse_to_for_several() {
    let server = ServerProcess::start(&[]);
    let mut request = json!({"prompt": "hello", "n": 2, "max_tokens": 5, "ignore_eos": true, "temperature": 1.0,
                             "return_stage_metrics": true});
    let answer = client::post(server.address, COMPLETIONS, &request).json();
    assert_eq!(answer["metrics"]["num_tokens_out"], 10, "over both choices");
    assert_eq!(answer["metrics"]["num_tokens_in"], answer["usage"]["prompt_tokens"]);
    request["prompt"] = json!(["hello", "you"]);
    let refusal = client::post(server.address, COMPLETIONS, &request);
    assert_eq!(refusal.status, 400);
    let message = refusal.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("return_stage_metrics") && message.contains("2 prompts"), "{message}");
}

#[test]
fn requests_that_end_in_the_same_step_say_so_alike() {
    let (gate, registry) = Gate::before("thinker");
    let server = ServerThread::start_with(registry, &[]);
    let request =
        json!({"prompt": "hello", "max_tokens": 4, "ignore_eos": true, "return_stage_metrics": true});
    let connections: Vec<_> = (0..3).map(|_| client::begin(server.address, COMPLETIONS, &request)).collect();
    gate.await_taken(connections.len());
    gate.open();
    for connection in connections {
        let answer = connection.finish().expect("a whole response").json();
        let thinker = &answer["metrics"]["stage_metrics"]["0"];
        // The first step computes all prompts and gives all first tokens, the fourth all last ones.
        assert_eq!((&thinker["batch_id"], &thinker["batch_size"]), (&json!(3), &json!(3)), "{thinker}");
    }
}

#[test]
fn the_tables_in_the_log_have_the_numbers_of_the_answer() {
    let server = ServerProcess::start(&["--log-stats"]);
    let answer = client::post(server.address, CHAT, &spoken()).json();
    let id = answer["id"].as_str().expect("text").strip_prefix("chatcmpl-").expect("an id");
    let metrics = &answer["metrics"];
    let title = format!("[TransferEdgeStats [request_id={id}]]");
    let until = Instant::now() + Duration::from_secs(20);
    while table(&server.later_log(), &title).is_none() && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
    let log = server.later_log();
    let read = |title: &str| table(&log, title).unwrap_or_else(|| panic!("no {title} in {log:#?}"));

    let rows = |table: &Table, columns: &[&Value]| {
        for (name, cells) in table.iter().filter(|(name, _)| *name != "Field") {
            let expected: Vec<String> = columns.iter().map(|column| written(&column[name])).collect();
            assert_eq!(*cells, expected, "{name}");
        }
    };
    let stages = read(&format!("[StageRequestStats [request_id={id}]]"));
    assert_eq!(stages["Field"], ["0", "1", "2"]);
    rows(&stages, &["0", "1", "2"].map(|stage| &metrics["stage_metrics"][stage]));
    for name in ["num_tokens_in", "num_tokens_out", "stage_gen_time_ms", "audio_generated_frames"] {
        assert!(stages.contains_key(name), "{name}");
    }
    let edges = read(&title);
    assert_eq!(edges["Field"], ["0->1", "1->2"]);
    rows(&edges, &["0->1", "1->2"].map(|edge| &metrics["transfer_metrics"][edge]));
    assert!(edges.len() == 5, "all four rows have values: {edges:?}");
    let request = read(&format!("[RequestE2EStats [request_id={id}]]"));
    rows(&request, &[&metrics["e2e_metrics"]]);

    let overall = read("[Overall Summary]");
    assert_eq!(overall["e2e_requests"], ["1"]);
    assert_eq!(overall["e2e_wall_time_ms"], request["e2e_total_ms"]);
    assert_eq!(overall["e2e_total_tokens"], request["e2e_total_tokens"]);
    let number = |name: &str| overall[name][0].replace(',', "").parse::<f64>().expect("a number");
    let rate = number("e2e_total_tokens") * 1e3 / number("e2e_wall_time_ms");
    assert!((number("e2e_avg_tokens_per_s") / rate - 1.0).abs() < 1e-3);
    for stage in 0..3 {
        assert!(number(&format!("e2e_stage_{stage}_wall_time_ms")) <= number("e2e_wall_time_ms"));
    }
}

#[test]
fn without_statistics_no_tables_are_logged() {
    let server = ServerProcess::start(&[]);
    assert_eq!(client::post(server.address, CHAT, &spoken()).status, 200);
    let log = server.end().concat();
    assert!(!log.contains("Summary") && !log.contains("E2EStats"), "{log}");
}
