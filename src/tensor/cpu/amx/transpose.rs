//! Sums of a tile by rows instead of columns.
#![allow(unsafe_code)]

use std::arch::x86_64::{_MM_TRANSPOSE4_PS, _mm_loadu_ps, _mm_storeu_ps};

use super::unit::Sums;
use super::{TILE_COLUMNS, TILE_ROWS};

/// `[TILE_ROWS][TILE_COLUMNS]` of `[TILE_COLUMNS][TILE_ROWS]`, four by four. With many rows of a short inner width it
/// would take as long as the products if done value by value.
pub(super) fn transpose(sums: &Sums) -> Sums {
    let mut by_row = [0.0; _];
    for (column, row) in
        (0..TILE_COLUMNS).step_by(4).flat_map(|c| (0..TILE_ROWS).step_by(4).map(move |r| (c, r)))
    {
        // SAFETY: every processor of this architecture has SSE; four values from each of these places on lie in the arrays.
        unsafe {
            let from = |n: usize| sums.as_ptr().add((column + n) * TILE_ROWS + row);
            let [mut a, mut b, mut c, mut d] = [0, 1, 2, 3].map(|n| _mm_loadu_ps(from(n)));
            _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
            for (n, values) in [a, b, c, d].into_iter().enumerate() {
                _mm_storeu_ps(by_row.as_mut_ptr().add((row + n) * TILE_COLUMNS + column), values);
            }
        }
    }
    by_row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_rows() {
        let sums: Sums = std::array::from_fn(|at| at as f32);
        let by_row = transpose(&sums);
        for (at, value) in by_row.into_iter().enumerate() {
            assert_eq!(value as usize, at % TILE_COLUMNS * TILE_ROWS + at / TILE_COLUMNS);
        }
    }
}
