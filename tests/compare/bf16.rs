//! The file `bf16`: what the reference computes in bf16. It is held loosely, for a rounded router may choose other experts.

use std::error::Error;
use std::path::Path;

use omni_actors::models::qwen3_omni::{Code2Wav, CodecWindow, OmniConfig, Thinker};
use omni_actors::tensor::cpu::Cpu;
use omni_actors::tensor::{BLOCK_SIZE, Dtype, StepBatch, WeightStore};

use super::golden::Golden;
use super::{Bound, Comparison, Outcome};

/// The case, as its file is named.
pub(crate) const CASE: &str = "bf16";
/// Bound on logits.
const LOGITS: Bound = Bound::RelL2(2e-2);
/// Bound on waveforms.
const WAVE: Bound = Bound::RelL2(5e-2);

/// Compares the logits of the text case and the whole waveform, with weights in bf16.
pub(crate) fn compare(cpu: &Cpu, set: &Path) -> Outcome {
    let checkpoint = set.join("checkpoint");
    let config = OmniConfig::read(&checkpoint)?;
    let store = WeightStore::open(&checkpoint)?;
    let golden = Golden::read(set, CASE)?;
    let mut compared = Vec::new();
    let mut compare = |tensor: &str, ours: &[f32], bound: Bound| {
        compared.push(Comparison::numbers(CASE, tensor, ours, &golden.numbers(tensor), bound));
    };
    let prompt = Golden::read(set, "thinker_text")?.ids("input_ids")?;
    compare("thinker_text.logits", &logits(cpu, &config, &store, &prompt)?, LOGITS);
    if let Some(config) = &config.code2wav {
        let vocoder = Code2Wav::load(cpu, config, &store, Dtype::Bfloat16)?;
        let codes = Golden::read(set, "code2wav")?;
        let mut space = vocoder.new_workspace(codes.shape("codes")[1])?;
        let codes: Vec<u32> = codes.transposed("codes").into_iter().map(|code| code as u32).collect();
        vocoder.forward(&[CodecWindow { codes: &codes, keep_from: 0 }], &mut space, None)?;
        compare("code2wav.wav_whole", space.samples()?[0], WAVE);
    }
    Ok(compared)
}

/// The logits of every token of a prompt of text.
fn logits(
    cpu: &Cpu,
    config: &OmniConfig,
    store: &WeightStore,
    prompt: &[u32],
) -> Result<Vec<f32>, Box<dyn Error>> {
    let thinker = Thinker::load(cpu, config, store, Dtype::Bfloat16)?;
    let blocks = prompt.len().div_ceil(BLOCK_SIZE);
    let mut cache = thinker.new_cache(blocks)?;
    let mut space = thinker.new_workspace(prompt.len(), prompt.len())?;
    let table: Vec<u32> = (0..blocks as u32).collect();
    let mut batch = StepBatch::default();
    batch.push_text(prompt.iter().copied(), 0, &table, false);
    batch.logit_rows = (0..prompt.len() as u32).collect();
    thinker.forward(&batch, &mut cache, &mut space, None)?;
    Ok(space.logits()?.to_vec())
}
