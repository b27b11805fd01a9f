//! Speech: golden codes and waves over HTTP, the demo's voice, stages that overlap, streams that do not disturb each other.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::{self, CHAT};
use crate::golden_sets::{golden_directories, model_sets, read_json};
use crate::server::ServerProcess;

/// The talker cases that need text only.
pub(crate) const CASES: [&str; 4] =
    ["talker_text", "talker_text_rep105", "talker_history", "talker_short_reply"];
/// How far a sample may be off: the bound of waveforms, and half a step of 16 bits.
const BOUND: f64 = 1e-4 + 0.5 / 32767.0;

/// The samples of a wav file of 16 bits, one channel, 24 kHz.
fn samples_of_wav(file: &[u8]) -> Vec<f64> {
    let word = |at: usize| u16::from_le_bytes([file[at], file[at + 1]]);
    assert_eq!((&file[..4], &file[8..12], &file[36..40]), (&b"RIFF"[..], &b"WAVE"[..], &b"data"[..]));
    assert_eq!((word(22), u32::from(word(24)), word(34)), (1, 24_000, 16));
    file[44..]
        .as_chunks::<2>()
        .0
        .iter()
        .map(|bytes| f64::from(i16::from_le_bytes(*bytes)) / 32767.0)
        .collect()
}

fn decoded(data: &Value) -> Vec<f64> {
    let data = data.as_str().unwrap_or_else(|| panic!("no audio in {data}"));
    samples_of_wav(&STANDARD.decode(data).expect("base64"))
}

/// Text and samples of an answer in one piece.
pub(crate) fn whole(server: SocketAddr, request: &Value) -> (Value, Vec<f64>) {
    let reply = client::post(server, CHAT, request);
    assert_eq!(reply.status, 200, "{reply:?}");
    let choice = reply.json()["choices"][0].clone();
    let samples = decoded(&choice["message"]["audio"]["data"]);
    (choice, samples)
}

/// Samples of a streamed answer, joined, and how many packets they came in.
pub(crate) fn streamed(server: SocketAddr, request: &Value) -> (Vec<f64>, usize) {
    let mut request = request.clone();
    request["stream"] = json!(true);
    let events = client::post(server, CHAT, &request).events();
    let packets: Vec<_> = events.iter().filter(|event| event["modality"] == "audio").collect();
    let audio = packets.iter().map(|event| &event["choices"][0]["delta"]["content"]);
    let with_sound: Vec<_> =
        audio.filter(|content| content.as_str().is_some_and(|data| !data.is_empty())).collect();
    (with_sound.iter().flat_map(|content| decoded(content)).collect(), with_sound.len())
}

/// What a golden case asks for, and what must come back.
pub(crate) struct Golden {
    request: Value,
    ids: Value,
    wave: Vec<f64>,
}

impl Golden {
    /// Reads a case of a set.
    pub(crate) fn read(set: &Path, case: &str) -> Self {
        let meta = read_json(&set.join("golden/meta.json")).expect("the set has a meta.json");
        let talker = &meta["cases"][case];
        let thinker = format!("thinker_{}", talker["thinker_case"].as_str().expect("a thinker case"));
        let thinker = &meta["cases"][&thinker];
        let ids = talker["thinker_new_ids"].clone();
        let file = std::fs::read(set.join(format!("golden/{case}.safetensors"))).expect("a golden file");
        let tensors = safetensors::SafeTensors::deserialize(&file).expect("a safetensors file");
        let wave = tensors.tensor("wav_hf_chunked").expect("a wave").data().to_vec();
        let wave =
            wave.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
        let codes = tensors.tensor("layer0_tokens").expect("tokens").shape()[0];
        let request = json!({
            "messages": thinker["messages"],
            "modalities": ["text", "audio"],
            "voice": talker["speaker"].as_str().expect("a speaker").to_lowercase(),
            "return_token_ids": true,
            "sampling_params_list": [
                {"temperature": 0, "max_tokens": ids.as_array().expect("ids").len(), "ignore_eos": true},
                {"temperature": 0, "repetition_penalty": talker["repetition_penalty"], "max_tokens": codes,
                 "subtalker_temperature": 0},
                {},
            ],
        });
        Self { request, ids, wave }
    }

    /// Asks for it, in one piece and streamed.
    pub(crate) fn check(&self, server: SocketAddr, what: &str) {
        let (choice, samples) = whole(server, &self.request);
        assert_eq!(choice["token_ids"], self.ids, "{what}");
        self.check_wave(&samples, what);
        self.check_wave(&streamed(server, &self.request).0, &format!("{what}, streamed"));
    }

