//! The loop of the vocoder over the demo's weights, with frames that come in pieces.

use std::path::Path;

use super::*;
use crate::engine::SamplingParams;
use crate::models::qwen3_omni::OmniConfig;
use crate::stages::{Cancellation, Prompt};
use crate::tensor::cpu::Cpu;
use crate::tensor::{Dtype, WeightStore};

const SCHEDULE: StreamingSchedule =
    StreamingSchedule { initial_frames: 2, chunk_frames: 5, left_context_frames: 5 };

fn model() -> Arc<Code2Wav<Cpu>> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let config = OmniConfig::read(&demo).unwrap().code2wav.unwrap();
    let store = WeightStore::open(&demo).unwrap();
    Arc::new(Code2Wav::load(&Cpu::new(None).unwrap(), &config, &store, Dtype::Auto).unwrap())
}

fn stage(model: &Arc<Code2Wav<Cpu>>) -> Code2WavStage<Cpu> {
    let settings = Code2WavSettings { schedule: SCHEDULE, max_windows: 3, sample_rate: 24_000 };
    Code2WavStage::new(model.clone(), settings).unwrap()
}

fn request(id: u64) -> StageRequest {
    StageRequest {
        id: RequestId(id),
        input: StageInput::Upstream(Arc::new(Prompt::default())),
        sampling: SamplingParams::default(),
        choices: 1,
        priority: 0,
        arrived: std::time::Instant::now(),
        to_client: true,
        to_next: false,
        streamed: false,
        cancelled: Cancellation::default(),
    }
}

/// Frames of an utterance, a different number for each.
fn codes(model: &Code2Wav<Cpu>, id: u64) -> Vec<u32> {
    let config = model.config();
    let count = (7 + 3 * id as usize) * config.num_quantizers;
    (0..count).map(|at| ((at * 37 + id as usize * 11) % config.codebook_size) as u32).collect()
}

fn frames(model: &Code2Wav<Cpu>, codes: &[u32]) -> Payload {
    Payload::Codes { groups: model.config().num_quantizers as u32, codes: codes.to_vec() }
}

fn feed(stage: &mut Code2WavStage<Cpu>, id: u64, payload: Payload, last: bool) -> Result<(), StageError> {
    stage.push(Chunk { request: RequestId(id), sequence: 0, last, payload })
}

/// Steps while there is anything to do.
fn run(stage: &mut Code2WavStage<Cpu>, outputs: &mut Vec<StageOutput>) {
    while stage.plan() == Readiness::Ready {
        let ticket = stage.launch().unwrap();
        stage.poll(ticket, true, outputs).unwrap();
    }
}

/// The packets of a request.
fn packets(outputs: &[StageOutput], id: u64) -> Vec<Vec<f32>> {
    let samples = |output: &StageOutput| match &output.event {
        StageEvent::Client(Output::Audio(packet)) if output.request == RequestId(id) => {
            Some(packet.samples.clone())
        }
        _ => None,
    };
    outputs.iter().filter_map(samples).collect()
}

fn assert_nothing_left(stage: &Code2WavStage<Cpu>) {
    assert_eq!((stage.utterances.len(), stage.planned.len()), (0, 0));
}

fn alone(model: &Arc<Code2Wav<Cpu>>, id: u64) -> Vec<Vec<f32>> {
    let mut stage = stage(model);
    let mut outputs = Vec::new();
    stage.add(request(id)).unwrap();
    feed(&mut stage, id, frames(model, &codes(model, id)), false).unwrap();
    feed(&mut stage, id, Payload::End, true).unwrap();
    run(&mut stage, &mut outputs);
    assert_nothing_left(&stage);
    packets(&outputs, id)
}

