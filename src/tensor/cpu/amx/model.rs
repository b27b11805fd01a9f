//! The instructions' arithmetic, one number after the other.
#![allow(unsafe_code)]

use super::unit::{TileUnit, Tiles};
use super::{STEP, TILE_COLUMNS, TILE_ROWS};
use crate::tensor::cpu::Isa;

/// `TDPBF16PS` as Intel's Instruction Set Extensions Programming Reference has it: in a step the products at even and at
/// odd positions are summed apart, each with one rounding a product, the two sums are added, and what comes of it is added
/// to the tile's. Numbers below the normal ones are taken and given as 0.
pub(super) struct Model;

// SAFETY: indexes what `Tiles` describes as the instructions do.
unsafe impl TileUnit for Model {
    const VECTORS: Isa = Isa::Plain;

    unsafe fn configure(height: usize) {
        assert!((1..=TILE_ROWS).contains(&height));
    }

    unsafe fn multiply(tiles: Tiles) {
        let Tiles { weights, stride, activations, height, columns, rows, steps, sums, ahead: _ } = tiles;
        assert!(sums.cast::<u8>().addr().is_multiple_of(64) && steps > 0);
        for (c, r) in (0..columns).flat_map(|c| (0..rows).map(move |r| (c, r))) {
            for (column, row) in (0..TILE_COLUMNS).flat_map(|c| (0..height).map(move |r| (c, r))) {
                // SAFETY: the caller vouches for all that is read and written.
                unsafe {
                    let sum = &mut (*sums.add(2 * c + r))[column * TILE_ROWS + row];
                    for step in 0..steps {
                        let weight = weights[c].add(column * stride + step * STEP);
                        let activation = activations[r].add((step * STEP / 2 * height + row) * 2);
                        let mut halves = [0.0f32; 2];
                        for at in 0..STEP {
                            let (w, x) = (*weight.add(at), *activation.add(at / 2 * height * 2 + at % 2));
                            let (w, x) = (flush(w.to_f32()), flush(x.to_f32()));
                            halves[at % 2] = flush(w.mul_add(x, halves[at % 2]));
                        }
                        *sum = flush(flush(*sum) + flush(halves[0] + halves[1]));
                    }
                }
            }
        }
    }

    unsafe fn release() {}
}

/// 0 for a number below the normal ones.
fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0.0f32.copysign(value) } else { value }
}
