//! matvec.cu.

use omni_actors::tensor::Backend;
use omni_actors::tensor::cpu::Plain;

use crate::device::device;
use crate::values::{BOTH, Random, Stored, assert_close};
use crate::{parameters, plain};

/// Rows, inner width and output width, with tails everywhere.
const SHAPES: [(usize, usize, usize); 6] =
    [(1, 8, 16), (1, 520, 37), (3, 40, 5), (8, 2048, 24), (13, 264, 50), (33, 96, 17)];

/// The plain product.
pub(crate) fn product(x: &[f32], weight: &[f32], rows: usize, inner: usize, out: usize) -> Vec<f32> {
    let mut expected = plain::room(rows * out);
    Plain.matmul(&plain::buffer(x), &plain::matrix(weight, out, inner), rows, &mut expected).unwrap();
    plain::read(&expected, rows * out)
}

#[test]
fn bf16_weights_go_through_tensor_cores() {
    let Some(device) = device() else { return };
    for (rows, inner, out) in SHAPES {
        let mut random = Random::new(inner as u64);
        let (x, weight) =
            (random.values(rows * inner, Stored::Bf16), random.values(out * inner, Stored::Bf16));
        let expected = product(&x, &weight, rows, inner, out);
        let (x, weight) = (Stored::Bf16.array(&x), Stored::Bf16.array(&weight));
        for stored in BOTH {
            let mut results = Vec::new();
            for columns in [8, 16, 32] {
                let result = stored.unwritten(rows * out);
                device.launch(
                    &format!("matvec_mma_{}_{columns}", stored.name()),
                    [out.div_ceil(16) as u32, rows.div_ceil(columns) as u32, 1],
                    256,
                    0,
                    &parameters![&x, &weight, rows, inner, out, &result],
                );
                results.push(stored.read(&result));
            }
            let case = format!("{stored:?} {rows} rows, [{out}, {inner}]");
            assert_close(&case, &results[0], &expected, stored, 1.0);
            // How many rows share a launch does not change a bit.
            assert!(results[1] == results[0] && results[2] == results[0], "{case}");
        }
    }
}

#[test]
fn any_types_and_widths_are_multiplied_in_f32() {
    let Some(device) = device() else { return };
    use Stored::{Bf16, F32};
    for (rows, inner, out) in [(1, 37, 5), (6, 264, 19), (4, 1, 8), (2, 2048, 3)] {
        for (activations, weights, results) in
            [(F32, F32, F32), (F32, Bf16, F32), (Bf16, Bf16, Bf16), (Bf16, Bf16, F32)]
        {
            let mut random = Random::new(out as u64);
            let (x, weight) = (random.values(rows * inner, activations), random.values(out * inner, weights));
            let result = results.unwritten(rows * out);
            device.launch(
                &format!("matvec_{}_{}_{}", activations.name(), weights.name(), results.name()),
                [out.div_ceil(8) as u32, rows.div_ceil(4) as u32, 1],
                256,
                0,
                &parameters![&activations.array(&x), &weights.array(&weight), rows, inner, out, &result],
            );
            let expected = product(&x, &weight, rows, inner, out);
            let case = format!("{rows} rows, {activations:?} {weights:?} [{out}, {inner}]");
            assert_close(&case, &results.read(&result), &expected, results, 1.0);
        }
    }
}
