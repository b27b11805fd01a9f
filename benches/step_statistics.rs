//! What the statistics of a decode step cost the worker's thread: the tokens of all sequences noted, the step closed, and
//! the report that is due every 20 ms. With it the tables of a request, which the metrics actor's thread writes.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use omni_actors::engine::{BlockPool, FinishReason, Scheduler, SchedulerConfig};
use omni_actors::ids::{Epoch, ReplicaId, ReplicaKey, RequestId, StageId};
use omni_actors::metrics::{
    Batch, EdgeAccount, ReplicaReporter, RequestAccount, StageAccount, StatsPort, StatsSender, TokenCounts,
    tables,
};
use omni_actors::stages::engine_statistics::EngineStatistics;
use omni_actors::stages::{EngineStatisticsOptions, Prompt, StageInput, StageRequest};

const REPLICA: ReplicaKey = ReplicaKey { stage: StageId(0), replica: ReplicaId(0), epoch: Epoch(0) };

/// Steps of a few sequences, again and again, as a worker takes them.
fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("statistics of a decode step");
    for sequences in [1, 8] {
        let mut statistics = EngineStatistics::new(&EngineStatisticsOptions::from(true), true).unwrap();
        for id in (0..sequences).map(RequestId) {
            let input = StageInput::Prompt(Arc::new(Prompt::default()));
            statistics.queued(&StageRequest::new(id, input), 64);
            statistics.scheduled(id);
        }
        let mut scheduler = Scheduler::new(
            SchedulerConfig { max_num_seqs: 8, max_num_batched_tokens: 512 },
            BlockPool::new(64),
        );
        let sender = StatsSender::new(|event| drop(black_box(event)));
        let mut reporter = ReplicaReporter::new(REPLICA, sender, Arc::new(StatsPort::new(|| {})));
        group.bench_function(format!("{sequences} sequences"), |b| {
            b.iter(|| {
                let now = Instant::now();
                for id in (0..sequences).map(RequestId) {
                    statistics.token(black_box(id), 0, now);
                }
                statistics.step();
                reporter.changed();
                reporter.report_if_due(now, false, |stats| statistics.report(&mut scheduler, stats));
            });
        });
    }
    group.finish();
}

fn request() -> RequestAccount {
    let arrived = Instant::now();
    let at = |ms| arrived + Duration::from_millis(ms);
    let stage = |stage: u16| StageAccount {
        replica: ReplicaKey { stage: StageId(stage), ..REPLICA },
        queued: at(0),
        started: Some(at(1)),
        first_output: Some(at(2)),
        done: at(400),
        released: at(401),
        reason: Some(FinishReason::Stop),
        batch: Batch { id: 12_345, size: 8 },
        tokens: TokenCounts { input: 4_860, output: 275 },
        audio_frames: 525_525,
        audio_sample_rate: 24_000,
        input: stage.checked_sub(1).map(|from| EdgeAccount {
            from: StageId(from),
            to: StageId(stage),
            size_bytes: 123_456,
            send_seconds: 0.001,
            in_flight_seconds: 0.1,
            receive_seconds: 0.01,
        }),
    };
    RequestAccount {
        request_id: "5fbb0cd4af1b4e2c9d1d36b2a9a7a3a0".to_owned(),
        arrived,
        ended: at(402),
        reason: FinishReason::Stop,
        stages: (0..3).map(stage).collect(),
    }
}

fn request_tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("tables of a request");
    let spoken = request();
    let written = RequestAccount { stages: spoken.stages[..1].to_vec(), ..spoken.clone() };
    for (name, request) in [("one stage", &written), ("three stages", &spoken)] {
        group.bench_function(name, |b| b.iter(|| tables::of_request(black_box(request)).len()));
    }
    group.finish();
}

criterion_group!(benches, steps, request_tables);
criterion_main!(benches);
