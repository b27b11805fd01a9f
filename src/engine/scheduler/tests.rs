use super::*;
use crate::engine::block_hash::BlockHasher;

fn scheduler(tokens: usize, seqs: usize, blocks: usize) -> Scheduler {
    let config = SchedulerConfig { max_num_batched_tokens: tokens, max_num_seqs: seqs };
    Scheduler::new(config, BlockPool::new(blocks))
}

fn plan(scheduler: &mut Scheduler) -> Vec<(u64, usize, usize)> {
    let mut spans = Vec::new();
    scheduler.plan(&mut spans);
    spans.iter().map(|span| (span.key.0, span.start, span.len)).collect()
}

#[test]
fn a_long_prompt_is_computed_in_chunks_of_the_budget() {
    let mut scheduler = scheduler(8, 4, 10);
    scheduler.add(20, 0);
    assert_eq!(plan(&mut scheduler), [(0, 0, 8)]);
    assert_eq!(plan(&mut scheduler), [(0, 8, 8)]);
    assert_eq!(plan(&mut scheduler), [(0, 16, 4)]);
    assert_eq!(plan(&mut scheduler), []);
}

#[test]
fn decodes_go_before_new_prompts_and_share_a_step_with_them() {
    let mut scheduler = scheduler(8, 4, 10);
    let first = scheduler.add(3, 0);
    assert_eq!(plan(&mut scheduler), [(0, 0, 3)]);
    scheduler.extend(first, 1);
    scheduler.add(20, 0);
    assert_eq!(plan(&mut scheduler), [(0, 3, 1), (1, 0, 7)]);
}

#[test]
fn no_more_sequences_run_than_allowed() {
    let mut scheduler = scheduler(100, 2, 10);
    for _ in 0..3 {
        scheduler.add(1, 0);
    }
    assert_eq!(plan(&mut scheduler).len(), 2);
    assert_eq!((scheduler.num_running(), scheduler.num_waiting()), (2, 1));
}

#[test]
fn urgent_requests_are_admitted_first() {
    let mut scheduler = scheduler(100, 1, 10);
    scheduler.add(1, 5);
    let urgent = scheduler.add(1, -1);
    assert_eq!(plan(&mut scheduler), [(urgent.0, 0, 1)]);
}

#[test]
fn a_sequence_without_input_is_deferred_and_holds_up_nobody() {
    let mut scheduler = scheduler(100, 4, 10);
    let fed_later = scheduler.add(0, 0);
    scheduler.add(2, 0);
    assert_eq!(plan(&mut scheduler), [(1, 0, 2)]);
    assert_eq!(scheduler.num_deferred(), 1);
    scheduler.extend(fed_later, 4);
    assert_eq!(plan(&mut scheduler), [(0, 0, 4)]);
    assert_eq!(scheduler.num_deferred(), 0);
}

#[test]
fn a_sequence_that_is_preempted_while_it_waits_for_input_is_computed_again_when_there_is_some() {
    let mut scheduler = scheduler(100, 4, 2);
    let old = scheduler.add(BLOCK_SIZE, 0);
    let fed_later = scheduler.add(BLOCK_SIZE, 0);
    assert_eq!(plan(&mut scheduler).len(), 2);
    scheduler.extend(old, 1);
    assert_eq!(plan(&mut scheduler), [(old.0, BLOCK_SIZE, 1)]);
    assert_eq!((scheduler.num_deferred(), scheduler.preemptions()), (1, 1));
    scheduler.remove(old);
    assert_eq!(plan(&mut scheduler), [], "nothing of it is new");
    scheduler.extend(fed_later, 1);
    assert_eq!(plan(&mut scheduler), [(fed_later.0, 0, BLOCK_SIZE + 1)]);
}

