//! How fast the thinker of a configuration is with made-up weights, beside what the device's memory and its products
//! allow at best.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use thiserror::Error;

use super::random::Random;
use super::timing::Repeats;
use crate::engine::{Draw, Sampler, SamplingParams, SequenceKey, TokenHistory};
use crate::models::LoadError;
use crate::models::qwen3::{DecodeTraffic, DecoderConfig, LanguageModel, StepShape};
use crate::models::qwen3_omni::{OmniConfig, Thinker};
use crate::stages::StageError;
use crate::stages::checkpoint_pipeline::ReplicaModel;
use crate::stages::llm::{DeviceSampling, HostSampling, ModelStep, StepModel, TokenChoice};
use crate::tensor::device_steps::ChainedRow;
use crate::tensor::{
    BLOCK_SIZE, Backend, BatchLimits, DeviceError, Dtype, Outline, Outlined, StepBatch, WeightStore,
};

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

/// A speed that cannot be measured.
#[derive(Debug, Error)]
pub enum SpeedError {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The device has no room for a replica.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StageError),
}

impl SpeedError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Load(error) => error.reason(),
            Self::Device(error) => error.reason(),
            Self::Step(error) => error.reason(),
        }
    }
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
    pub fn needs(&self, outlined: Outlined) -> Result<[u64; 2], SpeedError> {
        let outline = Outline::of(outlined);
        let thinker = self.load(&outline)?;
        let weights = outline.take().weights;
        drop(match outlined {
            Outlined::Process => self.replica(thinker, HostSampling::boxed)?,
            Outlined::Gpu(_) => self.replica(thinker, DeviceSampling::boxed)?,
        });
        let replica = outline.take();
        Ok([weights, replica.buffers + replica.caches])
    }

    fn load<B: Backend>(&self, backend: &B) -> Result<Arc<LanguageModel<B>>, LoadError> {
        let thinker = Thinker::load(backend, &self.config, &WeightStore::dummy(0), Dtype::Auto)?;
        Ok(Arc::new(thinker.into_language_model()))
    }

    /// What a replica in a server works with.
    fn replica<B: Backend>(
        &self,
        thinker: Arc<LanguageModel<B>>,
        replica_model: ReplicaModel<B>,
    ) -> Result<Box<dyn StepModel>, DeviceError> {
        let sequences = BATCHES.into_iter().max().unwrap_or(1);
        let blocks = (sequences * CONTEXT).max(PROMPT).div_ceil(BLOCK_SIZE);
        let limits = BatchLimits { rows: self.prefill_rows.max(sequences), logit_rows: sequences };
        replica_model(thinker, blocks, limits, Sampler::default())
    }

    /// Measures it as a server would run it.
    pub fn measure<B: Backend>(
        &self,
        backend: &B,
        replica_model: ReplicaModel<B>,
        rates: Rates,
    ) -> Result<ThinkerSpeed, SpeedError> {
        let start = Instant::now();
        let thinker = self.load(backend)?;
        let config = thinker.config().clone();
        let traffic = DecodeTraffic {
            bytes_per_weight: WEIGHT_BYTES,
            cache_bytes_per_token: thinker.kv_bytes_per_block() as f64 / BLOCK_SIZE as f64,
            config: config.clone(),
        };
        let model = self.replica(thinker, replica_model)?;
        let mut run = Run {
            config,
            model,
            in_flight: 0,
            random: Random::new(1),
            params: SamplingParams { temperature: 1.0, ..SamplingParams::default() },
            history: TokenHistory::default(),
            step: StepBatch::default(),
            steps: 0,
        };
        // The first step waits for what loading has queued.
        run.launch_decode(1, &[0])?;
        run.collect_all()?;
        let load_seconds = start.elapsed().as_secs_f64();
        let decode = BATCHES
            .into_iter()
            .map(|sequences| run.decode(sequences, &traffic, rates))
            .collect::<Result<_, _>>()?;
        let prefill = run.prefill(self.prefill_rows, rates)?;
        Ok(ThinkerSpeed { config: self.name.clone(), load_seconds, decode, prefill })
    }
}

/// A loaded thinker at work.
struct Run {
    config: DecoderConfig,
    /// What lies in its cache is of no matter: zeros are read as fast as keys.
    model: Box<dyn StepModel>,
    /// Steps launched and not collected, all of them alike.
    in_flight: usize,
    /// For token ids.
    random: Random,
    /// Tokens are drawn, so that each step and each sequence chooses other experts.
    params: SamplingParams,
    history: TokenHistory,
    step: StepBatch,
    /// Steps launched so far.
    steps: u32,
}

