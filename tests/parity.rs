//! Holds the implementation against every golden set at hand: those in `tests/goldens`, and those under each directory
//! named in `OMNI_GOLDENS`. What a set holds is found out from what lies there.
//!
//! Prints a line per tensor: `set/variant case tensor max_abs rel_l2 bound ok|FAIL`.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says so when it fails"
)]

mod compare;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use compare::{Outcome, golden_directories, model_sets};
use omni_actors::tensor::cpu::{Cpu, Isa};

/// Thinker cases of Qwen3-Omni sets that are compared.
const THINKER: [&str; 2] = ["thinker_text", "thinker_text_system_history"];
/// Tokens per chunk where a prompt is computed in chunks.
const CHUNK: usize = 5;
/// More than any golden prompt has: it is computed whole.
const WHOLE: usize = 4096;

/// Prints comparisons and gathers those that fail.
#[derive(Default)]
struct Table {
    compared: usize,
    failed: Vec<String>,
}

impl Table {
    fn take(&mut self, set: &str, outcome: Outcome) {
        let comparisons = outcome.unwrap_or_else(|error| panic!("{set}: {error}"));
        assert!(!comparisons.is_empty(), "{set}: nothing was compared");
        for comparison in comparisons {
            let line = format!("{set} {comparison}");
            print(&line);
            self.compared += 1;
            if !comparison.ok {
                self.failed.push(line);
            }
        }
    }

    fn finish(self, subject: &str) {
        print(&format!("{subject}: {} compared, {} failed", self.compared, self.failed.len()));
        assert!(self.compared > 0, "{subject}: no set was found");
        assert!(self.failed.is_empty(), "{:#?}", self.failed);
    }
}

/// Prints a line whether the test passes or not, which `println!` in a test does not.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Calls `compare` for every set, found in whichever directory.
fn each_set(mut compare: impl FnMut(&str, &Path)) {
    for directory in golden_directories() {
        for (name, set) in model_sets(&directory).expect("the golden directory can be read") {
            compare(&name, &set);
        }
    }
}

/// The cases for which a set holds golden tensors.
fn cases(set: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(set.join("golden")).expect("the set has golden files");
    let paths = files.map(|file| file.expect("a file").path());
    let tensors = paths.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    tensors.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

#[test]
fn tokenizers_and_chat_templates_agree_with_every_golden_set() {
    let mut table = Table::default();
    each_set(|name, set| table.take(name, compare::text::compare(set)));
    table.finish("text");
}

#[test]
fn sampling_agrees_with_every_golden_set() {
    let mut table = Table::default();
    for set in golden_directories().into_iter().map(|directory| directory.join("sampling")) {
        if set.is_dir() {
            table.take("sampling", compare::sampling::compare(&set));
        }
    }
    table.finish("sampling");
}

#[test]
fn models_agree_with_every_golden_set() {
    let backend = |isa: Isa| (Cpu::with_isa(isa, None).expect("the CPU can be used"), isa.name());
    let backends: Vec<_> = Isa::exact().into_iter().map(backend).collect();
    let mut table = Table::default();
    let mut not_covered = Vec::new();
    each_set(|name, set| {
        let mut left = cases(set);
        if name.starts_with("qwen3_omni/") {
            let others = ["code2wav", compare::bf16::CASE];
            for case in THINKER.iter().chain(&compare::talker::CASES).chain(&others) {
                assert!(left.remove(*case), "{name}: the case {case} should be there");
            }
            for (backend, isa) in &backends {
                print(&format!("{name} on {isa}:"));
                for case in THINKER {
                    for chunk in [WHOLE, CHUNK] {
                        table.take(name, compare::thinker::compare(backend, set, case, chunk));
                    }
                }
                for case in compare::talker::CASES {
                    table.take(name, Ok(compare::talker::compare(backend, set, case)));
                }
                table.take(name, Ok(compare::code2wav::compare(backend, set)));
            }
        }
        not_covered.extend(left.into_iter().map(|case| format!("{name} {case}")));
    });
    for case in &not_covered {
        print(&format!("not yet covered: {case}"));
    }
    table.finish("models");
}

#[test]
fn models_in_bf16_agree_loosely_with_every_golden_set_on_every_instruction_set() {
    let mut table = Table::default();
    each_set(|name, set| {
        if name.starts_with("qwen3_omni/") {
            for isa in Isa::available() {
                let cpu = Cpu::with_isa(isa, None).expect("the CPU can be used");
                print(&format!("{name} in bf16 on {isa}:"));
                table.take(name, compare::bf16::compare(&cpu, set));
            }
        }
    });
    table.finish("models in bf16");
}
