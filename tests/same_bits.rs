//! On a CPU the logits of a request are the same bits, whatever happens around it: random companies, chunked prompts,
//! prefixes found in the cache, preemptions, requests that go away. For every instruction set that the processor has.

use std::collections::HashMap;
use std::sync::Arc;

use omni_actors::engine::{
    BlockHash, BlockHasher, BlockPool, ScheduledSpan, Scheduler, SchedulerConfig, SequenceKey,
};
use omni_actors::models::qwen3::{LanguageModel, Names, TextConfig, Workspace};
use omni_actors::tensor::cpu::{Cpu, CpuCache, Isa};
use omni_actors::tensor::{BLOCK_SIZE, Dtype, StepBatch, WeightStore};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::json;

const VOCABULARY: usize = 131;
/// The most tokens of prompt and answer together.
const LONGEST: usize = 80;

/// A small mixture of experts with a dense layer, whose dimensions are no multiples of anything.
fn model(isa: Isa) -> LanguageModel<Cpu> {
    let config: TextConfig = serde_json::from_value(json!({
        "hidden_size": 72, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        "head_dim": 24, "intermediate_size": 100, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 1000, "rope_theta": 1e4, "mlp_only_layers": [1],
        "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 52
    }))
    .expect("a configuration");
    let config = config.decoder("config.json", "").expect("dimensions");
    let cpu = Cpu::with_isa(isa, None).expect("a processor");
    let names = Names { model: "model", head: "lm_head" };
    LanguageModel::load(&cpu, names, config, &WeightStore::dummy(1), Dtype::Auto).expect("weights")
}

/// What is asked for.
#[derive(Debug, Clone)]
struct Request {
    prompt: Vec<u32>,
    output_tokens: usize,
    /// The step before which it comes.
    arrives: usize,
    priority: i32,
    /// It goes away when it has so many tokens.
    leaves_after: Option<usize>,
}

/// Requests whose prompts begin alike here and there, and the machine that they share.
#[derive(Debug, Clone)]
struct Workload {
    requests: Vec<Request>,
    blocks: usize,
    config: SchedulerConfig,
}

fn request() -> impl Strategy<Value = Request> {
    let prompt = (0..3_u32, 0..60_usize, 1..60_usize, any::<u32>());
    (prompt, 1..16_usize, 0..12_usize, -1..2_i32, proptest::option::weighted(0.2, 0..8_usize)).prop_map(
        |((family, common, tokens, own), output_tokens, arrives, priority, leaves_after)| {
            let token = |at: usize| {
                let of = if at < common { family } else { own };
                (at as u32).wrapping_mul(37).wrapping_add(of.wrapping_mul(11)) % VOCABULARY as u32
            };
            Request {
                prompt: (0..tokens).map(token).collect(),
                output_tokens,
                arrives,
                priority,
                leaves_after,
            }
        },
    )
}

fn workload() -> impl Strategy<Value = Workload> {
    // The fewest blocks hold the longest request and nobody else.
    let blocks = LONGEST / BLOCK_SIZE..6 * LONGEST / BLOCK_SIZE;
    (proptest::collection::vec(request(), 1..24), blocks, 4..64_usize, 1..33_usize).prop_map(
        |(requests, blocks, max_num_batched_tokens, max_num_seqs)| Workload {
            requests,
            blocks,
            config: SchedulerConfig { max_num_batched_tokens, max_num_seqs },
        },
    )
}

/// A request while it is served.
struct Served {
    request: usize,
    tokens: Vec<u32>,
    hasher: BlockHasher,
    /// The bits of the logits that each token of its answer was chosen from.
    logits: Vec<Vec<u32>>,
}

/// What was seen while a workload was served.
#[derive(Debug, Default)]
struct Seen {
    preemptions: u64,
    found_tokens: usize,
}

/// A model with the memory that it works in.
struct Machine {
    model: Arc<LanguageModel<Cpu>>,
    cache: CpuCache,
    space: Workspace<Cpu>,
    scheduler: Scheduler,
    served: HashMap<SequenceKey, Served>,
    batch: StepBatch,
    seen: Seen,
}

impl Machine {
    fn new(model: &Arc<LanguageModel<Cpu>>, blocks: usize, config: SchedulerConfig) -> Self {
        let SchedulerConfig { max_num_batched_tokens: rows, max_num_seqs } = config;
        Self {
            model: model.clone(),
            cache: model.new_cache(blocks).expect("a cache"),
            space: model.new_workspace(rows, max_num_seqs).expect("a workspace"),
            scheduler: Scheduler::new(config, BlockPool::new(blocks)),
            served: HashMap::new(),
            batch: StepBatch::default(),
            seen: Seen::default(),
        }
    }

