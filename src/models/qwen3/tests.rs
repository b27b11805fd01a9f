//! Invariant: on a CPU a row's result is the same bits, whoever else is in the step.

use serde_json::json;

use super::{LanguageModel, Names, TextConfig, Workspace};
use crate::tensor::cpu::{Cpu, CpuCache, Isa};
use crate::tensor::{BLOCK_SIZE, Dtype, SequenceSpan, StepBatch, WeightStore};

/// Sequence lengths; their sum is 37.
const LENGTHS: [usize; 4] = [17, 1, 12, 7];
const ROWS: usize = 37;

fn model(cpu: &Cpu) -> LanguageModel<Cpu> {
    let config: TextConfig = serde_json::from_value(json!({
        "hidden_size": 72, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
        "head_dim": 24, "intermediate_size": 100, "vocab_size": 131, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 1000, "rope_theta": 1e4, "mlp_only_layers": [1],
        "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 52
    }))
    .unwrap();
    let config = config.decoder("config.json", "").unwrap();
    let names = Names { model: "model", head: "lm_head" };
    LanguageModel::load(cpu, names, config, &WeightStore::dummy(1), Dtype::Auto).unwrap()
}

fn token(sequence: usize, position: usize) -> u32 {
    ((sequence * 37 + position * 11) % 131) as u32
}

/// Appends rows `from..to` of a sequence, whose blocks are `2 * sequence` and the next.
fn push(step: &mut StepBatch, sequence: usize, from: usize, to: usize) {
    let blocks = [2 * sequence as u32, 2 * sequence as u32 + 1];
    let first_row = step.rows() as u32;
    for position in from..to {
        step.token_ids.push(token(sequence, position));
        step.positions.iter_mut().for_each(|axis| axis.push(position as f32));
        let slot = blocks[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE;
        step.slot_mapping.push(slot as u32);
        step.logit_rows.push(step.logit_rows.len() as u32);
    }
    step.sequences.push(SequenceSpan {
        first_row,
        rows: (to - from) as u32,
        context: to as u32,
        block_table: blocks.to_vec(),
    });
}

fn logits(
    model: &LanguageModel<Cpu>,
    step: &StepBatch,
    cache: &mut CpuCache,
    space: &mut Workspace<Cpu>,
) -> Vec<f32> {
    model.forward(step, cache, space, None).unwrap();
    space.logits().unwrap().to_vec()
}

#[test]
fn logits_are_the_same_bits_alone_in_chunks_and_in_a_batch_of_37() {
    for isa in Isa::available() {
        let model = model(&Cpu::with_isa(isa, None).unwrap());
        let mut space = model.new_workspace(ROWS, ROWS).unwrap();
        let mut cache = model.new_cache(2 * LENGTHS.len()).unwrap();
        let mut step = StepBatch::default();
        for (sequence, length) in LENGTHS.into_iter().enumerate() {
            push(&mut step, sequence, 0, length);
        }
        let together = logits(&model, &step, &mut cache, &mut space);
        assert!(together.iter().all(|logit| logit.is_finite()));
        let mut row = 0;
        for (sequence, length) in LENGTHS.into_iter().enumerate() {
            let expected = &together[row * 131..(row + length) * 131];
            for chunk in [length, 1, 5] {
                let mut cache = model.new_cache(2 * LENGTHS.len()).unwrap();
                let mut apart = Vec::new();
                for from in (0..length).step_by(chunk) {
                    step.clear();
                    push(&mut step, sequence, from, length.min(from + chunk));
                    apart.extend(logits(&model, &step, &mut cache, &mut space));
                }
                assert_eq!(apart, expected, "{isa}, sequence {sequence} in chunks of {chunk}");
            }
            row += length;
        }
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error() {
    let model = model(&Cpu::with_isa(Isa::Plain, None).unwrap());
    let mut space = model.new_workspace(1, 1).unwrap();
    let mut cache = model.new_cache(2).unwrap();
    let mut step = StepBatch::default();
    push(&mut step, 0, 0, 1);
    step.token_ids[0] = 131;
    let error = model.forward(&step, &mut cache, &mut space, None).unwrap_err();
    assert_eq!(error.to_string(), "batch: token id 131 where the table has 131 rows");
}

#[test]
fn a_step_larger_than_the_workspace_is_an_error() {
    let model = model(&Cpu::with_isa(Isa::Plain, None).unwrap());
    let mut space = model.new_workspace(2, 2).unwrap();
    let mut cache = model.new_cache(2).unwrap();
    let mut step = StepBatch::default();
    push(&mut step, 0, 0, 3);
    let error = model.forward(&step, &mut cache, &mut space, None).unwrap_err();
    assert_eq!(error.reason(), "invalid_batch");
}
