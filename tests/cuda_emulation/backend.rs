//! The CUDA backend, with kernels that run on the CPU in the place of a GPU: every operation against its plain form,
//! and the thinker against its golden outputs.

use std::path::Path;
use std::sync::Arc;

use omni_actors::selftest::operations::{self, Precision};
use omni_actors::selftest::{Check, decode, sampling, thinker};
use omni_actors::tensor::cuda::kernels::FAMILIES;
use omni_actors::tensor::cuda::{Cuda, Stored};

use crate::device::device;
use crate::driver::Emulated;

/// Multiprocessors of an H200.
const MULTIPROCESSORS: usize = 132;

/// Gathers checks that fail.
fn failures(failed: &mut Vec<Check>) -> impl FnMut(Check) {
    |check| {
        if !check.ok {
            failed.push(check);
        }
    }
}

#[test]
fn operations_agree_with_their_plain_form_and_use_every_kernel() {
    let Some(device) = device() else { return };
    let driver = Arc::new(Emulated::new(device, MULTIPROCESSORS));
    for (stored, precision) in [(Stored::F32, Precision::F32), (Stored::Bf16, Precision::Bf16)] {
        let mut failed = Vec::new();
        operations::compare(&Cuda::new(driver.clone(), stored), precision, failures(&mut failed)).unwrap();
        assert!(failed.is_empty(), "{stored:?}: {failed:#?}");
    }
    let mut failed = Vec::new();
    sampling::compare(&Cuda::new(driver.clone(), Stored::F32), failures(&mut failed)).unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
    let launched = driver.kernels_launched();
    let entries = FAMILIES.iter().flat_map(|family| family.entries());
    let unused: Vec<&str> = entries.filter(|entry| !launched.contains(entry)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn the_thinker_agrees_with_its_golden_outputs() {
    let Some(device) = device() else { return };
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let driver = Emulated::new(device, MULTIPROCESSORS);
    let cuda = Cuda::new(Arc::new(driver.clone()), Stored::F32);
    for set in thinker::sets(&goldens).unwrap() {
        let mut failed = Vec::new();
        thinker::compare(&cuda, &set, failures(&mut failed)).unwrap();
        decode::compare(&cuda, &set, failures(&mut failed)).unwrap();
        assert!(failed.is_empty(), "{failed:#?}");
    }
    assert!(driver.graphs_launched() > 0);
}
