//! A product cut into blocks of columns, one after the other over all rows.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::{ptr, slice};

use half::bf16;

use super::pack::{pack, padded_rows, tile_height};
use super::unit::{Sums, TileUnit, Tiles};
use super::{Line, STEP, TILE_COLUMNS, TILE_ROWS};
use crate::tensor::cpu::matmul::{Output, Product, SERIAL};
use crate::tensor::cpu::pool::Pool;
use crate::tensor::weights::Elements;

/// Columns of a task.
const TASK_COLUMNS: usize = 64;
/// Columns that are worked on together.
const BLOCK_COLUMNS: usize = 2 * TILE_COLUMNS;
/// Steps after which the next rows come, where there are many rows: weights of so many steps stay in the first-level
/// cache meanwhile.
const BLOCK_STEPS: usize = 16;

/// A tile of sums, aligned as tiles are stored.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct AlignedSums(Sums);

/// Packed activations, a cache line at a time.
type Packed = Line<bf16, STEP>;

thread_local! {
    /// The packed activations, and where those of each product begin, in rows; kept so that a step allocates nothing.
    static PACKED: Cell<(Vec<Packed>, Vec<usize>)> = const { Cell::new((Vec::new(), Vec::new())) };
    /// A task's sums, and weights that were copied to be filled up with zeros.
    static SCRATCH: Cell<(Vec<AlignedSums>, Vec<Packed>)> = const { Cell::new((Vec::new(), Vec::new())) };
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
    let packing = |task: usize| activations.pack(x, product(task / tiles), task / tiles, task % tiles);
    if parallel && rows > TILE_ROWS {
        pool.divide(count * tiles, |range| range.for_each(packing));
    } else {
        (0..count * tiles).for_each(packing);
    }

    let blocks: usize = shape.parts.iter().map(|part| part.shape[0].div_ceil(TASK_COLUMNS)).sum();
    let out = Output { start: out.as_mut_ptr(), stride: width };
    let task = |task: usize| {
        let (index, block) = (task / blocks, task % blocks);
        let product = product(index);
        if product.rows.len() > 0 {
            // SAFETY: the caller runs this where the unit is; packed activations and outputs are there.
            unsafe { Task::new(product, block, activations, index, out).run::<U>() };
        }
    };
    if parallel {
        pool.divide(count * blocks, |range| range.for_each(task));
    } else {
        (0..count * blocks).for_each(task);
    }
    PACKED.set((packed, starts));
}

/// Where packed activations lie.
#[derive(Clone, Copy)]
struct Activations<'a> {
    /// The first one.
    packed: *mut bf16,
    /// Rows before each product's own, and after all.
    starts: &'a [usize],
    /// Inner width.
    inner: usize,
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
    fn tile(&self, index: usize, tile: usize) -> *mut bf16 {
        let row = self.starts[index] + tile * TILE_ROWS;
        // SAFETY: `multiply` made room for all rows.
        unsafe { self.packed.add(row * self.row_values()) }
    }

    /// Packs a tile, if the product has so many.
    fn pack(&self, x: &[f32], product: Product<'_>, index: usize, tile: usize) {
        let rows = product.rows.len();
        let first = tile * TILE_ROWS;
        if first >= rows {
            return;
        }
        let height = tile_height(rows);
        let inputs = (first..rows.min(first + height)).map(|row| {
            let input = product.rows.input(row);
            &x[input * self.inner..][..self.inner]
        });
        // SAFETY: the tile is there, and no other task has it.
        let packed = unsafe { slice::from_raw_parts_mut(self.tile(index, tile), height * self.row_values()) };
        pack(inputs, height, packed);
    }
}

/// Some columns of one product, for all its rows.
struct Task<'a> {
    /// The columns' weights, `[columns, inner]`.
    weights: &'a [bf16],
    /// Columns.
    columns: usize,
    /// The output column of the first.
    out_column: usize,
    /// The product.
    product: Product<'a>,
    /// Its place among the products.
    index: usize,
    /// The packed activations of all products.
    activations: Activations<'a>,
    /// Where results go.
    out: Output,
}

impl<'a> Task<'a> {
    /// The columns of block `block` over all parts of the weight.
    fn new(
        product: Product<'a>,
        mut block: usize,
        activations: Activations<'a>,
        index: usize,
        out: Output,
    ) -> Self {
        let inner = activations.inner;
        let mut out_column = 0;
        let mut weights: &[bf16] = &[];
        for part in product.weight.parts.iter() {
            let columns = part.shape[0];
            let blocks = columns.div_ceil(TASK_COLUMNS);
            if block < blocks {
                let first = block * TASK_COLUMNS;
                let end = columns.min(first + TASK_COLUMNS);
                if let Elements::Bf16(values) = &part.data.0 {
                    weights = &values.as_slice()[first * inner..end * inner];
                }
                out_column += first;
                break;
            }
            block -= blocks;
            out_column += columns;
        }
        let columns = weights.len() / inner.max(1);
        Self { weights, columns, out_column, product, index, activations, out }
    }

