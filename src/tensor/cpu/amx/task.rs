//! Some columns of a product, for all its rows, on one thread.
//!
//! # Few rows
//!
//! Up to two tiles of rows take as long as memory takes to give the weights, so what counts is how these are read. One
//! instruction loads a cache line of each of sixteen columns. The columns of a tile lie a share of them all apart, as in
//! [`matmul`](crate::tensor::cpu::matmul), so that a thread reads its weights as sixteen strands from end to end, one in
//! each page at a time: the processor follows as many (32 a core), and would not follow two in a page, as where
//! neighbouring columns are narrower than one. Where a page ends it stops following, and all strands end one at the same
//! step where columns are as wide as pages; so each step also fetches what comes [`AHEAD`] steps later. A core has 10 to
//! 20 GB/s of memory, which is one step (1 KiB of weights) in 150 to 300 cycles: sixteen fetches, a load of sixteen lines,
//! and a product that takes 52 cycles until the next can be added to it fit in.
//!
//! The sums could be had without tiles: vectors of sixteen columns, a lane for each, would do the same additions in the
//! same order. But the weights would have to be turned from lines of columns to lines of positions first, about 75 cycles a
//! step on the units that multiply, and the order would have to be exactly that of the processor's tiles, of which its
//! documentation is the only witness. With tiles alone, one row is the same bits as 500 whatever they do within a step.
//!
//! # Many rows
//!
//! Two tiles of columns by two of rows are worked on together: four products for four loads. The weights of so many
//! columns over [`BLOCK_STEPS`] stay in the first-level cache while all rows of a panel pass; the activations of a panel
//! over these steps stay in the second-level cache while all its columns pass, and so do its sums. Meanwhile the next
//! weights are fetched, a few lines a step.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr;

use half::bf16;

use super::pack::tile_height;
use super::product::Activations;
use super::transpose::transpose;
use super::unit::{Ahead, Sums, TileUnit, Tiles};
use super::{Line, STEP, TILE_COLUMNS, TILE_ROWS};
use crate::tensor::cpu::matmul::{Output, Piece, Rows};
use crate::tensor::weights::Elements;

/// Steps that weights are fetched ahead of their use where there are few rows: with sixteen columns 8 KiB, several times
/// what memory sends while one waits for the first of it.
const AHEAD: usize = 8;
/// Columns that are worked on together where there are many rows.
const BLOCK_COLUMNS: usize = 2 * TILE_COLUMNS;
/// Steps after which other columns come where there are many rows: weights of so many steps, 32 KiB, stay in the
/// first-level cache meanwhile.
const BLOCK_STEPS: usize = 16;
/// Columns of a panel. Sums of a panel of them by one of rows take 256 KiB: the threads of a core share its second-level
/// cache.
const PANEL_COLUMNS: usize = 256;
/// Pairs of tiles of rows that a panel has. Their activations over the steps of a block take 256 KiB.
const PANEL_PAIRS: usize = 8;
/// Pairs of tiles of rows from which on a block of weights is copied before it is used. Where columns are a multiple of
/// 2 KiB apart, their lines share so few places of the first-level cache that they do not stay in it; copied they
/// do. A copy takes as long as it saves with four pairs.
const COPIED_PAIRS: usize = 5;

/// A tile of sums, aligned as tiles are stored.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct AlignedSums(Sums);

impl AlignedSums {
    const ZERO: Self = Self([0.0; TILE_COLUMNS * TILE_ROWS]);
}

thread_local! {
    /// Kept so that a step allocates nothing.
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch { sums: Vec::new(), copied: Vec::new() }) };
}

/// What a task needs beside its operands.
#[derive(Default)]
struct Scratch {
    /// Sums of a panel.
    sums: Vec<AlignedSums>,
    /// Weights that were copied, a cache line at a time.
    copied: Vec<Line<bf16, STEP>>,
}