#[test]
fn an_expected_token_is_computed_in_the_next_step_but_not_by_a_sequence_that_begins_anew() {
    let mut scheduler = scheduler(100, 4, 2);
    let old = scheduler.add(BLOCK_SIZE, 0);
    let young = scheduler.add(BLOCK_SIZE - 1, 0);
    assert_eq!(plan(&mut scheduler).len(), 2);
    scheduler.expect(young);
    assert_eq!(plan(&mut scheduler), [(young.0, BLOCK_SIZE - 1, 1)]);
    scheduler.expect(old);
    scheduler.expect(young);
    scheduler.settle(young);
    assert_eq!(plan(&mut scheduler), [(old.0, BLOCK_SIZE, 1)]);
    assert_eq!(scheduler.preempted(), [young]);
    scheduler.remove(old);
    assert_eq!(plan(&mut scheduler), [], "its last token is in flight");
    assert!(scheduler.preempted().is_empty());
    scheduler.settle(young);
    assert_eq!(plan(&mut scheduler), [(young.0, 0, BLOCK_SIZE + 1)]);
}

#[test]
fn when_blocks_run_out_the_youngest_is_preempted_and_computed_again() {
    let mut scheduler = scheduler(100, 4, 2);
    let old = scheduler.add(BLOCK_SIZE, 0);
    let young = scheduler.add(BLOCK_SIZE, 0);
    assert_eq!(plan(&mut scheduler).len(), 2);
    scheduler.extend(old, 1);
    scheduler.extend(young, 1);
    assert_eq!(plan(&mut scheduler), [(old.0, BLOCK_SIZE, 1)]);
    assert_eq!((scheduler.num_waiting(), scheduler.preemptions()), (1, 1));
    assert_eq!(scheduler.remove(old), 0);
    assert_eq!(plan(&mut scheduler), [(young.0, 0, BLOCK_SIZE + 1)]);
    assert_eq!(scheduler.remove(young), 1);
    assert_eq!(scheduler.cache_usage(), 0.0);
}

/// The hashes of a sequence whose tokens are those from `first` on.
fn hashes(first: u32, blocks: usize) -> Vec<BlockHash> {
    let mut hashes = Vec::new();
    let tokens = first..first + (blocks * BLOCK_SIZE) as u32;
    BlockHasher::new(b"", Vec::new()).extend(tokens, &mut hashes);
    hashes
}

#[test]
fn a_prompt_begins_behind_what_another_left_of_it() {
    let mut scheduler = scheduler(100, 4, 10);
    let first = scheduler.add(40, 0);
    scheduler.name_blocks(first, &hashes(0, 2));
    assert_eq!(plan(&mut scheduler), [(first.0, 0, 40)]);
    scheduler.remove(first);
    assert_eq!(scheduler.cache_usage(), 0.0);
    let second = scheduler.add(50, 0);
    scheduler.name_blocks(second, &hashes(0, 3));
    assert_eq!(plan(&mut scheduler), [(second.0, 32, 18)]);
    let other = scheduler.add(40, 0);
    scheduler.name_blocks(other, &hashes(7, 2));
    assert_eq!(plan(&mut scheduler), [(other.0, 0, 40)]);
}

#[test]
fn the_last_token_of_a_prompt_is_computed_even_if_its_block_is_known() {
    let mut scheduler = scheduler(100, 4, 10);
    for start in [0, BLOCK_SIZE] {
        let key = scheduler.add(2 * BLOCK_SIZE, 0);
        scheduler.name_blocks(key, &hashes(0, 2));
        assert_eq!(plan(&mut scheduler), [(key.0, start, 2 * BLOCK_SIZE - start)]);
    }
}

#[test]
fn prompts_of_the_same_step_share_what_they_have_in_common() {
    let mut scheduler = scheduler(100, 4, 10);
    let keys: Vec<SequenceKey> = (0..3).map(|_| scheduler.add(40, 0)).collect();
    for key in &keys {
        scheduler.name_blocks(*key, &hashes(0, 2));
    }
    assert_eq!(plan(&mut scheduler), [(0, 0, 40), (1, 32, 8), (2, 32, 8)]);
    assert_eq!(scheduler.block_table(keys[0])[..2], scheduler.block_table(keys[2])[..2]);
    assert_ne!(scheduler.block_table(keys[0])[2], scheduler.block_table(keys[2])[2]);
    assert!((scheduler.cache_usage() - 0.5).abs() < 1e-9);
    for key in keys {
        scheduler.remove(key);
    }
    assert_eq!(scheduler.cache_usage(), 0.0);
}

