//! Answers with speech.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::actors::messages::{AbortCause, RequestError};
use crate::http::AudioDelta;
use crate::http::testing::{Setup, TestServer, read_until};
use crate::ids::{RequestId, StageId};
use crate::metrics::DeliveredAudio;
use crate::stages::{AudioPacket, Modality};

const CHAT: &str = "/v1/chat/completions";
const RATE: u32 = 24_000;

/// A packet of this many samples.
fn sound(samples: usize) -> Step {
    let samples = vec![0.5; samples];
    Step::Event(RequestEvent::Output(Output::Audio(AudioPacket { samples, sample_rate: RATE, channels: 1 })))
}

/// "Hello" in three tokens; sound begins before its last token and ends after it.
fn spoken_hello() -> Vec<Step> {
    vec![
        token(0, "Hel", 1),
        token(0, "", 2),
        sound(100),
        last(0, "lo", 3, FinishReason::Stop, Some(StopReason::Token(9))),
        sound(0),
        sound(250),
        finished(),
    ]
}

/// A server that speaks and answers every request so.
fn speaking(steps: Vec<Step>) -> TestServer {
    TestServer::start(Setup { scripts: vec![Ok(steps)], speaks: true, ..Setup::default() })
}

fn spoken_body(modalities: Value, extra: Value) -> Value {
    with(chat_body(json!({"modalities": modalities})), extra)
}

fn bytes_of(data: &Value) -> Vec<u8> {
    STANDARD.decode(data.as_str().unwrap()).unwrap()
}

/// The one account of a spoken answer, a moment after it came.
fn only_account(server: &TestServer) -> (RequestId, DeliveredAudio) {
    server.wait_until("the speech was accounted for", |seen| !seen.delivered.is_empty());
    std::thread::sleep(Duration::from_millis(30));
    server.seen(|seen| {
        assert_eq!(seen.delivered.len(), 1, "accounted for exactly once");
        seen.delivered[0]
    })
}

#[test]
fn a_whole_answer_has_text_and_speech_in_one_choice() {
    let server = speaking(spoken_hello());
    let json = server.post(CHAT, &spoken_body(json!(["text", "audio"]), json!({"voice": "Ember"}))).json();
    assert_eq!(json["choices"].as_array().unwrap().len(), 1);
    let choice = &json["choices"][0];
    assert_eq!((choice["index"].as_u64(), choice["message"]["content"].as_str()), (Some(0), Some("Hello")));
    assert_eq!((choice["finish_reason"].as_str(), choice["stop_reason"].as_u64()), (Some("stop"), Some(9)));
    let audio = &choice["message"]["audio"];
    assert_eq!(audio["transcript"], "Hello");
    assert!(audio["id"].as_str().unwrap().starts_with("audio-"));
    assert_eq!(
        audio["expires_at"].as_u64().unwrap() / 100,
        (json["created"].as_u64().unwrap() + 86_400) / 100
    );
    let file = bytes_of(&audio["data"]);
    assert_eq!((&file[..4], file.len()), (&b"RIFF"[..], 44 + 2 * 350));
    assert_eq!(
        choice["audio_metadata"],
        json!({"format": "wav", "sample_rate_hz": RATE, "frame_count": 350, "channels": 1})
    );
    assert_eq!(json["usage"]["completion_tokens"], 3);
    server.seen(|seen| {
        assert_eq!(seen.requests[0].modalities, [Modality::Text, Modality::Audio]);
        assert_eq!(seen.requests[0].prompt.voice.as_deref(), Some("ember"));
    });
}

