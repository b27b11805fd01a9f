//! Matrix products `out = x · weightᵀ`, with weights as they lie in the file.
//!
//! Each output is one sum: lane `l` of a vector adds up the products at inner positions `l, l + LANES, …` in order,
//! and the lanes are added at the end, always in the same order. Tiles of rows and columns, packing and threads
//! decide only which sums are worked on together. So a row's results do not depend on the other rows.
#![allow(unsafe_code)]

use std::cell::Cell;

use half::bf16;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::isa::Isa;
use super::memory::CpuMatrix;
use super::simd::{Kernel, Simd, dispatch};
use crate::tensor::weights::{Element, Elements};

/// Columns of a tile: outputs that share the loads of a row.
const TILE_COLUMNS: usize = 4;
/// Columns of a tile where there is a single row.
const WIDE_COLUMNS: usize = 8;
/// From this many rows on, a block of the weight is widened and packed before use.
const PACK_ROWS: usize = 16;
/// Values of a packed block, which should stay in the second-level cache.
const PACKED_BLOCK: usize = 96 * 1024;
/// Columns of a task where nothing is packed.
const STORED_COLUMNS: usize = 64;
/// Inner positions that a row tile passes over before it turns to the next columns, so that its part of `x` stays
/// in the first-level cache.
const INNER_BLOCK: usize = 1024;
/// Multiplications below which a product stays on the calling thread.
pub(super) const SERIAL: usize = 1 << 16;

/// Which rows of the input are read and which rows of the output written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rows<'a> {
    /// The first rows, in and out.
    First(usize),
    /// Output row `pair`, input row `pair / divisor`, for each listed pair.
    Pairs {
        /// Output rows.
        pairs: &'a [u32],
        /// Pairs that share an input row.
        divisor: usize,
    },
}

impl Rows<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::First(count) => *count,
            Self::Pairs { pairs, .. } => pairs.len(),
        }
    }

    #[inline(always)]
    pub(super) fn input(&self, index: usize) -> usize {
        match self {
            Self::First(_) => index,
            Self::Pairs { pairs, divisor } => pairs[index] as usize / divisor,
        }
    }

    #[inline(always)]
    pub(super) fn output(&self, index: usize) -> usize {
        match self {
            Self::First(_) => index,
            Self::Pairs { pairs, .. } => pairs[index] as usize,
        }
    }
}

/// One matrix with the rows that it is multiplied with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product<'a> {
    /// The matrix.
    pub(super) weight: &'a CpuMatrix,
    /// The rows.
    pub(super) rows: Rows<'a>,
}

/// Carries out `count` products from one input `[_, inner]` into one output `[_, out]`; `product(i)` names them.
/// All matrices have the shape of the first. No output row may be named twice.
///
/// The caller has checked that `x` and `out` hold every row that is named.
pub(super) fn multiply<'a>(
    isa: Isa,
    x: &[f32],
    count: usize,
    product: impl Fn(usize) -> Product<'a> + Sync,
    out: &mut [f32],
) {
    if count == 0 {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx && (0..count).all(|index| product(index).weight.is_bf16()) {
        return amx::multiply::<amx::Instructions>(x, count, product, out);
    }
    let shape = product(0).weight;
    let (inner, width) = (shape.inner, shape.out);
    let rows: usize = (0..count).map(|index| product(index).rows.len()).sum();
    let columns = match rows / count >= PACK_ROWS {
        true => {
            (PACKED_BLOCK / inner.max(1)).clamp(2 * TILE_COLUMNS, STORED_COLUMNS) / TILE_COLUMNS
                * TILE_COLUMNS
        }
        false => STORED_COLUMNS,
    };
    let blocks: usize = shape.parts.iter().map(|part| part.shape[0].div_ceil(columns)).sum();
    let out = Output { start: out.as_mut_ptr(), stride: width };
    let task = |task: usize| {
        let product = product(task / blocks);
        if product.rows.len() > 0 {
            multiply_block(isa, x, inner, product, task % blocks, columns, out);
        }
    };
    let tasks = count * blocks;
    if rows * inner * width < SERIAL {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().for_each(task);
    }
}

/// Finds the part that a block of columns lies in and multiplies it.
fn multiply_block(
    isa: Isa,
    x: &[f32],
    inner: usize,
    product: Product<'_>,
    mut block: usize,
    columns: usize,
    out: Output,
) {
    let mut column = 0;
    for part in product.weight.parts.iter() {
        let part_columns = part.shape[0];
        let blocks = part_columns.div_ceil(columns);
        if block < blocks {
            let first = block * columns;
            let count = columns.min(part_columns - first);
            let range = first * inner..(first + count) * inner;
            let rows = product.rows;
            let out_column = column + first;
            match &part.data.0 {
                Elements::Bf16(values) => {
                    let weight = &values.as_slice()[range];
                    dispatch(isa, Block { x, inner, rows, weight, columns: count, out_column, out });
                }
                Elements::F32(values) => {
                    let weight = &values.as_slice()[range];
                    dispatch(isa, Block { x, inner, rows, weight, columns: count, out_column, out });
                }
            }
            return;
        }
        block -= blocks;
        column += part_columns;
    }
}

/// Where results go. Tasks write different elements.
#[derive(Clone, Copy)]
pub(super) struct Output {
    /// The first element of the output.
    pub(super) start: *mut f32,
    /// Its width.
    pub(super) stride: usize,
}

// SAFETY: the pointer is used only by the tasks of one `multiply`, which ends before the buffer's borrow does, and
// every task writes columns or rows that no other writes.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// An element type that vectors can be loaded from.
pub(super) trait Lanes: Element {
    /// Reads `S::LANES` elements.
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector;
    /// Reads `count < S::LANES` elements; the other lanes are 0.
    unsafe fn load_part<S: Simd>(from: *const Self, count: usize) -> S::Vector;
}

impl Lanes for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: the trait's condition is that of `Simd`.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(from: *const Self, count: usize) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::load_part(from, count) }
    }
}