#[test]
fn only_blocks_that_are_computed_are_shared() {
    let mut scheduler = scheduler(20, 4, 10);
    let long = scheduler.add(64, 0);
    scheduler.name_blocks(long, &hashes(0, 4));
    assert_eq!(plan(&mut scheduler), [(long.0, 0, 20)]);
    assert_eq!(plan(&mut scheduler), [(long.0, 20, 20)]);
    scheduler.remove(long);
    let again = scheduler.add(64, 0);
    scheduler.name_blocks(again, &hashes(0, 4));
    assert_eq!(plan(&mut scheduler), [(again.0, 32, 20)]);
}

#[test]
fn generated_tokens_are_found_once_they_are_named() {
    let mut scheduler = scheduler(100, 4, 10);
    let first = scheduler.add(BLOCK_SIZE, 0);
    scheduler.name_blocks(first, &hashes(0, 1));
    plan(&mut scheduler);
    for _ in 0..BLOCK_SIZE {
        scheduler.extend(first, 1);
        plan(&mut scheduler);
    }
    let second = scheduler.add(40, 0);
    scheduler.name_blocks(second, &hashes(0, 2));
    assert_eq!(plan(&mut scheduler), [(second.0, BLOCK_SIZE, 24)]);
    scheduler.name_blocks(first, &hashes(0, 2)[1..]);
    let third = scheduler.add(40, 0);
    scheduler.name_blocks(third, &hashes(0, 2));
    assert_eq!(plan(&mut scheduler), [(third.0, 2 * BLOCK_SIZE, 8)]);
}

#[test]
fn a_preempted_sequence_goes_on_behind_what_is_left_of_it() {
    let mut scheduler = scheduler(200, 4, 6);
    let old = scheduler.add(3 * BLOCK_SIZE, 0);
    let young = scheduler.add(3 * BLOCK_SIZE, 0);
    scheduler.name_blocks(old, &hashes(1000, 3));
    scheduler.name_blocks(young, &hashes(0, 3));
    assert_eq!(plan(&mut scheduler).len(), 2);
    scheduler.extend(old, 1);
    scheduler.extend(young, 1);
    assert_eq!(plan(&mut scheduler), [(old.0, 3 * BLOCK_SIZE, 1)]);
    assert_eq!(scheduler.preempted(), [young]);
    scheduler.remove(old);
    // One of its three blocks went to the old sequence, the last.
    assert_eq!(plan(&mut scheduler), [(young.0, 2 * BLOCK_SIZE, BLOCK_SIZE + 1)]);
}

#[test]
fn blocks_found_idle_are_not_counted_as_free_ones() {
    let mut scheduler = scheduler(200, 4, 4);
    let first = scheduler.add(3 * BLOCK_SIZE, 0);
    scheduler.name_blocks(first, &hashes(0, 3));
    plan(&mut scheduler);
    scheduler.remove(first);
    let other = scheduler.add(BLOCK_SIZE, 0);
    assert_eq!(plan(&mut scheduler), [(other.0, 0, BLOCK_SIZE)]);
    // Three blocks are free, all of its own prefix, and the prompt needs one more.
    let again = scheduler.add(4 * BLOCK_SIZE, 0);
    scheduler.name_blocks(again, &hashes(0, 3));
    assert_eq!(plan(&mut scheduler), []);
    scheduler.remove(other);
    assert_eq!(plan(&mut scheduler), [(again.0, 3 * BLOCK_SIZE, BLOCK_SIZE)]);
}