#[test]
fn an_answer_that_is_only_spoken_has_its_text_as_transcript() {
    let server = speaking(spoken_hello());
    let json = server.post(CHAT, &spoken_body(json!(["audio"]), json!({"audio": {"format": "pcm"}}))).json();
    let choice = &json["choices"][0];
    assert_eq!(choice["message"]["content"], Value::Null);
    assert_eq!(choice["message"]["audio"]["transcript"], "Hello");
    assert_eq!(bytes_of(&choice["message"]["audio"]["data"]).len(), 2 * 350);
    assert_eq!(choice["audio_metadata"]["format"], "pcm16");
    assert_eq!(json["usage"]["completion_tokens"], 3);
    assert_eq!(server.seen(|seen| seen.requests[0].modalities.clone()), [Modality::Text, Modality::Audio]);
}

#[test]
fn every_format_is_written_whole() {
    let server = speaking(vec![token(0, "a", 1), sound(4800), finished()]);
    for (format, magic) in [("wav", "RIFF"), ("flac", "fLaC"), ("opus", "OggS")] {
        let body = spoken_body(json!(["audio"]), json!({"audio": {"format": format}}));
        let json = server.post(CHAT, &body).json();
        let file = bytes_of(&json["choices"][0]["message"]["audio"]["data"]);
        assert!(file.starts_with(magic.as_bytes()), "{format}");
        assert_eq!(json["choices"][0]["audio_metadata"]["frame_count"], 4800);
    }
}

