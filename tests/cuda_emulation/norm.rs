//! norm.cu.

use omni_actors::tensor::Backend;
use omni_actors::tensor::cpu::Plain;

use crate::device::device;
use crate::values::{BOTH, Random, Stored, assert_close};
use crate::{parameters, plain};

const EPS: f32 = 1e-6;

#[test]
fn rms_norm_is_the_plain_one() {
    let Some(device) = device() else { return };
    for (rows, width) in [(1, 1), (3, 37), (2, 64), (5, 2048), (1, 2056), (2, 2500)] {
        for stored in BOTH {
            let mut random = Random::new(width as u64);
            let (x, gain) = (random.values(rows * width, stored), random.values(width, Stored::F32));
            let out = stored.unwritten(rows * width);
            device.launch(
                &format!("rms_norm_{}", stored.name()),
                [rows as u32, 1, 1],
                256,
                0,
                &parameters![&stored.array(&x), &Stored::F32.array(&gain), EPS, width, &out],
            );
            let mut expected = plain::room(rows * width);
            Plain.rms_norm(&plain::buffer(&x), &plain::vector(&gain), EPS, rows, &mut expected).unwrap();
            let expected = plain::read(&expected, rows * width);
            assert_close(
                &format!("{stored:?} [{rows}, {width}]"),
                &stored.read(&out),
                &expected,
                stored,
                1.0,
            );
        }
    }
}

#[test]
fn the_residual_is_rounded_before_it_is_normalised() {
    let Some(device) = device() else { return };
    for (rows, width) in [(2, 5), (4, 96), (3, 2048)] {
        for stored in BOTH {
            let mut random = Random::new(7);
            let (residual, delta) =
                (random.values(rows * width, stored), random.values(rows * width, stored));
            let gain = random.values(width, Stored::F32);
            let (device_residual, out) = (stored.array(&residual), stored.unwritten(rows * width));
            device.launch(
                &format!("add_rms_norm_{}", stored.name()),
                [rows as u32, 1, 1],
                256,
                0,
                &parameters![
                    &device_residual,
                    &stored.array(&delta),
                    &Stored::F32.array(&gain),
                    EPS,
                    width,
                    &out
                ],
            );
            let sum = stored.round(residual.iter().zip(&delta).map(|(a, b)| a + b).collect());
            assert_eq!(stored.read(&device_residual), sum);
            let mut expected = plain::room(rows * width);
            Plain.rms_norm(&plain::buffer(&sum), &plain::vector(&gain), EPS, rows, &mut expected).unwrap();
            let expected = plain::read(&expected, rows * width);
            assert_close(
                &format!("{stored:?} [{rows}, {width}]"),
                &stored.read(&out),
                &expected,
                stored,
                1.0,
            );
        }
    }
}
