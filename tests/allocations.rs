//! What decoding takes of the allocator. A binary of its own, because it counts what all threads of the process do.
#![allow(unsafe_code, reason = "a global allocator is unsafe to implement")]
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use omni_actors::engine::{Draw, Sampler, SamplingParams, TokenHistory};
use omni_actors::models::qwen3::{LanguageModel, Names, TextConfig, Workspace};
use omni_actors::tensor::cpu::{Cpu, CpuCache, Isa};
use omni_actors::tensor::{BLOCK_SIZE, Dtype, StepBatch, WeightStore};
use serde_json::{Value, json};

/// The system's allocator, which counts.
struct Counting;

/// Allocations so far.
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
/// Bytes in use.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's conditions are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sequences that are decoded together.
const SEQUENCES: usize = 5;
/// Tokens of a sequence, after which it begins anew.
const LENGTH: usize = 34;

/// Rounds through all sequences in which nothing may be allocated.
const QUIET_ROUNDS: usize = 5;
/// Bytes that a thread may take when it first takes part.
const SCRATCH: usize = 16 << 10;

/// Large enough for some of its products to be divided among threads.
fn dense() -> Value {
    json!({
        "hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 2,
        "head_dim": 32, "intermediate_size": 520, "vocab_size": 1003, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 1000, "rope_theta": 1e4, "tie_word_embeddings": true
    })
}

fn sparse() -> Value {
    let mut config = dense();
    for (field, value) in [("num_experts", 6), ("num_experts_per_tok", 2), ("moe_intermediate_size", 264)] {
        config[field] = json!(value);
    }
    config
}

/// A model that decodes.
struct Run {
    model: LanguageModel<Cpu>,
    cache: CpuCache,
    space: Workspace<Cpu>,
    sampler: Sampler,
    params: SamplingParams,
    history: TokenHistory,
    logits: Vec<f32>,
    tokens: Vec<u32>,
}

impl Run {
    fn new(isa: Isa, config: Value) -> Self {
        let cpu = Cpu::with_isa(isa, Some(2)).unwrap();
        let config: TextConfig = serde_json::from_value(config).unwrap();
        let config = config.decoder("config.json", "").unwrap();
        let names = Names { model: "model", head: "lm_head" };
        let model = LanguageModel::load(&cpu, names, config, &WeightStore::dummy(1), Dtype::Auto).unwrap();
        Self {
            cache: model.new_cache(SEQUENCES * LENGTH.div_ceil(BLOCK_SIZE)).unwrap(),
            space: model.new_workspace(SEQUENCES, SEQUENCES).unwrap(),
            model,
            sampler: Sampler::default(),
            params: SamplingParams::default(),
            history: TokenHistory::default(),
            logits: Vec::new(),
            tokens: (0..SEQUENCES as u32).collect(),
        }
    }

    /// The step that decodes the token at `position` of each sequence.
    fn describe(&self, position: usize) -> StepBatch {
        let mut step = StepBatch::default();
        let blocks = LENGTH.div_ceil(BLOCK_SIZE) as u32;
        for (sequence, token) in (0..).zip(&self.tokens) {
            let table: Vec<u32> = (0..blocks).map(|block| sequence * blocks + block).collect();
            step.push_text([*token].into_iter(), position, &table, true);
        }
        step
    }

    /// Carries a step out and chooses a token for each sequence.
    fn decode(&mut self, step: &StepBatch) {
        self.model.forward(step, &mut self.cache, &mut self.space, None).unwrap();
        self.logits.clear();
        self.logits.extend_from_slice(self.space.logits().unwrap());
        let rows = self.logits.chunks_exact_mut(self.model.config().vocab_size);
        for (token, logits) in self.tokens.iter_mut().zip(rows) {
            *token = self.sampler.sample(logits, &self.params, &self.history, Draw::default()).unwrap().id;
        }
    }
}

/// One test, so that no other thread allocates meanwhile.
#[test]
fn a_steady_decode_step_allocates_nothing_and_ten_thousand_take_no_more_memory_than_the_first() {
    for isa in Isa::available() {
        for config in [dense(), sparse()] {
            let mut run = Run::new(isa, config);
            // Buffers get their sizes in the first rounds, those of a thread when it first takes part.
            let mut quiet = 0;
            for _ in 0..200 {
                let mut counted = 0;
                for position in 0..LENGTH {
                    let step = run.describe(position);
                    let before = ALLOCATIONS.load(Ordering::SeqCst);
                    run.decode(&step);
                    counted += ALLOCATIONS.load(Ordering::SeqCst) - before;
                }
                quiet = if counted == 0 { quiet + 1 } else { 0 };
                if quiet == QUIET_ROUNDS {
                    break;
                }
            }
            assert_eq!(quiet, QUIET_ROUNDS, "rounds in a row in which {isa} allocated nothing");
        }
    }
    let mut small = dense();
    small["intermediate_size"] = json!(40);
    let mut run = Run::new(Isa::available().pop().unwrap(), small);
    let mut in_use = Vec::new();
    for steps in 0..10_000 {
        if steps == 500 {
            in_use.push(IN_USE.load(Ordering::SeqCst));
        }
        let step = run.describe(steps % LENGTH);
        run.decode(&step);
    }
    in_use.push(IN_USE.load(Ordering::SeqCst));
    assert!(in_use[1] <= in_use[0] + SCRATCH, "bytes in use after 500 and after 10,000 steps: {in_use:?}");
}