#[test]
fn nothing_to_be_spoken_is_an_answer_without_speech() {
    let server = speaking(vec![last(0, "", 1, FinishReason::Stop, None), finished()]);
    let json = server.post(CHAT, &spoken_body(json!(["text", "audio"]), json!({}))).json();
    let choice = &json["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    assert!(choice["message"].get("audio").is_none() && choice.get("audio_metadata").is_none());
    let (request, audio) = only_account(&server);
    assert_eq!((request, audio.stage, audio.frames, audio.playback), (RequestId(1), StageId(2), 0, None));

    let silent = server.post(CHAT, &spoken_body(json!(["audio"]), json!({"stream": true}))).events();
    assert_eq!(silent.len(), 1);
    assert_eq!(silent[0]["choices"][0]["finish_reason"], "stop");
    assert_eq!(silent[0]["choices"][0]["delta"], json!({"role": "assistant"}));
}

#[test]
fn a_stream_has_text_and_sound_as_they_come_and_one_end() {
    let server = speaking(spoken_hello());
    let options = json!({"stream": true,
                         "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let events = server.post(CHAT, &spoken_body(json!(["text", "audio"]), options)).events();
    let modalities: Vec<&str> = events.iter().map(|event| event["modality"].as_str().unwrap()).collect();
    assert_eq!(modalities, ["text", "text", "text", "audio", "text", "audio", "audio", "audio"]);
    let tokens: Vec<u64> =
        events.iter().map(|event| event["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert_eq!(tokens, [0, 1, 2, 2, 3, 3, 3, 3]);
    let choice = |event: usize| &events[event]["choices"][0];
    assert!((0..8).all(|event| event == 6 || choice(event)["finish_reason"].is_null()), "one end, after all");
    assert_eq!(
        (choice(6)["finish_reason"].as_str(), choice(6)["stop_reason"].as_u64()),
        (Some("stop"), Some(9))
    );
    assert_eq!(choice(6)["delta"], json!({}));
    assert_eq!(choice(4)["delta"]["content"], "lo");
    assert_eq!(events[7]["choices"], json!([]));

    assert_eq!(choice(3)["delta"]["role"], "assistant");
    assert_eq!(choice(5)["audio_metadata"]["frame_count"], 250);
    let (first, second) =
        (bytes_of(&choice(3)["delta"]["content"]), bytes_of(&choice(5)["delta"]["content"]));
    assert_eq!((first.len(), second.len()), (44 + 200, 44 + 500));
    assert_eq!(first[8..40], second[8..40], "the same header parameters on all pieces");
}

#[test]
fn a_stream_that_is_only_spoken_has_no_text() {
    let server = speaking(spoken_hello());
    let body = spoken_body(json!(["audio"]), json!({"stream": true, "audio": {"format": "pcm16"}}));
    let events = server.post(CHAT, &body).events();
    assert_eq!(events.len(), 3, "two pieces and the end");
    assert!(events.iter().all(|event| event["modality"] == "audio"));
    assert_eq!(bytes_of(&events[1]["choices"][0]["delta"]["content"]).len(), 500);
    assert_eq!(events[2]["choices"][0]["finish_reason"], "stop");
}

#[test]
fn speech_stands_where_openai_puts_it_if_the_server_is_told_so() {
    let server = TestServer::start(Setup {
        scripts: vec![Ok([spoken_hello(), vec![]].concat())],
        speaks: true,
        audio_delta: AudioDelta::OpenAi,
        ..Setup::default()
    });
    let events = server.post(CHAT, &spoken_body(json!(["audio"]), json!({"stream": true}))).events();
    let audio = |event: usize| &events[event]["choices"][0]["delta"]["audio"];
    assert_eq!((audio(0)["transcript"].as_str(), audio(1)["transcript"].as_str()), (Some("Hel"), Some("lo")));
    assert_eq!(audio(0)["id"], audio(1)["id"]);
    assert_eq!(bytes_of(&audio(1)["data"]).len(), 44 + 500);
    assert!(audio(0)["expires_at"].is_u64());
    assert!(events[0]["choices"][0]["delta"].get("content").is_none());
    assert_eq!(events[2]["choices"][0]["delta"], json!({}));
}

#[test]
fn speech_that_was_cut_off_ends_the_choice_with_length() {
    let mut steps = spoken_hello();
    steps.pop();
    steps.push(Step::Event(RequestEvent::Finished(FinishReason::Length)));
    let server = speaking(steps);
    for stream in [false, true] {
        let body = spoken_body(json!(["text", "audio"]), json!({"stream": stream}));
        let reply = server.post(CHAT, &body);
        let last = if stream { reply.events().pop().unwrap() } else { reply.json() };
        assert_eq!(last["choices"][0]["finish_reason"], "length");
        assert_eq!(last["choices"][0]["stop_reason"], Value::Null);
    }
}

#[test]
fn the_metrics_are_told_of_a_streamed_answer_how_it_would_have_played() {
    let steps = vec![
        token(0, "a", 1),
        Step::Pause(Duration::from_millis(30)),
        // 10 ms of sound, and the next only after 80 ms.
        sound(240),
        Step::Pause(Duration::from_millis(80)),
        sound(480),
        finished(),
    ];
    let server = speaking(steps);
    server.post(CHAT, &spoken_body(json!(["audio"]), json!({"stream": true})));
    let (request, audio) = only_account(&server);
    assert_eq!(
        (request, audio.stage, audio.frames, audio.sample_rate),
        (RequestId(1), StageId(2), 720, RATE)
    );
    let playback = audio.playback.unwrap();
    assert!(playback.first_packet_seconds >= 0.03, "{playback:?}");
    assert!(audio.e2e_seconds >= 0.11, "{audio:?}");
    // However late the packets came: what the second came later than the first had played, the player waited.
    let waited = (audio.e2e_seconds - playback.first_packet_seconds - 0.01).max(0.0);
    assert!((playback.underrun_seconds - waited).abs() < 1e-6, "{audio:?}");
}

#[test]
fn a_whole_answer_is_accounted_for_without_playback_and_text_not_at_all() {
    let server = speaking(spoken_hello());
    server.post(CHAT, &chat_body(json!({})));
    server.post(CHAT, &spoken_body(json!(["audio"]), json!({})));
    let (request, audio) = only_account(&server);
    assert_eq!((request, audio.frames, audio.playback), (RequestId(2), 350, None));
}

#[test]
fn answers_that_broke_off_are_not_accounted_for() {
    let failed = RequestEvent::Failed(RequestError {
        reason: "stage_error",
        stage: StageId(1),
        message: "it broke".into(),
        client_fault: false,
    });
    let scripts = vec![
        Ok(vec![token(0, "a", 1), sound(10), Step::Event(failed)]),
        Ok(vec![token(0, "a", 1), sound(10), Step::Hang]),
    ];
    let server = TestServer::start(Setup { scripts, speaks: true, ..Setup::default() });
    let body = spoken_body(json!(["text", "audio"]), json!({"stream": true}));
    assert_eq!(server.post(CHAT, &body).events().pop().unwrap()["error"]["error_stage_id"], 1);
    let mut socket = server.open_chat(&body);
    read_until(&mut socket, "\"modality\":\"audio\"");
    drop(socket);
    server.wait_until("the request was aborted", |seen| !seen.aborts.is_empty());
    std::thread::sleep(Duration::from_millis(50));
    server.seen(|seen| {
        assert_eq!(seen.aborts, [(RequestId(2), AbortCause::ClientDisconnect)]);
        assert!(seen.delivered.is_empty());
    });
}

#[test]
fn sound_that_cannot_be_written_is_an_error_whole_or_streamed() {
    let broken = AudioPacket { samples: vec![0.1], sample_rate: 0, channels: 1 };
    let broken = Step::Event(RequestEvent::Output(Output::Audio(broken)));
    let server = speaking(vec![token(0, "a", 1), broken, Step::Pause(Duration::from_millis(20)), finished()]);
    let reply = server.post(CHAT, &spoken_body(json!(["audio"]), json!({})));
    assert_eq!((reply.status, reply.json()["error"]["reason"].as_str()), (500, Some("audio_empty")));
    let events = server.post(CHAT, &spoken_body(json!(["text", "audio"]), json!({"stream": true}))).events();
    assert_eq!(events.last().unwrap()["error"]["reason"], "audio_empty");
}

#[test]
fn settings_of_every_stage_arrive() {
    let server = speaking(spoken_hello());
    let body = spoken_body(
        json!(["text", "audio"]),
        json!({"temperature": 0.5, "sampling_params_list": [
            {"top_k": 4},
            {"temperature": 0.0, "max_tokens": 99, "stop_token_ids": [2150], "subtalker_temperature": 0.0,
             "subtalker_top_k": 7, "subtalker_top_p": 0.5},
            {}]}),
    );
    assert_eq!(server.post(CHAT, &body).status, 200);
    server.seen(|seen| {
        let [thinker, talker, vocoder] = seen.requests[0].sampling.as_slice() else { panic!("three stages") };
        assert_eq!((thinker.temperature, thinker.top_k), (0.5, 4));
        assert_eq!((talker.temperature, talker.max_tokens), (0.0, 99));
        let subtalker = talker.subtalker;
        assert_eq!((subtalker.temperature, subtalker.top_k, subtalker.top_p), (0.0, 7, 0.5));
        assert_eq!(vocoder.temperature, 0.0);
    });
}

#[test]
fn what_is_not_possible_is_refused_by_name() {
    let server = speaking(spoken_hello());
    for (extra, param) in [
        (json!({"modalities": ["text", "image"]}), "modalities[1]"),
        (json!({"audio": {"format": "mp3"}}), "audio.format"),
        (json!({"audio": {"format": "opus"}, "stream": true}), "audio.format"),
        (json!({"voice": "nobody"}), "voice"),
        (json!({"n": 2}), "n"),
        (json!({"modalities": ["text"], "voice": "ember"}), "voice"),
        (
            json!({"sampling_params_list": [{"subtalker_top_k": 1}]}),
            "sampling_params_list[0].subtalker_top_k",
        ),
    ] {
        let reply = server.post(CHAT, &with(spoken_body(json!(["text", "audio"]), json!({})), extra));
        assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some(param)));
    }
    let text_only = TestServer::answering(hello());
    let reply = text_only.post(CHAT, &spoken_body(json!(["audio"]), json!({})));
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("this server makes: text"));
}
