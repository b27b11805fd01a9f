//! sampling.cu, against the sampler that runs on the CPU.

use omni_actors::engine::{Draw, Sampler, SamplingParams, TokenHistory};

use crate::device::{Array, Parameter, device};
use crate::values::{Random, Stored};

/// One row to choose a token for.
struct Case {
    params: SamplingParams,
    /// Tokens of the prompt and tokens generated.
    history: (Vec<u32>, Vec<u32>),
    /// Tokens that are never chosen.
    suppressed: Vec<u32>,
    draw: Draw,
}

impl Case {
    fn new(params: SamplingParams) -> Self {
        Self { params, history: Default::default(), suppressed: Vec::new(), draw: Draw::default() }
    }

    /// What the sampler on the CPU chooses.
    fn reference(&self, logits: &[f32]) -> u32 {
        let mut history = TokenHistory::new(&self.params, &self.history.0);
        for token in &self.history.1 {
            history.push(*token);
        }
        let mut sampler = Sampler::new(Vec::new(), self.suppressed.clone());
        sampler
            .sample(&mut logits.to_vec(), &self.params, &history, self.draw)
            .map_or(u32::MAX, |sampled| sampled.id)
    }
}

const NO_HISTORY: u32 = u32::MAX;
const IN_PROMPT: u32 = 1 << 31;

/// What the kernel chooses for all rows in one launch; also checks that it counts what it chose.
fn choose(logits: &[f32], vocabulary: usize, cases: &[Case]) -> Option<Vec<u32>> {
    let device = device()?;
    let (mut rows, mut edits, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    for case in cases {
        let params = &case.params;
        let first_edit = edits.len() as u32 / 2;
        let mut own = params.logit_bias.clone();
        own.extend(case.suppressed.iter().map(|token| (*token, f32::NEG_INFINITY)));
        edits.extend(own.iter().flat_map(|(token, bias)| [*token, bias.to_bits()]));
        let penalised = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty);
        let history = if penalised == (1.0, 0.0, 0.0) {
            NO_HISTORY
        } else {
            let mut row = vec![0_u32; vocabulary];
            case.history.0.iter().for_each(|token| row[*token as usize] |= IN_PROMPT);
            case.history.1.iter().for_each(|token| row[*token as usize] += 1);
            counts.extend(row);
            (counts.len() / vocabulary - 1) as u32
        };
        let floats = [params.temperature, params.top_p, params.min_p, penalised.0, penalised.1, penalised.2];
        rows.extend(floats.map(f32::to_bits));
        let Draw { seed, stage, choice, step, within_step } = case.draw;
        rows.extend([params.top_k, history, seed as u32, (seed >> 32) as u32, step, choice]);
        rows.extend([u32::from(stage), within_step, first_edit, own.len() as u32]);
    }
    assert_eq!(rows.len(), 16 * cases.len());
    let tokens = Array::new(&vec![7_u32; cases.len()]);
    let counted = Array::new(&counts);
    device.launch(
        "sample",
        [cases.len() as u32, 1, 1],
        1024,
        0,
        &[
            Parameter::from(&Array::new(logits)),
            Parameter::from(vocabulary),
            Parameter::from(&Array::new(&rows)),
            Parameter::from(&Array::new(&edits)),
            Parameter::from(&counted),
            Parameter::from(&tokens),
        ],
    );
    let tokens: Vec<u32> = tokens.read();
    for (row, token) in rows.chunks_exact(16).zip(&tokens) {
        let history = row[7] as usize;
        if history != NO_HISTORY as usize && *token != u32::MAX {
            counts[history * vocabulary + *token as usize] += 1;
        }
    }
    assert_eq!(counted.read::<u32>(), counts);
    Some(tokens)
}

fn sampled() -> SamplingParams {
    SamplingParams { temperature: 0.9, ..SamplingParams::default() }
}

