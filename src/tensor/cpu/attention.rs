//! Causal attention over the paged cache.
//!
//! A row's result depends on its own queries and keys alone: scores are sums as in [`dot`], exponentials are summed lane by
//! lane from position 0, and values are added in order of position. Rows of one sequence that follow each other are worked
//! on together, so that a block of keys is read once for all of them; what is computed for each stays the same.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::slice;

use super::isa::Isa;
use super::matmul::Output;
use super::memory::{CpuBatch, CpuCache, Visible};
use super::pool::Pool;
use super::simd::{Kernel, Simd, dispatch, exp};
use crate::tensor::AttentionShape;
use crate::tensor::batch::BLOCK_SIZE;

/// Multiplications below which a step's attention stays on the calling thread.
const SERIAL: usize = 1 << 15;
/// Rows of a task in a step in which a sequence has several.
const TASK_ROWS: usize = 8;
/// Queries that are worked on at once.
const QUERIES: usize = 2;
/// Keys of a tile of scores.
const KEYS: usize = 4;
/// Vectors of a tile of gathered values.
const VECTORS: usize = 4;

/// Attention of all rows of a step in one layer. The caller has checked all extents.
#[allow(clippy::too_many_arguments)]
pub(super) fn attend(
    pool: &Pool,
    isa: Isa,
    qkv: &[f32],
    batch: &CpuBatch,
    shape: AttentionShape,
    layer: usize,
    cache: &CpuCache,
    out: &mut [f32],
) {
    let rows = batch.rows();
    let keys: usize = batch.visible.iter().map(|visible| visible.keys as usize).sum();
    let alone = batch.visible.windows(2).all(|rows| rows[0].first_block != rows[1].first_block);
    let task_rows = if alone { 1 } else { TASK_ROWS };
    let out = Output { start: out.as_mut_ptr(), stride: shape.query_width() };
    let task = |index: usize| {
        let (first, kv_head) = (index / shape.kv_heads * task_rows, index % shape.kv_heads);
        let mut row = first;
        for visible in batch.visible[first..rows.min(first + task_rows)]
            .chunk_by(|one, next| one.first_block == next.first_block)
        {
            dispatch(isa, HeadGroup { qkv, shape, batch, row, visible, kv_head, layer, cache, out });
            row += visible.len();
        }
    };
    let tasks = rows.div_ceil(task_rows) * shape.kv_heads;
    if keys * shape.query_width() < SERIAL {
        (0..tasks).for_each(task);
    } else {
        pool.divide(tasks, |range| range.for_each(task));
    }
}

/// The query heads that share a key-value head, of some rows of a sequence.
struct HeadGroup<'a> {
    /// All rows of the step.
    qkv: &'a [f32],
    /// The heads.
    shape: AttentionShape,
    /// The step.
    batch: &'a CpuBatch,
    /// The first row.
    row: usize,
    /// What each row sees: one key more than the row before.
    visible: &'a [Visible],
    /// The key-value head.
    kv_head: usize,
    /// The layer.
    layer: usize,
    /// Keys and values.
    cache: &'a CpuCache,
    /// `[rows, heads * head_dim]`, of which no other task has these rows and heads.
    out: Output,
}

thread_local! {
    /// Scores of a head group, kept so that a step allocates nothing.
    static SCORES: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl HeadGroup<'_> {
    /// Query heads of a row.
    #[inline(always)]
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Queries of all rows.
    #[inline(always)]
    fn queries(&self) -> usize {
        self.visible.len() * self.group()
    }

    /// A query.
    #[inline(always)]
    fn query(&self, index: usize) -> &[f32] {
        let (row, head) =
            (self.row + index / self.group(), self.kv_head * self.group() + index % self.group());
        &self.qkv[row * self.shape.qkv_width() + head * self.shape.head_dim..][..self.shape.head_dim]
    }

    /// Keys that a query sees.
    #[inline(always)]
    fn keys(&self, index: usize) -> usize {
        self.visible[index / self.group()].keys as usize
    }

    /// Where the values that a query gathers go, `[head_dim]`.
    #[inline(always)]
    fn place(&self, index: usize) -> *mut f32 {
        let (row, head) =
            (self.row + index / self.group(), self.kv_head * self.group() + index % self.group());
        // The caller of `attend` has checked that the output holds every row.
        self.out.start.wrapping_add(row * self.out.stride + head * self.shape.head_dim)
    }
}