impl Lanes for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: the trait's condition is that of `Simd`.
        unsafe { S::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(from: *const Self, count: usize) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::load_bf16_part(from, count) }
    }
}

/// All rows times a block of columns.
struct Block<'a, E> {
    /// The input, `[_, inner]`.
    x: &'a [f32],
    /// Inner width.
    inner: usize,
    /// The rows.
    rows: Rows<'a>,
    /// `[columns, inner]`.
    weight: &'a [E],
    /// Columns of the block.
    columns: usize,
    /// The output column of the first.
    out_column: usize,
    /// Where results go.
    out: Output,
}

/// Columns of a weight as a tile reads them.
trait Columns: Copy {
    /// Reads whole vector `step` of column `column`.
    unsafe fn load<S: Simd>(self, column: usize, step: usize) -> S::Vector;
    /// Reads the `count < S::LANES` elements that follow `step` whole vectors.
    unsafe fn load_part<S: Simd>(self, column: usize, step: usize, count: usize) -> S::Vector;
}

/// Columns where they are stored.
#[derive(Clone, Copy)]
struct Stored<E> {
    /// The first element of the first column.
    start: *const E,
    /// Elements from a column to the next.
    stride: usize,
}

impl<E: Lanes> Columns for Stored<E> {
    #[inline(always)]
    unsafe fn load<S: Simd>(self, column: usize, step: usize) -> S::Vector {
        // SAFETY: the caller names a column and step that exist.
        unsafe { E::load::<S>(self.start.add(column * self.stride + step * S::LANES)) }
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(self, column: usize, step: usize, count: usize) -> S::Vector {
        // SAFETY: as above.
        unsafe { E::load_part::<S>(self.start.add(column * self.stride + step * S::LANES), count) }
    }
}

/// `TILE_COLUMNS` columns, widened, vector beside vector; the last is filled up with zeros.
#[derive(Clone, Copy)]
struct Packed {
    /// The first element.
    start: *const f32,
}

impl Columns for Packed {
    #[inline(always)]
    unsafe fn load<S: Simd>(self, column: usize, step: usize) -> S::Vector {
        // SAFETY: the caller names a column and step that exist.
        unsafe { S::load(self.start.add((step * TILE_COLUMNS + column) * S::LANES)) }
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(self, column: usize, step: usize, _count: usize) -> S::Vector {
        // SAFETY: as above; the packed vector is whole.
        unsafe { self.load::<S>(column, step) }
    }
}

/// Adds `steps` vectors, and after them `rest` elements, of `M` rows and `N` columns to their sums.
#[inline(always)]
unsafe fn accumulate<S: Simd, C: Columns, const M: usize, const N: usize>(
    x: [*const f32; M],
    columns: C,
    steps: usize,
    rest: usize,
    sums: &mut [[S::Vector; N]; M],
) {
    // SAFETY: the caller's rows and columns have `steps * LANES + rest` elements.
    unsafe {
        for step in 0..steps {
            let mut weights = [S::splat(0.0); N];
            for (n, weight) in weights.iter_mut().enumerate() {
                *weight = columns.load::<S>(n, step);
            }
            for (x, sums) in x.iter().zip(sums.iter_mut()) {
                let value = S::load(x.add(step * S::LANES));
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = S::mul_add(value, weight, *sum);
                }
            }
        }
        if rest > 0 {
            for (x, sums) in x.iter().zip(sums.iter_mut()) {
                let value = S::load_part(x.add(steps * S::LANES), rest);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = S::mul_add(value, columns.load_part::<S>(n, steps, rest), *sum);
                }
            }
        }
    }
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

thread_local! {
    /// Packed columns and the sums between inner blocks; kept so that a step allocates nothing.
    static SCRATCH: Cell<(Vec<f32>, Vec<f32>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

impl<E: Lanes> Kernel for Block<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.columns / TILE_COLUMNS * TILE_COLUMNS;
        // SAFETY: the caller vouches for the instruction set; the block's fields describe memory that is there.
        unsafe {
            if self.rows.len() >= PACK_ROWS {
                self.run_packed::<S>(whole / TILE_COLUMNS);
            } else if self.rows.len() == 1 {
                // A single row leaves registers free: more columns at once keep more reads in flight.
                let wide = whole / WIDE_COLUMNS * WIDE_COLUMNS;
                for column in (0..wide).step_by(WIDE_COLUMNS) {
                    self.run_single::<S, WIDE_COLUMNS>(column);
                }
                for column in (wide..whole).step_by(TILE_COLUMNS) {
                    self.run_single::<S, TILE_COLUMNS>(column);
                }
            } else {
                for column in (0..whole).step_by(TILE_COLUMNS) {
                    self.run_stored::<S, TILE_COLUMNS>(column);
                }
            }
            for column in whole..self.columns {
                self.run_stored::<S, 1>(column);
            }
        }
    }
}

impl<E: Lanes> Block<'_, E> {
    /// Rows in tiles of nearly equal height: how many, and the height of the highest.
    #[inline(always)]
    fn row_tiles<S: Simd>(&self) -> (usize, usize) {
        let tiles = self.rows.len().div_ceil(S::TILE_ROWS);
        (tiles, self.rows.len().div_ceil(tiles))
    }

