//! What products ask of a tile unit.
#![allow(unsafe_code)]

use std::ptr;

use half::bf16;

use super::{TILE_COLUMNS, TILE_ROWS};
use crate::tensor::cpu::Isa;

/// Sums of a tile, `[TILE_COLUMNS][TILE_ROWS]`.
pub(in super::super) type Sums = [f32; TILE_COLUMNS * TILE_ROWS];

/// Two tiles of weights times two tiles of activations, over some steps of the inner dimension.
///
/// The second tile of either is there if `columns` or `rows` says so.
#[derive(Clone, Copy)]
pub(in super::super) struct Tiles {
    /// The first of sixteen columns of each tile of weights, at the first step.
    pub(super) weights: [*const bf16; 2],
    /// Elements from a column of the weights to the next.
    pub(super) stride: usize,
    /// Packed activations, `[steps][STEP / 2][height][2]`.
    pub(super) activations: [*const bf16; 2],
    /// Rows of each tile of activations.
    pub(super) height: usize,
    /// Tiles of weights: 1 or 2.
    pub(super) columns: usize,
    /// Tiles of activations: 1 or 2.
    pub(super) rows: usize,
    /// Steps to sum; at least one.
    pub(super) steps: usize,
    /// Where they are added up: tiles of weights by tiles of activations, `[2][2]`. Aligned to 64 bytes.
    pub(super) sums: *mut Sums,
    /// What will be needed later.
    pub(super) ahead: Ahead,
}

/// Weights to fetch into the second-level cache meanwhile: at each step one cache line of each of some columns. There need
/// be no memory where it says.
#[derive(Clone, Copy)]
pub(in super::super) struct Ahead {
    /// Where the first column's line for the first step is.
    pub(super) first: *const bf16,
    /// Elements from a column to the next.
    pub(super) stride: usize,
    /// Columns.
    pub(super) columns: usize,
}

impl Ahead {
    /// Nothing is fetched.
    pub(super) const NOTHING: Self = Self { first: ptr::null(), stride: 0, columns: 0 };
}

/// A unit that multiplies tiles.
///
/// # Safety
///
/// An implementation reads and writes no memory but what [`Tiles`] describes.
pub(in super::super) unsafe trait TileUnit {
    /// The vector instructions that stand beside it.
    const VECTORS: Isa;

    /// Makes the calling thread ready for tiles of `height` rows, until [`release`](Self::release).
    ///
    /// # Safety
    ///
    /// The processor must have the unit.
    unsafe fn configure(height: usize);

    /// Adds the products to the sums.
    ///
    /// # Safety
    ///
    /// The thread is configured for this height, and all that `tiles` describes is there.
    unsafe fn multiply(tiles: Tiles);

    /// Ends the calling thread's use of the unit.
    ///
    /// # Safety
    ///
    /// The processor must have the unit.
    unsafe fn release();
}
