//! The emulation itself: what it runs is what the PTX holds, and what it should report it reports.

use std::collections::BTreeSet;

use omni_actors::tensor::cuda::kernels::FAMILIES;

use crate::device::{Array, device};
use crate::parameters;
use crate::values::Stored;

#[test]
fn every_entry_of_the_ptx_runs_here() {
    let Some(device) = device() else { return };
    let emulated: BTreeSet<&str> =
        device.kernels.iter().map(String::as_str).filter(|name| !name.starts_with("faulty_")).collect();
    let embedded: BTreeSet<&str> = FAMILIES.iter().flat_map(|family| family.entries()).collect();
    assert_eq!(emulated, embedded);
}

/// What a launch of one of the faulty kernels of emulation.cpp reports.
fn report(kernel: &str) -> Option<String> {
    let out = Array::new(&[0.0_f32; 64]);
    device().map(|device| device.try_launch(kernel, [1, 1, 1], 64, 256, &parameters![&out]).unwrap_err())
}

#[test]
fn a_barrier_that_not_all_threads_reach_is_reported() {
    let Some(report) = report("faulty_barrier") else { return };
    assert!(
        report.contains("waits at its end where the first lane of its warp waits at a block barrier"),
        "{report}"
    );
}

#[test]
fn an_access_past_the_end_is_reported_with_its_thread() {
    let Some(report) = report("faulty_bounds") else { return };
    assert!(report.contains("thread (63, 0, 0): an access outside the buffers"), "{report}");
}

#[test]
fn a_misaligned_access_is_reported() {
    let Some(report) = report("faulty_alignment") else { return };
    assert!(report.contains("misaligned"), "{report}");
}

#[test]
fn a_missing_barrier_is_reported() {
    let Some(report) = report("faulty_order") else { return };
    assert!(report.contains("depends on the order"), "{report}");
}

#[test]
fn a_copy_that_is_not_waited_for_has_not_arrived() {
    let Some(device) = device() else { return };
    let out = Array::new(&[0.0_f32; 64]);
    device.launch("faulty_copy", [1, 1, 1], 64, 256, &parameters![&out]);
    assert!(Stored::F32.read(&out)[4..].iter().all(|value| value.is_nan()));
}

#[test]
fn a_wrong_number_of_parameters_is_reported() {
    let Some(device) = device() else { return };
    let error = device.try_launch("swiglu_f32", [1, 1, 1], 256, 0, &parameters![1.0]).unwrap_err();
    assert_eq!(error, "swiglu_f32 takes 3 parameters, 1 given");
}