impl Kernel for HeadGroup<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.shape.head_dim;
        let Some(last) = self.visible.last() else { return };
        let blocks = (last.keys as usize).div_ceil(BLOCK_SIZE);
        let blocks = &self.batch.blocks[last.first_block as usize..][..blocks];
        let scale = (width as f32).powf(-0.5);
        let (stored_keys, stored_values) = (&self.cache.keys[self.layer], &self.cache.values[self.layer]);
        // Scores of a query are padded to whole blocks, so that they can be handled as whole vectors.
        let padded = blocks.len() * BLOCK_SIZE;
        let mut scores = SCORES.take();
        if scores.len() < self.queries() * padded {
            scores.resize(self.queries() * padded, 0.0);
        }
        let block_of = |stored: &[f32], block: u32| -> *const f32 {
            let at = self.cache.offset(block as usize, self.kv_head);
            stored[at..at + BLOCK_SIZE * width].as_ptr()
        };
        // SAFETY: blocks hold `BLOCK_SIZE` rows of `width`, queries and places have `width` elements, and the scores of a
        // query have room for all blocks; the caller vouches for the instruction set.
        unsafe {
            for (index, block) in blocks.iter().enumerate() {
                let keys = block_of(stored_keys, *block);
                let mut first = 0;
                while first < self.queries() {
                    let to = scores.as_mut_ptr().add(first * padded + index * BLOCK_SIZE);
                    if first + QUERIES <= self.queries() {
                        let queries = std::array::from_fn(|query| self.query(first + query).as_ptr());
                        score_block::<S, QUERIES>(queries, keys, width, scale, to, padded);
                    } else {
                        score_block::<S, 1>([self.query(first).as_ptr()], keys, width, scale, to, padded);
                    }
                    first += QUERIES;
                }
            }
            for (index, scores) in scores.chunks_exact_mut(padded).take(self.queries()).enumerate() {
                let keys = self.keys(index);
                let sum = exponentials::<S>(scores, keys);
                scores[..keys].iter_mut().for_each(|score| *score /= sum);
                slice::from_raw_parts_mut(self.place(index), width).fill(0.0);
            }
            for (index, block) in blocks.iter().enumerate() {
                let values = block_of(stored_values, *block);
                let seen = |query: usize| self.keys(query).saturating_sub(index * BLOCK_SIZE).min(BLOCK_SIZE);
                let mut first = 0;
                while first < self.queries() {
                    let weights = scores.as_ptr().add(first * padded + index * BLOCK_SIZE);
                    // A query gathers nothing of what it does not see, not even zero times.
                    if first + QUERIES <= self.queries() && seen(first) == seen(first + QUERIES - 1) {
                        let places = std::array::from_fn(|query| self.place(first + query));
                        gather_block::<S, QUERIES>(weights, padded, seen(first), values, width, places);
                        first += QUERIES;
                    } else {
                        gather_block::<S, 1>(
                            weights,
                            padded,
                            seen(first),
                            values,
                            width,
                            [self.place(first)],
                        );
                        first += 1;
                    }
                }
            }
        }
        SCORES.set(scores);
    }
}

/// The scores of `M` queries with the keys of a block; those of a query go to `to` and `padded` further on.
#[inline(always)]
unsafe fn score_block<S: Simd, const M: usize>(
    queries: [*const f32; M],
    keys: *const f32,
    width: usize,
    scale: f32,
    to: *mut f32,
    padded: usize,
) {
    const { assert!(BLOCK_SIZE.is_multiple_of(KEYS)) };
    // SAFETY: queries have `width` elements, the block `BLOCK_SIZE` keys of as many; the caller vouches for the rest.
    unsafe {
        for first in (0..BLOCK_SIZE).step_by(KEYS) {
            let products = dots::<S, M, KEYS>(queries, keys.add(first * width), width);
            for (query, products) in products.into_iter().enumerate() {
                for (key, product) in S::four_sums(products).into_iter().enumerate() {
                    *to.add(query * padded + first + key) = product * scale;
                }
            }
        }
    }
}

/// The products of `M` queries and `N` keys, before their lanes are summed: lane `l` adds up those at `l, l + LANES, …`.
#[inline(always)]
unsafe fn dots<S: Simd, const M: usize, const N: usize>(
    queries: [*const f32; M],
    keys: *const f32,
    width: usize,
) -> [[S::Vector; N]; M] {
    let (whole, rest) = (width / S::LANES * S::LANES, width % S::LANES);
    // SAFETY: queries and keys have `width` elements; the caller vouches for the instruction set.
    unsafe {
        let mut sums = [[S::splat(0.0); N]; M];
        for at in (0..whole).step_by(S::LANES) {
            let keys: [S::Vector; N] = std::array::from_fn(|n| S::load(keys.add(n * width + at)));
            for (query, sums) in queries.iter().zip(sums.iter_mut()) {
                let query = S::load(query.add(at));
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = S::mul_add(query, key, *sum);
                }
            }
        }
        if rest > 0 {
            for (query, sums) in queries.iter().zip(sums.iter_mut()) {
                let query = S::load_part(query.add(whole), rest);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = S::mul_add(query, S::load_part(keys.add(n * width + whole), rest), *sum);
                }
            }
        }
        sums
    }
}

