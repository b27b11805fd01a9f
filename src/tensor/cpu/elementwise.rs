//! Norms, gates and sums, row by row, with vectors.
#![allow(unsafe_code)]

use super::simd::{Kernel, Simd, exp};

/// RMS norm of one row, after adding `delta` to it if there is one.
pub(super) struct NormRow<'a> {
    /// What is added to the row first.
    pub(super) delta: Option<&'a [f32]>,
    /// The gain.
    pub(super) gain: &'a [f32],
    /// Added under the root.
    pub(super) eps: f32,
    /// The row; becomes the sum.
    pub(super) residual: Row<'a>,
    /// The norm of the row.
    pub(super) out: &'a mut [f32],
}

/// A row that is read, or read and written.
pub(super) enum Row<'a> {
    /// Only read.
    Read(&'a [f32]),
    /// Becomes the sum with `delta`.
    Write(&'a mut [f32]),
}

impl Kernel for NormRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let x: &[f32] = match (self.residual, self.delta) {
            (Row::Write(row), Some(delta)) => {
                for (sum, delta) in row.iter_mut().zip(delta) {
                    *sum += delta;
                }
                row
            }
            (Row::Write(row), None) => row,
            (Row::Read(row), _) => row,
        };
        // SAFETY: the caller vouches for the instruction set.
        let scale = unsafe { inverse_root_mean_square::<S>(x, self.eps) };
        for ((out, value), gain) in self.out.iter_mut().zip(x).zip(self.gain) {
            *out = value * scale * gain;
        }
    }
}

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
unsafe fn inverse_root_mean_square<S: Simd>(x: &[f32], eps: f32) -> f32 {
    let whole = x.len() / S::LANES * S::LANES;
    let rest = x.len() - whole;
    // SAFETY: no more than `x.len()` elements are read; the caller vouches for the instruction set.
    unsafe {
        let mut squares = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            let value = S::load(x.as_ptr().add(at));
            squares = S::mul_add(value, value, squares);
        }
        if rest > 0 {
            let value = S::load_part(x.as_ptr().add(whole), rest);
            squares = S::mul_add(value, value, squares);
        }
        1.0 / (S::sum(squares) / x.len() as f32 + eps).sqrt()
    }
}

/// Normalises and turns the heads of one row in place.
pub(super) struct NormRotateRow<'a> {
    /// Heads of `gain.len()` each.
    pub(super) heads: &'a mut [f32],
    /// The gain of every head.
    pub(super) gain: &'a [f32],
    /// Added under the root.
    pub(super) eps: f32,
    /// Cosines, then sines, as many as a head is wide.
    pub(super) table: &'a [f32],
}

impl Kernel for NormRotateRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.gain.len();
        let (cosines, sines) = self.table.split_at(width / 2);
        let (first_gains, second_gains) = self.gain.split_at(width / 2);
        for head in self.heads.chunks_exact_mut(width) {
            // SAFETY: the caller vouches for the instruction set.
            let scale = unsafe { inverse_root_mean_square::<S>(head, self.eps) };
            let (first, second) = head.split_at_mut(width / 2);
            let angles = cosines.iter().zip(sines).zip(first_gains.iter().zip(second_gains));
            for ((x, y), ((cosine, sine), (x_gain, y_gain))) in first.iter_mut().zip(second).zip(angles) {
                let (a, b) = (*x * scale * x_gain, *y * scale * y_gain);
                (*x, *y) = (a * cosine - b * sine, b * cosine + a * sine);
            }
        }
    }
}

/// `out = silu(gate) * up` for one row.
pub(super) struct SwigluRow<'a> {
    /// Gate, then up: twice as wide as `out`.
    pub(super) gate_up: &'a [f32],
    /// The result.
    pub(super) out: &'a mut [f32],
}

impl Kernel for SwigluRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.out.len();
        let (gate, up) = self.gate_up.split_at(width);
        let whole = width / S::LANES * S::LANES;
        let rest = up.len().min(width) - whole;
        // SAFETY: all rows have `width` elements; the caller vouches for the instruction set.
        unsafe {
            for at in (0..whole).step_by(S::LANES) {
                let value = swiglu::<S>(S::load(gate.as_ptr().add(at)), S::load(up.as_ptr().add(at)));
                S::store(self.out.as_mut_ptr().add(at), value);
            }
            if rest > 0 {
                let gate = S::load_part(gate.as_ptr().add(whole), rest);
                let value = swiglu::<S>(gate, S::load_part(up.as_ptr().add(whole), rest));
                S::store_part(self.out.as_mut_ptr().add(whole), rest, value);
            }
        }
    }
}

#[inline(always)]
unsafe fn swiglu<S: Simd>(gate: S::Vector, up: S::Vector) -> S::Vector {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let denominator = S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), gate)));
        S::mul(S::div(gate, denominator), up)
    }
}

/// `out = Σ weight * x` over the choices of one row, in order.
pub(super) struct CombineRow<'a> {
    /// One a choice.
    pub(super) weights: &'a [f32],
    /// `[choices, width]`.
    pub(super) x: &'a [f32],
    /// `[width]`.
    pub(super) out: &'a mut [f32],
}

impl Kernel for CombineRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.out.len();
        self.out.fill(0.0);
        for (weight, x) in self.weights.iter().zip(self.x.chunks_exact(width)) {
            for (out, x) in self.out.iter_mut().zip(x) {
                *out += weight * x;
            }
        }
    }
}