#[test]
fn company_and_the_size_of_chunks_do_not_change_a_bit_of_the_sound() {
    let model = model();
    let quantizers = model.config().num_quantizers;
    let mut stage = stage(&model);
    let mut outputs = Vec::new();
    for id in 0..5 {
        stage.add(request(id)).unwrap();
    }
    // One brings a frame at a time, the next two, and so on.
    for step in 0..20 {
        for id in 0..5 {
            let codes = codes(&model, id);
            let mut chunks = codes.chunks((id as usize + 1) * quantizers);
            if let Some(chunk) = chunks.nth(step) {
                feed(&mut stage, id, frames(&model, chunk), chunks.len() == 0).unwrap();
            }
        }
        run(&mut stage, &mut outputs);
    }
    assert_nothing_left(&stage);
    for id in 0..5 {
        let sound = packets(&outputs, id).concat();
        assert_eq!(sound, alone(&model, id).concat(), "request {id}");
        assert_eq!(sound.len(), model.config().window_samples(7 + 3 * id as usize));
    }
}

#[test]
fn an_utterance_shorter_than_the_first_window_or_without_a_frame_ends() {
    let model = model();
    let mut stage = stage(&model);
    let mut outputs = Vec::new();
    for id in 0..2 {
        stage.add(request(id)).unwrap();
    }
    feed(&mut stage, 0, Payload::End, true).unwrap();
    feed(&mut stage, 1, frames(&model, &vec![1; model.config().num_quantizers]), true).unwrap();
    run(&mut stage, &mut outputs);
    assert_nothing_left(&stage);
    assert!(packets(&outputs, 0).is_empty());
    assert_eq!(packets(&outputs, 1).concat().len(), model.config().window_samples(1));
    let ended = |output: &&StageOutput| output.event == StageEvent::Finished(FinishReason::Stop);
    assert_eq!(outputs.iter().filter(ended).count(), 2);
}

#[test]
fn frames_that_the_vocoder_does_not_know_are_refused_and_harm_nobody() {
    let model = model();
    let quantizers = model.config().num_quantizers;
    let mut stage = stage(&model);
    let mut outputs = Vec::new();
    for id in 0..2 {
        stage.add(request(id)).unwrap();
    }
    let beyond = vec![model.config().codebook_size as u32; quantizers];
    for bad in [
        frames(&model, &beyond),
        frames(&model, &vec![0; quantizers + 1]),
        Payload::Codes { groups: 1, codes: vec![0] },
        Payload::Text("words".into()),
    ] {
        assert!(matches!(feed(&mut stage, 0, bad, false), Err(StageError::Protocol(_))));
    }
    stage.remove(RequestId(0));
    feed(&mut stage, 1, frames(&model, &codes(&model, 1)), true).unwrap();
    run(&mut stage, &mut outputs);
    assert_eq!(packets(&outputs, 1), alone(&model, 1));
    assert_nothing_left(&stage);
}

#[test]
fn a_removed_request_leaves_nothing_behind_in_whatever_phase_it_is() {
    let model = model();
    let mut stage = stage(&model);
    let mut outputs = Vec::new();
    for id in 0..3 {
        stage.add(request(id)).unwrap();
    }
    // Before its first frame, between two windows, and with frames that were not looked at yet.
    feed(&mut stage, 1, frames(&model, &codes(&model, 1)), false).unwrap();
    run(&mut stage, &mut outputs);
    feed(&mut stage, 2, frames(&model, &codes(&model, 2)), true).unwrap();
    for id in 0..3 {
        stage.remove(RequestId(id));
    }
    feed(&mut stage, 1, Payload::End, true).unwrap();
    run(&mut stage, &mut outputs);
    assert_nothing_left(&stage);
    assert!(packets(&outputs, 2).is_empty());
}

