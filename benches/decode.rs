//! Decode steps and prompts of real dimensions with made-up weights, beside what the memory allows.
//!
//! Other work on the machine slows a step and the measurement of the memory alike, so both take turns, the least of many
//! times counts, and the share of one in the other is what to look at. `cargo bench --bench decode -- dense` runs those
//! parts alone whose names contain a word of the command line; `--quick` takes fewer turns.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use half::bf16;
use omni_actors::engine::{Draw, Sampler, SamplingParams, TokenHistory};
use omni_actors::models::qwen3::{LanguageModel, Names, TextConfig, Workspace};
use omni_actors::selftest::bandwidth::ReadMemory;
use omni_actors::tensor::cpu::{Cpu, CpuCache, CpuMatrix};
use omni_actors::tensor::{BLOCK_SIZE, Backend, Dtype, StepBatch, Weight, WeightStore};
use serde_json::{Value, json};

/// Tokens that a decoded token sees, itself included.
const CONTEXT: usize = 128;
/// Tokens of the prompt.
const PROMPT: usize = 512;
/// Bytes that are read to measure the memory: many times the caches, and few enough for a moment of quiet.
const STREAM_BYTES: usize = 192 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let turns = if arguments.iter().any(|argument| argument == "--quick") { 8 } else { 24 };
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let asked = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let cpu = Cpu::new(None).unwrap();
    let stream = ReadMemory::new(&cpu, STREAM_BYTES);
    println!("{}, {} threads", cpu.isa(), cpu.threads());
    if asked("products") {
        products(&cpu, &stream, turns);
    }
    for (name, config) in [("dense", dense()), ("moe", sparse())] {
        if asked(name) {
            model(&cpu, &stream, name, config, turns);
        }
    }
}

/// The dimensions of Qwen3-0.6B.
fn dense() -> Value {
    json!({
        "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151_936, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40_960, "rope_theta": 1e6, "tie_word_embeddings": true
    })
}

/// A mixture of experts of middle size.
fn sparse() -> Value {
    json!({
        "hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 4,
        "head_dim": 64, "intermediate_size": 1024, "vocab_size": 32_000, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40_960, "rope_theta": 1e6, "num_experts": 32, "num_experts_per_tok": 4,
        "moe_intermediate_size": 512, "norm_topk_prob": true
    })
}

/// The least seconds per byte of the stream and per piece of work, taken in turns.
fn least(stream: &ReadMemory<'_>, turns: usize, mut work: impl FnMut()) -> (f64, f64) {
    work();
    let (mut bandwidth, mut seconds) = (0.0_f64, f64::INFINITY);
    for _ in 0..turns {
        bandwidth = bandwidth.max(stream.pass());
        let (mut repeats, begin) = (0, Instant::now());
        while repeats < 3 || (begin.elapsed() < Duration::from_millis(30) && repeats < 50) {
            let start = Instant::now();
            work();
            seconds = seconds.min(start.elapsed().as_secs_f64());
            repeats += 1;
        }
    }
    (bandwidth.recip(), seconds)
}

/// Products with weights 2048 → 8192.
fn products(cpu: &Cpu, stream: &ReadMemory<'_>, turns: usize) {
    const INNER: usize = 2048;
    const OUT: usize = 8192;
    // Many, so that one row reads its weights from memory and not from a cache.
    const COPIES: usize = 8;
    let values: Vec<f32> =
        (0..INNER * OUT).map(|at| (at as u32).wrapping_mul(2_654_435_761) as f32 / 2e9 - 1.0).collect();
    let narrow: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
    let shape = vec![OUT, INNER];
    let matrices: [(&str, usize, Vec<CpuMatrix>); 2] = [
        ("bf16", 2, {
            let weight =
                |_| cpu.matrix(vec![Weight::from_bf16(shape.clone(), narrow.clone()).unwrap()]).unwrap();
            (0..COPIES).map(weight).collect()
        }),
        ("f32", 4, {
            let weight =
                |_| cpu.matrix(vec![Weight::from_f32(shape.clone(), values.clone()).unwrap()]).unwrap();
            (0..COPIES).map(weight).collect()
        }),
    ];
    for rows in [1, 4, 8, 16, 32, 64, 512] {
        let x = cpu.upload_values(&values[..rows * INNER]).unwrap();
        let mut out = cpu.buffer(rows * OUT).unwrap();
        for (name, width, copies) in &matrices {
            let mut turn = 0;
            let (per_byte, seconds) = least(stream, if rows > 64 { turns / 4 } else { turns }, || {
                turn = (turn + 1) % COPIES;
                cpu.scope(|| cpu.matmul(&x, &copies[turn], rows, &mut out)).unwrap();
            });
            let share = per_byte * (INNER * OUT * width) as f64 / seconds;
            let rate = 2e-9 * (rows * INNER * OUT) as f64 / seconds;
            println!(
                "2048 x 8192 {name:4} {rows:3} rows: {:7.2} ms, {share:.2} of the stream's {:.1} GB/s, {rate:6.1} Gflop/s",
                1e3 * seconds,
                1e-9 / per_byte
            );
        }
    }
}