impl Run {
    fn decode(
        &mut self,
        sequences: usize,
        traffic: &DecodeTraffic,
        rates: Rates,
    ) -> Result<DecodeSpeed, StageError> {
        let bytes = traffic.bytes(sequences as f64, CONTEXT as f64);
        let blocks: Vec<u32> = (0..(sequences * CONTEXT.div_ceil(BLOCK_SIZE)) as u32).collect();
        // A device records what the second step of a kind launches; the third is the first to be repeated.
        self.launch_decode(CONTEXT, &blocks)?;
        self.launch_decode(CONTEXT, &blocks)?;
        self.collect_all()?;
        let seconds =
            STEPS.mean_seconds(self, |run| run.launch_decode(CONTEXT, &blocks), Self::collect_all)?;
        Ok(DecodeSpeed {
            sequences,
            context: CONTEXT,
            seconds,
            tokens_per_second: sequences as f64 / seconds,
            bytes,
            floor_seconds: bytes / rates.bytes_per_second,
        })
    }

    /// Launches a step in which each sequence sees `context` tokens, with one step in flight if the model can have two.
    /// `blocks` are those of all sequences.
    fn launch_decode(&mut self, context: usize, blocks: &[u32]) -> Result<(), StageError> {
        if self.in_flight >= self.model.steps_in_flight() {
            self.collect()?;
        }
        self.step.clear();
        let mut chained = Vec::new();
        for (row, blocks) in (0..).zip(blocks.chunks(context.div_ceil(BLOCK_SIZE))) {
            self.push_tokens(1, context - 1, blocks, true);
            if self.in_flight > 0 {
                chained.push(ChainedRow { row, logit_row: row });
            }
        }
        self.launch(&chained)
    }

    fn prefill(&mut self, rows: usize, rates: Rates) -> Result<PrefillSpeed, StageError> {
        let blocks: Vec<u32> = (0..PROMPT.div_ceil(BLOCK_SIZE) as u32).collect();
        // Once to warm up.
        self.prefill_part(0, rows, &blocks)?;
        let (mut tokens, start) = (0, Instant::now());
        while tokens < PROMPT && start.elapsed() < PROMPT_PATIENCE {
            tokens = self.prefill_part(tokens, rows, &blocks)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let operations = prefill_operations(&self.config, tokens);
        let floor_seconds = operations / rates.operations_per_second;
        let tokens_per_second = tokens as f64 / seconds;
        Ok(PrefillSpeed { tokens, step: rows, seconds, tokens_per_second, operations, floor_seconds })
    }

    /// Computes up to `rows` tokens of the prompt behind the first `start`; gives how many there are then.
    fn prefill_part(&mut self, start: usize, rows: usize, blocks: &[u32]) -> Result<usize, StageError> {
        let count = rows.min(PROMPT - start);
        self.step.clear();
        self.push_tokens(count, start, blocks, start + count == PROMPT);
        self.launch(&[])?;
        self.collect_all()?;
        Ok(start + count)
    }

    /// The next `count` tokens of a sequence that has `start` in the cache.
    fn push_tokens(&mut self, count: usize, start: usize, blocks: &[u32], wants_logits: bool) {
        let (vocabulary, random) = (self.config.vocab_size, &mut self.random);
        let ids = (0..count).map(|_| random.below(vocabulary) as u32);
        self.step.push_text(ids, start, blocks, wants_logits);
    }

    fn launch(&mut self, chained: &[ChainedRow]) -> Result<(), StageError> {
        let (params, history, step) = (&self.params, &self.history, self.steps);
        let choice = |row: usize| {
            let draw = Draw { choice: row as u32, step, ..Draw::default() };
            TokenChoice { key: SequenceKey(row as u64), params, history, draw }
        };
        let choices: Vec<TokenChoice<'_>> = (0..self.step.logit_rows.len()).map(choice).collect();
        self.model.launch(&ModelStep { batch: &self.step, chained, choices: &choices })?;
        self.in_flight += 1;
        self.steps += 1;
        Ok(())
    }

    fn collect(&mut self) -> Result<(), StageError> {
        self.model.collect(true)?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Ok(())
    }

    fn collect_all(&mut self) -> Result<(), StageError> {
        while self.in_flight > 0 {
            self.collect()?;
        }
        Ok(())
    }
}

/// Multiplications and additions of the products of a prompt whose last token wants logits, and of its attention.
fn prefill_operations(config: &DecoderConfig, tokens: usize) -> f64 {
    config.operations(StepShape::span(0, tokens, true))
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
        let speed = subject.measure(&Cpu::new(None).unwrap(), HostSampling::boxed, rates).unwrap();
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
