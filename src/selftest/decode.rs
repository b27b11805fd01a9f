//! Decode steps without the host: the thinker's golden answers, one step launched while another is under way, and
//! steps of one shape launched as a graph.

use std::path::Path;
use std::sync::Arc;

use super::Check;
use super::thinker::{CASES, Golden, GoldenError};
use crate::engine::{Draw, Sampler, SamplingParams, SequenceKey, TokenHistory};
use crate::models::qwen3_omni::{OmniConfig, Thinker};
use crate::stages::StageError;
use crate::stages::llm::{DeviceSampling, ModelStep, StepModel, TokenChoice};
use crate::tensor::device_steps::{ChainedRow, DeviceSteps};
use crate::tensor::{BLOCK_SIZE, BatchLimits, DeviceError, Dtype, StepBatch, WeightStore};

/// Compares the greedy answers to the text cases of a set, both computed in one batch, with what the reference chose.
pub fn compare<B: DeviceSteps>(
    backend: &B,
    set: &Path,
    mut report: impl FnMut(Check),
) -> Result<(), GoldenError> {
    let checkpoint = set.join("checkpoint");
    let config = OmniConfig::read(&checkpoint)?;
    let store = WeightStore::open(&checkpoint)?;
    let thinker = Thinker::load(backend, &config, &store, Dtype::Float32)?.into_language_model();
    let mut answers = Vec::new();
    for case in CASES {
        let golden = Golden::read(&set.join("golden").join(format!("{case}.safetensors")))?;
        answers.push(Answer {
            prompt: golden.ids("input_ids")?,
            due: golden.ids("greedy_ids")?,
            got: Vec::new(),
            logit_row: 0,
        });
    }
    let blocks = |answer: &Answer| (answer.prompt.len() + answer.due.len()).div_ceil(BLOCK_SIZE);
    let limits = BatchLimits {
        rows: answers.iter().map(|answer| answer.prompt.len()).sum(),
        logit_rows: answers.len(),
    };
    let all = answers.iter().map(blocks).sum();
    let mut model = DeviceSampling::new(Arc::new(thinker), all, limits, Sampler::default())?;
    decode(&mut model, &mut answers).map_err(|error| DeviceError::Batch(error.to_string()))?;
    let name = set.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    for (case, Answer { due, got, .. }) in CASES.iter().zip(&answers) {
        let differing = due.iter().zip(got).filter(|(due, got)| due != got).count();
        let differing = differing + due.len().abs_diff(got.len());
        let subject = format!("{name} {case}, a step in flight");
        report(Check::new(&subject, "greedy_ids".to_owned(), differing as f32, 0.0));
    }
    Ok(())
}

/// A prompt with its greedy answer.
struct Answer {
    prompt: Vec<u32>,
    /// What the reference chose.
    due: Vec<u32>,
    /// What the device chose so far.
    got: Vec<u32>,
    /// Where the step launched last chooses its token.
    logit_row: u32,
}

/// Computes the answers, all together and as long as the longest is due. A step is collected when the next one has been launched.
fn decode(model: &mut impl StepModel, answers: &mut [Answer]) -> Result<(), StageError> {
    let params = SamplingParams::default();
    let history = TokenHistory::default();
    let steps = answers.iter().map(|answer| answer.due.len()).max().unwrap_or(0);
    for step in 0..=steps {
        if step < steps {
            let (mut batch, mut first_block) = (StepBatch::default(), 0);
            let (mut chained, mut choices) = (Vec::new(), Vec::new());
            for (index, Answer { prompt, due, logit_row, .. }) in answers.iter_mut().enumerate() {
                let blocks = (prompt.len() + due.len()).div_ceil(BLOCK_SIZE) as u32;
                let table: Vec<u32> = (first_block..first_block + blocks).rev().collect();
                first_block += blocks;
                if step >= due.len() {
                    continue;
                }
                if step == 0 {
                    batch.push_text(prompt.iter().copied(), 0, &table, true);
                } else {
                    let row = batch.rows() as u32;
                    batch.push_text(std::iter::once(0), prompt.len() + step - 1, &table, true);
                    chained.push(ChainedRow { row, logit_row: *logit_row });
                }
                *logit_row = choices.len() as u32;
                let draw = Draw { step: step as u32, ..Draw::default() };
                choices.push(TokenChoice {
                    key: SequenceKey(index as u64),
                    params: &params,
                    history: &history,
                    draw,
                });
            }
            model.launch(&ModelStep { batch: &batch, chained: &chained, choices: &choices })?;
        }
        if step > 0
            && let Some(outcome) = model.collect(true)?
        {
            let open = answers.iter_mut().filter(|answer| answer.got.len() < answer.due.len());
            for (answer, chosen) in open.zip(outcome.chosen) {
                answer.got.push(chosen.map_or(u32::MAX, |sampled| sampled.id));
            }
        }
    }
    Ok(())
}
