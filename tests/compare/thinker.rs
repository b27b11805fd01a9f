//! The thinker's text path, held against golden outputs: positions, hidden states, logits, greedy answer.

use std::error::Error;
use std::path::Path;

use omni_actors::models::qwen3::{TapPoint, Taps, Workspace};
use omni_actors::models::qwen3_omni::{OmniConfig, Thinker};
use omni_actors::tensor::{BLOCK_SIZE, Backend, Dtype, StepBatch, WeightStore};

use super::golden::Golden;
use super::{Bound, Comparison, HIDDEN, LOGITS, Outcome};

/// Compares every tensor of a text case, the prompt being computed in chunks of `chunk` tokens.
pub(crate) fn compare<B: Backend>(backend: &B, set: &Path, case: &str, chunk: usize) -> Outcome {
    let checkpoint = set.join("checkpoint");
    let config = OmniConfig::read(&checkpoint)?;
    let store = WeightStore::open(&checkpoint)?;
    let thinker = Thinker::load(backend, &config, &store, Dtype::Float32)?;
    let golden = Golden::read(set, case)?;
    let prompt = golden.ids("input_ids")?;
    let greedy_ids = golden.ids("greedy_ids")?;
    let mut run = Run::new(&thinker, prompt.len() + greedy_ids.len())?;
    for tokens in prompt.chunks(chunk) {
        run.step(tokens)?;
    }

    let mut compared = Vec::new();
    let vocabulary = thinker.config().vocab_size;
    for name in golden.names()? {
        let ours = match name.as_str() {
            "inputs_embeds" => run.states(TapPoint::Embeddings),
            "final_norm_hidden" => run.states(TapPoint::FinalNorm),
            "accept_hidden" => run.states(thinker.accept_point().ok_or("the set has no talker")?),
            "logits" => {
                compared.push(Comparison::numbers(case, &name, &run.logits, &golden.floats(&name)?, LOGITS));
                continue;
            }
            "position_ids" => {
                let ours = run.positions.concat();
                compared.push(Comparison::numbers(case, &name, &ours, &golden.floats(&name)?, Bound::Exact));
                continue;
            }
            "rope_delta" => {
                // Text has no gaps in its positions.
                compared.push(Comparison::exact(case, &name, &[0][..], &golden.ids(&name)?[..]));
                continue;
            }
            "input_ids" | "greedy_ids" | "greedy_logits" => continue, // Used below, or as input.
            layer => match layer.strip_prefix("layer_out.") {
                Some(index) => run.states(TapPoint::Layer(index.parse()?)),
                None => return Err(format!("{case}: nothing is known of the tensor {layer}").into()),
            },
        };
        compared.push(Comparison::numbers(case, &name, &ours, &golden.floats(&name)?, HIDDEN));
    }

    let (mut ids, mut logits) = (Vec::new(), Vec::new());
    while ids.len() < greedy_ids.len() {
        let row = run.logits.get(run.logits.len() - vocabulary..).ok_or("no logits")?.to_vec();
        let best = (0..vocabulary).max_by(|&a, &b| row[a].total_cmp(&row[b])).ok_or("no vocabulary")? as u32;
        logits.extend(row);
        ids.push(best);
        run.step(&[best])?;
    }
    compared.push(Comparison::exact(case, "greedy_ids", &ids, &greedy_ids));
    compared.push(Comparison::numbers(
        case,
        "greedy_logits",
        &logits,
        &golden.floats("greedy_logits")?,
        LOGITS,
    ));
    Ok(compared)
}

/// One sequence on its way through the thinker, with all that was tapped.
struct Run<'a, B: Backend> {
    thinker: &'a Thinker<B>,
    cache: B::Cache,
    workspace: Workspace<B>,
    taps: Taps<B>,
    /// Hidden states of all tokens so far, by point.
    states: Vec<(TapPoint, Vec<f32>)>,
    /// Logits of all tokens so far.
    logits: Vec<f32>,
    positions: [Vec<f32>; 3],
    /// Blocks in an order of no meaning, as a pool hands them out.
    block_table: Vec<u32>,
}

impl<'a, B: Backend> Run<'a, B> {
    fn new(thinker: &'a Thinker<B>, tokens: usize) -> Result<Self, Box<dyn Error>> {
        let mut points = vec![TapPoint::Embeddings, TapPoint::FinalNorm];
        points.extend((0..thinker.config().layers.len()).map(TapPoint::Layer));
        let blocks = tokens.div_ceil(BLOCK_SIZE);
        Ok(Self {
            thinker,
            cache: thinker.new_cache(blocks)?,
            workspace: thinker.new_workspace(tokens, tokens)?,
            taps: thinker.new_taps(&points, tokens)?,
            states: points.into_iter().map(|point| (point, Vec::new())).collect(),
            logits: Vec::new(),
            positions: Default::default(),
            block_table: (0..blocks as u32).rev().collect(),
        })
    }

    fn step(&mut self, tokens: &[u32]) -> Result<(), Box<dyn Error>> {
        let mut batch = StepBatch::default();
        batch.push_text(tokens.iter().copied(), self.positions[0].len(), &self.block_table, false);
        batch.logit_rows = (0..tokens.len() as u32).collect();
        for (all, new) in self.positions.iter_mut().zip(&batch.positions) {
            all.extend(new);
        }
        self.thinker.forward(&batch, &mut self.cache, &mut self.workspace, Some(&mut self.taps))?;
        for (point, states) in &mut self.states {
            states.extend_from_slice(self.taps.read(*point)?);
        }
        self.logits.extend_from_slice(self.workspace.logits()?);
        Ok(())
    }

    fn states(&self, point: TapPoint) -> Vec<f32> {
        self.states
            .iter()
            .find(|(known, _)| *known == point)
            .map(|(_, states)| states.clone())
            .unwrap_or_default()
    }
}
