//! The engine loop over a model that shows which tokens it was given, and where it found them.

use super::*;
use crate::config::Checkpoint;
use crate::engine::SamplingParams;
use crate::stages::Cancellation;
use crate::tensor::BLOCK_SIZE;

/// Width of the logits.
const VOCABULARY: usize = 211;
/// The most tokens of prompt and answer together.
const MAX_MODEL_LEN: usize = 64;

/// A model whose cache holds token ids, and whose logits depend on every token that it finds there for a sequence.
/// A token that was not computed, or that another sequence has written over, changes everything behind it.
struct ContextModel {
    /// The token in each slot of the cache.
    slots: Vec<u32>,
    /// Of the last step.
    logits: Vec<f32>,
}

impl ContextModel {
    fn new(blocks: usize) -> Self {
        Self { slots: vec![u32::MAX; blocks * BLOCK_SIZE], logits: Vec::new() }
    }
}

impl StepModel for ContextModel {
    fn vocabulary_size(&self) -> usize {
        VOCABULARY
    }

    fn forward(&mut self, batch: &StepBatch) -> Result<&mut [f32], StageError> {
        for (&slot, &token) in batch.slot_mapping.iter().zip(&batch.token_ids) {
            self.slots[slot as usize] = token;
        }
        self.logits.clear();
        for row in &batch.logit_rows {
            let span = batch.sequences.iter().find(|span| span.first_row + span.rows - 1 == *row).unwrap();
            let token = |position: usize| {
                let block = span.block_table[position / BLOCK_SIZE] as usize;
                self.slots[block * BLOCK_SIZE + position % BLOCK_SIZE]
            };
            let context = (0..span.context as usize).fold(0, |hash, at| mix(hash ^ u64::from(token(at))));
            let logit = |id: usize| (mix(context ^ id as u64) >> 40) as f32 / (1 << 22) as f32;
            self.logits.extend((0..VOCABULARY).map(logit));
        }
        Ok(&mut self.logits)
    }
}