    /// Carries it out.
    ///
    /// # Safety
    ///
    /// The processor must have the unit.
    unsafe fn run<U: TileUnit>(&self) {
        let rows = self.product.rows.len();
        let pairs = rows.div_ceil(2 * TILE_ROWS);
        let steps = self.activations.inner.div_ceil(STEP);
        // A single pair of tiles keeps its sums in registers to the end.
        let block_steps = if pairs == 1 { steps.max(1) } else { BLOCK_STEPS };
        let (mut sums, mut copied) = SCRATCH.take();
        sums.resize(4 * pairs, AlignedSums([0.0; _]));
        // SAFETY: this function's condition; the sums are there, aligned, and of this thread alone.
        unsafe {
            U::configure(tile_height(rows));
            for column in (0..self.columns).step_by(BLOCK_COLUMNS) {
                sums.fill(AlignedSums([0.0; _]));
                let columns = BLOCK_COLUMNS.min(self.columns - column);
                for first in (0..steps).step_by(block_steps) {
                    let block = block_steps.min(steps - first);
                    let (weights, stride) = self.block(column, columns, first, block, &mut copied);
                    for pair in 0..pairs {
                        let tile = 2 * pair;
                        let tiles = (rows - tile * TILE_ROWS).div_ceil(TILE_ROWS).min(2);
                        let height = tile_height(rows);
                        let activations = [tile, tile + tiles - 1].map(|tile| {
                            self.activations.tile(self.index, tile).add(first * STEP * height).cast_const()
                        });
                        U::multiply(Tiles {
                            weights: [
                                weights,
                                weights.add((columns - 1) / TILE_COLUMNS * TILE_COLUMNS * stride),
                            ],
                            stride,
                            activations,
                            height,
                            columns: columns.div_ceil(TILE_COLUMNS),
                            rows: tiles,
                            steps: block,
                            sums: sums.as_mut_ptr().add(4 * pair).cast(),
                        });
                    }
                }
                self.store(column, columns, &sums);
            }
            U::release();
        }
        SCRATCH.set((sums, copied));
    }

    /// The weights of some columns and steps: as they are stored where they fill whole tiles, else copied and filled
    /// up with zeros. With them, the elements from a column to the next.
    fn block(
        &self,
        column: usize,
        columns: usize,
        first: usize,
        steps: usize,
        copied: &mut Vec<Packed>,
    ) -> (*const bf16, usize) {
        let inner = self.activations.inner;
        let (begin, end) = (first * STEP, inner.min((first + steps) * STEP));
        if columns.is_multiple_of(TILE_COLUMNS) && end - begin == steps * STEP {
            return (self.weights[column * inner + begin..].as_ptr(), inner);
        }
        copied.clear();
        copied.resize(BLOCK_COLUMNS * steps, Line([bf16::ZERO; STEP]));
        let weights = self.weights[column * inner..].chunks_exact(inner).take(columns);
        for (weights, lines) in weights.zip(copied.chunks_exact_mut(steps)) {
            for (part, line) in weights[begin..end].chunks(STEP).zip(lines) {
                line.0[..part.len()].copy_from_slice(part);
            }
        }
        (copied.as_ptr().cast(), steps * STEP)
    }

    /// Writes the sums of some columns to the rows of the output.
    ///
    /// # Safety
    ///
    /// The output has all rows and columns of the product, and no other task writes them.
    unsafe fn store(&self, column: usize, columns: usize, sums: &[AlignedSums]) {
        let rows = self.product.rows.len();
        for (pair, sums) in sums.chunks_exact(4).enumerate() {
            for (at, AlignedSums(sums)) in sums.iter().enumerate() {
                let (first_column, first_row) = (at / 2 * TILE_COLUMNS, (2 * pair + at % 2) * TILE_ROWS);
                if first_column >= columns || first_row >= rows {
                    continue;
                }
                let columns = TILE_COLUMNS.min(columns - first_column);
                for row in 0..TILE_ROWS.min(rows - first_row) {
                    let mut line = [0.0; TILE_COLUMNS];
                    for (value, sums) in line.iter_mut().zip(sums.chunks_exact(TILE_ROWS)) {
                        *value = sums[row];
                    }
                    let place = self.product.rows.output(first_row + row) * self.out.stride
                        + self.out_column
                        + column
                        + first_column;
                    // SAFETY: this function's condition.
                    unsafe { ptr::copy_nonoverlapping(line.as_ptr(), self.out.start.add(place), columns) };
                }
            }
        }
    }
}
