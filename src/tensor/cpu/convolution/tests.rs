//! The fast convolutions against the plain ones, and windows alone against windows in a batch.

use half::bf16;

use crate::tensor::cpu::{Cpu, CpuBuffer, CpuKernel, Isa, Plain};
use crate::tensor::{Backend, Convolution, InputRows, Weight, WindowRows, Windows};

/// Values without a pattern, in [-1, 1).
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / 2_147_483_648.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn weight(shape: &[usize], seed: u32, brain: bool) -> Weight {
    let values = values(shape.iter().product(), seed);
    if brain {
        Weight::from_bf16(shape.to_vec(), values.into_iter().map(bf16::from_f32).collect()).unwrap()
    } else {
        Weight::from_f32(shape.to_vec(), values).unwrap()
    }
}

fn buffer(values: &[f32]) -> CpuBuffer {
    Plain.upload_values(values).unwrap()
}

fn windows(rows: &[(usize, usize, usize)]) -> Windows {
    let rows =
        rows.iter().map(|(origin, first, end)| WindowRows { origin: *origin, first: *first, end: *end });
    Windows::new(rows.collect()).unwrap()
}

fn close(ours: &[f32], expected: &[f32], bound: f32, what: &str) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (at, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        assert!((ours - expected).abs() <= bound, "{what} at {at}: {ours} where {expected} is expected");
    }
}

/// Extents `(in, out, taps, dilation)` with tails in every direction.
const KERNELS: [(usize, usize, usize, usize); 6] =
    [(3, 1, 7, 1), (16, 16, 7, 9), (5, 33, 7, 3), (24, 48, 1, 1), (7, 40, 3, 2), (1, 100, 2, 1)];

#[test]
fn convolutions_are_those_of_the_plain_form_on_every_instruction_set() {
    let rows = windows(&[(0, 0, 41), (10, 70, 151), (0, 5, 5), (0, 2, 4)]);
    let stored = rows.stored_rows();
    for (inner, out, taps, dilation) in KERNELS {
        for brain in [false, true] {
            let (weight, bias) = (weight(&[out, inner, taps], 1, brain), weight(&[out], 2, brain));
            let kernel = Plain.kernel(&weight, &bias, dilation).unwrap();
            let x = buffer(&values(stored * inner, 3));
            let before = values(stored * out, 4);
            let mut expected = [buffer(&before), buffer(&before)];
            Plain.convolve(&x, &kernel, &rows, &mut expected[0]).unwrap();
            Plain.convolve_add(&x, &kernel, &rows, &mut expected[1]).unwrap();
            for isa in Isa::available() {
                let cpu = Cpu::with_isa(isa, None).unwrap();
                let mut ours = [buffer(&before), buffer(&before)];
                cpu.convolve(&x, &kernel, &rows, &mut ours[0]).unwrap();
                cpu.convolve_add(&x, &kernel, &rows, &mut ours[1]).unwrap();
                for (ours, expected) in ours.iter().zip(&expected) {
                    close(&ours.0, &expected.0, 1e-4, &format!("{isa} {inner}x{out} taps {taps}"));
                }
            }
        }
    }
}

#[test]
fn transposed_convolutions_are_the_scatter_of_their_definition() {
    for (inner, out, taps, stride) in [(3, 5, 2, 4), (16, 8, 2, 3), (4, 20, 1, 2), (2, 3, 3, 5)] {
        let (weight, bias) = (weight(&[inner, out, taps * stride], 1, false), weight(&[out], 2, false));
        let kernel = Plain.transposed_kernel(&weight, &bias, stride).unwrap();
        let rows = 30;
        let x = values(rows * inner, 3);
        // Every input row adds its product to the `taps * stride` output rows from its own on.
        let (weights, bias) = (weight.to_f32(), bias.to_f32());
        let mut full = bias.repeat((rows + taps - 1) * stride);
        for row in 0..rows {
            for place in 0..taps * stride {
                for channel in 0..out {
                    for input in 0..inner {
                        full[(row * stride + place) * out + channel] +=
                            x[row * inner + input] * weights[(input * out + channel) * taps * stride + place];
                    }
                }
            }
        }
        let trim = (taps - 1) * stride * out;
        let expected = &full[trim..full.len() - trim];
        let (before, after) = (windows(&[(0, 0, rows)]), windows(&[(0, 0, (rows + 1 - taps) * stride)]));
        let mut ours = buffer(&vec![0.0; expected.len()]);
        Plain.upsample(&buffer(&x), &before, &kernel, &after, &mut ours).unwrap();
        close(&ours.0, expected, 1e-5, "plain");
        for isa in Isa::available() {
            let mut ours = buffer(&vec![0.0; expected.len()]);
            let cpu = Cpu::with_isa(isa, None).unwrap();
            cpu.upsample(&buffer(&x), &before, &kernel, &after, &mut ours).unwrap();
            close(&ours.0, expected, 1e-5, isa.name());
        }
    }
}

