//! How fast the thinker of a configuration is with made-up weights, beside what the device's memory and its products
//! allow at best.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::random::Random;
use super::timing::Repeats;
use crate::models::LoadError;
use crate::models::qwen3::{DecoderConfig, Workspace};
use crate::models::qwen3_omni::{OmniConfig, Thinker};
use crate::tensor::{BLOCK_SIZE, Backend, DeviceError, Dtype, Outline, Outlined, StepBatch, WeightStore};

/// Sequences that are decoded together.
const BATCHES: [usize; 3] = [1, 8, 32];
/// Tokens that a decoded token sees, itself included.
const CONTEXT: usize = 512;
/// Tokens of the prompt.
const PROMPT: usize = 2000;
/// How often a decode step is repeated.
const STEPS: Repeats = Repeats { most: 64, together: 8, patience: Duration::from_secs(5) };
/// No part of the prompt is begun after so long.
const PROMPT_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a made-up weight.
const WEIGHT_BYTES: f64 = 2.0;

/// What a device can do at best, as it was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Bytes that its memory moves in a second.
    pub bytes_per_second: f64,
    /// Multiplications and additions in a second, with bf16 weights.
    pub operations_per_second: f64,
}

/// The thinker's speed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThinkerSpeed {
    /// The configuration.
    pub config: String,
    /// Seconds that making the weights and loading them took.
    pub load_seconds: f64,
    /// Decode steps, by how many sequences they have.
    pub decode: Vec<DecodeSpeed>,
    /// A long prompt.
    pub prefill: PrefillSpeed,
}

/// The speed of decode steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecodeSpeed {
    /// Sequences.
    pub sequences: usize,
    /// Tokens that each sees.
    pub context: usize,
    /// Seconds of a step.
    pub seconds: f64,
    /// Tokens of all sequences in a second.
    pub tokens_per_second: f64,
    /// Bytes that a step must read: weights, of the experts as many as are chosen on average, and the cache.
    pub bytes: f64,
    /// Seconds that reading them takes at the measured bandwidth.
    pub floor_seconds: f64,
}

/// The speed of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrefillSpeed {
    /// Tokens that were computed.
    pub tokens: usize,
    /// Tokens of a step.
    pub step: usize,
    /// Seconds for all of them.
    pub seconds: f64,
    /// Tokens in a second.
    pub tokens_per_second: f64,
    /// Multiplications and additions of the products.
    pub operations: f64,
    /// Seconds that they take at the measured rate.
    pub floor_seconds: f64,
}

/// A model to be measured.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What it is called.
    name: String,
    config: OmniConfig,
    /// Rows of a step of the prompt.
    prefill_rows: usize,
}

impl Subject {
    /// Reads `config.json` in a directory. A prompt is computed `prefill_rows` tokens at a time.
    pub fn read(directory: &Path, prefill_rows: usize) -> Result<Self, LoadError> {
        let config = OmniConfig::read(directory)?;
        Ok(Self {
            name: directory.display().to_string(),
            config,
            prefill_rows: prefill_rows.clamp(1, PROMPT),
        })
    }

    /// Bytes that it takes of a device: weights, and what steps work in.
    pub fn needs(&self, outlined: Outlined) -> Result<[u64; 2], LoadError> {
        let outline = Outline::of(outlined);
        let thinker = self.load(&outline)?;
        let weights = outline.take().weights;
        self.space(&thinker)?;
        let space = outline.take();
        Ok([weights, space.buffers + space.caches])
    }

    fn load<B: Backend>(&self, backend: &B) -> Result<Thinker<B>, LoadError> {
        Thinker::load(backend, &self.config, &WeightStore::dummy(0), Dtype::Auto)
    }

    fn space<B: Backend>(&self, thinker: &Thinker<B>) -> Result<(Workspace<B>, B::Cache), DeviceError> {
        let most = BATCHES.iter().copied().max().unwrap_or(1);
        let blocks = (most * CONTEXT).max(PROMPT).div_ceil(BLOCK_SIZE);
        Ok((thinker.new_workspace(self.prefill_rows.max(most), most)?, thinker.new_cache(blocks)?))
    }

    /// Measures it.
    pub fn measure<B: Backend>(&self, backend: &B, rates: Rates) -> Result<ThinkerSpeed, LoadError> {
        let start = Instant::now();
        let thinker = self.load(backend)?;
        let (mut workspace, cache) = self.space(&thinker)?;
        // Waits for what loading has queued.
        workspace.logits()?;
        let load_seconds = start.elapsed().as_secs_f64();
        let shape = thinker.config().kv_shape();
        let bytes_per_token = backend.cache_bytes_per_block(shape) as f64 / BLOCK_SIZE as f64;
        let random = Random::new(1);
        let mut run = Run { thinker: &thinker, workspace, cache, random, step: StepBatch::default() };
        let decode = BATCHES
            .into_iter()
            .map(|sequences| run.decode(sequences, bytes_per_token, rates))
            .collect::<Result<_, _>>()?;
        let prefill = run.prefill(self.prefill_rows, rates)?;
        Ok(ThinkerSpeed { config: self.name.clone(), load_seconds, decode, prefill })
    }
}

