//! The choice of tokens on a device against the sampler on the host.

use super::Check;
use super::operations::weight;
use super::random::Random;
use crate::engine::{Draw, Sampler, SamplingParams, TokenHistory};
use crate::tensor::device_steps::{ChainedRow, CountedToken, DeviceSteps, Selection};
use crate::tensor::{BatchLimits, DeviceError, StepBatch};

/// The token that ends an answer, and those that are never chosen.
const END: u32 = 2;
const SUPPRESSED: [u32; 2] = [0, 7];
/// Steps that follow each other, each with what the one before chose.
const STEPS: u32 = 3;

/// Compares the tokens of rows with all kinds of parameters over several steps, which must be the same, and the
/// embeddings of tokens that the next step takes from the device. The backend's activations must be f32.
pub fn compare<B: DeviceSteps>(backend: &B, mut report: impl FnMut(Check)) -> Result<(), DeviceError> {
    for (vocabulary, spread) in [(37, 1.0), (1024, 12.0), (13_001, 3.0)] {
        let (tokens, embeddings) = Rows::new(backend, vocabulary, spread)?.differing()?;
        let case = format!("rows of {vocabulary}, spread {spread}");
        report(Check::new("sample, start_history", case.clone(), tokens as f32, 0.0));
        report(Check::new("take_tokens", case, embeddings as f32, 0.0));
    }
    Ok(())
}

/// Rows that choose, each the sequence of its own.
struct Rows<'a, B: DeviceSteps> {
    backend: &'a B,
    vocabulary: usize,
    spread: f32,
    random: Random,
    params: Vec<SamplingParams>,
    histories: Vec<TokenHistory>,
    sampler: Sampler,
    sampling: B::Sampling,
    batch: B::Batch,
    readback: B::Readback,
    /// `[vocabulary, 1]`: the embedding of a token is its id.
    table: B::Matrix,
}

impl<'a, B: DeviceSteps> Rows<'a, B> {
    fn new(backend: &'a B, vocabulary: usize, spread: f32) -> Result<Self, DeviceError> {
        let params = all_params();
        let limits = BatchLimits { rows: params.len() + 3, logit_rows: params.len() };
        // Where the vocabulary has them, more tokens than go up at once.
        let prompt: Vec<u32> = (0..vocabulary as u32).step_by(3).chain([3, 3]).collect();
        let mut sampling = backend.sampling(limits, vocabulary)?;
        let mut histories = Vec::new();
        for (row, params) in params.iter().enumerate() {
            let mut history = TokenHistory::new(params, &prompt);
            [5, 8, 8].into_iter().for_each(|id| history.push(id));
            if let Some(tokens) = history.counted() {
                let others = [0, 1, 4].map(|id| CountedToken { id, generated: 9 });
                backend.start_history(&mut sampling, row as u32, &others)?;
                backend.start_history(&mut sampling, row as u32, &tokens)?;
            }
            histories.push(history);
        }
        let ids = (0..vocabulary).map(|id| id as f32).collect();
        Ok(Self {
            backend,
            vocabulary,
            spread,
            random: Random::new(vocabulary),
            params,
            histories,
            sampler: Sampler::new(vec![END], SUPPRESSED.to_vec()),
            sampling,
            batch: backend.batch(limits)?,
            readback: backend.readback()?,
            table: backend.matrix(vec![weight(vec![vocabulary, 1], ids, false)?])?,
        })
    }

