//! Holds the thinker's text path against golden outputs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use omni_actors::models::qwen3::TapPoint;
use omni_actors::models::qwen3_omni::{OmniConfig, Thinker};
use omni_actors::tensor::cpu::{Cpu, Isa, Plain};
use omni_actors::tensor::{BLOCK_SIZE, Backend, Dtype, SequenceSpan, StepBatch, WeightStore};
use safetensors::SafeTensors;

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn ids(file: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    file.tensor(name).unwrap().data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
}

fn max_abs(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn relative(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let (mut d, mut n) = (0.0f64, 0.0f64);
    for (a, b) in a.iter().zip(b) {
        d += f64::from(a - b).powi(2);
        n += f64::from(*b).powi(2);
    }
    (d / n).sqrt() as f32
}

const TABLE: [u32; 6] = [3, 1, 0, 5, 2, 4];

fn step(tokens: &[u32], positions: &[Vec<f32>], first: usize) -> StepBatch {
    let context = (first + tokens.len()) as u32;
    StepBatch {
        token_ids: tokens.to_vec(),
        positions: [0, 1, 2].map(|axis| positions[axis].clone()),
        slot_mapping: (first..first + tokens.len())
            .map(|p| TABLE[p / BLOCK_SIZE] * BLOCK_SIZE as u32 + (p % BLOCK_SIZE) as u32)
            .collect(),
        sequences: vec![SequenceSpan {
            first_row: 0,
            rows: tokens.len() as u32,
            context,
            block_table: TABLE.to_vec(),
        }],
        logit_rows: (0..tokens.len() as u32).collect(),
    }
}

fn run<B: Backend>(backend: &B, name: &str, set: &Path, case: &str, chunk: usize) {
    let config = OmniConfig::read(&set.join("checkpoint")).unwrap();
    let store = WeightStore::open(&set.join("checkpoint")).unwrap();
    let thinker = Thinker::load(backend, &config, &store, Dtype::Float32).unwrap();
    let bytes = std::fs::read(set.join("golden").join(format!("{case}.safetensors"))).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = ids(&golden, "input_ids");
    let flat = floats(&golden, "position_ids");
    let positions: Vec<&[f32]> = flat.chunks(tokens.len()).collect();
    let layers = thinker.config().layers.len();
    let accept = thinker.accept_point().unwrap();
    let mut wanted = vec![("inputs_embeds".to_owned(), TapPoint::Embeddings), ("final_norm_hidden".to_owned(), TapPoint::FinalNorm)];
    wanted.extend((0..layers).map(|l| (format!("layer_out.{l}"), TapPoint::Layer(l))));
    wanted.push(("accept_hidden".to_owned(), accept));
    let points: Vec<TapPoint> = wanted.iter().map(|(_, p)| *p).collect();
    let mut taps = thinker.new_taps(&points, 64).unwrap();
    let mut cache = thinker.new_cache(6).unwrap();
    let mut space = thinker.new_workspace(64, 64).unwrap();
    let mut kept: Vec<Vec<f32>> = vec![Vec::new(); wanted.len()];
    let mut logits = Vec::new();
    for first in (0..tokens.len()).step_by(chunk) {
        let end = (first + chunk).min(tokens.len());
        let pos: Vec<Vec<f32>> = positions.iter().map(|p| p[first..end].to_vec()).collect();
        thinker.forward(&step(&tokens[first..end], &pos, first), &mut cache, &mut space, Some(&mut taps)).unwrap();
        for (kept, point) in kept.iter_mut().zip(&points) {
            kept.extend_from_slice(taps.read(*point).unwrap());
        }
        logits.extend_from_slice(space.logits().unwrap());
    }
    for ((tensor, _), ours) in wanted.iter().zip(&kept) {
        if golden.tensor(tensor).is_ok() {
            let error = relative(ours, &floats(&golden, tensor));
            assert!(error <= 1e-4, "{name} {case} {tensor} {error}");
            println!("{name} {} {case} {tensor} {error:.1e}", set.display());
        }
    }
    let error = max_abs(&logits, &floats(&golden, "logits"));
    println!("{name} {case} logits {error:.1e}");
    assert!(error <= 1e-3, "{name} {case} logits {error}");
    let vocab = thinker.config().vocab_size;
    let expected = ids(&golden, "greedy_ids");
    let greedy = floats(&golden, "greedy_logits");
    let mut last = logits[logits.len() - vocab..].to_vec();
    for (index, id) in expected.iter().enumerate() {
        let error = max_abs(&last, &greedy[index * vocab..(index + 1) * vocab]);
        assert!(error <= 1e-3, "{name} {case} greedy_logits {error}");
        let best = (0..vocab).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap() as u32;
        assert_eq!(best, *id);
        let position = tokens.len() + index;
        let pos = vec![vec![position as f32]; 3];
        thinker.forward(&step(&[best], &pos, position), &mut cache, &mut space, None).unwrap();
        last = space.logits().unwrap().to_vec();
    }
}

fn sets() -> Vec<PathBuf> {
    let mut sets = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/qwen3_omni/tiny"))];
    for root in std::env::var("OMNI_GOLDENS").unwrap_or_default().split(':').filter(|root| !root.is_empty()) {
        for set in std::fs::read_dir(Path::new(root).join("qwen3_omni")).unwrap() {
            sets.push(set.unwrap().path());
        }
    }
    sets
}

#[test]
fn the_thinker_gives_the_golden_outputs() {
    for set in sets() {
        for case in ["thinker_text", "thinker_text_system_history"] {
            for chunk in [64, 5] {
                run(&Plain, "plain", &set, case, chunk);
                for isa in Isa::available() {
                    run(&Cpu::with_isa(isa, None).unwrap(), isa.name(), &set, case, chunk);
                }
            }
        }
    }
}
