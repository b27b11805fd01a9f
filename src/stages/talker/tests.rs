//! The engine loop of the talker over the demo's weights, with words that come in their own time.

use std::path::Path;

use super::*;
use crate::engine::SamplingParams;
use crate::models::qwen3::{DecodeTraffic, StepShape};
use crate::stages::Cancellation;
use crate::tensor::cpu::Cpu;
use crate::tensor::{BLOCK_SIZE, Dtype, WeightStore};

/// The most rows of prompt and speech together.
const MAX_MODEL_LEN: usize = 4 * BLOCK_SIZE;

fn models() -> Arc<TalkerModels<Cpu>> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let config = OmniConfig::read(&demo).unwrap();
    let talker_config = config.talker.clone().unwrap();
    let store = WeightStore::open(&demo).unwrap();
    let cpu = Cpu::new(None).unwrap();
    let thinker = crate::models::qwen3_omni::Thinker::load(&cpu, &config, &store, Dtype::Auto).unwrap();
    let embedding = thinker.into_language_model().embedding().clone();
    let predictor = CodePredictor::load(&cpu, &talker_config, &store, Dtype::Auto).unwrap();
    let talker =
        Talker::load(&cpu, &config, &talker_config, embedding, &predictor, &store, Dtype::Auto).unwrap();
    Arc::new(TalkerModels { config, talker_config, talker, predictor })
}

fn stage(models: &Arc<TalkerModels<Cpu>>, blocks: usize, scheduler: SchedulerConfig) -> TalkerStage<Cpu> {
    let settings = TalkerSettings {
        stage: StageId(1),
        scheduler,
        cache_blocks: blocks,
        max_model_len: MAX_MODEL_LEN,
        seed: 1,
        statistics: true.into(),
    };
    TalkerStage::new(models.clone(), settings).unwrap()
}

fn roomy(models: &Arc<TalkerModels<Cpu>>) -> TalkerStage<Cpu> {
    stage(models, 64, SchedulerConfig { max_num_batched_tokens: 64, max_num_seqs: 8 })
}

/// A request whose user said `words` words.
fn request(models: &TalkerModels<Cpu>, id: u64, words: u32, sampling: SamplingParams) -> StageRequest {
    let tokens = &models.config.tokens;
    let mut token_ids = vec![tokens.im_start_token_id, tokens.user_token_id, 10];
    token_ids.extend((0..words).map(|word| 20 + word * 7 + id as u32));
    token_ids.extend([tokens.im_start_token_id, tokens.assistant_token_id, 10]);
    StageRequest {
        id: RequestId(id),
        input: StageInput::Upstream(Arc::new(Prompt { token_ids, ..Prompt::default() })),
        sampling,
        choices: 1,
        priority: 0,
        arrived: std::time::Instant::now(),
        to_client: false,
        to_next: true,
        streamed: false,
        cancelled: Cancellation::default(),
    }
}

fn sampled() -> SamplingParams {
    SamplingParams {
        temperature: 0.9,
        top_k: 50,
        repetition_penalty: 1.05,
        ignore_eos: true,
        max_tokens: 24,
        ..SamplingParams::default()
    }
}

fn feed(stage: &mut TalkerStage<Cpu>, id: u64, payload: Payload, last: bool) {
    stage.push(Chunk { request: RequestId(id), sequence: 0, last, payload }).unwrap();
}

/// The words of a reply.
fn words_of(id: u64) -> Vec<u32> {
    (0..12).map(|word| 100 + 3 * word + id as u32).collect()
}

fn say_all(stage: &mut TalkerStage<Cpu>, id: u64) {
    feed(stage, id, Payload::Tokens(words_of(id)), false);
    feed(stage, id, Payload::End, true);
}

/// One step, if there is anything to do.
fn turn(stage: &mut TalkerStage<Cpu>, outputs: &mut Vec<StageOutput>) -> bool {
    if stage.plan() == Readiness::Idle {
        return false;
    }
    let ticket = stage.launch().unwrap();
    stage.poll(ticket, true, outputs).unwrap();
    true
}

/// Runs until nothing is left to do and gives back all outputs.
fn run(stage: &mut TalkerStage<Cpu>) -> Vec<StageOutput> {
    let mut outputs = Vec::new();
    while turn(stage, &mut outputs) {}
    assert_nothing_left(stage);
    outputs
}

fn assert_nothing_left(stage: &TalkerStage<Cpu>) {
    assert_eq!((stage.speeches.len(), stage.owners.len()), (0, 0));
    assert_eq!(stage.scheduler.cache_usage(), 0.0);
    assert_eq!(stage.scheduler.num_deferred(), 0);
}