/// A loaded thinker at work.
struct Run<'a, B: Backend> {
    thinker: &'a Thinker<B>,
    workspace: Workspace<B>,
    /// What lies in it is of no matter: zeros are read as fast as keys.
    cache: B::Cache,
    /// For token ids, so that each step chooses other experts.
    random: Random,
    step: StepBatch,
}

impl<B: Backend> Run<'_, B> {
    fn decode(
        &mut self,
        sequences: usize,
        bytes_per_token: f64,
        rates: Rates,
    ) -> Result<DecodeSpeed, DeviceError> {
        let bytes = decode_bytes(self.thinker.config(), sequences, bytes_per_token);
        let blocks: Vec<u32> = (0..(sequences * CONTEXT).div_ceil(BLOCK_SIZE) as u32).collect();
        let seconds = STEPS.mean_seconds(
            self,
            |run| {
                run.step.clear();
                for blocks in blocks.chunks(CONTEXT.div_ceil(BLOCK_SIZE)) {
                    run.push_tokens(1, CONTEXT - 1, blocks, true);
                }
                run.forward()
            },
            |run| run.workspace.logits().map(drop),
        )?;
        Ok(DecodeSpeed {
            sequences,
            context: CONTEXT,
            seconds,
            tokens_per_second: sequences as f64 / seconds,
            bytes,
            floor_seconds: bytes / rates.bytes_per_second,
        })
    }

    fn prefill(&mut self, rows: usize, rates: Rates) -> Result<PrefillSpeed, DeviceError> {
        let blocks: Vec<u32> = (0..PROMPT.div_ceil(BLOCK_SIZE) as u32).collect();
        let chunk = |run: &mut Self, tokens: usize| {
            let count = rows.min(PROMPT - tokens);
            run.step.clear();
            run.push_tokens(count, tokens, &blocks, tokens + count == PROMPT);
            run.forward()?;
            run.workspace.logits()?;
            Ok::<usize, DeviceError>(tokens + count)
        };
        // Once to warm up.
        chunk(self, 0)?;
        let (mut tokens, start) = (0, Instant::now());
        while tokens < PROMPT && start.elapsed() < PROMPT_PATIENCE {
            tokens = chunk(self, tokens)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let operations = prefill_operations(self.thinker.config(), tokens);
        let floor_seconds = operations / rates.operations_per_second;
        let tokens_per_second = tokens as f64 / seconds;
        Ok(PrefillSpeed { tokens, step: rows, seconds, tokens_per_second, operations, floor_seconds })
    }

    /// The next `count` tokens of a sequence that has `start` in the cache.
    fn push_tokens(&mut self, count: usize, start: usize, blocks: &[u32], wants_logits: bool) {
        let vocabulary = self.thinker.config().vocab_size;
        let random = &mut self.random;
        let ids = (0..count).map(|_| random.below(vocabulary) as u32);
        self.step.push_text(ids, start, blocks, wants_logits);
    }

    fn forward(&mut self) -> Result<(), DeviceError> {
        self.thinker.forward(&self.step, &mut self.cache, &mut self.workspace, None)
    }
}

/// Bytes that a decode step must read.
fn decode_bytes(config: &DecoderConfig, sequences: usize, bytes_per_token: f64) -> f64 {
    WEIGHT_BYTES * config.weights_read(sequences) + (sequences * CONTEXT) as f64 * bytes_per_token
}

/// Multiplications and additions of the products of a prompt whose last token wants logits, and of its attention.
fn prefill_operations(config: &DecoderConfig, tokens: usize) -> f64 {
    let products = tokens as f64 * config.weights_per_row() as f64 + config.head_weights() as f64;
    // Each token meets itself and those before it, with the product of query and key and that of weight and value.
    let meetings = tokens as f64 * (tokens as f64 + 1.0) / 2.0;
    let attention = meetings * (2 * config.attention.query_width() * config.layers.len()) as f64;
    2.0 * (products + attention)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::cpu::Cpu;

    #[test]
    fn a_small_thinker_is_measured_beside_its_floor() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
        let subject = Subject::read(&directory, 300).unwrap();
        let [weights, space] = subject.needs(Outlined::Process).unwrap();
        assert!(weights > 0 && space > 0);
        let rates = Rates { bytes_per_second: 1e9, operations_per_second: 1e9 };
        let speed = subject.measure(&Cpu::new(None).unwrap(), rates).unwrap();
        assert_eq!(speed.decode.iter().map(|each| each.sequences).collect::<Vec<_>>(), BATCHES);
        for each in &speed.decode {
            assert!(each.seconds > 0.0 && each.tokens_per_second > 0.0);
            assert!((each.floor_seconds - each.bytes / 1e9).abs() < 1e-12);
            assert!(each.bytes < (weights + space) as f64, "no more is read than there is");
        }
        assert!(speed.decode.windows(2).all(|pair| pair[0].bytes < pair[1].bytes));
        assert!(speed.prefill.tokens > 0 && speed.prefill.floor_seconds > 0.0);
    }

    #[test]
    fn the_operations_of_a_prompt_of_one_token_are_those_of_a_row() {
        let demo = Subject::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo"), 1).unwrap();
        let config = demo.config.thinker.decoder;
        let attention = 2 * config.attention.query_width() * config.layers.len();
        let due = 2 * (config.weights_per_row() + config.head_weights() + attention);
        assert!((prefill_operations(&config, 1) - due as f64).abs() < 1e-6);
    }
}
