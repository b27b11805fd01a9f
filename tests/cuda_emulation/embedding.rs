//! embedding.cu.

use omni_actors::tensor::Backend;
use omni_actors::tensor::cpu::Plain;

use crate::device::{Array, device};
use crate::values::{BOTH, Random, Stored};
use crate::{parameters, plain};

#[test]
fn embeddings_are_the_rows_of_the_table() {
    let Some(device) = device() else { return };
    for (weights, stored) in
        [(Stored::F32, Stored::F32), (Stored::Bf16, Stored::F32), (Stored::Bf16, Stored::Bf16)]
    {
        for width in [5, 64, 2056] {
            let table = Random::new(1).values(7 * width, weights);
            let ids = [6_u32, 0, 3, 3];
            let (out, fault) = (stored.unwritten(ids.len() * width), Array::new(&[0_u32]));
            device.launch(
                &format!("embed_{}_{}", weights.name(), stored.name()),
                [ids.len() as u32, 1, 1],
                256,
                0,
                &parameters![&weights.array(&table), &Array::new(&ids), 7_usize, width, &out, &fault],
            );
            let mut expected = plain::room(ids.len() * width);
            let batch = plain::batch(ids.to_vec(), Vec::new());
            Plain.embed(&plain::matrix(&table, 7, width), &batch, &mut expected).unwrap();
            assert_eq!(stored.read(&out), plain::read(&expected, ids.len() * width));
            assert_eq!(fault.read::<u32>(), [0]);
        }
    }
}

#[test]
fn an_id_that_the_table_does_not_have_raises_the_fault() {
    let Some(device) = device() else { return };
    let (out, fault) = (Stored::F32.unwritten(16), Array::new(&[0_u32]));
    let table = Stored::F32.array(&[1.0; 24]);
    device.launch(
        "embed_f32_f32",
        [2, 1, 1],
        256,
        0,
        &parameters![&table, &Array::new(&[3_u32, 2]), 3_usize, 8_usize, &out, &fault],
    );
    assert_eq!(out.read::<f32>(), [[0.0; 8], [1.0; 8]].concat());
    assert_eq!(fault.read::<u32>(), [1]);
}

#[test]
fn wanted_rows_are_gathered() {
    let Some(device) = device() else { return };
    for stored in BOTH {
        for width in [3, 72] {
            let x = Random::new(2).values(5 * width, stored);
            let wanted = [4_u32, 1];
            let out = stored.unwritten(2 * width);
            device.launch(
                &format!("gather_rows_{}", stored.name()),
                [2, 1, 1],
                256,
                0,
                &parameters![&stored.array(&x), &Array::new(&wanted), width, &out],
            );
            let mut expected = plain::room(2 * width);
            let batch = plain::batch(vec![0; 5], wanted.to_vec());
            Plain.gather_logit_rows(&plain::buffer(&x), width, &batch, &mut expected).unwrap();
            assert_eq!(stored.read(&out), plain::read(&expected, 2 * width));
        }
    }
}

#[test]
fn tokens_that_the_device_knows_are_taken_where_there_is_a_source() {
    let Some(device) = device() else { return };
    let rows = 300;
    let chosen: Vec<u32> = (0..7).map(|token| 100 + token).collect();
    let sources: Vec<u32> = (0..rows).map(|row| if row % 3 == 1 { u32::MAX } else { row % 7 }).collect();
    let tokens: Vec<u32> = (0..rows).collect();
    let taken = Array::new(&tokens);
    device.launch(
        "take_tokens",
        [2, 1, 1],
        256,
        0,
        &parameters![&Array::new(&chosen), &Array::new(&sources), rows as usize, &taken],
    );
    let take = |(token, source): (&u32, &u32)| chosen.get(*source as usize).copied().unwrap_or(*token);
    let due: Vec<u32> = tokens.iter().zip(&sources).map(take).collect();
    assert_eq!(taken.read::<u32>(), due);
}