/// The frames of a request, one after the other.
fn codes_of(outputs: &[StageOutput], id: u64) -> Vec<u32> {
    let codes = |output: &StageOutput| match &output.event {
        StageEvent::Next(Payload::Codes { codes, .. }) if output.request == RequestId(id) => codes.clone(),
        _ => Vec::new(),
    };
    outputs.iter().flat_map(codes).collect()
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

/// What a request gets that has the stage for itself and all its words from the start.
fn alone(models: &Arc<TalkerModels<Cpu>>, request: &StageRequest) -> Vec<u32> {
    let mut stage = roomy(models);
    stage.add(request.clone()).unwrap();
    say_all(&mut stage, request.id.0);
    let codes = codes_of(&run(&mut stage), request.id.0);
    assert_eq!(codes.len(), 23 * models.predictor.groups(), "the code at the length bound has no frame");
    codes
}

#[test]
fn preemption_and_company_do_not_change_what_is_spoken_whenever_words_come() {
    let models = models();
    // Three may run at once; the cache holds one of full length and a little more.
    let config = SchedulerConfig { max_num_batched_tokens: 24, max_num_seqs: 3 };
    let mut crowded = stage(&models, 6, config);
    let requests: Vec<_> = (0..5)
        .map(|id| request(&models, id, 2 + 3 * id as u32, SamplingParams { seed: Some(id), ..sampled() }))
        .collect();
    for request in &requests {
        crowded.add(request.clone()).unwrap();
    }
    // The first ones get a word every three steps, so that they wait for words while they hold blocks.
    let mut outputs = Vec::new();
    let mut said = [0; 5];
    for step in 0..400 {
        for (id, said) in (0u64..).zip(&mut said) {
            let words = words_of(id);
            if *said > words.len() || !(step + id as usize).is_multiple_of(3) {
                continue;
            }
            match words.get(*said) {
                Some(word) => feed(&mut crowded, id, Payload::Tokens(vec![*word]), false),
                None => feed(&mut crowded, id, Payload::End, true),
            }
            *said += 1;
        }
        turn(&mut crowded, &mut outputs);
    }
    assert_nothing_left(&crowded);
    assert!(crowded.scheduler.preemptions() > 0, "the cache is too small to hold them all");
    for request in &requests {
        assert_eq!(codes_of(&outputs, request.id.0), alone(&models, request), "request {}", request.id);
    }
}

#[test]
fn a_speech_that_is_preempted_while_it_waits_for_a_word_speaks_no_frame_twice() {
    let models = models();
    let [old, young] = [(0, 2), (1, 14)].map(|(id, words)| request(&models, id, words, sampled()));
    // Two blocks are for the younger one, which soon waits; the older one comes to need three.
    let mut crowded = stage(&models, 4, SchedulerConfig { max_num_batched_tokens: 64, max_num_seqs: 2 });
    let mut outputs = Vec::new();
    crowded.add(old.clone()).unwrap();
    crowded.add(young.clone()).unwrap();
    say_all(&mut crowded, 0);
    let words = words_of(1);
    feed(&mut crowded, 1, Payload::Tokens(words[..2].to_vec()), false);
    while turn(&mut crowded, &mut outputs) {}
    assert_eq!((crowded.scheduler.preemptions(), crowded.scheduler.num_deferred()), (1, 1));
    feed(&mut crowded, 1, Payload::Tokens(words[2..].to_vec()), true);
    outputs.extend(run(&mut crowded));
    for request in [&old, &young] {
        assert_eq!(codes_of(&outputs, request.id.0), alone(&models, request), "request {}", request.id);
    }
}

#[test]
fn more_requests_than_may_run_take_turns() {
    let models = models();
    let mut crowded = stage(&models, 64, SchedulerConfig { max_num_batched_tokens: 64, max_num_seqs: 2 });
    for id in 0..5 {
        crowded.add(request(&models, id, 3, sampled())).unwrap();
        say_all(&mut crowded, id);
    }
    let outputs = run(&mut crowded);
    assert_eq!(ends(&outputs).len(), 5);
    for id in 0..5 {
        assert_eq!(codes_of(&outputs, id), alone(&models, &request(&models, id, 3, sampled())));
    }
}

#[test]
fn a_removed_request_leaves_nothing_behind_in_whatever_phase_it_is() {
    let models = models();
    let mut stage = roomy(&models);
    let mut outputs = Vec::new();
    // Before its first word, in the middle of its words, while it waits for one, and after the last.
    for id in 0..4 {
        stage.add(request(&models, id, 3, sampled())).unwrap();
    }
    feed(&mut stage, 1, Payload::Tokens(words_of(1)), false);
    feed(&mut stage, 2, Payload::Tokens(vec![50]), false);
    say_all(&mut stage, 3);
    for _ in 0..5 {
        assert!(turn(&mut stage, &mut outputs));
    }
    for id in 0..4 {
        stage.remove(RequestId(id));
    }
    stage.remove(RequestId(99));
    feed(&mut stage, 1, Payload::End, true);
    assert!(ends(&run(&mut stage)).is_empty());
}

#[test]
fn a_reply_without_words_is_not_spoken() {
    let models = models();
    let mut stage = roomy(&models);
    stage.add(request(&models, 1, 3, sampled())).unwrap();
    feed(&mut stage, 1, Payload::End, true);
    let outputs = run(&mut stage);
    assert_eq!(ends(&outputs), [(1, Ok(FinishReason::Stop))]);
    assert!(codes_of(&outputs, 1).is_empty());
    let mut stats = ReplicaStats::default();
    stage.report(&mut stats);
    let (totals, finished) = (stats.totals.unwrap(), &stats.finished[0]);
    assert_eq!((totals.prompt_tokens, finished.prompt_tokens), (0, 0), "no prompt was computed");
    assert!(finished.e2e_seconds >= finished.queue_seconds);
}

#[test]
fn what_is_counted_of_speeches_is_what_they_had() {
    let models = models();
    let mut stage = roomy(&models);
    for id in 0..3 {
        stage.add(request(&models, id, 3, sampled())).unwrap();
        say_all(&mut stage, id);
    }
    run(&mut stage);
    let mut stats = ReplicaStats::default();
    stage.report(&mut stats);
    let totals = stats.totals.unwrap();
    assert_eq!((totals.prompt_tokens, totals.generation_tokens), (3 * 15, 3 * 24));
    let sum =
        |count: fn(&crate::metrics::FinishedRequest) -> u64| stats.finished.iter().map(count).sum::<u64>();
    assert_eq!((sum(|end| end.prompt_tokens), sum(|end| end.generation_tokens)), (3 * 15, 3 * 24));
}

#[test]
fn the_work_of_a_speech_is_that_of_its_rows_and_of_the_frames_that_are_completed() {
    let models = models();
    let talker = DecodeTraffic {
        config: models.talker_config.decoder.clone(),
        bytes_per_weight: 2.0,
        cache_bytes_per_token: 100.0,
    };
    let settings = TalkerSettings {
        statistics: EngineStatisticsOptions { work: Some(talker.clone()), ..true.into() },
        ..roomy(&models).settings
    };
    let mut stage = TalkerStage::new(models.clone(), settings).unwrap();
    stage.add(request(&models, 1, 3, sampled())).unwrap();
    say_all(&mut stage, 1);
    let frames = codes_of(&run(&mut stage), 1).len() / models.predictor.groups();
    let mut stats = ReplicaStats::default();
    stage.report(&mut stats);
    let totals = stats.totals.unwrap();
    // The prompt has 15 rows, in one step; each further row chooses a code.
    let mut due = talker.work(StepShape::span(0, 15, true));
    for row in 15..14 + totals.generation_tokens as usize {
        due += talker.work(StepShape::span(row, 1, true));
    }
    for _ in 0..frames {
        due += models.predictor.work(1, 2.0);
    }
    let counted = totals.work;
    assert!((counted.operations - due.operations).abs() <= 1e-9 * due.operations, "{counted:?} {due:?}");
    assert!((counted.read_bytes - due.read_bytes).abs() <= 1e-9 * due.read_bytes, "{counted:?} {due:?}");
}

#[test]
fn a_speech_ends_at_the_models_length() {
    let models = models();
    let mut stage = roomy(&models);
    stage.add(request(&models, 1, 3, SamplingParams { max_tokens: 1000, ..sampled() })).unwrap();
    say_all(&mut stage, 1);
    let outputs = run(&mut stage);
    assert_eq!(ends(&outputs), [(1, Ok(FinishReason::Length))]);
    // The prompt has 6 rows of the user and 9 of the reply; each further row speaks a frame.
    assert_eq!(codes_of(&outputs, 1).len(), (MAX_MODEL_LEN - 15) * models.predictor.groups());
}

#[test]
fn a_stop_token_ends_the_speech_before_its_frame() {
    let models = models();
    let spoken = alone(&models, &request(&models, 1, 3, sampled()));
    let firsts: Vec<u32> = spoken.chunks_exact(models.predictor.groups()).map(|frame| frame[0]).collect();
    let stop = firsts[5];
    let until = firsts.iter().position(|code| *code == stop).unwrap();
    let mut stage = roomy(&models);
    let stopping = SamplingParams { stop_token_ids: vec![stop], ..sampled() };
    stage.add(request(&models, 1, 3, stopping)).unwrap();
    say_all(&mut stage, 1);
    let outputs = run(&mut stage);
    assert_eq!(ends(&outputs), [(1, Ok(FinishReason::Stop))]);
    assert_eq!(codes_of(&outputs, 1), spoken[..until * models.predictor.groups()]);
}

#[test]
fn sampling_parameters_that_the_codec_vocabulary_does_not_have_are_refused_by_name() {
    let models = models();
    let mut stage = roomy(&models);
    let beyond = models.talker_config.decoder.vocab_size as u32;
    for (name, sampling) in [
        ("logit_bias", SamplingParams { logit_bias: [(beyond, 1.0)].into(), ..sampled() }),
        ("stop_token_ids", SamplingParams { stop_token_ids: vec![beyond], ..sampled() }),
        ("min_tokens", SamplingParams { min_tokens: 25, ..sampled() }),
    ] {
        let refused = stage.add(request(&models, 1, 3, sampling));
        assert!(
            matches!(&refused, Err(StageError::InvalidInput(text)) if text.contains(name)),
            "{refused:?}"
        );
    }
    assert!(run(&mut stage).is_empty());
}
