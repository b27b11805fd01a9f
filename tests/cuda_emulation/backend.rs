//! The CUDA backend, with kernels that run on the CPU in the place of a GPU: every operation against its plain form,
//! and the thinker against its golden outputs.

use std::path::Path;
use std::sync::Arc;

use omni_actors::models::qwen3_omni::{OmniConfig, Thinker};
use omni_actors::selftest::operations::{self, Precision};
use omni_actors::selftest::{Check, thinker};
use omni_actors::tensor::cuda::kernels::FAMILIES;
use omni_actors::tensor::cuda::{Cuda, Stored};
use omni_actors::tensor::{Dtype, Outline, Outlined, WeightStore};

use crate::device::device;
use crate::driver::{Emulated, Library};

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
    let driver = Arc::new(Emulated::new(device, MULTIPROCESSORS, Library::Refuses));
    for (stored, precision) in [(Stored::F32, Precision::F32), (Stored::Bf16, Precision::Bf16)] {
        let mut failed = Vec::new();
        operations::compare(&Cuda::new(driver.clone(), stored), precision, failures(&mut failed)).unwrap();
        assert!(failed.is_empty(), "{stored:?}: {failed:#?}");
    }
    let launched = driver.launched.lock().unwrap();
    let entries = FAMILIES
        .iter()
        .filter(|family| !["sampling", "dummy"].contains(&family.name))
        .flat_map(|family| family.entries());
    let unused: Vec<&str> = entries.filter(|entry| !launched.contains_key(entry)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn the_thinker_agrees_with_its_golden_outputs() {
    let Some(device) = device() else { return };
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let cuda = Cuda::new(Arc::new(Emulated::new(device, MULTIPROCESSORS, Library::Refuses)), Stored::F32);
    for set in thinker::sets(&goldens).unwrap() {
        let mut failed = Vec::new();
        thinker::compare(&cuda, &set, failures(&mut failed)).unwrap();
        assert!(failed.is_empty(), "{failed:#?}");
    }
}

#[test]
fn a_library_multiplies_many_rows_and_own_kernels_where_it_refuses() {
    let Some(device) = device() else { return };
    for library in [Library::Multiplies, Library::Refuses] {
        for (stored, precision) in [(Stored::F32, Precision::F32), (Stored::Bf16, Precision::Bf16)] {
            let driver = Arc::new(Emulated::new(device, MULTIPROCESSORS, library));
            let (cuda, mut failed) = (Cuda::new(driver.clone(), stored), Vec::new());
            operations::compare_products(&cuda, precision, failures(&mut failed)).unwrap();
            assert!(failed.is_empty(), "{stored:?}: {failed:#?}");
            let asked = driver.asked.lock().unwrap();
            assert!(!asked.is_empty());
            for shape in asked.iter() {
                assert!(shape.out.columns > 128, "few rows are not for a library: {shape:?}");
                assert_eq!(shape.b.stored, stored);
            }
            let tiles = match stored {
                Stored::F32 => "matmul_f32_f32",
                Stored::Bf16 => "matmul_mma_bf16",
            };
            // Some products of many rows are not for a library; where it refuses, the others add to them.
            let own = driver.launched.lock().unwrap().get(tiles).copied().unwrap_or(0);
            let refused = if library == Library::Refuses { asked.len() } else { 0 };
            assert!(own >= refused, "{own} of {refused}");
        }
    }
}

#[test]
fn a_model_takes_of_the_device_what_its_outline_says() {
    let Some(device) = device() else { return };
    // What the descriptions of steps and of routing have besides what grows with them.
    const FIXED: usize = 64 << 10;
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/qwen3_omni/tiny/checkpoint");
    let config = OmniConfig::read(&checkpoint).unwrap();
    for store in [WeightStore::open(&checkpoint).unwrap(), WeightStore::dummy(1)] {
        for (stored, dtype) in
            [(Stored::F32, Dtype::Float32), (Stored::Bf16, Dtype::Auto), (Stored::Bf16, Dtype::Bfloat16)]
        {
            let outline = Outline::of(Outlined::Gpu(stored));
            let outlined = Thinker::load(&outline, &config, &store, dtype).unwrap();
            let weights = outline.take();
            assert_eq!((weights.in_files, weights.buffers, weights.caches), (0, 0, 0));
            let driver = Arc::new(Emulated::new(device, MULTIPROCESSORS, Library::Refuses));
            let cuda = Cuda::new(driver.clone(), stored);
            let thinker = Thinker::load(&cuda, &config, &store, dtype).unwrap();
            // The draws that made-up weights are picked from stay there.
            let draws = driver.launched.lock().unwrap().keys().any(|kernel| kernel.starts_with("dummy"));
            let draws = if draws { 2 << 16 } else { 0 };
            let loaded = driver.allocated();
            assert_eq!(weights.weights as usize + draws, loaded, "{stored:?} {dtype:?}");

            let _ = (outlined.new_workspace(100, 7).unwrap(), outlined.new_cache(9).unwrap());
            let _own = (thinker.new_workspace(100, 7).unwrap(), thinker.new_cache(9).unwrap());
            let (said, taken) = (outline.take(), driver.allocated() - loaded);
            let said = (said.buffers + said.caches) as usize;
            assert!(said.abs_diff(taken) <= FIXED, "{stored:?} {dtype:?}: {said} where {taken} are taken");
        }
    }
}
