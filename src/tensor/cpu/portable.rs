//! Vectors as arrays, for processors without a vector set of their own here.
#![allow(unsafe_code)]

use half::bf16;

use super::simd::Simd;

/// Eight lanes, which compilers turn into whatever the target has.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// Lanes of a vector.
const LANES: usize = 8;

#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

// SAFETY: needs no instructions beyond the target's; reads and writes exactly `LANES` elements.
unsafe impl Simd for Portable {
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 2;
    const TILE_COLUMNS: usize = 3;
    type Vector = [f32; LANES];

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Vector {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Vector {
        // SAFETY: the caller vouches for `LANES` elements.
        unsafe { from.cast::<Self::Vector>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self::Vector {
        // SAFETY: the caller vouches for `LANES` elements.
        let values = unsafe { from.cast::<[bf16; LANES]>().read_unaligned() };
        lanes(|i| f32::from_bits(u32::from(values[i].to_bits()) << 16))
    }
    #[inline(always)]
    unsafe fn load_even_bf16(from: *const bf16) -> Self::Vector {
        // SAFETY: the caller vouches for twice `LANES` elements.
        let values = unsafe { from.cast::<[bf16; 2 * LANES]>().read_unaligned() };
        lanes(|i| f32::from_bits(u32::from(values[2 * i].to_bits()) << 16))
    }
    #[inline(always)]
    unsafe fn load_odd_bf16(from: *const bf16) -> Self::Vector {
        // SAFETY: as above.
        let values = unsafe { from.cast::<[bf16; 2 * LANES]>().read_unaligned() };
        lanes(|i| f32::from_bits(u32::from(values[2 * i + 1].to_bits()) << 16))
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::Vector) {
        // SAFETY: the caller vouches for `LANES` elements.
        unsafe { to.cast::<Self::Vector>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        lanes(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        lanes(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        lanes(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        lanes(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(a: Self::Vector) -> Self::Vector {
        lanes(|i| a[i].round_ties_even())
    }
    #[inline(always)]
    unsafe fn power_of_two(a: Self::Vector) -> Self::Vector {
        lanes(|i| f32::from_bits(((a[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(a: Self::Vector) -> f32 {
        let half: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
        (half[0] + half[2]) + (half[1] + half[3])
    }
    #[inline(always)]
    unsafe fn four_sums(a: [Self::Vector; 4]) -> [f32; 4] {
        // SAFETY: needs nothing.
        a.map(|a| unsafe { Self::sum(a) })
    }
}
