//! The fast backend against the plain one, and a row alone against the row among others.

use half::bf16;
use proptest::prelude::*;

use super::memory::CpuBuffer;
use super::plain::store;
use super::{Cpu, Isa, Plain};
use crate::tensor::{
    AttentionShape, Backend, BatchLimits, ExpertInput, KvShape, RotarySpec, RouteSpec, SequenceSpan,
    StepBatch, Weight,
};

/// Values in [-1, 1) that depend on the seed alone.
pub(super) fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / (1u64 << 31) as f32 - 1.0
    };
    (0..count).map(step).collect()
}

fn with_each(sets: Vec<Isa>) -> Vec<Cpu> {
    sets.into_iter().map(|isa| Cpu::with_isa(isa, None).unwrap()).collect()
}

pub(super) fn weight(out: usize, inner: usize, seed: u32, narrow: bool) -> Weight {
    let values = noise(out * inner, seed);
    match narrow {
        true => {
            Weight::from_bf16(vec![out, inner], values.into_iter().map(bf16::from_f32).collect()).unwrap()
        }
        false => Weight::from_f32(vec![out, inner], values).unwrap(),
    }
}

fn assert_close(ours: &[f32], plain: &[f32], scale: f32, what: &str) {
    assert_eq!(ours.len(), plain.len());
    for (index, (a, b)) in ours.iter().zip(plain).enumerate() {
        assert!((a - b).abs() <= 1e-5 * scale, "{what}: element {index} is {a}, plainly {b}");
    }
}

/// `x · weightᵀ` on one backend.
fn product<B>(backend: &B, x: &[f32], parts: Vec<Weight>, rows: usize) -> Vec<f32>
where
    B: Backend<Buffer = CpuBuffer>,
{
    let out: usize = parts.iter().map(|part| part.shape[0]).sum();
    let weight = backend.matrix(parts).unwrap();
    let mut result = backend.buffer(rows * out).unwrap();
    let input = backend.upload_values(x).unwrap();
    backend.scope(|| backend.matmul(&input, &weight, rows, &mut result)).unwrap();
    result.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn products_agree_with_the_plain_form(
        rows in 1usize..40, inner in 1usize..300, out in 1usize..90, second in 1usize..20, narrow: bool, seed: u32,
    ) {
        let x = noise(rows * inner, seed ^ 1);
        let parts = || vec![weight(out, inner, seed, narrow), weight(second, inner, !seed, !narrow)];
        let plain = product(&Plain, &x, parts(), rows);
        for cpu in with_each(Isa::exact()) {
            assert_close(&product(&cpu, &x, parts(), rows), &plain, inner as f32, cpu.isa().name());
        }
    }
}

#[test]
fn a_product_row_is_the_same_in_every_number_of_rows() {
    // No inner position of the last step is paired with another.
    let (inner, out) = (77, 26);
    let x = noise(20 * inner, 5);
    for cpu in with_each(Isa::available()) {
        for narrow in [false, true] {
            let alone: Vec<f32> = x
                .chunks(inner)
                .flat_map(|x| product(&cpu, x, vec![weight(out, inner, 9, narrow)], 1))
                .collect();
            for rows in 2..=20 {
                let together = product(&cpu, &x[..rows * inner], vec![weight(out, inner, 9, narrow)], rows);
                assert_eq!(together, alone[..rows * out], "{}, {rows} rows", cpu.isa());
            }
        }
    }
}

#[test]
fn a_product_row_is_the_same_alone_and_among_36_others() {
    // Wider than an inner block, with a rest that fills no vector.
    let (inner, out, rows) = (2 * 1024 + 37, 139, 37);
    let x = noise(rows * inner, 5);
    for cpu in with_each(Isa::available()) {
        for narrow in [false, true] {
            let together = product(&cpu, &x, vec![weight(out, inner, 9, narrow)], rows);
            for (row, expected) in together.chunks(out).enumerate() {
                let alone = product(&cpu, &x[row * inner..][..inner], vec![weight(out, inner, 9, narrow)], 1);
                assert_eq!(alone, expected, "{} row {row}", cpu.isa());
            }
        }
    }
}