/// Some columns of one product, for all its rows.
pub(super) struct Task<'a> {
    /// The columns' weights, `[columns, inner]`.
    weights: &'a [bf16],
    /// Columns.
    columns: usize,
    /// The output column of the first.
    out_column: usize,
    /// The rows.
    rows: Rows<'a>,
    /// The product's place among all.
    index: usize,
    /// The packed activations of all products.
    activations: Activations<'a>,
    /// Where results go.
    out: Output,
}

/// A thread that is configured for the unit, until this is dropped, also where something panics.
struct Configured<U: TileUnit>(PhantomData<U>);

impl<U: TileUnit> Drop for Configured<U> {
    fn drop(&mut self) {
        // SAFETY: this is only made where the thread has been configured, so the processor has the unit.
        unsafe { U::release() }
    }
}

/// Columns that are worked on together.
#[derive(Clone, Copy)]
struct Columns {
    /// The first.
    first: usize,
    /// From each to the next.
    distance: usize,
    /// How many.
    count: usize,
}

impl<'a> Task<'a> {
    /// What a piece of a product asks for, if its weights are bf16.
    pub(super) fn new(piece: &Piece<'a>, activations: Activations<'a>, out: Output) -> Option<Self> {
        let Elements::Bf16(values) = &piece.part.data.0 else { return None };
        let inner = activations.inner;
        Some(Self {
            weights: &values.as_slice()[piece.columns.start * inner..piece.columns.end * inner],
            columns: piece.columns.len(),
            out_column: piece.out_column,
            rows: piece.product.rows,
            index: piece.index,
            activations,
            out,
        })
    }

    /// Carries it out.
    ///
    /// # Safety
    ///
    /// The processor must have the unit, the activations must be packed, the output must have all rows and columns of
    /// the product, and no other task may write these columns.
    pub(super) unsafe fn run<U: TileUnit>(&self) {
        let rows = self.rows.len();
        let mut scratch = SCRATCH.take();
        // SAFETY: this function's condition.
        unsafe {
            U::configure(tile_height(rows));
            let configured = Configured::<U>(PhantomData);
            if rows <= 2 * TILE_ROWS {
                self.strands::<U>(&mut scratch);
            } else {
                self.panels::<U>(&mut scratch);
            }
            drop(configured);
        }
        SCRATCH.set(scratch);
    }

    /// All columns, a tile at a time, each time for all rows: for few of these.
    ///
    /// # Safety
    ///
    /// As for [`run`](Self::run), and the unit is configured.
    unsafe fn strands<U: TileUnit>(&self, scratch: &mut Scratch) {
        // An odd number of columns, so that strands do not all fall into the same places of a cache where columns are a
        // power of two wide.
        let distance = match self.columns / TILE_COLUMNS {
            0 => 0,
            tiles => (tiles - 1) | 1,
        };
        let strands = (0..distance).map(|first| Columns { first, distance, count: TILE_COLUMNS });
        let rest = (distance * TILE_COLUMNS..self.columns).step_by(TILE_COLUMNS).map(|first| Columns {
            first,
            distance: 1,
            count: TILE_COLUMNS.min(self.columns - first),
        });
        let (steps, whole) = (self.steps(), self.activations.inner / STEP);
        let tiles = self.rows.len().div_ceil(TILE_ROWS);
        for columns in strands.chain(rest) {
            let mut sums = [AlignedSums::ZERO; 2];
            for steps in [0..whole, whole..steps].into_iter().filter(|steps| !steps.is_empty()) {
                let (weights, stride) = self.weights(columns, steps.clone(), false, &mut scratch.copied);
                // SAFETY: weights and activations of these steps are there, and so are the sums.
                unsafe {
                    U::multiply(Tiles {
                        weights: [weights; 2],
                        stride,
                        activations: [0, tiles - 1].map(|tile| self.activations_of(tile, steps.start)),
                        height: tile_height(self.rows.len()),
                        columns: 1,
                        rows: tiles,
                        steps: steps.len(),
                        sums: sums.as_mut_ptr().cast(),
                        ahead: self.ahead(columns, steps.start + AHEAD),
                    });
                }
            }
            for (tile, AlignedSums(sums)) in sums.iter().enumerate().take(tiles) {
                // SAFETY: this function's condition.
                unsafe { self.store(columns, tile * TILE_ROWS, sums) };
            }
        }
    }

