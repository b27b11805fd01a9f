//! All rows of a product times a block of columns, a tile of sums in registers at a time.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::hint;
use std::ops::Range;

use super::inputs::tile_height;
use super::{Lanes, Output, Rows};
use crate::tensor::cpu::simd::{Kernel, Simd};

/// Columns of a tile where there is a single row.
const SINGLE_COLUMNS: usize = 8;
/// Inner positions after which other tiles come, where there are several: so many positions of what they share stay in the
/// first-level cache.
const INNER_BLOCK: usize = 1024;
/// Bytes of the weights of a panel: columns that all rows are multiplied with before the next. They stay in the
/// second-level cache meanwhile.
const PANEL_BYTES: usize = 192 << 10;

/// Tiles of rows up to which every column is done with before the next.
const FEW_TILES: usize = 4;

thread_local! {
    /// Sums between inner blocks; kept so that a step allocates nothing.
    static KEPT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// All rows times a block of columns.
pub(super) struct Block<'a, E> {
    /// The rows as [`Inputs`](super::inputs::Inputs) lays them out.
    pub(super) x: &'a [f32],
    /// Inner width.
    pub(super) inner: usize,
    /// The rows.
    pub(super) rows: Rows<'a>,
    /// `[columns, inner]`.
    pub(super) weight: &'a [E],
    /// Columns of the block.
    pub(super) columns: usize,
    /// The output column of the first.
    pub(super) out_column: usize,
    /// Where results go.
    pub(super) out: Output,
}

/// Calls `$call::<.., M>` for a number of rows that is known only at run time.
macro_rules! with_rows {
    ($rows:expr, $m:ident => $call:expr) => {
        match $rows {
            1 => {
                const $m: usize = 1;
                $call
            }
            2 => {
                const $m: usize = 2;
                $call
            }
            3 => {
                const $m: usize = 3;
                $call
            }
            4 => {
                const $m: usize = 4;
                $call
            }
            5 => {
                const $m: usize = 5;
                $call
            }
            _ => {
                const $m: usize = 6;
                $call
            }
        }
    };
}

impl<E: Lanes> Kernel for Block<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rows = self.rows.len();
        let mut kept = KEPT.take();
        // SAFETY: the caller vouches for the instruction set; the block's fields describe memory that is there.
        unsafe {
            match (S::TILE_COLUMNS, rows.div_ceil(tile_height::<S>(rows)) <= FEW_TILES) {
                _ if rows == 1 => self.columns::<S, SINGLE_COLUMNS>(&mut kept),
                (3, true) => self.columns::<S, 3>(&mut kept),
                (3, false) => self.panels::<S, 3>(&mut kept),
                (_, true) => self.columns::<S, 4>(&mut kept),
                (_, false) => self.panels::<S, 4>(&mut kept),
            }
        }
        KEPT.set(kept);
    }
}

/// Columns of a tile.
#[derive(Clone, Copy)]
struct Columns {
    /// The first.
    first: usize,
    /// From each to the next.
    distance: usize,
}

