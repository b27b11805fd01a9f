//! Activations, rounded to bf16 and packed as tiles read them.

use half::bf16;

use super::{STEP, TILE_ROWS};

/// Rows for which there is room where `rows` are packed: whole tiles, unless all fit one.
pub(super) fn padded_rows(rows: usize) -> usize {
    if rows <= TILE_ROWS { rows } else { rows.next_multiple_of(TILE_ROWS) }
}

/// Rows of each tile where `rows` are packed.
pub(super) fn tile_height(rows: usize) -> usize {
    rows.min(TILE_ROWS)
}

/// Packs one tile, `[steps][STEP / 2][height][2]`: pairs of inner positions, the rows of a pair side by side.
///
/// `rows` gives the tile's rows, `[inner]` each; rows that are missing and positions beyond the inner width become 0.
pub(super) fn pack<'a>(rows: impl Iterator<Item = &'a [f32]>, height: usize, tile: &mut [bf16]) {
    let mut filled = 0;
    for (row, values) in rows.take(height).enumerate() {
        filled = row + 1;
        for (step, packed) in values.chunks(STEP).zip(tile.chunks_exact_mut(STEP * height)) {
            let mut pairs = [bf16::ZERO; STEP];
            for (rounded, value) in pairs.iter_mut().zip(step) {
                *rounded = bf16::from_f32(*value);
            }
            for (pair, packed) in pairs.chunks_exact(2).zip(packed.chunks_exact_mut(2 * height)) {
                packed[2 * row..][..2].copy_from_slice(pair);
            }
        }
    }
    if filled < height {
        for packed in tile.chunks_exact_mut(2 * height) {
            packed[2 * filled..].fill(bf16::ZERO);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_go_in_pairs_and_what_is_missing_is_zero() {
        let rows: Vec<Vec<f32>> =
            (0..2).map(|row| (0..35).map(|at| (100 * row + at) as f32).collect()).collect();
        let mut tile = vec![bf16::ONE; 2 * STEP * 3];
        pack(rows.iter().map(Vec::as_slice), 3, &mut tile);
        for (at, value) in tile.iter().enumerate() {
            let (step, pair, row, half) = (at / (STEP * 3), at / 6 % (STEP / 2), at / 2 % 3, at % 2);
            let inner = step * STEP + 2 * pair + half;
            let expected = if row < 2 && inner < 35 { (100 * row + inner) as f32 } else { 0.0 };
            assert_eq!(value.to_f32(), expected, "row {row}, position {inner}");
        }
    }

    #[test]
    fn few_rows_share_a_tile_of_their_height_and_more_take_whole_tiles() {
        assert_eq!([1, 16, 17, 40].map(padded_rows), [1, 16, 32, 48]);
        assert_eq!([1, 16, 17, 40].map(tile_height), [1, 16, 16, 16]);
    }
}