    /// Panels of columns by panels of rows: for many rows.
    ///
    /// # Safety
    ///
    /// As for [`run`](Self::run), and the unit is configured.
    unsafe fn panels<U: TileUnit>(&self, scratch: &mut Scratch) {
        let pairs = self.rows.len().div_ceil(2 * TILE_ROWS);
        for first_pair in (0..pairs).step_by(PANEL_PAIRS) {
            for first in (0..self.columns).step_by(PANEL_COLUMNS) {
                let panel = Panel {
                    columns: first..self.columns.min(first + PANEL_COLUMNS),
                    pairs: first_pair..pairs.min(first_pair + PANEL_PAIRS),
                };
                // SAFETY: as for this function.
                unsafe { self.panel::<U>(&panel, scratch) };
            }
        }
    }

    /// One panel.
    ///
    /// # Safety
    ///
    /// As for [`panels`](Self::panels).
    unsafe fn panel<U: TileUnit>(&self, panel: &Panel, Scratch { sums, copied }: &mut Scratch) {
        let pairs = panel.pairs.len();
        sums.clear();
        sums.resize(4 * pairs * panel.columns.len().div_ceil(BLOCK_COLUMNS), AlignedSums::ZERO);
        for first in (0..self.steps()).step_by(BLOCK_STEPS) {
            let steps = first..self.steps().min(first + BLOCK_STEPS);
            for (columns, sums) in panel.blocks().zip(sums.chunks_exact_mut(4 * pairs)) {
                let (weights, stride) = self.weights(columns, steps.clone(), pairs >= COPIED_PAIRS, copied);
                let second = weights.wrapping_add((columns.count - 1) / TILE_COLUMNS * TILE_COLUMNS * stride);
                for (at, sums) in sums.chunks_exact_mut(4).enumerate() {
                    let tile = 2 * (panel.pairs.start + at);
                    let tiles = (self.rows.len() - tile * TILE_ROWS).div_ceil(TILE_ROWS).min(2);
                    // SAFETY: weights and activations of these steps are there, and so are the sums.
                    unsafe {
                        U::multiply(Tiles {
                            weights: [weights, second],
                            stride,
                            activations: [tile, tile + tiles - 1]
                                .map(|tile| self.activations_of(tile, first)),
                            height: TILE_ROWS,
                            columns: columns.count.div_ceil(TILE_COLUMNS),
                            rows: tiles,
                            steps: steps.len(),
                            sums: sums.as_mut_ptr().cast(),
                            ahead: self.share_ahead(panel, columns, &steps, at),
                        });
                    }
                }
            }
        }
        for (columns, sums) in panel.blocks().zip(sums.chunks_exact(4 * pairs)) {
            for (at, AlignedSums(sums)) in sums.iter().enumerate() {
                let (pair, half, tile) = (at / 4, at / 2 % 2 * TILE_COLUMNS, at % 2);
                let row = (2 * (panel.pairs.start + pair) + tile) * TILE_ROWS;
                if half < columns.count && row < self.rows.len() {
                    let columns = Columns {
                        first: columns.first + half,
                        count: TILE_COLUMNS.min(columns.count - half),
                        ..columns
                    };
                    // SAFETY: this function's condition.
                    unsafe { self.store(columns, row, sums) };
                }
            }
        }
    }

    /// What pair `at` of a panel fetches of the weights that come after these columns and steps: some of the columns,
    /// a step of each a step.
    fn share_ahead(&self, panel: &Panel, columns: Columns, steps: &Range<usize>, at: usize) -> Ahead {
        let end = columns.first + columns.count;
        let (first, step) =
            if end < panel.columns.end { (end, steps.start) } else { (panel.columns.start, steps.end) };
        if step >= self.steps() {
            return Ahead::NOTHING;
        }
        let (count, pairs) = (BLOCK_COLUMNS.min(panel.columns.end - first), panel.pairs.len());
        let share = at * count / pairs..(at + 1) * count / pairs;
        self.ahead(Columns { first: first + share.start, distance: 1, count: share.len() }, step)
    }

