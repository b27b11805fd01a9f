//! What a stage counts beside the tokens.

use super::*;
use crate::models::qwen3::{DecodeTraffic, StepShape, Work};
use crate::models::qwen3_omni::OmniConfig;

fn reported(stage: &mut LlmStage<LateDevice>) -> ReplicaStats {
    let mut stats = ReplicaStats::default();
    stage.report(&mut stats);
    stats
}

fn stage_that_counts(blocks: usize, statistics: EngineStatisticsOptions) -> LlmStage<LateDevice> {
    let settings = LlmSettings { statistics, ..settings(blocks, 8) };
    LlmStage::new(LateDevice::new(blocks, 1), tokenizer(), settings).unwrap()
}

#[test]
fn a_request_without_a_finite_logit_is_corrupted_once_whatever_its_choices() {
    let mut model = LateDevice::new(32, 1);
    model.sampler = Sampler::new(vec![END], (0..VOCABULARY as u32).collect());
    let mut stage = LlmStage::new(model, tokenizer(), settings(32, 64)).unwrap();
    stage.add(request(1, 5, 3, sampled())).unwrap();
    assert!(matches!(ends(&run(&mut stage))[..], [(1, Err(_))]));
    assert_eq!(reported(&mut stage).totals.unwrap().corrupted_requests, 1);
}

#[test]
fn the_work_of_a_request_is_that_of_its_prompt_and_of_each_token() {
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let config = OmniConfig::read(&demo).unwrap().thinker.decoder;
    let work = DecodeTraffic { config, bytes_per_weight: 2.0, cache_bytes_per_token: 100.0 };
    let statistics = EngineStatisticsOptions { work: Some(work.clone()), ..true.into() };
    let mut stage = stage_that_counts(32, statistics);
    stage.add(request(1, 20, 1, SamplingParams { max_tokens: 6, ignore_eos: true, ..sampled() })).unwrap();
    let generated = tokens_of(&run(&mut stage), 1, 0).len();
    // The steps take 8 tokens at most; the last token that is chosen is not computed any more.
    let mut due = Work::default();
    for (start, len, ends) in [(0, 8, false), (8, 8, false), (16, 4, true)] {
        due += work.work(StepShape::span(start, len, ends));
    }
    for position in 20..20 + generated - 1 {
        due += work.work(StepShape::span(position, 1, true));
    }
    let counted = reported(&mut stage).totals.unwrap().work;
    let near = |counted: f64, due: f64| (counted - due).abs() <= 1e-9 * due;
    assert!(near(counted.operations, due.operations), "{counted:?} {due:?}");
    assert!(near(counted.read_bytes, due.read_bytes) && counted.write_bytes == due.write_bytes);
}

#[test]
fn blocks_that_are_watched_tell_of_their_content_when_it_is_given_up() {
    let statistics = EngineStatisticsOptions { kv_block_share: Some(1.0), ..true.into() };
    let mut stage = stage_that_counts(4, statistics);
    let mut told = 0;
    for id in 0..5 {
        stage.add(request(id, 40, 1, sampled())).unwrap();
        run(&mut stage);
        for block in reported(&mut stage).residencies {
            assert!(block.lifetime_seconds >= block.idle_seconds && block.idle_seconds >= 0.0);
            told += 1;
        }
    }
    assert!(told > 0);
    let mut unwatched = stage_that_counts(4, true.into());
    for id in 0..5 {
        unwatched.add(request(id, 40, 1, sampled())).unwrap();
        run(&mut unwatched);
        assert!(reported(&mut unwatched).residencies.is_empty());
    }
}

#[test]
fn the_cache_is_described_as_it_is() {
    let stats = reported(&mut stage(32, 64));
    let cache = stats.cache.unwrap();
    assert_eq!((cache.block_size, cache.blocks, cache.prefix_caching), (BLOCK_SIZE as u64, 32, true));
}
