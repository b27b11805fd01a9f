//! The rows of a product's input, laid out as tiles read them.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ops::Range;
use std::slice;

use super::{Product, Rows};
use crate::tensor::cpu::isa::Isa;
use crate::tensor::cpu::pool::Pool;
use crate::tensor::cpu::simd::{Kernel, Simd, dispatch};
use crate::tensor::weights::Elements;

/// Values from which on laying them out is divided among threads.
const SHARED: usize = 1 << 16;

thread_local! {
    /// The layouts of the last product; kept so that a step allocates nothing.
    static INPUTS: Cell<Inputs> = Cell::new(Inputs::default());
}

/// The rows of all products, one product behind the other, each row filled up with zeros to whole steps.
///
/// A tile of `M` rows is `[steps][2][M][LANES]`: of each step the first vectors of all its rows, then the second ones.
/// The rows of a product form tiles of nearly equal height, so what a tile's rows are follows from their number.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// With the even positions of a step first, for bf16 weights; of no use where there are none.
    paired: Vec<f32>,
    /// With positions in order, for f32 weights; of no use where there are none.
    ordered: Vec<f32>,
    /// The first row of each product, and the number of all rows.
    starts: Vec<usize>,
    /// Values of a row.
    padded: usize,
}

/// The order of positions within a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Even ones, then odd ones.
    Paired,
    /// As they are.
    Ordered,
}

/// Lays the rows of all products out and calls `work` with them.
pub(super) fn with_inputs<'a>(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    count: usize,
    product: &(impl Fn(usize) -> Product<'a> + Sync),
    work: impl FnOnce(&Inputs),
) {
    let mut inputs = INPUTS.take();
    inputs.lay_out(pool, isa, x, count, product);
    work(&inputs);
    INPUTS.set(inputs);
}

impl Inputs {
    /// Rows of all products.
    pub(super) fn rows(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The rows of a product for bf16 weights.
    pub(super) fn paired(&self, index: usize) -> &[f32] {
        &self.paired[self.range(index)]
    }

    /// The rows of a product for f32 weights.
    pub(super) fn ordered(&self, index: usize) -> &[f32] {
        &self.ordered[self.range(index)]
    }

    /// The values of a product's rows.
    fn range(&self, index: usize) -> Range<usize> {
        self.starts[index] * self.padded..self.starts[index + 1] * self.padded
    }

    fn lay_out<'a>(
        &mut self,
        pool: &Pool,
        isa: Isa,
        x: &[f32],
        count: usize,
        product: &(impl Fn(usize) -> Product<'a> + Sync),
    ) {
        let inner = product(0).weight.inner;
        self.padded = dispatch(isa, PaddedWidth(inner));
        self.starts.clear();
        self.starts.push(0);
        let (mut bf16, mut f32, mut tiles) = (false, false, 0);
        for index in 0..count {
            let Product { weight, rows } = product(index);
            self.starts.push(self.starts[index] + rows.len());
            tiles = tiles.max(dispatch(isa, TileHeight(rows.len())).1);
            for part in weight.parts.iter() {
                match &part.data.0 {
                    Elements::Bf16(_) => bf16 = true,
                    Elements::F32(_) => f32 = true,
                }
            }
        }
        let values = self.rows() * self.padded;
        for (needed, order) in [(bf16, Order::Paired), (f32, Order::Ordered)] {
            let layout = match order {
                Order::Paired => &mut self.paired,
                Order::Ordered => &mut self.ordered,
            };
            if !needed {
                continue;
            }
            if layout.len() < values {
                layout.resize(values, 0.0);
            }
            let layout = Layout { start: layout.as_mut_ptr(), starts: &self.starts, padded: self.padded };
            let work = |range: Range<usize>| {
                for task in range {
                    let (index, tile) = (task / tiles, task % tiles);
                    let rows = product(index).rows;
                    let first = tile * dispatch(isa, TileHeight(rows.len())).0;
                    if first < rows.len() {
                        dispatch(isa, LayOut { x, inner, rows, first, order, layout, index });
                    }
                }
            };
            if values < SHARED {
                work(0..count * tiles);
            } else {
                pool.divide(count * tiles, work);
            }
        }
    }
}

/// Where rows go.
#[derive(Clone, Copy)]
struct Layout<'a> {
    /// The first row of the first product.
    start: *mut f32,
    /// The first row of each product.
    starts: &'a [usize],
    /// Values of a row.
    padded: usize,
}

// SAFETY: while rows are laid out, every task writes a tile of its own, which lies in the vector that `start` is of.
unsafe impl Send for Layout<'_> {}
// SAFETY: as above.
unsafe impl Sync for Layout<'_> {}

/// The height of all tiles of so many rows but the last, which may be lower: as low as the number of tiles allows.
#[inline(always)]
pub(super) fn tile_height<S: Simd>(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(S::TILE_ROWS).max(1))
}

/// The [`tile_height`] of so many rows, and how many tiles they form.
struct TileHeight(usize);

impl Kernel for TileHeight {
    type Output = (usize, usize);

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> (usize, usize) {
        let height = tile_height::<S>(self.0);
        (height, self.0.div_ceil(height.max(1)))
    }
}

/// Values of a row of so many, filled up to whole steps.
struct PaddedWidth(usize);

impl Kernel for PaddedWidth {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> usize {
        self.0.next_multiple_of(2 * S::LANES)
    }
}

/// Lays out a tile of a product's rows.
struct LayOut<'a> {
    /// The input, `[_, inner]`.
    x: &'a [f32],
    /// Its width.
    inner: usize,
    /// The product's rows.
    rows: Rows<'a>,
    /// The tile's first.
    first: usize,
    /// The order of positions.
    order: Order,
    /// Where all rows go.
    layout: Layout<'a>,
    /// The product.
    index: usize,
}

impl Kernel for LayOut<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Layout { start, starts, padded } = self.layout;
        let rows = tile_height::<S>(self.rows.len()).min(self.rows.len() - self.first);
        // SAFETY: `Inputs::lay_out` made room for all rows, and no other task has these.
        let tile = unsafe {
            let row = starts[self.index] + self.first;
            slice::from_raw_parts_mut(start.add(row * padded), rows * padded)
        };
        for m in 0..rows {
            let x = &self.x[self.rows.input(self.first + m) * self.inner..][..self.inner];
            let mut steps = x.chunks_exact(2 * S::LANES);
            let mut places = tile.chunks_exact_mut(2 * rows * S::LANES);
            for (step, place) in (&mut steps).zip(&mut places) {
                lay_out_step::<S>(step, self.order, m, rows, place);
            }
            if let Some(place) = places.next() {
                let mut step = [0.0; 32];
                step[..steps.remainder().len()].copy_from_slice(steps.remainder());
                lay_out_step::<S>(&step[..2 * S::LANES], self.order, m, rows, place);
            }
        }
    }
}

/// Puts the two vectors of a row's step into its tile's step, `[2][rows][LANES]`.
#[inline(always)]
fn lay_out_step<S: Simd>(step: &[f32], order: Order, m: usize, rows: usize, place: &mut [f32]) {
    let (first, second) = place.split_at_mut(rows * S::LANES);
    let first = &mut first[m * S::LANES..][..S::LANES];
    let second = &mut second[m * S::LANES..][..S::LANES];
    match order {
        Order::Paired => {
            for ((pair, first), second) in step.chunks_exact(2).zip(first).zip(second) {
                (*first, *second) = (pair[0], pair[1]);
            }
        }
        Order::Ordered => {
            first.copy_from_slice(&step[..S::LANES]);
            second.copy_from_slice(&step[S::LANES..]);
        }
    }
}
