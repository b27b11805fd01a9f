//! Causal attention over the paged cache.
//!
//! A row's result depends on its own queries and keys alone: scores are sums as in a matrix product, their maximum
//! and sum are taken in order of position, and values are added in order of position.
#![allow(unsafe_code)]

use std::cell::Cell;

use rayon::prelude::*;

use super::isa::Isa;
use super::memory::{CpuBatch, CpuCache};
use super::simd::{Kernel, Simd, dispatch, exp};
use crate::tensor::AttentionShape;
use crate::tensor::batch::BLOCK_SIZE;

/// Multiplications below which a step's attention stays on the calling thread.
const SERIAL: usize = 1 << 15;

/// Attention of all rows of a step in one layer. The caller has checked all extents.
pub(super) fn attend(
    isa: Isa,
    qkv: &[f32],
    batch: &CpuBatch,
    shape: AttentionShape,
    layer: usize,
    cache: &CpuCache,
    out: &mut [f32],
) {
    let group = shape.heads / shape.kv_heads;
    let width = group * shape.head_dim;
    let rows = batch.rows();
    let keys: usize = batch.visible.iter().map(|visible| visible.keys as usize).sum();
    // One task for each row and key-value head: its output is contiguous.
    let task = |(index, out): (usize, &mut [f32])| {
        let (row, kv_head) = (index / shape.kv_heads, index % shape.kv_heads);
        let queries = &qkv[row * shape.qkv_width() + kv_head * width..][..width];
        dispatch(isa, HeadGroup { queries, batch, row, kv_head, layer, cache, out });
    };
    let out = &mut out[..rows * shape.query_width()];
    if keys * shape.query_width() < SERIAL {
        out.chunks_exact_mut(width).enumerate().for_each(task);
    } else {
        out.par_chunks_exact_mut(width).enumerate().for_each(task);
    }
}

/// The query heads of one row that share a key-value head.
struct HeadGroup<'a> {
    /// Their queries, `[group, head_dim]`.
    queries: &'a [f32],
    /// The step.
    batch: &'a CpuBatch,
    /// The row.
    row: usize,
    /// The key-value head.
    kv_head: usize,
    /// The layer.
    layer: usize,
    /// Keys and values.
    cache: &'a CpuCache,
    /// `[group, head_dim]`.
    out: &'a mut [f32],
}

thread_local! {
    /// Scores of a head group, kept so that a step allocates nothing.
    static SCORES: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl Kernel for HeadGroup<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let head_dim = self.cache.shape.head_dim;
        let visible = self.batch.visible[self.row];
        let keys = visible.keys as usize;
        let blocks = &self.batch.blocks[visible.first_block as usize..][..keys.div_ceil(BLOCK_SIZE)];
        let group = self.queries.len() / head_dim;
        let scale = (head_dim as f32).powf(-0.5);
        let stored_keys = &self.cache.keys[self.layer];
        let stored_values = &self.cache.values[self.layer];
        // Scores of a head are padded to whole blocks, so that they can be handled as whole vectors.
        let padded = blocks.len() * BLOCK_SIZE;
        let mut scores = SCORES.take();
        scores.clear();
        scores.resize(group * padded, f32::NEG_INFINITY);
        for (index, block) in blocks.iter().enumerate() {
            let count = BLOCK_SIZE.min(keys - index * BLOCK_SIZE);
            let at = self.cache.offset(*block as usize, self.kv_head);
            let block_keys = &stored_keys[at..at + BLOCK_SIZE * head_dim];
            for (place, key) in block_keys.chunks_exact(head_dim).take(count).enumerate() {
                for (head, query) in self.queries.chunks_exact(head_dim).enumerate() {
                    // SAFETY: the caller vouches for the instruction set.
                    let product = unsafe { dot::<S>(query, key) };
                    scores[head * padded + index * BLOCK_SIZE + place] = product * scale;
                }
            }
        }
        for scores in scores.chunks_exact_mut(padded) {
            // SAFETY: the caller vouches for the instruction set.
            unsafe { softmax::<S>(scores, keys) };
        }
        self.out.fill(0.0);
        for (index, block) in blocks.iter().enumerate() {
            let count = BLOCK_SIZE.min(keys - index * BLOCK_SIZE);
            let at = self.cache.offset(*block as usize, self.kv_head);
            let values = &stored_values[at..at + BLOCK_SIZE * head_dim];
            for (head, out) in self.out.chunks_exact_mut(head_dim).enumerate() {
                let weights = &scores[head * padded + index * BLOCK_SIZE..][..count];
                // SAFETY: the caller vouches for the instruction set.
                unsafe { add_weighted::<S>(weights, values, out) };
            }
        }
        SCORES.set(scores);
    }
}

/// The scalar product of two rows of equal length.
#[inline(always)]
unsafe fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let length = a.len().min(b.len());
    let (whole, rest) = (length / S::LANES * S::LANES, length % S::LANES);
    // SAFETY: both rows have `length` elements; the caller vouches for the instruction set.
    unsafe {
        let mut sum = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            sum = S::mul_add(S::load(a.as_ptr().add(at)), S::load(b.as_ptr().add(at)), sum);
        }
        if rest > 0 {
            let last = S::load_part(a.as_ptr().add(whole), rest);
            sum = S::mul_add(last, S::load_part(b.as_ptr().add(whole), rest), sum);
        }
        S::sum(sum)
    }
}

/// Softmax of the first `keys` scores. The scores behind them, up to a whole block, are minus infinity.
#[inline(always)]
unsafe fn softmax<S: Simd>(scores: &mut [f32], keys: usize) {
    const { assert!(BLOCK_SIZE.is_multiple_of(16)) };
    let largest = scores[..keys].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for scores in scores.chunks_exact_mut(S::LANES) {
        // SAFETY: a chunk is one vector; the caller vouches for the instruction set.
        unsafe {
            let shifted = S::sub(S::load(scores.as_ptr()), S::splat(largest));
            S::store(scores.as_mut_ptr(), exp::<S>(shifted));
        }
    }
    let sum: f32 = scores[..keys].iter().sum();
    for score in &mut scores[..keys] {
        *score /= sum;
    }
}

/// `out += Σ weight * value` over the values of a block, `[_, head_dim]`, in order.
#[inline(always)]
unsafe fn add_weighted<S: Simd>(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let width = out.len();
    let (whole, rest) = (width / S::LANES * S::LANES, width % S::LANES);
    // SAFETY: `values` holds a row of `width` for every weight; the caller vouches for the instruction set.
    unsafe {
        for at in (0..whole).step_by(S::LANES) {
            let mut sum = S::load(out.as_ptr().add(at));
            for (weight, value) in weights.iter().zip(values.chunks_exact(width)) {
                sum = S::mul_add(S::splat(*weight), S::load(value.as_ptr().add(at)), sum);
            }
            S::store(out.as_mut_ptr().add(at), sum);
        }
        if rest > 0 {
            let mut sum = S::load_part(out.as_ptr().add(whole), rest);
            for (weight, value) in weights.iter().zip(values.chunks_exact(width)) {
                sum = S::mul_add(S::splat(*weight), S::load_part(value.as_ptr().add(whole), rest), sum);
            }
            S::store_part(out.as_mut_ptr().add(whole), rest, sum);
        }
    }
}