#[test]
fn a_window_alone_has_the_bits_that_it_has_in_a_batch() {
    let lengths = [200, 1, 57, 13];
    for (inner, out, taps, dilation) in KERNELS {
        let kernel: CpuKernel =
            Plain.kernel(&weight(&[out, inner, taps], 1, true), &weight(&[out], 2, true), dilation).unwrap();
        let rows: Vec<(usize, usize, usize)> = lengths.iter().map(|length| (0, 0, *length)).collect();
        let all = windows(&rows);
        let x = values(all.stored_rows() * inner, 3);
        for isa in Isa::available() {
            let cpu = Cpu::with_isa(isa, None).unwrap();
            let mut together = buffer(&vec![0.0; all.stored_rows() * out]);
            cpu.convolve(&buffer(&x), &kernel, &all, &mut together).unwrap();
            for ((place, window), rows) in all.iter().zip(&rows) {
                let own = &x[place * inner..(place + window.end) * inner];
                let mut alone = buffer(&vec![0.0; window.end * out]);
                cpu.convolve(&buffer(own), &kernel, &windows(&[*rows]), &mut alone).unwrap();
                assert_eq!(alone.0, together.0[place * out..(place + window.end) * out], "{isa}");
            }
        }
    }
}

#[test]
fn a_row_that_needs_rows_that_are_not_kept_is_refused() {
    let kernel = Plain.kernel(&weight(&[2, 2, 7], 1, false), &weight(&[2], 2, false), 1).unwrap();
    let (x, mut out) = (buffer(&[0.0; 40]), buffer(&[0.0; 40]));
    let error = Plain.convolve(&x, &kernel, &windows(&[(4, 9, 20)]), &mut out).unwrap_err();
    assert!(error.to_string().contains("row 9"), "{error}");
    assert!(Plain.convolve(&x, &kernel, &windows(&[(4, 10, 20)]), &mut out).is_ok());
}

#[test]
fn a_row_sees_no_more_than_the_sliding_window_and_nothing_later() {
    let shape = crate::tensor::AttentionShape { heads: 2, kv_heads: 1, head_dim: 4 };
    let (rows, sliding) = (9, 3);
    // No rotation: cosines of 1 and sines of 0.
    let table = Weight::from_f32(vec![rows, 4], [1.0, 1.0, 0.0, 0.0].repeat(rows)).unwrap();
    let table = Plain.vector(&table).unwrap();
    let run = |values: &[f32]| {
        let mut out = buffer(&vec![0.0; rows * shape.query_width()]);
        let own = windows(&[(0, 0, rows)]);
        Plain.window_attention(&mut buffer(values), &table, shape, sliding, &own, &mut out).unwrap();
        out.0
    };
    let before = values(rows * shape.qkv_width(), 1);
    let mut changed = before.clone();
    changed[4 * shape.qkv_width()..5 * shape.qkv_width()].fill(5.0);
    let (before, after) = (run(&before), run(&changed));
    let width = shape.query_width();
    let differs: Vec<usize> =
        (0..rows).filter(|row| before[row * width..][..width] != after[row * width..][..width]).collect();
    assert_eq!(differs, [4, 5, 6]);
}

#[test]
fn embeddings_are_summed_into_the_named_rows() {
    let table =
        Plain.matrix(vec![Weight::from_f32(vec![2, 2], vec![1.0, 2.0, 10.0, 20.0]).unwrap()]).unwrap();
    let mut out = buffer(&[0.5; 6]);
    Plain.add_embeddings(&[&table, &table], &[0, 1, 1, 1], &[2, 0], 0.5, &mut out).unwrap();
    assert_eq!(out.0, [10.5, 20.5, 0.5, 0.5, 6.0, 11.5]);
    let error = Plain.add_embeddings(&[&table], &[2], &[0], 1.0, &mut out).unwrap_err();
    assert_eq!(error.reason(), "invalid_batch");
}
