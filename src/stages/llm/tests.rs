//! The engine loop over a model that shows which tokens it was given, and where it found them.

mod prefix_cache;
mod statistics;

use std::time::Duration;

use super::*;
use crate::config::Checkpoint;
use crate::engine::{Draw, Sampler, SamplingParams, TokenHistory};
use crate::stages::{Cancellation, TextDelta};
use crate::tensor::BLOCK_SIZE;

/// Width of the logits.
const VOCABULARY: usize = 211;
/// The most tokens of prompt and answer together.
const MAX_MODEL_LEN: usize = 64;
/// Sequences that run at the same time.
const MAX_NUM_SEQS: usize = 16;
/// The token that ends an answer.
const END: u32 = 7;

/// A device with a model whose cache holds token ids, and whose logits depend on every token that it finds there for a
/// sequence. A token that was not computed, or that another sequence has written over, changes everything behind it.
///
/// It works in the order of the launches and as late as it may: when a step is collected.
struct LateDevice {
    steps_in_flight: usize,
    /// The token in each slot of the cache.
    slots: Vec<u32>,
    /// What was launched, oldest first.
    launched: VecDeque<Launched>,
    /// The tokens of the step that was computed last, by logit row.
    chosen: Vec<u32>,
    /// Where the history of each sequence is counted, and where none is.
    taken: HashMap<SequenceKey, usize>,
    free: Vec<usize>,
    /// The histories.
    histories: Vec<TokenHistory>,
    sampler: Sampler,
    /// The most rows of a step that were chained.
    most_chained: usize,
}

/// A step with all that it needs.
struct Launched {
    batch: StepBatch,
    chained: Vec<ChainedRow>,
    /// Histories that begin with it.
    begun: Vec<(usize, TokenHistory)>,
    /// How each logit row chooses, and which history counts it.
    choices: Vec<(usize, SamplingParams, Draw)>,
}

impl LateDevice {
    fn new(blocks: usize, steps_in_flight: usize) -> Self {
        Self {
            steps_in_flight,
            slots: vec![u32::MAX; blocks * BLOCK_SIZE],
            launched: VecDeque::new(),
            chosen: Vec::new(),
            taken: HashMap::default(),
            free: (0..MAX_NUM_SEQS).collect(),
            histories: vec![TokenHistory::default(); MAX_NUM_SEQS],
            sampler: Sampler::new(vec![END], Vec::new()),
            most_chained: 0,
        }
    }

    fn logits(&self, batch: &StepBatch, row: u32) -> Vec<f32> {
        let span = batch.sequences.iter().find(|span| span.first_row + span.rows - 1 == row).unwrap();
        let token = |position: usize| {
            let block = span.block_table[position / BLOCK_SIZE] as usize;
            self.slots[block * BLOCK_SIZE + position % BLOCK_SIZE]
        };
        let context = (0..span.context as usize).fold(0, |hash, at| mix(hash ^ u64::from(token(at))));
        let logit = |id: usize| (mix(context ^ id as u64) >> 40) as f32 / (1 << 22) as f32;
        (0..VOCABULARY).map(logit).collect()
    }
}

impl StepModel for LateDevice {
    fn vocabulary_size(&self) -> usize {
        VOCABULARY
    }

    fn steps_in_flight(&self) -> usize {
        self.steps_in_flight
    }

    fn launch(&mut self, step: &ModelStep<'_>) -> Result<(), StageError> {
        let (mut begun, mut choices) = (Vec::new(), Vec::new());
        for choice in step.choices {
            let history = *self.taken.entry(choice.key).or_insert_with(|| {
                let history = self.free.pop().expect("histories are let go of");
                begun.push((history, choice.history.clone()));
                history
            });
            choices.push((history, choice.params.clone(), choice.draw));
        }
        let (batch, chained) = (step.batch.clone(), step.chained.to_vec());
        self.launched.push_back(Launched { batch, chained, begun, choices });
        assert!(self.launched.len() <= self.steps_in_flight);
        Ok(())
    }

    fn collect(&mut self, _: bool) -> Result<Option<StepOutcome>, StageError> {
        let Launched { mut batch, chained, begun, choices } = self.launched.pop_front().unwrap();
        for (place, history) in begun {
            self.histories[place] = history;
        }
        self.most_chained = self.most_chained.max(chained.len());
        for ChainedRow { row, logit_row } in chained {
            batch.token_ids[row as usize] = self.chosen[logit_row as usize];
        }
        for (&slot, &token) in batch.slot_mapping.iter().zip(&batch.token_ids) {
            self.slots[slot as usize] = token;
        }
        let (mut tokens, mut chosen) = (Vec::new(), Vec::new());
        for (row, (history, params, draw)) in batch.logit_rows.iter().zip(&choices) {
            let (mut logits, history) = (self.logits(&batch, *row), &mut self.histories[*history]);
            assert_eq!(history.generated(), draw.step);
            let sampled = self.sampler.sample(&mut logits, params, history, *draw);
            let id = sampled.as_ref().map_or(u32::MAX, |sampled| sampled.id);
            history.push(id);
            tokens.push(id);
            chosen.push(sampled);
        }
        self.chosen = tokens;
        Ok(Some(StepOutcome { chosen, device_time: Duration::ZERO }))
    }