/// Replaces the first `keys` scores by the exponentials of what they are above the largest, all others by 0, and gives
/// their sum.
#[inline(always)]
unsafe fn exponentials<S: Simd>(scores: &mut [f32], keys: usize) -> f32 {
    const { assert!(BLOCK_SIZE.is_multiple_of(16)) };
    scores[keys..].fill(f32::NEG_INFINITY);
    let end = keys.next_multiple_of(BLOCK_SIZE);
    // SAFETY: a chunk is one vector; the caller vouches for the instruction set.
    unsafe {
        let mut largest = S::splat(f32::NEG_INFINITY);
        for scores in scores[..end].chunks_exact(S::LANES) {
            largest = S::max(S::load(scores.as_ptr()), largest);
        }
        let mut lanes = [f32::NEG_INFINITY; 16];
        S::store(lanes.as_mut_ptr(), largest);
        let largest = S::splat(lanes.into_iter().fold(f32::NEG_INFINITY, f32::max));
        for scores in scores[..end].chunks_exact_mut(S::LANES) {
            S::store(scores.as_mut_ptr(), exp::<S>(S::sub(S::load(scores.as_ptr()), largest)));
        }
        scores[keys..].fill(0.0);
        let mut sum = S::splat(0.0);
        for scores in scores[..end].chunks_exact(S::LANES) {
            sum = S::add(sum, S::load(scores.as_ptr()));
        }
        S::sum(sum)
    }
}

/// Adds the first `seen` values of a block, `[_, width]`, to what `M` queries gathered, in order and times their weights;
/// those of a query begin at `weights` and `padded` further on.
#[inline(always)]
unsafe fn gather_block<S: Simd, const M: usize>(
    weights: *const f32,
    padded: usize,
    seen: usize,
    values: *const f32,
    width: usize,
    places: [*mut f32; M],
) {
    let tile = VECTORS * S::LANES;
    let (tiled, whole, rest) = (width / tile * tile, width / S::LANES * S::LANES, width % S::LANES);
    // SAFETY: the block holds `seen` values of `width` elements, and so many has each place; the caller vouches for the rest.
    unsafe {
        for at in (0..tiled).step_by(tile) {
            gather::<S, M, VECTORS>(
                weights,
                padded,
                seen,
                values.add(at),
                width,
                places.map(|place| place.add(at)),
            );
        }
        for at in (tiled..whole).step_by(S::LANES) {
            gather::<S, M, 1>(
                weights,
                padded,
                seen,
                values.add(at),
                width,
                places.map(|place| place.add(at)),
            );
        }
        if rest > 0 {
            for (query, place) in places.into_iter().enumerate() {
                let mut sum = S::load_part(place.add(whole), rest);
                for key in 0..seen {
                    let weight = S::splat(*weights.add(query * padded + key));
                    sum = S::mul_add(weight, S::load_part(values.add(key * width + whole), rest), sum);
                }
                S::store_part(place.add(whole), rest, sum);
            }
        }
    }
}

/// [`gather_block`] for `V` vectors.
#[inline(always)]
unsafe fn gather<S: Simd, const M: usize, const V: usize>(
    weights: *const f32,
    padded: usize,
    seen: usize,
    values: *const f32,
    width: usize,
    places: [*mut f32; M],
) {
    // SAFETY: as for `gather_block`.
    unsafe {
        let mut sums: [[S::Vector; V]; M] =
            places.map(|place| std::array::from_fn(|v| S::load(place.add(v * S::LANES))));
        for key in 0..seen {
            let values: [S::Vector; V] =
                std::array::from_fn(|v| S::load(values.add(key * width + v * S::LANES)));
            for (query, sums) in sums.iter_mut().enumerate() {
                let weight = S::splat(*weights.add(query * padded + key));
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = S::mul_add(weight, value, *sum);
                }
            }
        }
        for (place, sums) in places.into_iter().zip(sums) {
            for (v, sum) in sums.into_iter().enumerate() {
                S::store(place.add(v * S::LANES), sum);
            }
        }
    }
}
