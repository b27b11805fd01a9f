//! Matrix products `out = x · weightᵀ`, with weights as they lie in the file.
//!
//! Each output is one sum. Inner positions are taken in steps of two vectors: for f32 weights the vectors one after the
//! other, for bf16 weights the even positions of the step and then the odd ones, because a load of twice as many bf16 as
//! there are lanes is widened to these two by one instruction each. Lane by lane they are added to the sum, step after
//! step, and the lanes are added at the end, always in the same order. Tiles of rows and columns, blocks and threads
//! decide only which sums are worked on together, so a row's results do not depend on the other rows.
//!
//! Before that the rows of `x` are laid out as tiles read them, one stretch of memory a tile ([`inputs`]).
#![allow(unsafe_code)]

mod inputs;
mod tile;
mod units;

use std::ops::Range;

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::isa::Isa;
use super::memory::CpuMatrix;
use super::pool::Pool;
use super::simd::{Simd, dispatch};
use crate::tensor::weights::{Element, Elements};
use inputs::{Inputs, with_inputs};
use tile::Block;
pub(super) use units::{Piece, Units};

/// Columns that a thread takes at least: a multiple of every tile's.
const UNIT_COLUMNS: usize = 24;
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
/// All matrices have the shape of the first, and so have their parts; with [`Isa::Amx`] all of them are bf16 if that one is. No
/// output row may be named twice.
///
/// The caller has checked that `x` and `out` hold every row that is named.
pub(super) fn multiply<'a>(
    pool: &Pool,
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
    if isa == Isa::Amx && product(0).weight.is_bf16() {
        return amx::multiply::<amx::Instructions>(pool, x, count, product, out);
    }
    let shape = product(0).weight;
    let out = Output { start: out.as_mut_ptr(), stride: shape.out };
    let units = Units::new(shape, count, UNIT_COLUMNS);
    with_inputs(pool, isa, x, count, &product, |inputs| {
        let work = |range: Range<usize>| {
            units.pieces(range, &product, |piece| multiply_piece(isa, inputs, &piece, out));
        };
        if inputs.rows() * shape.inner * shape.out < SERIAL {
            work(0..units.count());
        } else {
            pool.divide(units.count(), work);
        }
    });
}

/// Multiplies with some columns of a weight.
fn multiply_piece(isa: Isa, inputs: &Inputs, piece: &Piece<'_>, out: Output) {
    let Piece { index, product: Product { weight, rows }, ref columns, out_column, .. } = *piece;
    let inner = weight.inner;
    let range = columns.start * inner..columns.end * inner;
    let columns = columns.len();
    match &piece.part.data.0 {
        Elements::Bf16(values) => {
            let weight = &values.as_slice()[range];
            let x = inputs.paired(index);
            dispatch(isa, Block { x, inner, rows, weight, columns, out_column, out });
        }
        Elements::F32(values) => {
            let weight = &values.as_slice()[range];
            let x = inputs.ordered(index);
            dispatch(isa, Block { x, inner, rows, weight, columns, out_column, out });
        }
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
    /// Reads the first vector of a step of `2 * S::LANES` elements.
    unsafe fn load_first<S: Simd>(from: *const Self) -> S::Vector;
    /// Reads the second vector of a step of `2 * S::LANES` elements.
    unsafe fn load_second<S: Simd>(from: *const Self) -> S::Vector;
}

impl Lanes for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: the trait's condition is that of `Simd`.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    unsafe fn load_first<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    unsafe fn load_second<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::load(from.add(S::LANES)) }
    }
}

impl Lanes for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: the trait's condition is that of `Simd`.
        unsafe { S::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn load_first<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::load_even_bf16(from) }
    }
    #[inline(always)]
    unsafe fn load_second<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::load_odd_bf16(from) }
    }
}
