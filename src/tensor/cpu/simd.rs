//! Vectors of f32 as kernels see them, and how a kernel is run with the instructions of an [`Isa`].
//!
//! A kernel is written once, against [`Simd`]. Everything in it is inlined into one function per instruction set
//! that carries the set's `target_feature`s, so the intrinsics become single instructions.
#![allow(unsafe_code)]

use half::bf16;

use super::isa::Isa;

/// A vector type with its operations.
///
/// # Safety
///
/// Every method may be called only where the instruction set is available, and the memory methods only with
/// pointers to as many elements as they say. Alignment is not needed.
pub(super) unsafe trait Simd: Copy {
    /// Lanes of a vector.
    const LANES: usize;
    /// Rows that a tile of a matrix product has at most: with its columns, as many as the registers hold.
    const TILE_ROWS: usize;
    /// Columns of a tile of a matrix product: 3 or 4.
    const TILE_COLUMNS: usize;
    /// A vector.
    type Vector: Copy;

    /// The same value in all lanes.
    unsafe fn splat(value: f32) -> Self::Vector;
    /// Reads `LANES` values.
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// Reads `LANES` values and widens them.
    unsafe fn load_bf16(from: *const bf16) -> Self::Vector;
    /// Reads `2 * LANES` values and widens those at even places.
    unsafe fn load_even_bf16(from: *const bf16) -> Self::Vector;
    /// Reads `2 * LANES` values and widens those at odd places.
    unsafe fn load_odd_bf16(from: *const bf16) -> Self::Vector;
    /// Writes `LANES` values.
    unsafe fn store(to: *mut f32, value: Self::Vector);
    /// `a * b + c`; in one rounding where the set has it.
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// Lane by lane.
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Lane by lane.
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Lane by lane.
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Lane by lane.
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Lane by lane; `b` where `a` is NaN.
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Lane by lane; `b` where `a` is NaN.
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::Vector) -> Self::Vector;
    /// `2^a` for integers between -126 and 127.
    unsafe fn power_of_two(a: Self::Vector) -> Self::Vector;
    /// The sum of all lanes, always in the same order.
    unsafe fn sum(a: Self::Vector) -> f32;
    /// The sums of four vectors, each the same bits as [`sum`](Self::sum).
    unsafe fn four_sums(a: [Self::Vector; 4]) -> [f32; 4];

    /// Reads `count < LANES` values; the other lanes are 0.
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self::Vector {
        let mut lanes = [0.0; 16];
        // SAFETY: `count` values are readable and fit `lanes`, which has room for the widest vector.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }

    /// Writes the first `count < LANES` values.
    #[inline(always)]
    unsafe fn store_part(to: *mut f32, count: usize, value: Self::Vector) {
        let mut lanes = [0.0; 16];
        // SAFETY: `lanes` has room for the widest vector, and `count` values are writable.
        unsafe {
            Self::store(lanes.as_mut_ptr(), value);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
}

/// Work that is done with vectors.
pub(super) trait Kernel {
    /// What it gives.
    type Output;

    /// Does it. Implementations are `#[inline(always)]`, and so is all that they call.
    ///
    /// # Safety
    ///
    /// The instruction set of `S` must be available.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs a kernel with an instruction set that the processor has, which `Cpu::with_isa` makes sure of.
#[inline]
pub(super) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        // SAFETY: needs no instructions that the binary was not compiled for.
        Isa::Plain => unsafe { kernel.run::<super::portable::Portable>() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the set; `Cpu::with_isa` refuses others.
        Isa::Avx2 => unsafe { super::avx2::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above; a processor with AMX tiles has AVX-512.
        Isa::Avx512 | Isa::Amx => unsafe { super::avx512::run(kernel) },
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: as for `Plain`; the others are not available on this architecture.
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => unsafe { kernel.run::<super::portable::Portable>() },
    }
}

/// `e^x`, to about two units in the last place, for finite `x`; below -87.3 it stays at `e^-87.3`.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, and a polynomial for `e^r`: the coefficients are those of `expf` in
/// S. Moshier's Cephes library.
///
/// # Safety
///
/// The instruction set of `S` must be available.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::Vector) -> S::Vector {
    // SAFETY: as for this function.
    unsafe {
        let x = S::min(S::max(x, S::splat(-87.3)), S::splat(88.0));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::mul_add(n, S::splat(-0.693_359_4), x);
        let r = S::mul_add(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = S::mul_add(p, r, S::splat(coefficient));
        }
        let p = S::add(S::mul_add(p, S::mul(r, r), r), S::splat(1.0));
        S::mul(p, S::power_of_two(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::cpu::tests::noise;

    struct ExpOf(f32);

    impl Kernel for ExpOf {
        type Output = f32;

        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> f32 {
            let mut lanes = [0.0; 16];
            // SAFETY: the caller vouches for the instruction set; `lanes` holds the widest vector.
            unsafe { S::store(lanes.as_mut_ptr(), exp::<S>(S::splat(self.0))) };
            lanes[0]
        }
    }

    /// Four vectors summed together and one by one.
    struct SumsOf<'a>(&'a [f32]);

    impl Kernel for SumsOf<'_> {
        type Output = [[f32; 4]; 2];

        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> [[f32; 4]; 2] {
            // SAFETY: the caller vouches for the instruction set; there are four vectors of values.
            unsafe {
                let vectors: [S::Vector; 4] =
                    std::array::from_fn(|n| S::load(self.0[n * S::LANES..][..S::LANES].as_ptr()));
                [S::four_sums(vectors), vectors.map(|vector| S::sum(vector))]
            }
        }
    }

    #[test]
    fn four_sums_are_the_bits_of_each_alone() {
        for isa in Isa::available() {
            for seed in 0..100 {
                let [together, alone] = dispatch(isa, SumsOf(&noise(64, seed)));
                assert_eq!(together, alone, "{isa}");
            }
        }
    }

    /// Pairs of bf16, the even ones and the odd ones.
    struct PairsOf<'a>(&'a [bf16]);

    impl Kernel for PairsOf<'_> {
        type Output = (usize, [f32; 16], [f32; 16]);

        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> Self::Output {
            let (mut even, mut odd) = ([0.0; 16], [0.0; 16]);
            // SAFETY: the caller vouches for the instruction set; the arrays hold the widest vector.
            unsafe {
                S::store(even.as_mut_ptr(), S::load_even_bf16(self.0.as_ptr()));
                S::store(odd.as_mut_ptr(), S::load_odd_bf16(self.0.as_ptr()));
            }
            (S::LANES, even, odd)
        }
    }

    #[test]
    fn pairs_of_bf16_are_widened_exactly() {
        let values: Vec<bf16> = noise(32, 1).into_iter().map(bf16::from_f32).collect();
        for isa in Isa::available() {
            let (lanes, even, odd) = dispatch(isa, PairsOf(&values));
            for lane in 0..lanes {
                assert_eq!(
                    [even[lane], odd[lane]],
                    [2 * lane, 2 * lane + 1].map(|at| values[at].to_f32()),
                    "{isa}"
                );
            }
        }
    }

    #[test]
    fn exp_is_close_to_the_exact_value_on_every_instruction_set() {
        for isa in Isa::available() {
            for step in -870..=880 {
                let x = step as f32 * 0.1;
                let exact = f64::from(x).exp();
                let error = (f64::from(dispatch(isa, ExpOf(x))) - exact).abs() / exact;
                assert!(error < 3e-7, "{isa} e^{x}: relative error {error:e}");
            }
            assert!(dispatch(isa, ExpOf(f32::NEG_INFINITY)) < 1e-37);
        }
    }
}