#[test]
fn every_rule_chooses_as_the_sampler_on_the_cpu() {
    let (few, ones) = (vec![3_u32, 5, 5, 8], vec![5_u32, 8, 8, 9]);
    let params = [
        SamplingParams::default(),
        sampled(),
        SamplingParams { top_k: 50, ..sampled() },
        SamplingParams { top_k: 1, ..sampled() },
        SamplingParams { top_p: 0.8, ..sampled() },
        SamplingParams { top_k: 50, top_p: 0.8, ..sampled() },
        SamplingParams { top_p: 1e-6, ..sampled() },
        SamplingParams { min_p: 0.2, ..sampled() },
        SamplingParams { top_k: 20, top_p: 0.7, min_p: 0.1, temperature: 1.7, ..sampled() },
        SamplingParams { repetition_penalty: 1.3, ..SamplingParams::default() },
        SamplingParams {
            repetition_penalty: 1.05,
            presence_penalty: 0.5,
            frequency_penalty: -0.25,
            ..sampled()
        },
        SamplingParams { logit_bias: [(4, 2.5), (6, -100.0)].into(), top_k: 3, ..sampled() },
        SamplingParams { top_k: 100_000, ..sampled() },
    ];
    for vocabulary in [1, 37, 1024, 3001] {
        for spread in [1.0, 12.0] {
            let cases: Vec<Case> = params
                .iter()
                .enumerate()
                .filter(|_| vocabulary > 9)
                .map(|(index, params)| Case {
                    history: (few.clone(), ones.clone()),
                    suppressed: if index % 2 == 0 { vec![0, 7] } else { Vec::new() },
                    draw: Draw {
                        seed: 0x1234_5678_9abc + index as u64,
                        stage: 1,
                        choice: 2,
                        step: vocabulary as u32,
                        within_step: index as u32,
                    },
                    ..Case::new(params.clone())
                })
                .chain([Case::new(sampled())])
                .collect();
            let logits: Vec<f32> = Random::new(vocabulary as u64)
                .values(vocabulary * cases.len(), Stored::F32)
                .iter()
                .map(|logit| logit * spread)
                .collect();
            let Some(tokens) = choose(&logits, vocabulary, &cases) else { return };
            for ((case, logits), token) in cases.iter().zip(logits.chunks_exact(vocabulary)).zip(tokens) {
                assert_eq!(token, case.reference(logits), "{:?} of {vocabulary}", case.params);
            }
        }
    }
}

#[test]
fn ties_are_kept_and_dropped_as_on_the_cpu() {
    let mut cases = Vec::new();
    for step in 0..12 {
        for (top_k, top_p) in [(3, 1.0), (0, 0.35), (0, 0.6), (9, 0.5)] {
            let draw = Draw { step, seed: 3, ..Draw::default() };
            cases.push(Case { draw, ..Case::new(SamplingParams { top_k, top_p, ..sampled() }) });
        }
    }
    let vocabulary = 70;
    let mut random = Random::new(5);
    let logits: Vec<f32> = (0..vocabulary * cases.len()).map(|_| random.below(3) as f32).collect();
    let Some(tokens) = choose(&logits, vocabulary, &cases) else { return };
    for ((case, logits), token) in cases.iter().zip(logits.chunks_exact(vocabulary)).zip(tokens) {
        assert_eq!(token, case.reference(logits), "{:?}", case.params);
    }
}

#[test]
fn a_row_without_a_finite_logit_gets_no_token() {
    let cases = [Case::new(SamplingParams::default()), Case::new(sampled())];
    let Some(tokens) = choose(&[f32::NAN, f32::NEG_INFINITY, f32::NAN, f32::NAN], 2, &cases) else { return };
    assert_eq!(tokens, [u32::MAX; 2]);
}

#[test]
fn a_history_begins_anew_and_takes_more_tokens_afterwards() {
    let Some(device) = device() else { return };
    let vocabulary = 1500_usize;
    let history = Array::new(&vec![9_u32; vocabulary]);
    // The last one does not exist.
    let first: Vec<u32> =
        [(0, IN_PROMPT), (1499, 3), (1500, 7)].iter().flat_map(|(id, word)| [*id, *word]).collect();
    let more: Vec<u32> = (10..1300).flat_map(|id| [id, id]).collect();
    let mut due = vec![0_u32; vocabulary];
    (due[0], due[1499]) = (IN_PROMPT, 3);
    for (seen, fresh) in [(first, 1_usize), (more, 0)] {
        device.launch(
            "count_tokens",
            [1, 1, 1],
            1024,
            0,
            &[
                Parameter::from(&history),
                Parameter::from(vocabulary),
                Parameter::from(&Array::new(&seen)),
                Parameter::from(seen.len() / 2),
                Parameter::from(fresh),
            ],
        );
        if fresh == 0 {
            (10..1300).for_each(|id| due[id as usize] = id);
        }
        assert_eq!(history.read::<u32>(), due);
    }
}
