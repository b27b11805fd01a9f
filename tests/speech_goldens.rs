//! Talker, code predictor and vocoder give the golden outputs, on every backend and instruction set.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod speech;

use std::path::{Path, PathBuf};

use omni_actors::tensor::cpu::{Cpu, Isa, Plain};
use speech::Comparison;

/// The set in the repository, and every set under the directories of `OMNI_GOLDENS`.
fn sets() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let named = std::env::var("OMNI_GOLDENS").unwrap_or_default();
    let roots = named.split(':').filter(|root| !root.is_empty()).map(PathBuf::from);
    let mut sets: Vec<PathBuf> = std::iter::once(own)
        .chain(roots)
        .flat_map(|root| std::fs::read_dir(root.join("qwen3_omni")).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .collect();
    sets.sort();
    sets
}

/// Prints all comparisons and fails if one is out of its bound.
fn judge(comparisons: &[Comparison]) {
    assert!(!comparisons.is_empty(), "nothing was compared");
    for comparison in comparisons {
        println!("{comparison}");
    }
    let failed: Vec<_> = comparisons.iter().filter(|comparison| !comparison.ok()).collect();
    assert!(failed.is_empty(), "{} tensors out of bounds, first: {}", failed.len(), failed[0]);
}

#[test]
fn the_vocoder_gives_the_golden_waves() {
    for set in sets() {
        judge(&speech::code2wav::compare(&Plain, "loops", &set));
        for isa in Isa::available() {
            let cpu = Cpu::with_isa(isa, None).unwrap();
            judge(&speech::code2wav::compare(&cpu, isa.name(), &set));
        }
    }
}

#[test]
fn the_talker_speaks_the_golden_codes() {
    for set in sets() {
        for case in speech::talker::CASES {
            judge(&speech::talker::compare(&Plain, "loops", &set, case));
            for isa in Isa::available() {
                let cpu = Cpu::with_isa(isa, None).unwrap();
                judge(&speech::talker::compare(&cpu, isa.name(), &set, case));
            }
        }
    }
}