impl<E: Lanes> Block<'_, E> {
    /// All columns, `N` at a time, each time for all rows: for so few rows that reading the weights takes long.
    ///
    /// The columns of a tile lie a share of them all apart, so that the weights are read as `N` strands from end to end:
    /// the processor sees where each leads and fetches it ahead, and memory gives more than to a single strand.
    #[inline(always)]
    unsafe fn columns<S: Simd, const N: usize>(&self, kept: &mut Vec<f32>) {
        let distance = self.columns / N;
        // SAFETY: the columns exist; the caller vouches for the instruction set.
        unsafe {
            for first in 0..distance {
                self.row_tiles::<S, N>(Columns { first, distance }, kept);
            }
            for first in distance * N..self.columns {
                self.row_tiles::<S, 1>(Columns { first, distance: 0 }, kept);
            }
        }
    }

    /// `N` columns for all rows, one inner block after the other, so that the columns' part of it stays in the first-level
    /// cache. Between inner blocks the sums are kept as whole vectors, which changes nothing in them.
    #[inline(always)]
    unsafe fn row_tiles<S: Simd, const N: usize>(&self, columns: Columns, kept: &mut Vec<f32>) {
        let rows = self.rows.len();
        let height = tile_height::<S>(rows);
        // One tile keeps its sums in registers to the end.
        let block = if height == rows { self.inner.max(1) } else { INNER_BLOCK };
        make_room(kept, rows * N * S::LANES);
        let mut begin = 0;
        loop {
            let end = self.inner.min(begin + block);
            for row in (0..rows).step_by(height) {
                let kept = kept.as_mut_ptr().wrapping_add(row * N * S::LANES);
                with_rows!(height.min(rows - row), M => {
                    // SAFETY: the tile's rows and columns exist, and so does its part of `kept`.
                    unsafe { self.tile::<S, M, N>(row, columns, begin..end, kept) }
                });
            }
            begin = end;
            if begin >= self.inner {
                break;
            }
        }
    }

    /// Panels of columns, each for one tile of rows after the other: for so many rows that computing takes long.
    #[inline(always)]
    unsafe fn panels<S: Simd, const N: usize>(&self, kept: &mut Vec<f32>) {
        let rows = self.rows.len();
        let height = tile_height::<S>(rows);
        let columns = (PANEL_BYTES / (self.inner * size_of::<E>()).max(1)).max(1).next_multiple_of(N);
        make_room(kept, height * columns * S::LANES);
        for first in (0..self.columns).step_by(columns) {
            let columns = first..self.columns.min(first + columns);
            for row in (0..rows).step_by(height) {
                with_rows!(height.min(rows - row), M => {
                    // SAFETY: rows and columns exist; the caller vouches for the instruction set.
                    unsafe { self.column_tiles::<S, M, N>(row, columns.clone(), kept.as_mut_ptr()) }
                });
            }
        }
    }

    /// Some columns, `N` at a time, for `M` rows, one inner block after the other, so that the rows' part of it stays in the
    /// first-level cache. The sums are kept as in [`row_tiles`](Self::row_tiles).
    #[inline(always)]
    unsafe fn column_tiles<S: Simd, const M: usize, const N: usize>(
        &self,
        row: usize,
        columns: Range<usize>,
        kept: *mut f32,
    ) {
        let distance = columns.len() / N;
        let mut begin = 0;
        loop {
            let end = self.inner.min(begin + INNER_BLOCK);
            let mut kept = kept;
            for first in columns.start..columns.start + distance {
                // SAFETY: the tile's rows and columns exist, and so does its part of `kept`.
                unsafe { self.tile::<S, M, N>(row, Columns { first, distance }, begin..end, kept) };
                kept = kept.wrapping_add(M * N * S::LANES);
            }
            for first in columns.start + distance * N..columns.end {
                // SAFETY: as above.
                unsafe { self.tile::<S, M, 1>(row, Columns { first, distance: 0 }, begin..end, kept) };
                kept = kept.wrapping_add(M * S::LANES);
            }
            begin = end;
            if begin >= self.inner {
                break;
            }
        }
    }

    /// Some inner positions of one tile.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const N: usize>(
        &self,
        row: usize,
        columns: Columns,
        inner: Range<usize>,
        kept: *mut f32,
    ) {
        let padded = self.inner.next_multiple_of(2 * S::LANES);
        let (begin, end) = (inner.start, inner.end);
        // SAFETY: the rows lie in `x` as tiles and the columns in the weight; `kept` has room for the tile's sums
        // where this is not the only block.
        unsafe {
            let mut sums = [[S::splat(0.0); N]; M];
            if begin > 0 {
                for (index, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
                    *sum = S::load(kept.add(index * S::LANES));
                }
            }
            let x = self.x.as_ptr().add(row * padded + begin * M);
            let weight = self.weight.as_ptr().add(columns.first * self.inner + begin);
            let stride = columns.distance * self.inner;
            let (steps, rest) = ((end - begin) / (2 * S::LANES), (end - begin) % (2 * S::LANES));
            accumulate::<S, E, M, N>(x, weight, stride, steps, &mut sums);
            if rest > 0 {
                let mut last = [[E::zeroed(); 32]; N];
                for (n, last) in last.iter_mut().enumerate() {
                    let from = weight.add(n * stride + steps * 2 * S::LANES);
                    std::ptr::copy_nonoverlapping(from, last.as_mut_ptr(), rest);
                }
                let x = x.add(steps * 2 * M * S::LANES);
                accumulate::<S, E, M, N>(x, last.as_ptr().cast(), 32, 1, &mut sums);
            }
            if end < self.inner {
                for (index, sum) in sums.as_flattened().iter().enumerate() {
                    S::store(kept.add(index * S::LANES), *sum);
                }
            } else {
                self.finish::<S, M, N>(row, columns, &sums);
            }
        }
    }

    /// Adds the lanes up and writes the results of a tile.
    #[inline(always)]
    unsafe fn finish<S: Simd, const M: usize, const N: usize>(
        &self,
        row: usize,
        columns: Columns,
        sums: &[[S::Vector; N]; M],
    ) {
        // SAFETY: the caller of `multiply` has checked that the output holds every row; the columns exist.
        unsafe {
            let write = |m: usize, n: usize, sum: f32| {
                let column = self.out_column + columns.first + n * columns.distance;
                *self.out.start.add(self.rows.output(row + m) * self.out.stride + column) = sum;
            };
            let sum = |index: usize| sums[index / N][index % N];
            let fours = M * N / 4 * 4;
            for first in (0..fours).step_by(4) {
                let four = S::four_sums(std::array::from_fn(|index| sum(first + index)));
                for (index, value) in (first..).zip(four) {
                    write(index / N, index % N, value);
                }
            }
            for index in fours..M * N {
                write(index / N, index % N, S::sum(sum(index)));
            }
        }
    }
}

