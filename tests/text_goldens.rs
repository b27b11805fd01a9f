//! Tokenizer, chat template and sampling filters, held against every golden set at hand.

#![allow(clippy::print_stdout, reason = "the table of comparisons is what this test prints")]

mod compare;

use compare::{Comparison, golden_directories, model_sets};

/// Prints the comparisons of a set and returns those that fail.
fn failures(set: &str, comparisons: &[Comparison]) -> Vec<String> {
    for comparison in comparisons {
        println!("{set} {comparison}");
    }
    comparisons.iter().filter(|c| !c.ok).map(|comparison| format!("{set} {comparison}")).collect()
}

#[test]
fn text_agrees_with_every_golden_set() {
    let (mut compared, mut failed) = (0, Vec::new());
    for directory in golden_directories() {
        for (name, set) in model_sets(&directory).unwrap() {
            let comparisons = compare::text::compare(&set).unwrap();
            assert!(!comparisons.is_empty(), "{name} holds nothing to compare");
            compared += comparisons.len();
            failed.extend(failures(&name, &comparisons));
        }
    }
    assert!(compared > 0 && failed.is_empty(), "{failed:#?}");
}

#[test]
fn sampling_agrees_with_every_golden_set() {
    let (mut compared, mut failed) = (0, Vec::new());
    for set in golden_directories().into_iter().map(|directory| directory.join("sampling")) {
        if set.is_dir() {
            let comparisons = compare::sampling::compare(&set).unwrap();
            compared += comparisons.len();
            failed.extend(failures("sampling", &comparisons));
        }
    }
    assert!(compared > 0 && failed.is_empty(), "{failed:#?}");
}