#[test]
fn it_takes_frames_whenever_it_can_do_nothing_without_them() {
    let model = model();
    let quantizers = model.config().num_quantizers;
    let mut stage = stage(&model);
    // So many utterances, each with a frame that makes no window yet, that there is no room for more.
    for id in 0..=MAX_FRAMES as u64 {
        stage.add(request(id)).unwrap();
        feed(&mut stage, id, frames(&model, &vec![0; quantizers]), false).unwrap();
    }
    assert_eq!(stage.plan(), Readiness::Idle);
    assert!(stage.room() > 0);
    for _ in 1..SCHEDULE.left_context_frames {
        feed(&mut stage, 7, frames(&model, &vec![0; quantizers]), false).unwrap();
    }
    assert_eq!(stage.room(), 0, "one of them can be decoded");
}

#[test]
fn the_listener_who_would_first_hear_a_gap_is_served_first() {
    let model = model();
    let quantizers = model.config().num_quantizers;
    let mut stage = stage(&model);
    let served = |stage: &Code2WavStage<Cpu>| -> Vec<(u64, usize)> {
        stage.planned.iter().map(|(id, window)| (id.0, window.frames.end)).collect()
    };
    for id in 0..3 {
        stage.add(StageRequest { streamed: true, ..request(id) }).unwrap();
        let (frames, last) = (frames(&model, &vec![0; 12 * quantizers]), id == 2);
        feed(&mut stage, id, frames, last).unwrap();
    }
    // All have heard their first window, and all but one the second.
    for step in [[(0, 2), (1, 2), (2, 2)], [(0, 7), (1, 7), (2, 7)]] {
        assert_eq!(stage.plan(), Readiness::Ready);
        assert_eq!(served(&stage), step);
        if step[0] == (0, 7) {
            stage.planned.retain(|(id, _)| id.0 != 1);
        }
        let ticket = stage.launch().unwrap();
        stage.poll(ticket, true, &mut Vec::new()).unwrap();
    }
    assert_eq!(stage.plan(), Readiness::Ready);
    assert_eq!(served(&stage), [(1, 7), (0, 12), (2, 12)]);
}

#[test]
fn windows_that_are_cut_short_do_not_change_a_bit_of_the_sound() {
    let model = model();
    let (id, quantizers) = (4, model.config().num_quantizers);
    let codes = codes(&model, id);
    for fewest in 1..5 {
        let mut stage = stage(&model);
        let mut outputs = Vec::new();
        stage.add(StageRequest { streamed: true, ..request(id) }).unwrap();
        let mut chunks = codes.chunks(quantizers);
        while let Some(chunk) = chunks.next() {
            feed(&mut stage, id, frames(&model, chunk), chunks.len() == 0).unwrap();
            // As if the listener had heard everything by now.
            let utterance = &stage.utterances[&RequestId(id)];
            let demand = Demand { first_frames: 0, at_once: Some(fewest) };
            if let Some(window) = utterance.window(quantizers, demand) {
                stage.planned = vec![(RequestId(id), window)];
                let ticket = stage.launch().unwrap();
                stage.poll(ticket, true, &mut outputs).unwrap();
            }
        }
        run(&mut stage, &mut outputs);
        assert_nothing_left(&stage);
        let sound = packets(&outputs, id);
        assert!(fewest >= SCHEDULE.chunk_frames || sound.len() > alone(&model, id).len());
        assert_eq!(sound.concat(), alone(&model, id).concat(), "{fewest}");
    }
}

#[test]
fn with_more_utterances_than_windows_the_first_windows_are_larger() {
    let model = model();
    let mut stage = stage(&model);
    for (id, first_frames) in [(0, 2), (1, 2), (2, 2), (3, 4), (4, 4), (5, 4), (6, 8)] {
        stage.add(request(id)).unwrap();
        stage.add(request(100 + id)).unwrap();
        // Those of which nothing was spoken yet do not count.
        feed(&mut stage, id, frames(&model, &vec![0; model.config().num_quantizers]), false).unwrap();
        let worth = Demand { first_frames, at_once: Some(first_frames.min(SCHEDULE.chunk_frames)) };
        assert_eq!(stage.worth(), worth);
    }
}
