//! activation.cu.

use omni_actors::tensor::Backend;
use omni_actors::tensor::cpu::Plain;

use crate::device::device;
use crate::values::{BOTH, Random, Stored, assert_close};
use crate::{parameters, plain};

const SHAPES: [(usize, usize); 4] = [(1, 1), (3, 37), (2, 768), (2, 2056)];

#[test]
fn swiglu_is_the_plain_one() {
    let Some(device) = device() else { return };
    for (rows, width) in SHAPES {
        for stored in BOTH {
            let gate_up = Random::new(3).values(rows * 2 * width, stored);
            let out = stored.unwritten(rows * width);
            device.launch(
                &format!("swiglu_{}", stored.name()),
                [width.div_ceil(2048) as u32, rows as u32, 1],
                256,
                0,
                &parameters![&stored.array(&gate_up), width, &out],
            );
            let mut expected = plain::room(rows * width);
            Plain.swiglu(&plain::buffer(&gate_up), rows, width, &mut expected).unwrap();
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
fn add_gated_is_the_plain_one() {
    let Some(device) = device() else { return };
    for (rows, width) in SHAPES {
        for stored in BOTH {
            let mut random = Random::new(4);
            let gate = random.values(rows, Stored::F32);
            let (x, sum) = (random.values(rows * width, stored), random.values(rows * width, stored));
            let out = stored.array(&sum);
            device.launch(
                &format!("add_gated_{}", stored.name()),
                [width.div_ceil(2048) as u32, rows as u32, 1],
                256,
                0,
                &parameters![&Stored::F32.array(&gate), &stored.array(&x), width, &out],
            );
            let mut expected = plain::buffer(&sum);
            Plain.add_gated(&plain::buffer(&gate), &plain::buffer(&x), rows, width, &mut expected).unwrap();
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
