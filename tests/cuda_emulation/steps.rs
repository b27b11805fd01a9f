//! Decode steps without the host, through the stage that generates text: a second step in flight, and graphs.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use omni_actors::config::Checkpoint;
use omni_actors::engine::{Sampler, SamplingParams, SchedulerConfig};
use omni_actors::ids::{RequestId, StageId};
use omni_actors::metrics::ReplicaStats;
use omni_actors::models::qwen3::LanguageModel;
use omni_actors::models::qwen3_omni::{OmniConfig, Thinker};
use omni_actors::stages::llm::{DeviceSampling, HostSampling, LlmSettings, LlmStage, StepModel};
use omni_actors::stages::{
    Cancellation, Output, Prompt, Readiness, Stage, StageEvent, StageInput, StageRequest, TextDelta,
};
use omni_actors::tensor::cuda::{Cuda, Stored};
use omni_actors::tensor::{BatchLimits, Dtype, WeightStore};
use omni_actors::text::Tokenizer;

use crate::device::device;
use crate::driver::Emulated;

/// Few enough for contexts to be split at these sizes, and differently for one row and for many.
const MULTIPROCESSORS: usize = 12;
/// The token that ends an answer.
const END: u32 = 5;
const MAX_MODEL_LEN: usize = 96;

/// The demo's thinker on an emulated device.
fn thinker(driver: &Emulated, stored: Stored) -> Arc<LanguageModel<Cuda>> {
    let demo = Checkpoint::demo();
    let file = demo.path_of("config.json");
    let config = OmniConfig::parse(&demo.config().unwrap().to_string(), &file).unwrap();
    let store = WeightStore::embedded("model.safetensors", Checkpoint::demo_weights()).unwrap();
    let cuda = Cuda::new(Arc::new(driver.clone()), stored);
    let dtype = if stored == Stored::F32 { Dtype::Float32 } else { Dtype::Bfloat16 };
    Arc::new(Thinker::load(&cuda, &config, &store, dtype).unwrap().into_language_model())
}

fn stage(
    blocks: usize,
    budget: usize,
    model: impl FnOnce(BatchLimits, Sampler) -> Box<dyn StepModel>,
) -> LlmStage<Box<dyn StepModel>> {
    let tokenizer = Tokenizer::from_files(&Checkpoint::demo().tokenizer_files().unwrap()).unwrap();
    let scheduler = SchedulerConfig { max_num_batched_tokens: budget, max_num_seqs: 4 };
    let settings = LlmSettings {
        stage: StageId(0),
        scheduler,
        cache_blocks: blocks,
        max_model_len: MAX_MODEL_LEN,
        prefix_caching: true,
        eos_ids: vec![END],
        seed: 3,
        statistics: true.into(),
    };
    let limits = BatchLimits { rows: budget, logit_rows: scheduler.max_num_seqs };
    let model = model(limits, Sampler::new(vec![END], Vec::new()));
    LlmStage::new(model, Arc::new(tokenizer), settings).unwrap()
}

fn request(id: u64, prompt: usize, choices: u32, sampling: SamplingParams) -> StageRequest {
    let token_ids = (0..prompt as u32).map(|position| (position * 37 + id as u32 * 101) % 900).collect();
    StageRequest {
        id: RequestId(id),
        input: StageInput::Prompt(Arc::new(Prompt { token_ids, ..Prompt::default() })),
        sampling,
        choices,
        priority: 0,
        arrived: Instant::now(),
        to_client: true,
        to_next: false,
        streamed: false,
        cancelled: Cancellation::default(),
    }
}

/// What clients get, by request and choice.
type Answers = HashMap<(u64, u32), Vec<TextDelta>>;

/// Serves requests, each coming after so many steps, as a worker does.
fn serve(stage: &mut LlmStage<Box<dyn StepModel>>, requests: &[(usize, StageRequest)]) -> Answers {
    let (mut answers, mut outputs) = (Answers::new(), Vec::new());
    let (mut in_flight, mut left) = (VecDeque::new(), requests.iter().peekable());
    for step in 0.. {
        while let Some((_, request)) = left.next_if(|(at, _)| *at <= step) {
            stage.add(request.clone()).unwrap();
        }
        while in_flight.len() < stage.steps_in_flight() && stage.plan() == Readiness::Ready {
            in_flight.push_back(stage.launch().unwrap());
        }
        match in_flight.pop_front() {
            Some(oldest) => drop(stage.poll(oldest, true, &mut outputs).unwrap()),
            None if left.peek().is_none() => break,
            None => {}
        }
    }
    for output in outputs {
        if let StageEvent::Client(Output::Text(delta)) = output.event {
            answers.entry((output.request.0, delta.choice)).or_default().push(delta);
        }
    }
    answers
}