    fn release(&mut self, key: SequenceKey) {
        self.free.extend(self.taken.remove(&key));
    }
}

fn mix(value: u64) -> u64 {
    let mixed = (value ^ (value >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// A stage that has the next step launched while one is under way.
fn stage(blocks: usize, tokens_per_step: usize) -> LlmStage<LateDevice> {
    stage_with(2, blocks, tokens_per_step)
}

fn stage_with(steps_in_flight: usize, blocks: usize, tokens_per_step: usize) -> LlmStage<LateDevice> {
    let settings = settings(blocks, tokens_per_step);
    LlmStage::new(LateDevice::new(blocks, steps_in_flight), tokenizer(), settings).unwrap()
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_files(&Checkpoint::demo().tokenizer_files().unwrap()).unwrap())
}

fn settings(blocks: usize, tokens_per_step: usize) -> LlmSettings {
    LlmSettings {
        stage: StageId(0),
        scheduler: SchedulerConfig { max_num_batched_tokens: tokens_per_step, max_num_seqs: MAX_NUM_SEQS },
        cache_blocks: blocks,
        max_model_len: MAX_MODEL_LEN,
        prefix_caching: true,
        eos_ids: vec![END],
        seed: 1,
        statistics: true.into(),
    }
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
        streamed: false,
        cancelled: Cancellation::default(),
    }
}

/// Runs until nothing is left to do, as a worker does, and gives back all outputs. `between` is called after every poll.
fn run_with(
    stage: &mut LlmStage<LateDevice>,
    mut between: impl FnMut(&mut LlmStage<LateDevice>, usize),
) -> Vec<StageOutput> {
    let mut outputs = Vec::new();
    let mut in_flight = VecDeque::new();
    for turn in 0..10_000 {
        while in_flight.len() < stage.steps_in_flight() && stage.plan() == Readiness::Ready {
            in_flight.push_back(stage.launch().unwrap());
        }
        let Some(oldest) = in_flight.pop_front() else {
            assert_eq!((stage.requests.len(), stage.generations.len()), (0, 0), "nothing is left behind");
            assert_eq!(stage.scheduler.cache_usage(), 0.0);
            assert!(stage.model.taken.is_empty());
            return outputs;
        };
        assert_eq!(stage.poll(oldest, true, &mut outputs).unwrap(), Poll::Complete);
        between(stage, turn);
    }
    panic!("it never ends");
}

fn run(stage: &mut LlmStage<LateDevice>) -> Vec<StageOutput> {
    run_with(stage, |_, _| {})
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
        let mut alone = stage_with(1, 64, 64);
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
    let outputs = run_with(&mut stage, |stage, turn| {
        if turn == 5 {
            (0..3).for_each(|id| stage.remove(RequestId(id)));
            stage.remove(RequestId(99));
        }
    });
    assert!(ends(&outputs).is_empty());
}

/// A number below `bound`.
fn below(seed: &mut u64, bound: u64) -> u64 {
    *seed = mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
    (*seed >> 33) % bound
}

/// Parameters of all kinds, chosen by a number.
fn any_params(seed: &mut u64) -> SamplingParams {
    let greedy = below(seed, 3) == 0;
    let penalties = below(seed, 2) == 0;
    let max_tokens = 1 + below(seed, 40) as u32;
    SamplingParams {
        temperature: if greedy { 0.0 } else { 1.2 },
        repetition_penalty: if penalties { 1.3 } else { 1.0 },
        presence_penalty: if penalties { 0.4 } else { 0.0 },
        frequency_penalty: if penalties { 0.3 } else { 0.0 },
        max_tokens,
        min_tokens: below(seed, 4).min(u64::from(max_tokens)) as u32,
        ignore_eos: below(seed, 4) == 0,
        // Letters come often, so that answers end early here and there.
        stop: if below(seed, 2) == 0 { vec!["e".to_owned(), "Z".to_owned()] } else { Vec::new() },
        stop_token_ids: if below(seed, 3) == 0 { (20..26).collect() } else { Vec::new() },
        logit_bias: if below(seed, 3) == 0 { [(END, 1.5), (9, -100.0)].into() } else { Default::default() },
        logprobs: (below(seed, 4) == 0).then_some(2),
        ..SamplingParams::default()
    }
}

/// What a client gets of one choice.
fn answer(outputs: &[StageOutput], id: u64, choice: u32) -> Vec<TextDelta> {
    let delta = |output: &StageOutput| match &output.event {
        StageEvent::Client(Output::Text(delta))
            if output.request == RequestId(id) && delta.choice == choice =>
        {
            Some(delta.clone())
        }
        _ => None,
    };
    outputs.iter().filter_map(delta).collect()
}

#[test]
fn a_second_step_in_flight_changes_no_answer_whatever_ends_it() {
    let (mut preemptions, mut aborted, mut stopped) = (0, 0, 0);
    for mut seed in 0..60 {
        let count = 1 + below(&mut seed, 7);
        let (blocks, budget) = (4 + below(&mut seed, 6) as usize, 8 + below(&mut seed, 30) as usize);
        let requests: Vec<StageRequest> = (0..count)
            .map(|id| {
                let (prompt, choices) = (1 + below(&mut seed, 30), 1 + below(&mut seed, 2));
                request(id, prompt as usize, choices as u32, any_params(&mut seed))
            })
            .collect();
        let victim = RequestId(below(&mut seed, count));
        let abort_at = below(&mut seed, 60) as usize;
        let [single, double] = [1, 2].map(|steps_in_flight| {
            let mut stage = stage_with(steps_in_flight, blocks, budget);
            let mut later = requests.iter();
            let mut add = |stage: &mut LlmStage<LateDevice>| {
                later.next().into_iter().for_each(|request| stage.add(request.clone()).unwrap());
            };
            add(&mut stage);
            let outputs = run_with(&mut stage, |stage, turn| {
                if turn % 2 == 0 || turn == 1 {
                    add(stage);
                }
                // Both finish what is left if the first request ends early.
                if stage.requests.is_empty() {
                    (0..count).for_each(|_| add(stage));
                }
                if steps_in_flight == 2 && turn == abort_at {
                    stage.remove(victim);
                }
            });
            if steps_in_flight == 2 {
                preemptions += stage.scheduler.preemptions();
                assert!(stage.model.most_chained > 0 || requests.iter().all(|r| r.sampling.max_tokens == 1));
            }
            outputs
        });
        let ends = [&single, &double].map(|outputs| ends(outputs).into_iter().collect::<HashMap<_, _>>());
        for StageRequest { id, choices, .. } in &requests {
            let was_aborted = !ends[1].contains_key(&id.0);
            assert!(!was_aborted || *id == victim);
            aborted += usize::from(was_aborted);
            for choice in 0..*choices {
                let (due, got) = (answer(&single, id.0, choice), answer(&double, id.0, choice));
                let length = if was_aborted { got.len() } else { due.len() };
                assert_eq!(got, due[..length], "request {id}, choice {choice}");
                stopped += usize::from(due.last().unwrap().finish.as_ref().unwrap().stop_reason.is_some());
            }
            if !was_aborted {
                assert_eq!(ends[0][&id.0], ends[1][&id.0]);
            }
        }
    }
    assert!(preemptions > 0 && aborted > 0 && stopped > 0, "{preemptions} {aborted} {stopped}");
}

#[test]
fn a_freed_block_is_handed_on_while_a_step_in_flight_still_writes_to_it() {
    let mut stage = stage(4, 64);
    let ends_at_once = SamplingParams { stop_token_ids: (0..VOCABULARY as u32).collect(), ..sampled() };
    stage.add(request(1, 3, 1, ends_at_once)).unwrap();
    assert_eq!(stage.plan(), Readiness::Ready);
    let first = stage.launch().unwrap();
    assert_eq!(stage.plan(), Readiness::Ready);
    let wasted = stage.launch().unwrap();
    let mut outputs = Vec::new();
    stage.poll(first, true, &mut outputs).unwrap();
    assert_eq!(tokens_of(&outputs, 1, 0).len(), 1);
    let other = request(2, BLOCK_SIZE, 1, SamplingParams { max_tokens: 8, ..sampled() });
    stage.add(other.clone()).unwrap();
    assert_eq!(stage.plan(), Readiness::Ready);
    let given = stage.scheduler.block_table(stage.spans[0].key);
    assert_eq!(stage.model.launched[0].batch.sequences[0].block_table, given, "the block that was freed");
    let fresh = stage.launch().unwrap();
    stage.poll(wasted, true, &mut outputs).unwrap();
    stage.poll(fresh, true, &mut outputs).unwrap();
    outputs.extend(run(&mut stage));
    let mut alone = stage_with(1, 4, 64);
    alone.add(other).unwrap();
    assert_eq!(tokens_of(&outputs, 2, 0), tokens_of(&run(&mut alone), 2, 0));
    assert_eq!(tokens_of(&outputs, 1, 0).len(), 1, "what the wasted row chose is ignored");
}

#[test]
fn an_answer_that_ends_by_length_is_not_scheduled_again() {
    let mut stage = stage(4, 64);
    stage.add(request(1, 5, 1, SamplingParams { max_tokens: 1, ..sampled() })).unwrap();
    assert_eq!(stage.plan(), Readiness::Ready);
    let only = stage.launch().unwrap();
    assert_eq!(stage.plan(), Readiness::Idle);
    let mut outputs = Vec::new();
    stage.poll(only, true, &mut outputs).unwrap();
    assert_eq!(ends(&outputs), [(1, Ok(FinishReason::Length))]);
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
