//! How long the vocoder takes for the windows of a stream of the built-in demo.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use omni_actors::models::qwen3_omni::code2wav::{CodecStream, StreamingSchedule};
use omni_actors::models::qwen3_omni::{Code2Wav, CodecWindow, OmniConfig};
use omni_actors::tensor::cpu::Cpu;
use omni_actors::tensor::{Dtype, WeightStore};

const CONFIG: &str = include_str!("../assets/demo/config.json");

fn windows(c: &mut Criterion) {
    let cpu = Cpu::new(None).unwrap();
    let config = OmniConfig::parse(CONFIG, "config.json").unwrap().code2wav.unwrap();
    let store = WeightStore::dummy(1);
    let vocoder = Code2Wav::load(&cpu, &config, &store, Dtype::Auto).unwrap();
    let mut space = vocoder.new_workspace(100).unwrap();
    let schedule = StreamingSchedule { initial_frames: 4, chunk_frames: 25, left_context_frames: 25 };
    let mut group = c.benchmark_group("code2wav");
    group.sample_size(20);
    let mut stream = CodecStream::new(&config, schedule);
    while let Some(window) = stream.next_window(54, true) {
        let new = window.keep.len() / config.samples_per_frame();
        let frames = window.frames.len();
        let codes: Vec<u32> = (0..(frames * config.num_quantizers) as u32)
            .map(|at| at.wrapping_mul(2_654_435_761) % config.codebook_size as u32)
            .collect();
        group.throughput(Throughput::Elements(window.keep.len() as u64));
        let id = BenchmarkId::new(format!("{new} new frames of"), frames);
        group.bench_function(id, |b| {
            b.iter(|| {
                let window = CodecWindow { codes: &codes, keep_from: window.keep.start };
                vocoder.forward(black_box(&[window]), &mut space, None).unwrap();
                space.samples().unwrap().len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, windows);
criterion_main!(benches);