fn mix(value: u64) -> u64 {
    let mixed = (value ^ (value >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

fn stage(blocks: usize, tokens_per_step: usize) -> LlmStage<ContextModel> {
    let tokenizer = Tokenizer::from_files(&Checkpoint::demo().tokenizer_files().unwrap()).unwrap();
    let settings = LlmSettings {
        stage: StageId(0),
        scheduler: SchedulerConfig { max_num_batched_tokens: tokens_per_step, max_num_seqs: 16 },
        cache_blocks: blocks,
        max_model_len: MAX_MODEL_LEN,
        eos_ids: vec![7],
        seed: 1,
        statistics: true,
    };
    LlmStage::new(ContextModel::new(blocks), Arc::new(tokenizer), settings).unwrap()
}

fn request(id: u64, prompt_tokens: usize, choices: u32, sampling: SamplingParams) -> StageRequest {
    let token_ids =
        (0..prompt_tokens as u32).map(|position| (position * 31 + id as u32 * 17) % 200).collect();
    StageRequest {
        id: RequestId(id),
        input: StageInput::Prompt(Arc::new(Prompt { token_ids, ..Prompt::default() })),
        sampling,
        choices,
        priority: 0,
        arrived: std::time::Instant::now(),
        to_client: true,
        to_next: false,
        cancelled: Cancellation::default(),
    }
}

/// Runs until nothing is left to do and gives back all outputs.
fn run(stage: &mut LlmStage<ContextModel>) -> Vec<StageOutput> {
    let mut outputs = Vec::new();
    for _ in 0..10_000 {
        if stage.plan() == Readiness::Idle {
            assert_eq!((stage.requests.len(), stage.generations.len()), (0, 0), "nothing is left behind");
            assert_eq!(stage.scheduler.cache_usage(), 0.0);
            return outputs;
        }
        let ticket = stage.launch().unwrap();
        stage.poll(ticket, true, &mut outputs).unwrap();
    }
    panic!("it never ends");
}

/// The tokens of one choice.
fn tokens_of(outputs: &[StageOutput], id: u64, choice: u32) -> Vec<u32> {
    let of_choice = |output: &StageOutput| match &output.event {
        StageEvent::Client(Output::Text(delta))
            if output.request == RequestId(id) && delta.choice == choice =>
        {
            delta.token_ids.clone()
        }
        _ => Vec::new(),
    };
    outputs.iter().flat_map(of_choice).collect()
}

/// How each request ended, in order.
fn ends(outputs: &[StageOutput]) -> Vec<(u64, Result<FinishReason, StageError>)> {
    let end = |output: &StageOutput| match &output.event {
        StageEvent::Finished(reason) => Some((output.request.0, Ok(*reason))),
        StageEvent::Failed(error) => Some((output.request.0, Err(error.clone()))),
        _ => None,
    };
    outputs.iter().filter_map(end).collect()
}

fn sampled() -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        repetition_penalty: 1.1,
        frequency_penalty: 0.2,
        ignore_eos: true,
        max_tokens: 40,
        ..SamplingParams::default()
    }
}

#[test]
fn preemption_and_company_do_not_change_what_a_request_gets() {
    let requests: Vec<_> =
        (0..6).map(|id| request(id, 5 + 3 * id as usize, 1 + id as u32 % 2, sampled())).collect();
    let mut crowded = stage(7, 24);
    for request in &requests {
        crowded.add(request.clone()).unwrap();
    }
    let together = run(&mut crowded);
    assert!(crowded.scheduler.preemptions() > 0, "the cache is too small to hold them all");
    for request in requests {
        let mut alone = stage(64, 64);
        alone.add(request.clone()).unwrap();
        let outputs = run(&mut alone);
        assert_eq!(alone.scheduler.preemptions(), 0);
        for choice in 0..request.choices {
            let expected = tokens_of(&outputs, request.id.0, choice);
            assert_eq!(expected.len(), 40);
            assert_eq!(tokens_of(&together, request.id.0, choice), expected, "request {}", request.id);
        }
    }
}

#[test]
fn choices_of_one_seed_differ_and_come_again() {
    let params = SamplingParams { seed: Some(3), max_tokens: 12, ..sampled() };
    let answers = [1, 2].map(|id| {
        let mut stage = stage(64, 64);
        let mut request = request(id, 9, 2, params.clone());
        request.input =
            StageInput::Prompt(Arc::new(Prompt { token_ids: vec![1, 2, 3], ..Prompt::default() }));
        stage.add(request).unwrap();
        let outputs = run(&mut stage);
        [0, 1].map(|choice| tokens_of(&outputs, id, choice))
    });
    assert_eq!(answers[0], answers[1]);
    assert_ne!(answers[0][0], answers[0][1]);
}

#[test]
fn an_answer_ends_at_one_token_and_at_the_models_length() {
    let mut stage = stage(4, 64);
    let long = SamplingParams { max_tokens: 1000, ..sampled() };
    stage.add(request(1, MAX_MODEL_LEN - 1, 1, long)).unwrap();
    stage.add(request(2, 1, 1, SamplingParams { max_tokens: 1, ..sampled() })).unwrap();
    let outputs = run(&mut stage);
    assert_eq!((tokens_of(&outputs, 1, 0).len(), tokens_of(&outputs, 2, 0).len()), (1, 1));
    assert!(ends(&outputs).iter().all(|(_, end)| *end == Ok(FinishReason::Length)));
}

#[test]
fn a_prompt_that_leaves_no_room_or_is_not_of_the_vocabulary_is_refused() {
    let mut stage = stage(4, 64);
    for prompt_tokens in [0, MAX_MODEL_LEN, MAX_MODEL_LEN + 1] {
        let refused = stage.add(request(1, prompt_tokens, 1, sampled()));
        assert!(matches!(refused, Err(StageError::InvalidInput(_))), "{prompt_tokens}");
    }
    let mut unknown = request(1, 1, 1, sampled());
    let token_ids = vec![VOCABULARY as u32];
    unknown.input = StageInput::Prompt(Arc::new(Prompt { token_ids, ..Prompt::default() }));
    assert!(matches!(stage.add(unknown), Err(StageError::InvalidInput(_))));
    assert!(run(&mut stage).is_empty());
}

#[test]
fn a_request_without_a_possible_token_fails_alone_and_once() {
    let mut stage = stage(16, 64);
    let hopeless = SamplingParams {
        min_tokens: 5,
        stop_token_ids: (0..VOCABULARY as u32).collect(),
        ..SamplingParams::default()
    };
    stage.add(request(1, 4, 3, hopeless)).unwrap();
    stage.add(request(2, 4, 1, SamplingParams { max_tokens: 3, ..sampled() })).unwrap();
    let ends = ends(&run(&mut stage));
    assert_eq!(ends.len(), 2);
    assert!(matches!(ends[0], (1, Err(StageError::Failed(_)))));
    assert_eq!(ends[1], (2, Ok(FinishReason::Length)));
}

#[test]
fn a_removed_request_leaves_nothing_behind() {
    let mut stage = stage(7, 8);
    for id in 0..3 {
        stage.add(request(id, 20, 2, sampled())).unwrap();
    }
    for _ in 0..5 {
        assert_eq!(stage.plan(), Readiness::Ready);
        stage.launch().unwrap();
    }
    for id in 0..3 {
        stage.remove(RequestId(id));
    }
    stage.remove(RequestId(99));
    run(&mut stage);
}

#[test]
fn sampling_parameters_out_of_range_are_refused_by_name() {
    let mut stage = stage(4, 64);
    for (name, sampling) in [
        ("temperature", SamplingParams { temperature: f32::NAN, ..sampled() }),
        ("max_tokens", SamplingParams { max_tokens: 0, ..sampled() }),
        ("logit_bias", SamplingParams { logit_bias: [(VOCABULARY as u32, 1.0)].into(), ..sampled() }),
    ] {
        let refused = stage.add(request(1, 4, 1, sampling));
        assert!(
            matches!(&refused, Err(StageError::InvalidInput(text)) if text.contains(name)),
            "{refused:?}"
        );
    }
    assert!(run(&mut stage).is_empty());
}