/// Routes `rows` rows of `x` to 5 experts and multiplies with them; `[rows, 3, out]`.
fn expert_product<B>(backend: &B, x: &[f32], logits: &[f32], rows: usize, input: ExpertInput) -> Vec<f32>
where
    B: Backend<Buffer = CpuBuffer>,
{
    let (experts, top_k, inner, out) = (5, 3, 70, 37);
    let weights =
        (0..experts).map(|e| vec![weight(30, inner, e, true), weight(out - 30, inner, e + 50, true)]);
    let weights = backend.experts(weights.collect()).unwrap();
    let mut routing = backend.routing(rows, top_k).unwrap();
    let spec = RouteSpec { experts: experts as usize, top_k, normalize: true };
    backend.route(&backend.upload_values(logits).unwrap(), spec, rows, &mut routing).unwrap();
    let mut pairs = backend.buffer(rows * top_k * out).unwrap();
    let input_values = backend.upload_values(x).unwrap();
    backend.scope(|| backend.expert_matmul(&input_values, input, &weights, &routing, &mut pairs)).unwrap();
    let mut combined = backend.buffer(rows * out).unwrap();
    backend.combine_experts(&pairs, &routing, out, &mut combined).unwrap();
    pairs.0.extend(combined.0);
    pairs.0
}

#[test]
fn expert_products_agree_with_the_plain_form_and_do_not_depend_on_other_rows() {
    let rows = 37;
    let logits = noise(rows * 5, 3);
    for (input, width) in [(ExpertInput::Row, 70), (ExpertInput::Pair, 3 * 70)] {
        let x = noise(rows * width, 4);
        let plain = expert_product(&Plain, &x, &logits, rows, input);
        for cpu in with_each(Isa::exact()) {
            let together = expert_product(&cpu, &x, &logits, rows, input);
            assert_close(&together, &plain, 70.0, cpu.isa().name());
            for row in 0..rows {
                let alone =
                    expert_product(&cpu, &x[row * width..][..width], &logits[row * 5..][..5], 1, input);
                assert_eq!(alone[..3 * 37], together[row * 3 * 37..][..3 * 37], "{} row {row}", cpu.isa());
                assert_eq!(
                    alone[3 * 37..],
                    together[(rows * 3 + row) * 37..][..37],
                    "{} row {row}",
                    cpu.isa()
                );
            }
        }
    }
}

#[test]
fn norms_and_gates_agree_with_the_plain_form() {
    for width in [1, 7, 16, 45, 160] {
        let (rows, x, delta) = (3, noise(3 * 2 * width, 1), noise(3 * width, 2));
        let gain = Weight::from_f32(vec![width], noise(width, 3)).unwrap();
        for cpu in with_each(Isa::exact()) {
            let both = [true, false].map(|fast| {
                let mut residual = CpuBuffer(x[..rows * width].to_vec());
                let mut out = [CpuBuffer::zeros(rows * width), CpuBuffer::zeros(rows * width)];
                let gain = Plain.vector(&gain).unwrap();
                let (delta, gate_up) = (CpuBuffer(delta.clone()), CpuBuffer(x.clone()));
                let [norm, gated] = &mut out;
                if fast {
                    cpu.add_rms_norm(&mut residual, &delta, &gain, 1e-6, rows, norm).unwrap();
                    cpu.swiglu(&gate_up, rows, width, gated).unwrap();
                } else {
                    Plain.add_rms_norm(&mut residual, &delta, &gain, 1e-6, rows, norm).unwrap();
                    Plain.swiglu(&gate_up, rows, width, gated).unwrap();
                }
                (residual.0, out)
            });
            assert_eq!(both[0].0, both[1].0);
            for (ours, plain) in both[0].1.iter().zip(&both[1].1) {
                assert_close(&ours.0, &plain.0, 1.0, cpu.isa().name());
            }
        }
    }
}

/// Attention of a sequence whose rows come in chunks, over blocks in disorder.
fn attention<B>(backend: &B, shape: AttentionShape, qkv: &[f32], chunk: usize) -> Vec<f32>
where
    B: Backend<Buffer = CpuBuffer>,
{
    let blocks = [2u32, 0, 3, 1];
    let rows = qkv.len() / shape.qkv_width();
    let limits = BatchLimits { rows: chunk, logit_rows: 0 };
    let kv = KvShape { layers: 2, kv_heads: shape.kv_heads, head_dim: shape.head_dim };
    let (mut cache, mut batch) = (backend.cache(kv, 4).unwrap(), backend.batch(limits).unwrap());
    let gain = Weight::from_f32(vec![shape.head_dim], noise(shape.head_dim, 8)).unwrap();
    let gain = backend.vector(&gain).unwrap();
    let spec = RotarySpec::new(1e4, shape.head_dim, [0; 3]);
    let mut table = backend.buffer(chunk * shape.head_dim).unwrap();
    let mut out = backend.buffer(chunk * shape.query_width()).unwrap();
    let mut result = Vec::new();
    for first in (0..rows).step_by(chunk) {
        let end = rows.min(first + chunk);
        let positions: Vec<f32> = (first..end).map(|position| position as f32).collect();
        let step = StepBatch {
            positions: [positions.clone(), positions.clone(), positions],
            slot_mapping: (first..end).map(|at| blocks[at / 16] * 16 + (at % 16) as u32).collect(),
            sequences: vec![SequenceSpan {
                first_row: 0,
                rows: (end - first) as u32,
                context: end as u32,
                block_table: blocks.to_vec(),
            }],
            ..StepBatch::default()
        };
        backend.upload(&step, &mut batch).unwrap();
        backend.rotary(&batch, &spec, &mut table).unwrap();
        let width = shape.qkv_width();
        let mut qkv = backend.upload_values(&qkv[first * width..end * width]).unwrap();
        backend
            .norm_rotate_store(&mut qkv, &gain, &gain, 1e-6, &table, &batch, shape, 1, &mut cache)
            .unwrap();
        backend.scope(|| backend.attention(&qkv, &batch, shape, 1, &cache, &mut out)).unwrap();
        result.extend_from_slice(&out.0[..(end - first) * shape.query_width()]);
    }
    result
}

