//! SnakeBeta with vectors.
#![allow(unsafe_code)]

use std::f32::consts::{FRAC_1_PI, FRAC_PI_2};

use super::kernel::CpuSnake;
use crate::tensor::cpu::simd::{Kernel, Simd};

/// SnakeBeta of rows that lie one after the other.
pub(super) struct SnakeRows<'a> {
    /// The constants, which give the width of a row.
    pub(super) snake: &'a CpuSnake,
    /// `[rows, channels]`.
    pub(super) x: &'a [f32],
    /// `[rows, channels]`.
    pub(super) out: &'a mut [f32],
}

impl Kernel for SnakeRows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.snake.rate.len();
        let whole = width / S::LANES * S::LANES;
        let rest = width - whole;
        let (rate, height) = (self.snake.rate.as_ptr(), self.snake.height.as_ptr());
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let (x, out) = (x.as_ptr(), out.as_mut_ptr());
            // SAFETY: rows and constants have `width` elements; the caller vouches for the instruction set.
            unsafe {
                for at in (0..whole).step_by(S::LANES) {
                    let value =
                        snake::<S>(S::load(x.add(at)), S::load(rate.add(at)), S::load(height.add(at)));
                    S::store(out.add(at), value);
                }
                if rest > 0 {
                    let rate = S::load_part(rate.add(whole), rest);
                    let height = S::load_part(height.add(whole), rest);
                    let value = snake::<S>(S::load_part(x.add(whole), rest), rate, height);
                    S::store_part(out.add(whole), rest, value);
                }
            }
        }
    }
}

/// `x + height * sin(x * rate)²`.
#[inline(always)]
unsafe fn snake<S: Simd>(x: S::Vector, rate: S::Vector, height: S::Vector) -> S::Vector {
    // SAFETY: as for this function.
    unsafe {
        let sine = sine_up_to_sign::<S>(S::mul(x, rate));
        S::mul_add(height, S::mul(sine, sine), x)
    }
}

/// `sin x` or `-sin x`: of the sine of half turns only the square is wanted.
///
/// `x = n π + r` with `|r| <= π / 2`, where π is taken in three parts, and the Taylor polynomial of degree 13 for
/// `sin r`, whose first omitted term is below 7e-10 there.
#[inline(always)]
unsafe fn sine_up_to_sign<S: Simd>(x: S::Vector) -> S::Vector {
    // SAFETY: as for this function.
    unsafe {
        let n = S::round(S::mul(x, S::splat(FRAC_1_PI)));
        // The first two parts have 8 and 11 bits, so that their products with `n` are exact for |n| < 2^13.
        let r = S::mul_add(n, S::splat(-3.140_625), x);
        let r = S::mul_add(n, S::splat(-9.675_026e-4), r);
        let r = S::mul_add(n, S::splat(-1.509_958e-7), r);
        // Beyond that `n` is wrong, and the polynomial must not grow without limit.
        let r = S::min(S::max(r, S::splat(-FRAC_PI_2)), S::splat(FRAC_PI_2));
        let square = S::mul(r, r);
        let mut p = S::splat(1.605_904_4e-10);
        for coefficient in [-2.505_210_8e-8, 2.755_731_9e-6, -1.984_127e-4, 8.333_333e-3, -0.166_666_67] {
            p = S::mul_add(p, square, S::splat(coefficient));
        }
        S::mul_add(S::mul(p, square), r, r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::cpu::Isa;
    use crate::tensor::cpu::simd::dispatch;

    #[test]
    fn the_square_of_the_sine_is_close_to_the_exact_one_on_every_instruction_set() {
        let snake = CpuSnake { rate: vec![1.0; 19], height: vec![1.0; 19] };
        for isa in Isa::available() {
            for step in -4000..4000 {
                let first = step as f32 * 0.25;
                let x: Vec<f32> = (0..19).map(|lane| first + lane as f32 * 0.013).collect();
                let mut out = vec![0.0; 19];
                dispatch(isa, SnakeRows { snake: &snake, x: &x, out: &mut out });
                for (x, out) in x.iter().zip(&out) {
                    let exact = f64::from(*x) + f64::from(*x).sin().powi(2);
                    let error = (f64::from(*out) - exact).abs();
                    let rounding = f64::from(x.abs().max(1.0) * f32::EPSILON);
                    assert!(error < 4e-7 + rounding, "{isa} {x}: {error:e}");
                }
            }
        }
    }

    #[test]
    fn huge_values_stay_finite_and_nan_stays_nan() {
        let snake = CpuSnake { rate: vec![1.0; 2], height: vec![1.0; 2] };
        for isa in Isa::available() {
            let mut out = vec![0.0; 2];
            dispatch(isa, SnakeRows { snake: &snake, x: &[1e30, f32::NAN], out: &mut out });
            assert!(out[0].is_finite() && out[1].is_nan(), "{isa} {out:?}");
        }
    }
}
