//! A trial of the tile unit, before anything relies on it.

use half::bf16;

use super::STEP;
use super::product::multiply;
use super::unit::TileUnit;
use crate::tensor::Weight;
use crate::tensor::cpu::matmul::{Product, Rows};
use crate::tensor::cpu::memory::CpuMatrix;
use crate::tensor::cpu::pool::Pool;

/// Numbers of rows that are tried: a single one, a tile that is not full, a full one, two of them, and panels, the last of
/// which has its weights copied.
const ROWS: [usize; 6] = [1, 3, 16, 20, 33, 150];
/// Rows that are held against exact products, so that a start is not kept waiting; the others are against these.
const HELD: usize = 33;
/// Inner width: more steps than sums stay in tiles for where there are many rows, and a part of one.
const INNER: usize = 16 * STEP + 38;
/// Columns: three tiles and a part of one.
const COLUMNS: usize = 50;

/// Whether a unit multiplies as it should: every product is the exact one but for rounding to f32, and a row is the same
/// bits in every number of rows.
///
/// No particular order of additions within a step is asked for: that is the processor's affair, as long as it is always
/// the same. The bound is that of a sum of so many f32; a product that was rounded to bf16 on its way is further off.
pub(super) fn multiplies<U: TileUnit>() -> bool {
    let most = ROWS[ROWS.len() - 1];
    let (x, values) = (numbers(most * INNER, 1), numbers(COLUMNS * INNER, 2));
    let weight = Weight::from_bf16(vec![COLUMNS, INNER], values.clone());
    let Ok(weight) = CpuMatrix::stack(weight.into_iter().collect()) else { return false };
    let Ok(pool) = Pool::new(1) else { return false };
    let activations: Vec<f32> = x.iter().map(|value| value.to_f32()).collect();
    let product = |rows: usize| {
        let mut out = vec![f32::NAN; rows * COLUMNS];
        let of = |_| Product { weight: &weight, rows: Rows::First(rows) };
        multiply::<U>(&pool, &activations, 1, of, &mut out);
        out
    };
    let all = product(most);
    let exact = x.chunks_exact(INNER).flat_map(|x| values.chunks_exact(INNER).map(move |w| (x, w)));
    let close = all.iter().zip(exact).take(HELD * COLUMNS).all(|(ours, (x, w))| {
        let products = x.iter().zip(w).map(|(x, w)| x.to_f64() * w.to_f64());
        let (sum, size) =
            products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()));
        (f64::from(*ours) - sum).abs() <= INNER as f64 * f64::from(f32::EPSILON) * size
    });
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    close && ROWS.iter().all(|rows| bits(&product(*rows)) == bits(&all[..rows * COLUMNS]))
}

/// Values in [-1, 1) with as many digits as a bf16 has.
fn numbers(count: usize, mut state: u32) -> Vec<bf16> {
    let number = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..count).map(number).collect()
}
