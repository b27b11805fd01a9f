//! Sampling filters, held against a directory `sampling` of golden cases.

use std::fs;
use std::path::Path;

use omni_actors::engine::{Sampler, SamplingParams, TokenHistory};
use safetensors::SafeTensors;
use serde::Deserialize;

use super::{Bound, Comparison, Outcome, read_json};

/// One case: the parameters under which logits became processed logits and probabilities.
#[derive(Debug, Deserialize)]
struct Case {
    repetition_penalty: f32,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    suppress: Vec<u32>,
    history: Vec<u32>,
    kept: usize,
}

/// Compares every case of the set.
pub(crate) fn compare(set: &Path) -> Outcome {
    let cases: Vec<Case> = serde_json::from_value(read_json(&set.join("sampling.json"))?["cases"].take())?;
    let bytes = fs::read(set.join("sampling.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let tensor = |index: usize, name: &str| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        let view = tensors.tensor(&format!("{index}.{name}"))?;
        let (numbers, _) = view.data().as_chunks::<4>();
        Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };

    let mut comparisons = Vec::new();
    for (index, case) in cases.into_iter().enumerate() {
        let params = SamplingParams {
            repetition_penalty: case.repetition_penalty,
            temperature: case.temperature,
            top_k: case.top_k,
            top_p: case.top_p,
            min_p: case.min_p,
            ..SamplingParams::default()
        };
        let mut logits = tensor(index, "logits")?;
        let history = TokenHistory::new(&params, &case.history);
        let mut sampler = Sampler::new(Vec::new(), case.suppress);
        let mut processed = vec![f32::NEG_INFINITY; logits.len()];
        let mut probabilities = vec![0.0; logits.len()];
        let candidates = sampler.candidates(&mut logits, &params, &history);
        let total: f32 = candidates.iter().map(|candidate| candidate.weight).sum();
        for candidate in candidates {
            processed[candidate.id as usize] = candidate.logit;
            probabilities[candidate.id as usize] = candidate.weight / total;
        }
        let name = format!("filter[{index}]");
        comparisons.push(Comparison::exact(&name, "kept", &candidates.len(), &case.kept));
        let golden = tensor(index, "processed")?;
        comparisons.push(Comparison::numbers(&name, "processed", &processed, &golden, Bound::MaxAbs(1e-3)));
        let golden = tensor(index, "probs")?;
        comparisons.push(Comparison::numbers(&name, "probs", &probabilities, &golden, Bound::MaxAbs(1e-6)));
    }
    Ok(comparisons)
}