    /// Some columns from a step on, as they are fetched ahead. Behind the last step the next column follows.
    fn ahead(&self, columns: Columns, step: usize) -> Ahead {
        let inner = self.activations.inner;
        Ahead {
            first: self.weights.as_ptr().wrapping_add(columns.first * inner + step * STEP),
            stride: columns.distance * inner,
            columns: columns.count,
        }
    }

    /// Steps of the inner dimension.
    fn steps(&self) -> usize {
        self.activations.inner.div_ceil(STEP)
    }

    /// Packed activations of a tile of rows from a step on.
    fn activations_of(&self, tile: usize, step: usize) -> *const bf16 {
        let height = tile_height(self.rows.len());
        self.activations.tile(self.index, tile).wrapping_add(step * STEP * height).cast_const()
    }

    /// The weights of some columns and steps: as they are stored, or copied and filled up with zeros, which is done
    /// where it is asked for and where they do not fill whole tiles. With them, the elements from a column to the next.
    fn weights(
        &self,
        columns: Columns,
        steps: Range<usize>,
        copy: bool,
        copied: &mut Vec<Line<bf16, STEP>>,
    ) -> (*const bf16, usize) {
        let inner = self.activations.inner;
        let (begin, end) = (steps.start * STEP, inner.min(steps.end * STEP));
        let whole = columns.count.is_multiple_of(TILE_COLUMNS) && end - begin == steps.len() * STEP;
        let column = |n: usize| &self.weights[(columns.first + n * columns.distance) * inner..][begin..end];
        if whole && !copy {
            return (column(0).as_ptr(), columns.distance * inner);
        }
        let lines = columns.count.next_multiple_of(TILE_COLUMNS) * steps.len();
        if copied.len() < lines {
            copied.resize(lines, Line([bf16::ZERO; STEP]));
        }
        for (n, lines) in copied[..lines].chunks_exact_mut(steps.len()).enumerate() {
            let values = if n < columns.count { column(n) } else { &[] };
            for (step, Line(line)) in lines.iter_mut().enumerate() {
                let values = values.get(step * STEP..).unwrap_or(&[]);
                if let Some(values) = values.first_chunk() {
                    *line = *values;
                } else {
                    line.fill(bf16::ZERO);
                    line[..values.len()].copy_from_slice(values);
                }
            }
        }
        (copied.as_ptr().cast(), steps.len() * STEP)
    }

    /// Writes the sums of some columns to a tile's rows of the output, from row `first` on.
    ///
    /// # Safety
    ///
    /// The output has all rows and columns of the product, and no other task writes these columns.
    unsafe fn store(&self, columns: Columns, first: usize, sums: &Sums) {
        let by_row = transpose(sums);
        let rows = first..self.rows.len().min(first + TILE_ROWS);
        for (row, values) in rows.zip(by_row.chunks_exact(TILE_COLUMNS)) {
            let place = self.rows.output(row) * self.out.stride + self.out_column + columns.first;
            // SAFETY: this function's condition.
            unsafe {
                if columns.distance == 1 {
                    ptr::copy_nonoverlapping(values.as_ptr(), self.out.start.add(place), columns.count);
                } else {
                    for (n, value) in values.iter().enumerate().take(columns.count) {
                        *self.out.start.add(place + n * columns.distance) = *value;
                    }
                }
            }
        }
    }
}

/// Columns and rows whose sums are kept together.
struct Panel {
    /// Columns.
    columns: Range<usize>,
    /// Pairs of tiles of rows.
    pairs: Range<usize>,
}

impl Panel {
    /// Columns that are worked on together, one block after the other.
    fn blocks(&self) -> impl Iterator<Item = Columns> + use<> {
        let end = self.columns.end;
        self.columns.clone().step_by(BLOCK_COLUMNS).map(move |first| Columns {
            first,
            distance: 1,
            count: BLOCK_COLUMNS.min(end - first),
        })
    }
}