    fn check_wave(&self, samples: &[f64], what: &str) {
        assert_eq!(samples.len(), self.wave.len(), "{what}");
        let off = samples.iter().zip(&self.wave).map(|(ours, golden)| (ours - golden.clamp(-1.0, 1.0)).abs());
        let worst = off.fold(0.0, f64::max);
        assert!(worst <= BOUND, "{what}: a sample is off by {worst}");
    }
}

#[test]
fn golden_speech_comes_back_with_any_number_of_replicas_on_both_connectors() {
    let mut checked = 0;
    for directory in golden_directories() {
        for (name, set) in model_sets(&directory).expect("the golden directory can be read") {
            if !name.starts_with("qwen3_omni/") {
                continue;
            }
            let checkpoint = set.join("checkpoint");
            let checkpoint = checkpoint.to_str().expect("a path in UTF-8");
            for (replicas, connector) in
                [("1", "in-process"), ("2", "serialized"), ("2", "in-process"), ("1", "serialized")]
            {
                let options = ["--dtype", "float32", "--num-replicas", replicas, "--connector", connector];
                let server = ServerProcess::start(&[&[checkpoint][..], &options].concat());
                let address = server.address;
                thread::scope(|scope| {
                    for case in CASES {
                        let (name, set) = (&name, &set);
                        scope.spawn(move || {
                            let what = format!("{name} {case} with {replicas} replicas, {connector}");
                            Golden::read(set, case).check(address, &what);
                        });
                    }
                });
                checked += 1;
            }
        }
    }
    assert!(checked > 0, "no set was found");
}

/// A question whose answer is to be spoken.
pub(crate) fn spoken_question(question: &str) -> Value {
    json!({"messages": [{"role": "user", "content": question}], "modalities": ["text", "audio"]})
}

#[test]
fn the_demo_says_who_it_is() {
    let server = ServerProcess::start(&[]);
    let (choice, samples) = whole(server.address, &spoken_question("Who are you?"));
    let answer = "I am a tiny omni model that answers and speaks.";
    assert_eq!(choice["message"]["content"], answer);
    assert_eq!(choice["message"]["audio"]["transcript"], answer);
    let seconds = samples.len() as f64 / 24_000.0;
    assert!((2.0..5.0).contains(&seconds), "{seconds} s");
    let rms = (samples.iter().map(|sample| sample * sample).sum::<f64>() / samples.len() as f64).sqrt();
    assert!(rms > 0.01, "RMS {rms}");
}

#[test]
fn a_long_reply_is_heard_before_its_last_word_is_written() {
    let server = ServerProcess::start(&[]);
    let mut request = spoken_question("tell me a story");
    request["stream"] = json!(true);
    request["ignore_eos"] = json!(true);
    request["max_tokens"] = json!(1500);
    let events = client::post(server.address, CHAT, &request).events();
    let place = |kind: &str, last: bool| {
        let mut places =
            events.iter().enumerate().filter(|(_, event)| event["modality"] == kind).map(|(at, _)| at);
        if last { places.next_back() } else { places.next() }
    };
    let (first_sound, last_word) =
        (place("audio", false).expect("sound"), place("text", true).expect("text"));
    assert!(first_sound < last_word, "sound at event {first_sound}, the last word at {last_word}");
}

#[test]
fn ten_streams_at_once_sound_as_they_do_alone() {
    let server = ServerProcess::start(&[]);
    let questions = ["hello", "how are you", "what is a stage", "tell me a joke", "what is streaming"];
    let alone: Vec<_> =
        questions.map(|question| streamed(server.address, &spoken_question(question)).0).into();
    thread::scope(|scope| {
        for round in 0..2 {
            for (question, alone) in questions.iter().zip(&alone) {
                let address = server.address;
                scope.spawn(move || {
                    let (samples, packets) = streamed(address, &spoken_question(question));
                    assert!(packets > 1, "{question}: one packet is no stream");
                    assert!(samples == *alone, "{question}, round {round}: the sound differs");
                });
            }
        }
    });
}

#[test]
fn a_reply_of_one_token_is_not_spoken_and_ends_with_stop() {
    let server = ServerProcess::start(&["--log-stats"]);
    let mut request = spoken_question("hello");
    request["sampling_params_list"] = json!([{"max_tokens": 1, "stop_token_ids": []}, {}, {}]);
    request["logit_bias"] = json!({});
    let reply = client::post(server.address, CHAT, &request);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.json()["choices"][0]["message"]["audio"].is_null(), "{reply:?}");
    let page = client::get(server.address, "/metrics").body;
    let skipped = "vllm:omni_audio_skipped_requests_total{model_name=\"omni-demo\",reason=\"no_audio_data\",replica=\"0\",stage=\"2\"} 1.0";
    assert!(page.contains(skipped), "{page}");
}