/// Decode steps of 1, 8 and 32 sequences, and a prompt.
fn model(cpu: &Cpu, stream: &ReadMemory<'_>, name: &str, config: Value, turns: usize) {
    let config: TextConfig = serde_json::from_value(config).unwrap();
    let config = config.decoder("config.json", "").unwrap();
    let names = Names { model: "model", head: "lm_head" };
    let model = LanguageModel::load(cpu, names, config, &WeightStore::dummy(1), Dtype::Auto).unwrap();
    let blocks = CONTEXT.div_ceil(BLOCK_SIZE);
    let mut run = Run {
        cache: model.new_cache((32 * blocks).max(PROMPT.div_ceil(BLOCK_SIZE))).unwrap(),
        space: model.new_workspace(PROMPT, 32).unwrap(),
        model,
        step: StepBatch::default(),
        sampler: Sampler::default(),
        logits: Vec::new(),
        tokens: (0..32).collect(),
    };
    let mut single = None;
    for sequences in [1, 8, 32] {
        let (per_byte, seconds) = least(stream, turns, || run.decode(sequences));
        let bytes = 2.0 * run.model.config().weights_read(sequences as f64);
        let rate = sequences as f64 / seconds;
        let single = *single.get_or_insert(rate);
        println!(
            "{name} batch {sequences:2}: {:7.2} ms, {:.2} of the stream's {:.1} GB/s, {rate:6.1} tokens/s, {:.2} times batch 1",
            1e3 * seconds,
            per_byte * bytes / seconds,
            1e-9 / per_byte,
            rate / single
        );
    }
    let (_, seconds) = least(stream, 3, || run.prompt());
    let operations = 2.0 * (run.model.config().weights_per_row() * PROMPT) as f64;
    println!(
        "{name} prompt of {PROMPT}: {:.0} ms, {:.0} tokens/s, {:.1} Gflop/s",
        1e3 * seconds,
        PROMPT as f64 / seconds,
        1e-9 * operations / seconds
    );
}

/// A model at work.
struct Run {
    model: LanguageModel<Cpu>,
    cache: CpuCache,
    space: Workspace<Cpu>,
    step: StepBatch,
    sampler: Sampler,
    logits: Vec<f32>,
    /// The last token of each sequence.
    tokens: Vec<u32>,
}

impl Run {
    /// One step of so many sequences, with a greedy choice of their tokens.
    fn decode(&mut self, sequences: usize) {
        let blocks = CONTEXT.div_ceil(BLOCK_SIZE) as u32;
        self.step.clear();
        for sequence in 0..sequences {
            let table: Vec<u32> = (0..blocks).map(|block| sequence as u32 * blocks + block).collect();
            self.step.push_text([self.tokens[sequence]].into_iter(), CONTEXT - 1, &table, true);
        }
        self.model.forward(&self.step, &mut self.cache, &mut self.space, None).unwrap();
        self.logits.clear();
        self.logits.extend_from_slice(self.space.logits().unwrap());
        let (params, history) = (SamplingParams::default(), TokenHistory::default());
        let vocabulary = self.model.config().vocab_size;
        for (token, logits) in self.tokens.iter_mut().zip(self.logits.chunks_exact_mut(vocabulary)) {
            // Moved on, so that every step and sequence visits other experts.
            let chosen = self.sampler.sample(logits, &params, &history, Draw::default()).unwrap();
            *token = (chosen.id + *token * 31 + 7) % vocabulary as u32;
        }
    }

    /// The whole prompt in one step.
    fn prompt(&mut self) {
        let table: Vec<u32> = (0..PROMPT.div_ceil(BLOCK_SIZE) as u32).collect();
        let vocabulary = self.model.config().vocab_size as u32;
        self.step.clear();
        self.step.push_text((0..PROMPT as u32).map(|at| at * 97 % vocabulary), 0, &table, true);
        self.model.forward(&self.step, &mut self.cache, &mut self.space, None).unwrap();
    }
}
