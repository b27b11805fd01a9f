//! Convolutions as matrix products over shifted rows, with vectors and on all cores.
//!
//! Each output is one sum over taps and input channels in order, whatever tile it is computed in, so a row's
//! result does not depend on how the rows around it are cut into tiles or on other windows. Lanes are output
//! channels. Where a tap reaches back before the window, its rows are zeros from a padded copy.
#![allow(unsafe_code)]

use std::cell::Cell;

use super::kernel::{CpuKernel, LANES, Panels};
use super::span::Span;
use crate::tensor::cpu::Isa;
use crate::tensor::cpu::matmul::Lanes;
use crate::tensor::cpu::pool::Pool;
use crate::tensor::cpu::simd::{Kernel, Simd, dispatch};

/// Rows of a task: a multiple of every tile's height, few enough to stay in the second-level cache.
const TASK_ROWS: usize = 96;
/// Multiplications below which a convolution stays on the calling thread.
const SERIAL: usize = 1 << 18;

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    /// It replaces what was there.
    Replace,
    /// It is added to what was there.
    Add,
}

/// Carries out a convolution in all spans. The caller has checked that `x` and `out` hold every row.
pub(super) fn convolve(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    kernel: &CpuKernel,
    spans: &[Span],
    store: Store,
    out: &mut [f32],
) {
    let columns = kernel.columns();
    let mut rest = out;
    let mut passed = 0;
    let mut tasks = Vec::new();
    for span in spans {
        // Spans lie in the order of the output.
        let (_, from) = std::mem::take(&mut rest).split_at_mut(span.output - passed);
        let (own, after) = from.split_at_mut((span.end - span.first) * columns);
        passed = span.output + own.len();
        rest = after;
        let rows = own.chunks_mut((TASK_ROWS * columns).max(1)).enumerate();
        tasks.extend(rows.map(|(task, out)| Task {
            x,
            kernel,
            span: *span,
            first: span.first + task * TASK_ROWS,
            store,
            out,
        }));
    }
    let rows: usize = spans.iter().map(|span| span.end - span.first).sum();
    if rows * columns * kernel.shape.taps * kernel.shape.in_channels < SERIAL {
        tasks.iter_mut().for_each(|task| task.run(isa));
    } else {
        pool.chunks(&mut tasks, 1, |_, tasks| tasks.iter_mut().for_each(|task| task.run(isa)));
    }
}

/// Some rows of a span.
struct Task<'a> {
    /// The whole input.
    x: &'a [f32],
    /// The weights.
    kernel: &'a CpuKernel,
    /// The window.
    span: Span,
    /// The first row.
    first: usize,
    /// What becomes of the products.
    store: Store,
    /// The output rows.
    out: &'a mut [f32],
}

thread_local! {
    /// Padded rows at the beginning of a window; kept so that a step allocates nothing.
    static PADDED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl Task<'_> {
    /// Rows that reach back before the window come first, from a padded copy; then the others in place.
    fn run(&mut self, isa: Isa) {
        let Self { x, kernel, span, first, store, ref mut out } = *self;
        let (width, columns, reach) = (kernel.shape.in_channels, kernel.columns(), kernel.shape.reach());
        let rows = out.len() / columns;
        let padded_rows = reach.saturating_sub(first).min(rows);
        let (head, tail) = out.split_at_mut(padded_rows * columns);
        if padded_rows > 0 {
            let mut padded = PADDED.take();
            padded.clear();
            padded.resize((reach - first) * width, 0.0);
            // A window whose rows reach back before it is kept from its first row on.
            padded.extend_from_slice(&x[span.input..][..(first + padded_rows) * width]);
            product(isa, &padded, kernel, store, head);
            PADDED.set(padded);
        }
        if !tail.is_empty() {
            let oldest = first + padded_rows - reach - span.origin;
            let rows = rows - padded_rows + reach;
            product(isa, &x[span.input + oldest * width..][..rows * width], kernel, store, tail);
        }
    }
}

/// All rows of `out` from the rows of `x`, the first of which is the first that is reached.
fn product(isa: Isa, x: &[f32], kernel: &CpuKernel, store: Store, out: &mut [f32]) {
    match &kernel.panels {
        Panels::Bf16(panels) => dispatch(isa, Product { x, kernel, panels, store, out }),
        Panels::F32(panels) => dispatch(isa, Product { x, kernel, panels, store, out }),
    }
}

