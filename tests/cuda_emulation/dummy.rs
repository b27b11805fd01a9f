//! dummy.cu: weights that are made on the device, against those that are made in the process.

use std::sync::Arc;

use omni_actors::tensor::cpu::Plain;
use omni_actors::tensor::cuda::{Cuda, Stored};
use omni_actors::tensor::{Backend, BatchLimits, Dtype, SequenceSpan, StepBatch, Weight, WeightStore};

use crate::device::device;
use crate::driver::Emulated;

/// Every row of a matrix, read as an embedding table.
fn rows_of<B: Backend>(backend: &B, parts: Vec<Weight>) -> Vec<f32> {
    let (rows, width) = (parts.iter().map(|part| part.shape[0]).sum::<usize>(), parts[0].shape[1]);
    let table = backend.matrix(parts).unwrap();
    let blocks = 0..rows.div_ceil(16) as u32;
    let step = StepBatch {
        token_ids: (0..rows as u32).collect(),
        positions: [(); 3].map(|()| vec![0.0; rows]),
        slot_mapping: (0..rows as u32).collect(),
        sequences: vec![SequenceSpan {
            first_row: 0,
            rows: rows as u32,
            context: rows as u32,
            block_table: blocks.collect(),
        }],
        logit_rows: Vec::new(),
    };
    let mut batch = backend.batch(BatchLimits { rows, logit_rows: 0 }).unwrap();
    backend.upload(&step, &mut batch).unwrap();
    let mut out = backend.precise_buffer(rows * width).unwrap();
    backend.embed(&table, &batch, &mut out).unwrap();
    backend.read(&out, rows * width, &mut Vec::new()).unwrap().to_vec()
}

#[test]
fn made_weights_are_the_same_bits_on_the_device_and_in_the_process() {
    let Some(device) = device() else { return };
    let store = WeightStore::dummy(7);
    let part = |name: &str, shape: [usize; 2]| store.tensor(name, &shape, Dtype::Auto).unwrap();
    // Tails; parts that begin in the middle of a word; more values than follow one counter; a part of ones.
    let cases: [&[(&str, [usize; 2])]; 4] = [
        &[("a.weight", [1, 1])],
        &[("a.weight", [3, 37]), ("b.weight", [5, 37]), ("c.weight", [1, 37])],
        &[("a.weight", [130, 2056])],
        &[("a.norm.weight", [3, 5]), ("a.weight", [2, 5])],
    ];
    for activations in [Stored::F32, Stored::Bf16] {
        for case in cases {
            let parts = || case.iter().map(|(name, shape)| part(name, *shape)).collect::<Vec<_>>();
            let driver = Emulated::new(device, 1);
            let made = rows_of(&Cuda::new(Arc::new(driver.clone()), activations), parts());
            let due = rows_of(&Plain, parts());
            assert!(
                made.iter().map(|value| value.to_bits()).eq(due.iter().map(|value| value.to_bits())),
                "{case:?}"
            );
            assert_eq!(driver.launches_of("dummy_bf16"), case.len(), "{case:?}");
        }
    }
}

#[test]
fn gains_of_norms_and_stored_weights_beside_made_ones_stay_what_they_are() {
    let Some(device) = device() else { return };
    let store = WeightStore::dummy(3);
    let driver = Emulated::new(device, 1);
    let cuda = Cuda::new(Arc::new(driver.clone()), Stored::F32);
    // A row of ones and a row of draws, both f32 beside a stored f32 part.
    let stored = || Weight::from_f32(vec![1, 5], vec![1.0, 2.0, 3.0, 4.0, 1.0 + 1e-5]).unwrap();
    let parts = || {
        let made =
            ["x.norm.weight", "x.weight"].map(|name| store.tensor(name, &[1, 5], Dtype::Auto).unwrap());
        [vec![stored()], made.to_vec()].concat()
    };
    assert_eq!(rows_of(&cuda, parts()), rows_of(&Plain, parts()));
    // A norm with a made gain.
    let norm = |name: &str| store.tensor(name, &[37], Dtype::Auto).unwrap();
    let x: Vec<f32> = (0..37).map(|i| i as f32 - 10.0).collect();
    for name in ["x.norm.weight", "x.bias"] {
        let (mut ours, mut due) = (cuda.buffer(37).unwrap(), Plain.buffer(37).unwrap());
        let (gain, plain_gain) = (cuda.vector(&norm(name)).unwrap(), Plain.vector(&norm(name)).unwrap());
        cuda.rms_norm(&cuda.upload_values(&x).unwrap(), &gain, 1e-6, 1, &mut ours).unwrap();
        Plain.rms_norm(&Plain.upload_values(&x).unwrap(), &plain_gain, 1e-6, 1, &mut due).unwrap();
        let ours = cuda.read(&ours, 37, &mut Vec::new()).unwrap().to_vec();
        for (ours, due) in ours.iter().zip(Plain.read(&due, 37, &mut Vec::new()).unwrap()) {
            assert!((ours - due).abs() < 1e-6, "{name}: {ours} {due}");
        }
    }
    assert_eq!(driver.launches_of("dummy_f32"), 4);
}

#[test]
fn weights_to_be_rounded_are_rounded_on_the_way() {
    let Some(device) = device() else { return };
    let directory = tempfile::tempdir().unwrap();
    let values: Vec<u8> = [1.0_f32 + 1e-4, 2.5, -3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1, 3], &values).unwrap();
    let file = directory.path().join("model.safetensors");
    std::fs::write(file, safetensors::serialize([("a", view)], None).unwrap()).unwrap();
    let store = WeightStore::open(directory.path()).unwrap();
    let cuda = Cuda::new(Arc::new(Emulated::new(device, 1)), Stored::Bf16);
    let weight = store.tensor("a", &[1, 3], Dtype::Bfloat16).unwrap();
    assert_eq!(rows_of(&cuda, vec![weight]), [1.0, 2.5, -3.0]);
}
