//! Prefixes that requests share. The model shows which tokens lie in the blocks that a sequence is given.

use super::*;
use crate::engine::MediaSpan;
use crate::metrics::EngineTotals;

/// A request whose prompt is these tokens.
fn asking(id: u64, token_ids: Vec<u32>, choices: u32) -> StageRequest {
    let prompt = Prompt { token_ids, ..Prompt::default() };
    StageRequest { input: StageInput::Prompt(Arc::new(prompt)), ..request(id, 1, choices, sampled()) }
}

/// As many tokens, of which the first `common` are those of all such prompts.
fn prompt(common: usize, own: u32, tokens: usize) -> Vec<u32> {
    let token = |at: usize| (at as u32 * 31 + if at < common { 0 } else { own * 17 }) % 200;
    (0..tokens).map(token).collect()
}

fn totals(stage: &mut LlmStage<LateDevice>) -> EngineTotals {
    let mut stats = ReplicaStats::default();
    stage.report(&mut stats);
    stats.totals.unwrap()
}

#[test]
fn whatever_is_shared_changes_no_answer() {
    let (mut preemptions, mut hits) = (0, 0);
    for mut seed in 0..40 {
        let count = 2 + below(&mut seed, 6);
        let (blocks, budget) = (4 + below(&mut seed, 8) as usize, 8 + below(&mut seed, 40) as usize);
        let requests: Vec<StageRequest> = (0..count)
            .map(|id| {
                let tokens = 1 + below(&mut seed, 46) as usize;
                let token_ids = prompt(below(&mut seed, 48) as usize, id as u32 % 3, tokens);
                let choices = 1 + below(&mut seed, 2) as u32;
                StageRequest { sampling: any_params(&mut seed), ..asking(id, token_ids, choices) }
            })
            .collect();
        let mut shared = stage_with(1 + below(&mut seed, 2) as usize, blocks, budget);
        let mut later = requests.iter();
        shared.add(later.next().unwrap().clone()).unwrap();
        let outputs = run_with(&mut shared, |stage, turn| {
            if turn % 3 == 0 || stage.requests.is_empty() {
                later.next().into_iter().for_each(|request| stage.add(request.clone()).unwrap());
            }
        });
        preemptions += shared.scheduler.preemptions();
        hits += totals(&mut shared).prefix_cache_hits;
        for request in requests {
            let mut alone = stage_with(1, 64, 64);
            alone.add(request.clone()).unwrap();
            let due = run(&mut alone);
            for choice in 0..request.choices {
                assert_eq!(answer(&outputs, request.id.0, choice), answer(&due, request.id.0, choice));
            }
        }
    }
    assert!(preemptions > 0 && hits > 0, "{preemptions} {hits}");
}

#[test]
fn a_conversation_goes_on_behind_its_earlier_turns() {
    let mut stage = stage(16, 64);
    stage.add(asking(1, prompt(0, 1, 20), 1)).unwrap();
    let answer = tokens_of(&run(&mut stage), 1, 0);
    let mut next = prompt(0, 1, 20);
    next.extend(&answer[..20]);
    stage.add(asking(2, next, 1)).unwrap();
    run(&mut stage);
    // Two full blocks of the first prompt and its answer; nothing of the first question itself was there.
    let EngineTotals { prefix_cache_queries, prefix_cache_hits, .. } = totals(&mut stage);
    assert_eq!((prefix_cache_queries, prefix_cache_hits), (60, 32));
}

#[test]
fn the_prompt_of_a_request_counts_as_cached_as_far_as_it_was_for_its_first_choice() {
    let mut stage = stage(32, 64);
    for (id, cached) in [(1, 0), (2, 32)] {
        let before = totals(&mut stage);
        stage.add(asking(id, prompt(40, 0, 40), 2)).unwrap();
        run(&mut stage);
        let after = totals(&mut stage);
        assert_eq!(after.prompt_tokens - before.prompt_tokens, 40);
        assert_eq!(after.prompt_tokens_cached - before.prompt_tokens_cached, cached);
        assert_eq!(after.prompt_tokens_computed - before.prompt_tokens_computed, 40 - cached);
        assert_eq!(after.prefix_cache_hits - before.prefix_cache_hits, cached + 32);
    }
    let mut stats = ReplicaStats::default();
    stage.report(&mut stats);
    assert!(stats.finished.is_empty(), "they were taken with the earlier reports");
}

#[test]
fn with_caching_off_the_choices_of_a_request_share_its_prompt_and_requests_share_nothing() {
    let settings = LlmSettings { prefix_caching: false, ..settings(32, 64) };
    let mut stage = LlmStage::new(LateDevice::new(32, 1), tokenizer(), settings).unwrap();
    for id in 1..3 {
        stage.add(asking(id, prompt(40, 0, 40), 3)).unwrap();
        assert_eq!(stage.plan(), Readiness::Ready);
        let starts: Vec<usize> = stage.spans.iter().map(|span| span.start).collect();
        assert_eq!(starts, [0, 32, 32], "request {id}");
        let ticket = stage.launch().unwrap();
        stage.poll(ticket, true, &mut Vec::new()).unwrap();
        run(&mut stage);
    }
    let EngineTotals { prefix_cache_queries, prompt_tokens_cached, .. } = totals(&mut stage);
    assert_eq!((prefix_cache_queries, prompt_tokens_cached), (0, 0));
}

#[test]
fn prompts_with_different_salts_or_media_share_nothing() {
    let picture = |content| vec![MediaSpan { first: 2, tokens: 30, content: [content; 32] }];
    let plain = || Prompt { token_ids: prompt(40, 0, 40), ..Prompt::default() };
    let prompts = [
        plain(),
        Prompt { cache_salt: Some("a".into()), ..plain() },
        Prompt { cache_salt: Some("b".into()), ..plain() },
        Prompt { media: picture(1), ..plain() },
        Prompt { media: picture(2), ..plain() },
    ];
    let mut stage = stage(32, 64);
    for hits in [0, 32] {
        for (id, prompt) in (1..).zip(&prompts) {
            let before = totals(&mut stage).prefix_cache_hits;
            let input = StageInput::Prompt(Arc::new(prompt.clone()));
            let sampling = SamplingParams { max_tokens: 1, ..sampled() };
            stage.add(StageRequest { input, ..request(id, 1, 1, sampling) }).unwrap();
            run(&mut stage);
            assert_eq!(totals(&mut stage).prefix_cache_hits - before, hits, "{prompt:?}");
        }
    }
}