    /// Pointers to the input rows of a tile.
    #[inline(always)]
    unsafe fn inputs<const M: usize>(&self, first: usize) -> [*const f32; M] {
        // SAFETY: the caller of `multiply` has checked that `x` holds every row.
        std::array::from_fn(|m| unsafe { self.x.as_ptr().add(self.rows.input(first + m) * self.inner) })
    }

    /// Adds the lanes up and writes the results of a tile.
    #[inline(always)]
    unsafe fn finish<S: Simd, const M: usize, const N: usize>(
        &self,
        first_row: usize,
        column: usize,
        sums: &[[S::Vector; N]; M],
    ) {
        for (m, sums) in sums.iter().enumerate() {
            let place = self.rows.output(first_row + m) * self.out.stride + self.out_column + column;
            for (n, sum) in sums.iter().enumerate() {
                // SAFETY: the caller of `multiply` has checked that the output holds every row.
                unsafe { *self.out.start.add(place + n) = S::sum(*sum) };
            }
        }
    }

    /// `N` columns as stored, for the only row.
    #[inline(always)]
    unsafe fn run_single<S: Simd, const N: usize>(&self, column: usize) {
        let (steps, rest) = (self.inner / S::LANES, self.inner % S::LANES);
        // SAFETY: the row exists, and `column + N` columns do.
        unsafe {
            let columns = Stored { start: self.weight.as_ptr().add(column * self.inner), stride: self.inner };
            let mut sums = [[S::splat(0.0); N]; 1];
            accumulate::<S, _, 1, N>(self.inputs::<1>(0), columns, steps, rest, &mut sums);
            self.finish::<S, 1, N>(0, column, &sums);
        }
    }