#[test]
fn attention_agrees_with_the_plain_form_and_is_the_same_in_chunks() {
    for (heads, kv_heads, head_dim) in [(4, 2, 32), (5, 1, 16), (2, 2, 22), (3, 1, 78)] {
        let shape = AttentionShape { heads, kv_heads, head_dim };
        let qkv = noise(53 * shape.qkv_width(), 6);
        let plain = attention(&Plain, shape, &qkv, 53);
        for cpu in with_each(Isa::exact()) {
            let whole = attention(&cpu, shape, &qkv, 53);
            assert_close(&whole, &plain, 1.0, cpu.isa().name());
            for chunk in [1, 5, 17] {
                assert_eq!(attention(&cpu, shape, &qkv, chunk), whole, "{} chunks of {chunk}", cpu.isa());
            }
        }
    }
}

#[test]
fn what_lies_behind_the_keys_of_a_row_does_not_reach_it() {
    let shape = AttentionShape { heads: 3, kv_heads: 1, head_dim: 40 };
    let (rows, width) = (11, shape.qkv_width());
    let qkv = CpuBuffer(noise(rows * width, 6));
    let mut batch = Plain.batch(BatchLimits { rows, logit_rows: 0 }).unwrap();
    let positions: Vec<f32> = (0..rows).map(|position| position as f32).collect();
    let step = StepBatch {
        positions: [positions.clone(), positions.clone(), positions],
        slot_mapping: (0..rows as u32).collect(),
        sequences: vec![SequenceSpan { first_row: 0, rows: 11, context: 11, block_table: vec![0] }],
        ..StepBatch::default()
    };
    Plain.upload(&step, &mut batch).unwrap();
    for cpu in with_each(Isa::available()) {
        let gathered = |behind: f32| {
            let mut cache = cpu.cache(KvShape { layers: 1, kv_heads: 1, head_dim: 40 }, 1).unwrap();
            cache.keys[0].fill(behind);
            cache.values[0].fill(behind);
            store(&qkv, &batch, shape, 0, &mut cache);
            // The last row is not to be seen by those before it.
            cache.values[0][10 * 40..].fill(behind);
            let mut out = cpu.buffer(rows * shape.query_width()).unwrap();
            cpu.attention(&qkv, &batch, shape, 0, &cache, &mut out).unwrap();
            out.0.truncate(10 * shape.query_width());
            out.0
        };
        let clean = gathered(0.0);
        assert!(clean.iter().all(|value| value.is_finite()));
        for behind in [f32::NAN, f32::INFINITY] {
            assert_eq!(gathered(behind), clean, "{}", cpu.isa());
        }
    }
}

#[test]
fn a_step_that_names_a_block_beyond_the_cache_is_refused() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 4 };
    let mut batch = Plain.batch(BatchLimits { rows: 1, logit_rows: 0 }).unwrap();
    let step = StepBatch {
        positions: [vec![0.0], vec![0.0], vec![0.0]],
        slot_mapping: vec![16],
        sequences: vec![SequenceSpan { first_row: 0, rows: 1, context: 1, block_table: vec![1] }],
        ..StepBatch::default()
    };
    Plain.upload(&step, &mut batch).unwrap();
    let cache = Plain.cache(KvShape { layers: 1, kv_heads: 1, head_dim: 4 }, 1).unwrap();
    let (qkv, mut out) = (CpuBuffer::zeros(16), CpuBuffer::zeros(8));
    let error = Plain.attention(&qkv, &batch, shape, 0, &cache, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "batch: block 1 is named where the cache has 1");
}
