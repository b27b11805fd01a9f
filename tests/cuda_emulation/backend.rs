//! The CUDA backend, with kernels that run on the CPU in the place of a GPU: every operation against its plain form,
//! and the thinker against its golden outputs.

use std::path::Path;
use std::sync::Arc;

use omni_actors::engine::Sampler;
use omni_actors::models::qwen3_omni::{OmniConfig, Thinker};
use omni_actors::selftest::operations::{self, Precision};
use omni_actors::selftest::{Check, decode, sampling, thinker};
use omni_actors::stages::llm::DeviceSampling;
use omni_actors::tensor::cuda::kernels::FAMILIES;
use omni_actors::tensor::cuda::{Cuda, Stored};
use omni_actors::tensor::{BatchLimits, Dtype, Outline, Outlined, WeightStore};

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
    let entries = FAMILIES.iter().filter(|family| family.name != "dummy").flat_map(|family| family.entries());
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

#[test]
fn a_library_multiplies_many_rows_and_own_kernels_where_it_refuses() {
    let Some(device) = device() else { return };
    for library in [true, false] {
        for (stored, precision) in [(Stored::F32, Precision::F32), (Stored::Bf16, Precision::Bf16)] {
            let driver = Emulated::new(device, MULTIPROCESSORS);
            if library {
                driver.offer_library();
            }
            let (cuda, mut failed) = (Cuda::new(Arc::new(driver.clone()), stored), Vec::new());
            operations::compare_products(&cuda, precision, failures(&mut failed)).unwrap();
            assert!(failed.is_empty(), "{stored:?}: {failed:#?}");
            let asked = driver.asked_of_library();
            assert!(!asked.is_empty());
            for shape in &asked {
                assert!(shape.out.columns > 128, "few rows are not for a library: {shape:?}");
                assert_eq!(shape.b.stored, stored);
            }
            let tiles = match stored {
                Stored::F32 => "matmul_f32_f32",
                Stored::Bf16 => "matmul_mma_bf16",
            };
            // Some products of many rows are not for a library; where it refuses, the others add to them.
            let refused = if library { 0 } else { asked.len() };
            assert!(driver.launches_of(tiles) >= refused, "{} of {refused}", driver.launches_of(tiles));
        }
    }
}

#[test]
fn a_model_takes_of_the_device_what_its_outline_says() {
    let Some(device) = device() else { return };
    // What routing has besides what grows with a step.
    const FIXED: usize = 64 << 10;
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/qwen3_omni/tiny/checkpoint");
    let config = OmniConfig::read(&checkpoint).unwrap();
    let (stored, made) = (WeightStore::open(&checkpoint).unwrap(), WeightStore::dummy(1));
    for store in [&stored, &made] {
        for (stored, dtype) in
            [(Stored::F32, Dtype::Float32), (Stored::Bf16, Dtype::Auto), (Stored::Bf16, Dtype::Bfloat16)]
        {
            let outline = Outline::of(Outlined::Gpu(stored));
            let outlined = Thinker::load(&outline, &config, store, dtype).unwrap();
            let weights = outline.take();
            assert_eq!((weights.in_files, weights.buffers, weights.caches), (0, 0, 0));
            let driver = Emulated::new(device, MULTIPROCESSORS);
            let cuda = Cuda::new(Arc::new(driver.clone()), stored);
            let thinker = Thinker::load(&cuda, &config, store, dtype).unwrap();
            // The draws that made-up weights are picked from stay there.
            let loaded = driver.allocated();
            let draws = if std::ptr::eq(store, &made) { 2 << 16 } else { 0 };
            assert_eq!(weights.weights as usize + draws, loaded, "{stored:?} {dtype:?}");

            let limits = BatchLimits { rows: 100, logit_rows: 7 };
            let outlined = Arc::new(outlined.into_language_model());
            drop(DeviceSampling::boxed(outlined, 9, limits, Sampler::default()).unwrap());
            let thinker = Arc::new(thinker.into_language_model());
            let _own = DeviceSampling::boxed(thinker, 9, limits, Sampler::default()).unwrap();
            let (said, taken) = (outline.take(), driver.allocated() - loaded);
            let said = (said.buffers + said.caches) as usize;
            assert!(said.abs_diff(taken) <= FIXED, "{stored:?} {dtype:?}: {said} where {taken} are taken");
        }
    }
}