/// See [`product`].
struct Product<'a, E> {
    /// `[rows + reach, in]`.
    x: &'a [f32],
    /// Extents and bias.
    kernel: &'a CpuKernel,
    /// The weights.
    panels: &'a [E],
    /// What becomes of the products.
    store: Store,
    /// `[rows, columns]`.
    out: &'a mut [f32],
}

impl<E: Lanes> Kernel for Product<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let count = self.kernel.columns().div_ceil(LANES);
        let mut panel = 0;
        // SAFETY: the caller vouches for the instruction set; all tiles lie within the rows and panels.
        unsafe {
            while panel < count {
                // The registers hold twelve rows of two panels with sixteen lanes, four rows of one otherwise.
                if S::LANES == LANES && panel + 2 <= count {
                    self.columns::<S, 2, 12>(panel);
                    panel += 2;
                } else if S::LANES == LANES {
                    self.columns::<S, 1, 12>(panel);
                    panel += 1;
                } else {
                    self.columns::<S, 2, 4>(panel);
                    panel += 1;
                }
            }
        }
    }
}

impl<E: Lanes> Product<'_, E> {
    /// `V` vectors of columns from the beginning of a panel, for all rows.
    #[inline(always)]
    unsafe fn columns<S: Simd, const V: usize, const M: usize>(&mut self, panel: usize) {
        let rows = self.out.len() / self.kernel.columns();
        let mut row = 0;
        // SAFETY: as for the caller.
        unsafe {
            while row + M <= rows {
                self.tile::<S, V, M>(panel, row);
                row += M;
            }
            while row + 4 <= rows {
                self.tile::<S, V, 4>(panel, row);
                row += 4;
            }
            while row < rows {
                self.tile::<S, V, 1>(panel, row);
                row += 1;
            }
        }
    }

    /// `M` rows of `V` vectors of columns.
    #[inline(always)]
    unsafe fn tile<S: Simd, const V: usize, const M: usize>(&mut self, panel: usize, row: usize) {
        let shape = self.kernel.shape;
        let (width, depth) = (shape.in_channels, shape.taps * shape.in_channels);
        let columns = self.kernel.columns();
        // SAFETY: `row + M` rows exist, and each reads `reach` rows beyond; every panel is `[depth, LANES]`. The
        // caller vouches for the instruction set.
        unsafe {
            let mut sums = [[S::splat(0.0); V]; M];
            let weights: [*const E; V] = std::array::from_fn(|v| {
                let lane = v * S::LANES;
                self.panels.as_ptr().add((panel + lane / LANES) * depth * LANES + lane % LANES)
            });
            for tap in 0..shape.taps {
                let x = self.x.as_ptr().add((row + tap * shape.dilation) * width);
                for input in 0..width {
                    let at = (tap * width + input) * LANES;
                    let weights: [S::Vector; V] = std::array::from_fn(|v| E::load::<S>(weights[v].add(at)));
                    for (m, sums) in sums.iter_mut().enumerate() {
                        let value = S::splat(*x.add(m * width + input));
                        for (sum, weight) in sums.iter_mut().zip(weights) {
                            *sum = S::mul_add(value, weight, *sum);
                        }
                    }
                }
            }
            for (m, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    let column = panel * LANES + v * S::LANES;
                    let wide = S::LANES.min(columns.saturating_sub(column));
                    let bias = self.kernel.bias.as_ptr().add(column);
                    let out = self.out.as_mut_ptr().add((row + m) * columns + column);
                    if wide == S::LANES {
                        let mut value = S::add(*sum, S::load(bias));
                        if self.store == Store::Add {
                            value = S::add(S::load(out), value);
                        }
                        S::store(out, value);
                    } else if wide > 0 {
                        let mut value = S::add(*sum, S::load_part(bias, wide));
                        if self.store == Store::Add {
                            value = S::add(S::load_part(out, wide), value);
                        }
                        S::store_part(out, wide, value);
                    }
                }
            }
        }
    }
}
