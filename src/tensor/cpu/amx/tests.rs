//! Tiles against the plain form with rounded activations, and the instructions against their model.
#![allow(unsafe_code)]

use half::bf16;

use super::check::multiplies;
use super::instructions::Instructions;
use super::model::Model;
use super::product::multiply;
use super::unit::{TileUnit, Tiles};
use crate::tensor::cpu::matmul::{Product, Rows};
use crate::tensor::cpu::memory::{CpuBuffer, CpuMatrix};
use crate::tensor::cpu::tests::{noise, weight};
use crate::tensor::cpu::{Isa, Plain, pool};
use crate::tensor::{Backend, Weight};

/// Values in [-1, 1), rounded to bf16.
fn rounded(count: usize, seed: u32) -> Vec<f32> {
    noise(count, seed).into_iter().map(|value| bf16::from_f32(value).to_f32()).collect()
}

fn matrix(parts: &[Weight]) -> CpuMatrix {
    CpuMatrix::stack(parts.to_vec()).unwrap()
}

/// `x · weightᵀ` on tiles.
fn product<U: TileUnit>(x: &[f32], weight: &CpuMatrix, rows: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows * weight.out];
    let pool = pool::shared(None).unwrap();
    multiply::<U>(&pool, x, 1, |_| Product { weight, rows: Rows::First(rows) }, &mut out);
    out
}

/// Rows, inner width and columns: few rows and many, tiles, steps, blocks and panels that are full and that are not.
const SHAPES: [(usize, usize, usize); 10] = [
    (1, 64, 64),
    (1, 37, 5),
    (3, 70, 40),
    (16, 32, 16),
    (17, 96, 133),
    (32, 545, 190),
    (40, 1100, 100),
    (70, 545, 48),
    (170, 1056, 50),
    (530, 40, 300),
];

#[test]
fn products_on_tiles_agree_with_the_plain_form() {
    for (rows, inner, out) in SHAPES {
        let x = rounded(rows * inner, 1);
        let parts = [weight(out, inner, 2, true), weight(19, inner, 3, true)];
        let mut plain = Plain.buffer(rows * (out + 19)).unwrap();
        Plain.matmul(&CpuBuffer(x.clone()), &matrix(&parts), rows, &mut plain).unwrap();
        for (index, (ours, plain)) in
            product::<Model>(&x, &matrix(&parts), rows).iter().zip(&plain.0).enumerate()
        {
            let difference = (ours - plain).abs();
            assert!(difference <= 1e-5 * inner as f32, "{rows}×{inner}×{out}, element {index}: {difference}");
        }
    }
}

#[test]
fn a_row_on_tiles_is_the_same_alone_and_among_others() {
    let (inner, out) = (1 + 40 * 32, 77);
    let weight = matrix(&[weight(out, inner, 9, true)]);
    for rows in [7, 16, 17, 33, 50, 150] {
        let x = noise(rows * inner, 5);
        let together = product::<Model>(&x, &weight, rows);
        for (row, expected) in together.chunks(out).enumerate() {
            assert_eq!(
                product::<Model>(&x[row * inner..][..inner], &weight, 1),
                expected,
                "row {row} of {rows}"
            );
        }
    }
}

#[test]
fn pairs_go_to_the_products_of_their_experts_on_tiles() {
    let (inner, out, divisor) = (50, 21, 3);
    let experts: Vec<CpuMatrix> = (0..3).map(|e| matrix(&[weight(out, inner, e, true)])).collect();
    let x = noise(20 * inner, 4);
    let chosen: [Vec<u32>; 3] = [(0..60).step_by(3).collect(), vec![1], (2..60).step_by(3).collect()];
    let mut together = vec![0.0; 60 * out];
    let named = |index: usize| Product {
        weight: &experts[index],
        rows: Rows::Pairs { pairs: &chosen[index], divisor },
    };
    multiply::<Model>(&pool::shared(None).unwrap(), &x, 3, named, &mut together);
    for (expert, pairs) in chosen.iter().enumerate() {
        for pair in pairs.iter().map(|pair| *pair as usize) {
            let row = &x[pair / divisor * inner..][..inner];
            assert_eq!(
                together[pair * out..][..out],
                product::<Model>(row, &experts[expert], 1),
                "pair {pair}"
            );
        }
    }
    assert!(together[4 * out..][..out].iter().all(|value| *value == 0.0), "nobody chose pair 4");
}

/// A unit that is wrong in one way.
struct Wrong<const WAY: usize>;

// SAFETY: touches what the model does.
unsafe impl<const WAY: usize> TileUnit for Wrong<WAY> {
    const VECTORS: Isa = Isa::Plain;

    unsafe fn configure(height: usize) {
        // SAFETY: as for this function.
        unsafe { Model::configure(height) }
    }

    unsafe fn multiply(tiles: Tiles) {
        // SAFETY: as for this function.
        unsafe {
            Model::multiply(tiles);
            let sum = &mut (*tiles.sums)[5];
            match WAY {
                // As if a sum were kept as bf16.
                0 => *sum = bf16::from_f32(*sum).to_f32(),
                // In the last bit, and only where there are many rows.
                1 if tiles.height == 16 => *sum = sum.next_up(),
                _ => {}
            }
        }
    }

    unsafe fn release() {}
}

#[test]
fn a_unit_that_rounds_sums_or_whose_rows_depend_on_their_number_fails_its_trial() {
    assert!(multiplies::<Model>());
    assert!(!multiplies::<Wrong<0>>());
    assert!(!multiplies::<Wrong<1>>());
}

#[test]
fn the_instructions_do_what_their_model_says() {
    if !Isa::available().contains(&Isa::Amx) {
        println!("skipped: this processor has no AMX, or the system does not let it be used");
        return;
    }
    assert!(multiplies::<Instructions>());
    let (mut elements, mut differ) = (0, 0);
    for (rows, inner, out) in SHAPES {
        let x = noise(rows * inner, 1);
        let weight = matrix(&[weight(out, inner, 2, true)]);
        let (ours, model) = (product::<Instructions>(&x, &weight, rows), product::<Model>(&x, &weight, rows));
        for (index, (ours, model)) in ours.iter().zip(model).enumerate() {
            assert!((ours - model).abs() <= 1e-6 * inner as f32, "{rows}×{inner}×{out}, element {index}");
            elements += 1;
            differ += usize::from(ours.to_bits() != model.to_bits());
        }
    }
    println!("{differ} of {elements} elements differ from the model in any bit");
}
