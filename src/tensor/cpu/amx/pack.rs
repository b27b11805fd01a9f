//! Activations, rounded to bf16 and packed as tiles read them.
#![allow(unsafe_code)]

use half::bf16;

use super::{STEP, TILE_ROWS};
use crate::tensor::cpu::simd::{Kernel, Simd};

/// Rows for which there is room where `rows` are packed: whole tiles, unless all fit one.
pub(super) fn padded_rows(rows: usize) -> usize {
    if rows <= TILE_ROWS { rows } else { rows.next_multiple_of(TILE_ROWS) }
}

/// Rows of each tile where `rows` are packed.
pub(super) fn tile_height(rows: usize) -> usize {
    rows.min(TILE_ROWS)
}

/// Packs one tile, `[steps][STEP / 2][height][2]`: pairs of inner positions, the rows of a pair side by side.
pub(super) struct Pack<'a> {
    /// The tile's rows, `[inner]` each; what is missing of a row becomes 0.
    pub(super) rows: [&'a [f32]; TILE_ROWS],
    /// Rows of the tile.
    pub(super) height: usize,
    /// The tile.
    pub(super) tile: &'a mut [bf16],
}

impl Kernel for Pack<'_> {
    type Output = ();

    /// Vectors are the compiler's.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { rows, height, tile } = self;
        for (step, packed) in tile.chunks_exact_mut(STEP * height).enumerate() {
            for (row, values) in rows[..height].iter().enumerate() {
                let values = values.get(step * STEP..).unwrap_or(&[]);
                let mut rounded = [bf16::ZERO; STEP];
                match values.first_chunk::<STEP>() {
                    Some(values) => round(values, &mut rounded),
                    None => round(values, &mut rounded),
                }
                for (pair, packed) in rounded.chunks_exact(2).zip(packed.chunks_exact_mut(2 * height)) {
                    packed[2 * row..][..2].copy_from_slice(pair);
                }
            }
        }
    }
}

/// Rounds as many values as there are.
#[inline(always)]
fn round(values: &[f32], rounded: &mut [bf16; STEP]) {
    for (rounded, value) in rounded.iter_mut().zip(values) {
        *rounded = bf16::from_f32(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::cpu::Isa;
    use crate::tensor::cpu::simd::dispatch;

    #[test]
    fn positions_go_in_pairs_and_what_is_missing_is_zero() {
        let values: Vec<Vec<f32>> =
            (0..2).map(|row| (0..35).map(|at| (100 * row + at) as f32).collect()).collect();
        let mut rows = [&[][..]; TILE_ROWS];
        rows[..2].copy_from_slice(&[&values[0], &values[1]]);
        for isa in Isa::available() {
            let mut tile = vec![bf16::ONE; 2 * STEP * 3];
            dispatch(isa, Pack { rows, height: 3, tile: &mut tile });
            for (at, value) in tile.iter().enumerate() {
                let (step, pair, row, half) = (at / (STEP * 3), at / 6 % (STEP / 2), at / 2 % 3, at % 2);
                let inner = step * STEP + 2 * pair + half;
                let expected = if row < 2 && inner < 35 { (100 * row + inner) as f32 } else { 0.0 };
                assert_eq!(value.to_f32(), expected, "{isa}, row {row}, position {inner}");
            }
        }
    }

    #[test]
    fn few_rows_share_a_tile_of_their_height_and_more_take_whole_tiles() {
        assert_eq!([1, 16, 17, 40].map(padded_rows), [1, 16, 32, 48]);
        assert_eq!([1, 16, 17, 40].map(tile_height), [1, 16, 16, 16]);
    }
}