fn sampled() -> SamplingParams {
    SamplingParams { temperature: 0.8, ignore_eos: true, ..SamplingParams::default() }
}

/// Requests of all kinds that come and go. One grows over the end of a block and of a split context.
fn workload() -> Vec<(usize, StageRequest)> {
    let penalised = SamplingParams {
        repetition_penalty: 1.2,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
        max_tokens: 12,
        ..sampled()
    };
    let biased = SamplingParams {
        min_tokens: 4,
        max_tokens: 7,
        ignore_eos: false,
        logit_bias: [(END, 9.0), (11, -50.0)].into(),
        ..sampled()
    };
    let explained = SamplingParams { logprobs: Some(3), max_tokens: 3, ..sampled() };
    let stopped = SamplingParams { stop: vec!["e".to_owned(), "a".to_owned()], max_tokens: 7, ..sampled() };
    let greedy = SamplingParams { max_tokens: 26, ignore_eos: true, ..SamplingParams::default() };
    vec![
        (0, request(0, 50, 1, greedy)),
        (0, request(1, 5, 2, penalised)),
        (3, request(2, 7, 1, biased)),
        (6, request(3, 3, 1, explained)),
        (8, request(4, 6, 2, stopped)),
    ]
}

#[test]
fn tokens_chosen_on_the_device_are_those_that_the_host_chooses_even_after_preemption() {
    let Some(device) = device() else { return };
    let (requests, blocks) = (workload(), 6);
    let driver = Emulated::new(device, MULTIPROCESSORS);
    let model = thinker(&driver, Stored::F32);
    let mut on_host = stage(blocks, 40, |limits, sampler| {
        Box::new(HostSampling::new(model.clone(), blocks, limits, sampler).unwrap())
    });
    let due = serve(&mut on_host, &requests);
    assert_eq!((due.len(), driver.graphs_launched()), (7, 0));
    let mut on_device = stage(blocks, 40, |limits, sampler| {
        Box::new(DeviceSampling::new(model.clone(), blocks, limits, sampler).unwrap())
    });
    let got = serve(&mut on_device, &requests);
    for (choice, due) in &due {
        let ids = |deltas: &[TextDelta]| -> Vec<u32> {
            deltas.iter().flat_map(|delta| delta.token_ids.clone()).collect()
        };
        assert_eq!(ids(&got[choice]), ids(due), "{choice:?}");
        for (got, due) in got[choice].iter().zip(due) {
            assert_eq!((&got.text, &got.finish), (&due.text, &due.finish));
            assert_eq!(got.logprobs.len(), due.logprobs.len());
            for (got, due) in got.logprobs.iter().zip(&due.logprobs) {
                assert_eq!((got.chosen.id, got.top.len()), (due.chosen.id, 3));
                assert!((got.chosen.logprob - due.chosen.logprob).abs() < 1e-4, "{got:?} {due:?}");
            }
        }
    }
    assert!(driver.graphs_launched() > 0);
    let mut statistics = ReplicaStats::default();
    on_device.report(&mut statistics);
    assert!(statistics.totals.unwrap().preemptions > 0);
}

#[test]
fn steps_launched_as_graphs_give_the_bits_of_steps_launched_kernel_by_kernel() {
    let Some(device) = device() else { return };
    let answers = [true, false].map(|graphs| {
        let driver = Emulated::new(device, MULTIPROCESSORS);
        if !graphs {
            driver.refuse_graphs();
        }
        let model = thinker(&driver, Stored::Bf16);
        let mut stage = stage(40, 40, |limits, sampler| {
            Box::new(DeviceSampling::new(model, 40, limits, sampler).unwrap())
        });
        let answers = serve(&mut stage, &workload());
        assert_eq!(driver.graphs_launched() > 5, graphs);
        answers
    });
    assert_eq!(answers[0], answers[1]);
}