/// Sees to it that there is room for so many values.
fn make_room(kept: &mut Vec<f32>, values: usize) {
    if kept.len() < values {
        kept.resize(values, 0.0);
    }
}

/// Adds `steps` steps of `M` rows, laid out as a tile, and `N` columns, `stride` elements apart, to their sums.
#[inline(always)]
unsafe fn accumulate<S: Simd, E: Lanes, const M: usize, const N: usize>(
    x: *const f32,
    weight: *const E,
    stride: usize,
    steps: usize,
    sums: &mut [[S::Vector; N]; M],
) {
    // Were it known that both vectors come of one load, what was loaded would be kept, and take the registers of sums.
    let again = hint::black_box(weight);
    // SAFETY: the caller's rows and columns have so many steps.
    unsafe {
        for step in 0..steps {
            let x = x.add(step * 2 * M * S::LANES);
            let at = step * 2 * S::LANES;
            let first: [S::Vector; N] =
                std::array::from_fn(|n| E::load_first::<S>(weight.add(at + n * stride)));
            add::<S, M, N>(x, first, sums);
            let second: [S::Vector; N] =
                std::array::from_fn(|n| E::load_second::<S>(again.add(at + n * stride)));
            add::<S, M, N>(x.add(M * S::LANES), second, sums);
        }
    }
}

/// Adds the products of one vector of each row with one of each column to their sums.
#[inline(always)]
unsafe fn add<S: Simd, const M: usize, const N: usize>(
    x: *const f32,
    weights: [S::Vector; N],
    sums: &mut [[S::Vector; N]; M],
) {
    // SAFETY: as for `accumulate`.
    unsafe {
        for (m, sums) in sums.iter_mut().enumerate() {
            let value = S::load(x.add(m * S::LANES));
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = S::mul_add(value, weight, *sum);
            }
        }
    }
}