    /// How many tokens differ from what the sampler chooses, and how many embeddings from those of these tokens.
    fn differing(mut self) -> Result<(usize, usize), DeviceError> {
        let (mut tokens, mut embeddings) = (0, 0);
        let mut before: Vec<u32> = Vec::new();
        for step in 0..STEPS {
            let rows = self.params.len();
            let logits: Vec<f32> =
                self.random.values(rows * self.vocabulary).iter().map(|logit| logit * self.spread).collect();
            let (due, selections) = self.due(&logits, step);
            // From the second step on every row but the first is chained, to a row in another place.
            let chained: Vec<ChainedRow> = (1..before.len() as u32)
                .map(|row| ChainedRow { row, logit_row: rows as u32 - row })
                .collect();
            self.upload(&selections, &chained)?;
            let mut buffer = self.backend.upload_values(&logits)?;
            let mut embedded = self.backend.buffer(rows)?;
            self.backend.begin(&mut self.readback, rows)?;
            self.backend.take_tokens(&self.sampling, &mut self.batch)?;
            self.backend.embed(&self.table, &self.batch, &mut embedded)?;
            self.backend.sample(&mut buffer, &mut self.sampling)?;
            self.backend.read_tokens(&self.sampling, &mut self.readback)?;
            self.backend.end(&mut self.readback)?;
            let (chosen, _) = self.backend.wait(&mut self.readback)?;
            tokens += rows.abs_diff(chosen.len()) + chosen.iter().zip(&due).filter(|(a, b)| a != b).count();
            let mut staging = Vec::new();
            let embedded = self.backend.read(&embedded, rows, &mut staging)?;
            let taken = |row: usize| row.checked_sub(1).and_then(|row| before.iter().rev().nth(row));
            embeddings += (0..rows)
                .filter(|row| embedded.get(*row) != Some(&(taken(*row).copied().unwrap_or(1) as f32)))
                .count();
            before = due;
        }
        Ok((tokens, embeddings))
    }

    /// What the sampler chooses of the logits, and how the device is asked to.
    fn due(&mut self, logits: &[f32], step: u32) -> (Vec<u32>, Vec<Selection>) {
        let (mut due, mut selections) = (Vec::new(), Vec::new());
        let rows = logits.chunks_exact(self.vocabulary).zip(&self.params).zip(&mut self.histories);
        for (row, ((logits, params), history)) in rows.enumerate() {
            let draw = Draw {
                seed: 0x1234_5678_9abc + row as u64,
                stage: 1,
                choice: 2,
                step: history.generated(),
                within_step: step,
            };
            let counted = history.counted().map(|_| row as u32);
            selections.push(self.sampler.selection(params, draw, counted));
            let chosen = self.sampler.sample(&mut logits.to_vec(), params, history, draw);
            let id = chosen.map_or(u32::MAX, |sampled| sampled.id);
            history.push(id);
            due.push(id);
        }
        (due, selections)
    }

    /// Uploads a decode step in which token 1 stands where nothing is chained.
    fn upload(&mut self, selections: &[Selection], chained: &[ChainedRow]) -> Result<(), DeviceError> {
        let mut step = StepBatch::default();
        for row in 0..self.params.len() as u32 {
            step.push_text(std::iter::once(1), 0, &[row], true);
        }
        self.backend.upload(&step, &mut self.batch)?;
        self.backend.upload_selections(selections, chained, &self.batch, &mut self.sampling)
    }
}

/// Every rule, alone and with others.
fn all_params() -> Vec<SamplingParams> {
    let sampled = || SamplingParams { temperature: 0.9, ..SamplingParams::default() };
    vec![
        SamplingParams::default(),
        sampled(),
        SamplingParams { top_k: 50, ..sampled() },
        SamplingParams { top_p: 0.8, ..sampled() },
        SamplingParams { min_p: 0.2, ..sampled() },
        SamplingParams { top_k: 20, top_p: 0.7, min_p: 0.1, temperature: 1.7, ..sampled() },
        SamplingParams { repetition_penalty: 1.3, ..SamplingParams::default() },
        SamplingParams { presence_penalty: 0.5, frequency_penalty: -0.25, ..sampled() },
        SamplingParams {
            repetition_penalty: 1.05,
            presence_penalty: 0.5,
            frequency_penalty: 0.4,
            ..sampled()
        },
        SamplingParams { min_tokens: 5, stop_token_ids: vec![3, 9], ..SamplingParams::default() },
        SamplingParams { logit_bias: [(4, 2.5), (6, -100.0)].into(), top_k: 3, ..sampled() },
    ]
}