    fn add(&mut self, request: usize, asked: &Request) {
        let key = self.scheduler.add(asked.prompt.len(), asked.priority);
        let (mut hasher, mut hashes) = (BlockHasher::new(b"", Vec::new()), Vec::new());
        hasher.extend(asked.prompt.iter().copied(), &mut hashes);
        self.scheduler.name_blocks(key, &hashes);
        let tokens = asked.prompt.clone();
        self.served.insert(key, Served { request, tokens, hasher, logits: Vec::new() });
    }

    /// One step. Says whether there was anything to do.
    fn step(&mut self) -> bool {
        let mut spans: Vec<ScheduledSpan> = Vec::new();
        self.scheduler.plan(&mut spans);
        if spans.is_empty() {
            return false;
        }
        self.batch.clear();
        for span in &spans {
            let tokens = self.served[&span.key].tokens[span.start..span.start + span.len].iter().copied();
            let blocks = self.scheduler.block_table(span.key);
            self.batch.push_text(tokens, span.start, blocks, span.reaches_end);
            self.seen.found_tokens += if span.first { span.start } else { 0 };
        }
        self.model.forward(&self.batch, &mut self.cache, &mut self.space, None).expect("a step");
        let logits = self.space.logits().expect("logits");
        let ends = spans.iter().filter(|span| span.reaches_end);
        for (span, logits) in ends.zip(logits.chunks_exact(VOCABULARY)) {
            let served = self.served.get_mut(&span.key).expect("a known sequence");
            let likeliest = (0..VOCABULARY).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
            let token = likeliest.expect("a vocabulary") as u32;
            served.logits.push(logits.iter().map(|logit| logit.to_bits()).collect());
            served.tokens.push(token);
            let mut hashes: Vec<BlockHash> = Vec::new();
            served.hasher.extend([token], &mut hashes);
            self.scheduler.extend(span.key, 1);
            self.scheduler.name_blocks(span.key, &hashes);
        }
        true
    }

    /// Serves everything, and gives the logits of each request.
    fn serve(&mut self, requests: &[Request]) -> Vec<Vec<Vec<u32>>> {
        let mut logits = vec![Vec::new(); requests.len()];
        let mut waiting: Vec<usize> = (0..requests.len()).collect();
        for step in 0.. {
            waiting.retain(|&request| {
                let due = requests[request].arrives <= step;
                if due {
                    self.add(request, &requests[request]);
                }
                !due
            });
            let busy = self.step();
            let ended = self.served.iter().filter(|(_, served)| {
                let asked = &requests[served.request];
                served.logits.len() >= asked.leaves_after.unwrap_or(usize::MAX).min(asked.output_tokens)
            });
            for key in ended.map(|(key, _)| *key).collect::<Vec<_>>() {
                self.seen.preemptions += self.scheduler.remove(key);
                let served = self.served.remove(&key).expect("a known sequence");
                logits[served.request] = served.logits;
            }
            if !busy && waiting.is_empty() {
                break;
            }
        }
        assert!(self.served.is_empty(), "somebody was never served");
        assert_eq!(self.scheduler.cache_usage(), 0.0);
        logits
    }
}

#[test]
fn logits_are_the_same_bits_whatever_the_schedule_the_preemptions_and_the_prefixes_found() {
    for isa in Isa::available() {
        let model = Arc::new(model(isa));
        let mut seen = Seen::default();
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        for _ in 0..40 {
            let Workload { requests, blocks, config } =
                workload().new_tree(&mut runner).expect("a workload").current();
            let mut machine = Machine::new(&model, blocks, config);
            let together = machine.serve(&requests);
            seen.preemptions += machine.seen.preemptions;
            seen.found_tokens += machine.seen.found_tokens;
            let all = SchedulerConfig { max_num_batched_tokens: LONGEST, max_num_seqs: 1 };
            for (request, together) in requests.iter().zip(together) {
                let alone = Request { arrives: 0, leaves_after: None, ..request.clone() };
                let due = Machine::new(&model, LONGEST / BLOCK_SIZE, all).serve(&[alone]).remove(0);
                assert!(!together.is_empty() || request.leaves_after == Some(0));
                assert_eq!(together, due[..together.len()], "{isa}: {request:?}");
            }
        }
        assert!(seen.preemptions > 0 && seen.found_tokens > 0, "{seen:?}");
    }
}
