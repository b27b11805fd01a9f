//! How long a page of metrics takes with 64 replicas: to gather, which the metrics actor does, and to write and to compress,
//! which it does not.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::io::Write;

use criterion::{Criterion, criterion_group, criterion_main};
use flate2::Compression;
use flate2::write::GzEncoder;
use omni_actors::StageId;
use omni_actors::metrics::{Inference, Ledger, MetricsSettings, OmniPrefix, StageDescription, TextFormat};

/// A thinker of 64 replicas, and a talker and a vocoder that they share.
fn ledger() -> Ledger {
    let stage = |stage, replicas, max_model_len, makes_audio| StageDescription {
        stage: StageId(stage),
        replicas,
        max_model_len,
        makes_audio,
        diffusion: false,
        families: Vec::new(),
    };
    let settings = MetricsSettings {
        model_name: "Qwen/Qwen3-Omni-30B-A3B-Instruct".to_owned(),
        omni_prefix: OmniPrefix::default(),
        log_stats: true,
        kv_cache_metrics: true,
        inference: Inference::Online,
        stages: vec![
            stage(0, 64, Some(65_536), false),
            stage(1, 1, Some(65_536), false),
            stage(2, 1, None, true),
        ],
    };
    Ledger::new(settings).unwrap()
}

fn page(c: &mut Criterion) {
    let ledger = ledger();
    let exposition = ledger.gather();
    let text = exposition.to_text(TextFormat::Classic);
    let lines = text.lines().count();
    let mut group = c.benchmark_group(format!("page of {lines} lines"));
    group.sample_size(30);
    group.bench_function("gather", |b| b.iter(|| ledger.gather()));
    for (name, format) in [("write", TextFormat::Classic), ("write OpenMetrics", TextFormat::OpenMetrics)] {
        group.bench_function(name, |b| b.iter(|| black_box(&exposition).to_text(format).len()));
    }
    group.bench_function("compress", |b| {
        b.iter(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(black_box(text.as_bytes())).unwrap();
            encoder.finish().unwrap().len()
        });
    });
    group.finish();
}

criterion_group!(benches, page);
criterion_main!(benches);
