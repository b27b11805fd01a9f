//! matmul.cu.

use crate::device::device;
use crate::matvec::product;
use crate::parameters;
use crate::values::{BOTH, Random, Stored, assert_close};

#[test]
fn many_rows_go_through_tensor_cores() {
    let Some(device) = device() else { return };
    for (rows, inner, out) in [(1, 8, 1), (130, 40, 129), (128, 256, 128), (37, 136, 255), (65, 96, 20)] {
        let mut random = Random::new(out as u64);
        let (x, weight) =
            (random.values(rows * inner, Stored::Bf16), random.values(out * inner, Stored::Bf16));
        let expected = product(&x, &weight, rows, inner, out);
        for stored in BOTH {
            let result = stored.unwritten(rows * out);
            device.launch(
                &format!("matmul_mma_{}", stored.name()),
                [out.div_ceil(128) as u32, rows.div_ceil(128) as u32, 1],
                256,
                0,
                &parameters![
                    &Stored::Bf16.array(&x),
                    &Stored::Bf16.array(&weight),
                    rows,
                    inner,
                    out,
                    &result
                ],
            );
            assert_close(
                &format!("{rows} rows, [{out}, {inner}]"),
                &stored.read(&result),
                &expected,
                stored,
                1.0,
            );
        }
    }
}

#[test]
fn f32_products_stay_f32() {
    let Some(device) = device() else { return };
    for (rows, inner, out) in [(1, 1, 1), (70, 37, 65), (64, 32, 64), (5, 100, 130)] {
        for weights in BOTH {
            let mut random = Random::new(out as u64);
            let (x, weight) = (random.values(rows * inner, Stored::F32), random.values(out * inner, weights));
            let result = Stored::F32.unwritten(rows * out);
            device.launch(
                &format!("matmul_f32_{}", weights.name()),
                [out.div_ceil(64) as u32, rows.div_ceil(64) as u32, 1],
                256,
                0,
                &parameters![&Stored::F32.array(&x), &weights.array(&weight), rows, inner, out, &result],
            );
            let expected = product(&x, &weight, rows, inner, out);
            let case = format!("{rows} rows, {weights:?} [{out}, {inner}]");
            assert_close(&case, &result.read(), &expected, Stored::F32, 1.0);
        }
    }
}
