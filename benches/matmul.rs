//! Matrix products of this crate and of `faer`, in f32 on all cores, at 2048 → 8192.
//!
//! Weights rotate through several copies, so that one row reads them from memory and not from a cache.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use faer::{Accum, MatMut, MatRef, Par};
use half::bf16;
use omni_actors::tensor::cpu::{Cpu, CpuMatrix};
use omni_actors::tensor::{Backend, Weight};

/// Width of the input.
const INNER: usize = 2048;
/// Width of the output.
const OUT: usize = 8192;
/// Copies of the weight: 512 MiB in f32.
const COPIES: usize = 8;

fn noise(count: usize, mut state: u32) -> Vec<f32> {
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..count).map(step).collect()
}

fn matmul(criterion: &mut Criterion) {
    let cpu = Cpu::new(None).expect("a CPU backend");
    let values = noise(OUT * INNER, 1);
    let shape = vec![OUT, INNER];
    let copies: Vec<Vec<f32>> = (0..COPIES).map(|_| values.clone()).collect();
    let wide: Vec<CpuMatrix> = (0..COPIES)
        .map(|_| cpu.matrix(vec![Weight::from_f32(shape.clone(), values.clone()).unwrap()]).unwrap())
        .collect();
    let rounded: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
    let narrow: Vec<CpuMatrix> = (0..COPIES)
        .map(|_| cpu.matrix(vec![Weight::from_bf16(shape.clone(), rounded.clone()).unwrap()]).unwrap())
        .collect();
    for rows in [1, 8, 64, 512] {
        let mut group = criterion.benchmark_group(format!("{rows} rows"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        group.throughput(Throughput::Elements((2 * rows * INNER * OUT) as u64));
        let x = noise(rows * INNER, 2);
        let input = cpu.upload_values(&x).unwrap();
        let mut out = cpu.buffer(rows * OUT).unwrap();
        for (name, weights) in [("f32", &wide), ("bf16", &narrow)] {
            let mut turn = 0;
            group.bench_function(
                BenchmarkId::new("omni-actors", format!("{name} {}", cpu.isa())),
                |bencher| {
                    bencher.iter(|| {
                        turn = (turn + 1) % COPIES;
                        cpu.scope(|| cpu.matmul(&input, &weights[turn], rows, &mut out)).unwrap();
                    });
                },
            );
        }
        let mut faer_out = vec![0.0f32; rows * OUT];
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("faer", "f32"), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % COPIES;
                let x = MatRef::from_row_major_slice(&x, rows, INNER);
                let weight = MatRef::from_column_major_slice(&copies[turn], INNER, OUT);
                let out = MatMut::from_row_major_slice_mut(&mut faer_out, rows, OUT);
                faer::linalg::matmul::matmul(out, Accum::Replace, x, weight, 1.0f32, Par::rayon(0));
            });
        });
        group.finish();
    }
}

criterion_group!(benches, matmul);
criterion_main!(benches);