    /// `N` columns as stored, for all rows.
    #[inline(always)]
    unsafe fn run_stored<S: Simd, const N: usize>(&self, column: usize) {
        // SAFETY: `column + N` columns exist.
        let columns =
            unsafe { Stored { start: self.weight.as_ptr().add(column * self.inner), stride: self.inner } };
        let (steps, rest) = (self.inner / S::LANES, self.inner % S::LANES);
        let (_, height) = self.row_tiles::<S>();
        let mut first = 0;
        while first < self.rows.len() {
            let rows = height.min(self.rows.len() - first);
            with_rows!(rows, M => {
                // SAFETY: the tile's rows and columns exist.
                unsafe {
                    let mut sums = [[S::splat(0.0); N]; M];
                    accumulate::<S, _, M, N>(self.inputs::<M>(first), columns, steps, rest, &mut sums);
                    self.finish::<S, M, N>(first, column, &sums);
                }
            });
            first += rows;
        }
    }

    /// The first `tiles` column tiles, packed, for all rows.
    #[inline(always)]
    unsafe fn run_packed<S: Simd>(&self, tiles: usize) {
        let vectors = self.inner.div_ceil(S::LANES);
        let tile_size = vectors * TILE_COLUMNS * S::LANES;
        let (mut packed, mut kept) = SCRATCH.take();
        if packed.len() < tiles * tile_size {
            packed.resize(tiles * tile_size, 0.0);
        }
        let kept_size = S::TILE_ROWS * TILE_COLUMNS * S::LANES;
        if kept.len() < tiles * kept_size {
            kept.resize(tiles * kept_size, 0.0);
        }
        let (_, height) = self.row_tiles::<S>();
        // SAFETY: both vectors were just made large enough; rows and columns exist.
        unsafe {
            for tile in 0..tiles {
                self.pack::<S>(tile * TILE_COLUMNS, packed.as_mut_ptr().add(tile * tile_size));
            }
            let mut first = 0;
            while first < self.rows.len() {
                let rows = height.min(self.rows.len() - first);
                with_rows!(rows, M => self.run_row_tile::<S, M>(
                    first, tiles, packed.as_ptr(), tile_size, kept.as_mut_ptr(), kept_size,
                ));
                first += rows;
            }
        }
        SCRATCH.set((packed, kept));
    }

    /// Widens and packs one column tile.
    #[inline(always)]
    unsafe fn pack<S: Simd>(&self, column: usize, to: *mut f32) {
        let (steps, rest) = (self.inner / S::LANES, self.inner % S::LANES);
        // SAFETY: the tile's columns exist, and `to` has room for them.
        unsafe {
            let stored = Stored { start: self.weight.as_ptr().add(column * self.inner), stride: self.inner };
            for n in 0..TILE_COLUMNS {
                for step in 0..steps {
                    S::store(to.add((step * TILE_COLUMNS + n) * S::LANES), stored.load::<S>(n, step));
                }
                if rest > 0 {
                    let last = stored.load_part::<S>(n, steps, rest);
                    S::store(to.add((steps * TILE_COLUMNS + n) * S::LANES), last);
                }
            }
        }
    }

    /// One row tile over all packed column tiles, one inner block after the other. Between inner blocks the sums
    /// are kept as whole vectors, which changes nothing in them.
    #[inline(always)]
    unsafe fn run_row_tile<S: Simd, const M: usize>(
        &self,
        first: usize,
        tiles: usize,
        packed: *const f32,
        tile_size: usize,
        kept: *mut f32,
        kept_size: usize,
    ) {
        // SAFETY: as for `run_packed`, whose buffers these are.
        unsafe {
            let x = self.inputs::<M>(first);
            let mut begin = 0;
            while begin < self.inner {
                let end = self.inner.min(begin + INNER_BLOCK);
                let (steps, rest) = ((end - begin) / S::LANES, (end - begin) % S::LANES);
                for tile in 0..tiles {
                    let kept = kept.add(tile * kept_size);
                    let mut sums = [[S::splat(0.0); TILE_COLUMNS]; M];
                    if begin > 0 {
                        for (index, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
                            *sum = S::load(kept.add(index * S::LANES));
                        }
                    }
                    let columns = Packed { start: packed.add(tile * tile_size + begin * TILE_COLUMNS) };
                    accumulate::<S, _, M, TILE_COLUMNS>(
                        x.map(|x| x.add(begin)),
                        columns,
                        steps,
                        rest,
                        &mut sums,
                    );
                    if end < self.inner {
                        for (index, sum) in sums.as_flattened().iter().enumerate() {
                            S::store(kept.add(index * S::LANES), *sum);
                        }
                    } else {
                        self.finish::<S, M, TILE_COLUMNS>(first, tile * TILE_COLUMNS, &sums);
                    }
                }
                begin = end;
            }
        }
    }
}
