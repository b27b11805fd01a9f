//! Products on tiles: rows are packed, columns divided among threads.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ops::Range;
use std::slice;

use half::bf16;

use super::pack::{Pack, padded_rows, tile_height};
use super::task::Task;
use super::unit::TileUnit;
use super::{Line, STEP, TILE_COLUMNS, TILE_ROWS};
use crate::tensor::cpu::matmul::{Output, Product, SERIAL, Units};
use crate::tensor::cpu::pool::Pool;
use crate::tensor::cpu::simd::dispatch;

/// Columns that a thread takes at least.
const UNIT_COLUMNS: usize = 2 * TILE_COLUMNS;

/// Packed activations, a cache line at a time.
type Packed = Line<bf16, STEP>;

thread_local! {
    /// The packed activations, and where those of each product begin, in rows; kept so that a step allocates nothing.
    static PACKED: Cell<(Vec<Packed>, Vec<usize>)> = const { Cell::new((Vec::new(), Vec::new())) };
}

/// Carries out products whose weights are all bf16, as [`multiply`](crate::tensor::cpu::matmul::multiply) describes
/// them.
pub(in super::super) fn multiply<'a, U: TileUnit>(
    pool: &Pool,
    x: &[f32],
    count: usize,
    product: impl Fn(usize) -> Product<'a> + Sync,
    out: &mut [f32],
) {
    if count == 0 {
        return;
    }
    let shape = product(0).weight;
    let (inner, width) = (shape.inner, shape.out);
    let steps = inner.div_ceil(STEP);
    let (mut packed, mut starts) = PACKED.take();
    starts.clear();
    starts.push(0);
    let (mut rows, mut most) = (0, 0);
    for index in 0..count {
        let own = product(index).rows.len();
        rows += own;
        most = most.max(own);
        starts.push(starts[index] + padded_rows(own));
    }
    let lines = starts[count] * steps;
    if packed.len() < lines {
        packed.resize(lines, Line([bf16::ZERO; STEP]));
    }
    let parallel = rows * inner * width >= SERIAL;
    let activations = Activations { packed: packed.as_mut_ptr().cast(), starts: &starts, inner };

    let tiles = most.div_ceil(TILE_ROWS);
    let packing = |task: usize| activations.pack::<U>(x, product(task / tiles), task / tiles, task % tiles);
    if parallel && rows > TILE_ROWS {
        pool.divide(count * tiles, |range| range.for_each(packing));
    } else {
        (0..count * tiles).for_each(packing);
    }

    let units = Units::new(shape, count, UNIT_COLUMNS);
    let out = Output { start: out.as_mut_ptr(), stride: width };
    let work = |range: Range<usize>| {
        units.pieces(range, &product, |piece| {
            if let Some(task) = Task::new(&piece, activations, out) {
                // SAFETY: the caller runs this where the unit is; packed activations and outputs are there, and the
                // columns are this piece's alone.
                unsafe { task.run::<U>() };
            }
        });
    };
    if parallel {
        pool.divide(units.count(), work);
    } else {
        work(0..units.count());
    }
    PACKED.set((packed, starts));
}

/// Where packed activations lie.
#[derive(Clone, Copy)]
pub(super) struct Activations<'a> {
    /// The first one.
    packed: *mut bf16,
    /// Rows before each product's own, and after all.
    starts: &'a [usize],
    /// Inner width.
    pub(super) inner: usize,
}

// SAFETY: while they are packed every task writes a tile of its own; afterwards they are only read, until the one
// `multiply` that they belong to ends.
unsafe impl Send for Activations<'_> {}
// SAFETY: as above.
unsafe impl Sync for Activations<'_> {}

impl Activations<'_> {
    /// Values of a row, filled up to whole steps.
    fn row_values(&self) -> usize {
        self.inner.next_multiple_of(STEP)
    }

    /// The first value of a tile of product `index`.
    pub(super) fn tile(&self, index: usize, tile: usize) -> *mut bf16 {
        let row = self.starts[index] + tile * TILE_ROWS;
        // SAFETY: `multiply` made room for all rows.
        unsafe { self.packed.add(row * self.row_values()) }
    }

    /// Packs a tile, if the product has so many.
    fn pack<U: TileUnit>(&self, x: &[f32], product: Product<'_>, index: usize, tile: usize) {
        let count = product.rows.len();
        let first = tile * TILE_ROWS;
        if first >= count {
            return;
        }
        let height = tile_height(count);
        let mut rows = [&[][..]; TILE_ROWS];
        for (place, row) in rows.iter_mut().zip(first..count.min(first + height)) {
            *place = &x[product.rows.input(row) * self.inner..][..self.inner];
        }
        // SAFETY: the tile is there, and no other task has it.
        let tile = unsafe { slice::from_raw_parts_mut(self.tile(index, tile), height * self.row_values()) };
        dispatch(U::VECTORS, Pack { rows, height, tile });
    }
}
