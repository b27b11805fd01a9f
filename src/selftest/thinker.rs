//! The thinker against the golden outputs of a set, in f32.

use std::path::{Path, PathBuf};

use safetensors::{Dtype as StoredDtype, SafeTensors};
use thiserror::Error;

use super::{Check, largest_difference};
use crate::models::LoadError;
use crate::models::qwen3::{TapPoint, Taps, Workspace};
use crate::models::qwen3_omni::{OmniConfig, Thinker};
use crate::tensor::{BLOCK_SIZE, Backend, DeviceError, Dtype, StepBatch, WeightError, WeightStore};

/// The cases of a set that are text alone.
pub(super) const CASES: [&str; 2] = ["thinker_text", "thinker_text_system_history"];
/// Tokens per chunk where a prompt is computed in chunks.
const CHUNK: usize = 5;
/// Bound on logits: the largest difference.
const LOGITS: f32 = 1e-3;
/// Bound on hidden states: ‖ours − golden‖ / ‖golden‖.
const HIDDEN: f32 = 1e-4;

/// A set that cannot be used.
#[derive(Debug, Error)]
pub enum GoldenError {
    /// A file or directory cannot be read.
    #[error("{path}: {cause}")]
    Unreadable {
        /// Which one.
        path: String,
        /// Why.
        cause: String,
    },
    /// A directory holds no golden set of a Qwen3-Omni model.
    #[error("{0} holds no golden set (qwen3_omni/<variant>/golden)")]
    NoSets(String),
    /// A tensor is missing, or has another type or length than the case needs.
    #[error("{path}: tensor {tensor} {cause}")]
    Tensor {
        /// The file.
        path: String,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The set's checkpoint cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl From<WeightError> for GoldenError {
    fn from(error: WeightError) -> Self {
        Self::Load(error.into())
    }
}

impl GoldenError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "golden_unreadable",
            Self::NoSets(_) => "no_golden_sets",
            Self::Tensor { .. } => "golden_tensor",
            Self::Load(error) => error.reason(),
            Self::Device(error) => error.reason(),
        }
    }
}

/// The Qwen3-Omni sets under a directory, by path.
pub fn sets(directory: &Path) -> Result<Vec<PathBuf>, GoldenError> {
    let models = directory.join("qwen3_omni");
    let unreadable = |cause: std::io::Error| GoldenError::Unreadable {
        path: models.display().to_string(),
        cause: cause.to_string(),
    };
    if !models.is_dir() {
        return Err(GoldenError::NoSets(directory.display().to_string()));
    }
    let mut sets = Vec::new();
    for entry in std::fs::read_dir(&models).map_err(unreadable)? {
        let set = entry.map_err(unreadable)?.path();
        if set.join("golden").is_dir() {
            sets.push(set);
        }
    }
    sets.sort();
    if sets.is_empty() { Err(GoldenError::NoSets(directory.display().to_string())) } else { Ok(sets) }
}

/// Compares the text cases of a set, prompts computed whole and in chunks.
pub fn compare<B: Backend>(
    backend: &B,
    set: &Path,
    mut report: impl FnMut(Check),
) -> Result<(), GoldenError> {
    let checkpoint = set.join("checkpoint");
    let config = OmniConfig::read(&checkpoint)?;
    let store = WeightStore::open(&checkpoint)?;
    let thinker = Thinker::load(backend, &config, &store, Dtype::Float32)?;
    let name = set.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    for case in CASES {
        let golden = Golden::read(&set.join("golden").join(format!("{case}.safetensors")))?;
        let prompt = golden.ids("input_ids")?;
        for chunk in [prompt.len().max(1), CHUNK] {
            let subject = format!("{name} {case}, chunks of {chunk}");
            Run::new(&thinker, &golden, &prompt)?.compare(&subject, &prompt, chunk, &mut report)?;
        }
    }
    Ok(())
}

/// One sequence on its way through the thinker.
struct Run<'a, B: Backend> {
    thinker: &'a Thinker<B>,
    golden: &'a Golden,
    /// The tokens that the reference chose, greedily.
    greedy: Vec<u32>,
    cache: B::Cache,
    workspace: Workspace<B>,
    taps: Taps<B>,
    /// Blocks in an order of no meaning, as a pool hands them out.
    blocks: Vec<u32>,
    /// Tokens that are through.
    length: usize,
    /// Hidden states of the prompt by point.
    states: Vec<(String, TapPoint, Vec<f32>)>,
    /// Logits of all tokens so far.
    logits: Vec<f32>,
}

impl<'a, B: Backend> Run<'a, B> {
    fn new(thinker: &'a Thinker<B>, golden: &'a Golden, prompt: &[u32]) -> Result<Self, GoldenError> {
        let greedy = golden.ids("greedy_ids")?;
        let tokens = prompt.len() + greedy.len();
        let mut points = vec![
            ("inputs_embeds".to_owned(), TapPoint::Embeddings),
            ("final_norm_hidden".to_owned(), TapPoint::FinalNorm),
        ];
        // Sets keep what some of the layers give, and what the talker listens to where there is one.
        let layers = 0..thinker.config().layers.len();
        let layers = layers.map(|layer| (format!("layer_out.{layer}"), TapPoint::Layer(layer)));
        let accepted = thinker.accept_point().map(|point| ("accept_hidden".to_owned(), point));
        points.extend(layers.chain(accepted).filter(|(name, _)| golden.holds(name)));
        let tapped: Vec<TapPoint> = points.iter().map(|(_, point)| *point).collect();
        let blocks = tokens.div_ceil(BLOCK_SIZE);
        Ok(Self {
            thinker,
            golden,
            greedy,
            cache: thinker.new_cache(blocks)?,
            workspace: thinker.new_workspace(tokens, tokens)?,
            taps: thinker.new_taps(&tapped, tokens)?,
            blocks: (0..blocks as u32).rev().collect(),
            length: 0,
            states: points.into_iter().map(|(name, point)| (name, point, Vec::new())).collect(),
            logits: Vec::new(),
        })
    }

    fn compare(
        mut self,
        subject: &str,
        prompt: &[u32],
        chunk: usize,
        report: &mut dyn FnMut(Check),
    ) -> Result<(), GoldenError> {
        for tokens in prompt.chunks(chunk) {
            self.step(tokens)?;
            for (_, point, states) in &mut self.states {
                states.extend_from_slice(self.taps.read(*point)?);
            }
        }
        for (name, _, states) in &self.states {
            let golden = self.golden.floats(name)?;
            report(Check::new(subject, name.clone(), relative_distance(states, &golden), HIDDEN));
        }
        let golden = self.golden.floats("logits")?;
        let difference = largest_difference(&self.logits, &golden);
        report(Check::new(subject, "logits".to_owned(), difference, LOGITS));

        let vocabulary = self.thinker.config().vocab_size;
        let (mut logits, mut differing) = (Vec::new(), 0);
        for due in self.greedy.clone() {
            let row = self.logits.rchunks_exact(vocabulary).next().unwrap_or_default().to_vec();
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            differing += usize::from(best.is_none_or(|(id, _)| id as u32 != due));
            logits.extend(row);
            self.step(&[due])?;
        }
        report(Check::new(subject, "greedy_ids".to_owned(), differing as f32, 0.0));
        let difference = largest_difference(&logits, &self.golden.floats("greedy_logits")?);
        report(Check::new(subject, "greedy_logits".to_owned(), difference, LOGITS));
        Ok(())
    }

    /// Takes further tokens through.
    fn step(&mut self, tokens: &[u32]) -> Result<(), DeviceError> {
        let mut step = StepBatch::default();
        step.push_text(tokens.iter().copied(), self.length, &self.blocks, false);
        step.logit_rows = (0..tokens.len() as u32).collect();
        self.length += tokens.len();
        self.thinker.forward(&step, &mut self.cache, &mut self.workspace, Some(&mut self.taps))?;
        self.logits.extend_from_slice(self.workspace.logits()?);
        Ok(())
    }
}

/// ‖ours − due‖ / ‖due‖; infinite where they are not of one length or hold what is no number.
fn relative_distance(ours: &[f32], due: &[f32]) -> f32 {
    if ours.len() != due.len() {
        return f32::INFINITY;
    }
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let distance = square(&mut ours.iter().zip(due).map(|(ours, due)| ours - due));
    let length = square(&mut due.iter().copied()).max(f64::MIN_POSITIVE);
    let relative = (distance / length).sqrt() as f32;
    if relative.is_nan() { f32::INFINITY } else { relative }
}

/// A file of golden tensors.
pub(super) struct Golden {
    /// Its path, for messages.
    path: String,
    /// What it holds.
    bytes: Vec<u8>,
}

impl Golden {
    pub(super) fn read(path: &Path) -> Result<Self, GoldenError> {
        let shown = path.display().to_string();
        let unreadable = |cause: String| GoldenError::Unreadable { path: shown.clone(), cause };
        let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        SafeTensors::deserialize(&bytes).map_err(|error| unreadable(error.to_string()))?;
        Ok(Self { path: shown, bytes })
    }

    /// Whether there is a tensor of this name.
    fn holds(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).is_ok_and(|tensors| tensors.tensor(name).is_ok())
    }

    /// A tensor of f32 values.
    fn floats(&self, name: &str) -> Result<Vec<f32>, GoldenError> {
        let data = self.data(name, StoredDtype::F32)?;
        Ok(data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// A tensor of token ids, which are stored as i64.
    pub(super) fn ids(&self, name: &str) -> Result<Vec<u32>, GoldenError> {
        let data = self.data(name, StoredDtype::I64)?;
        let ids = data.as_chunks::<8>().0.iter().map(|bytes| u32::try_from(i64::from_le_bytes(*bytes)));
        ids.collect::<Result<_, _>>().map_err(|_| self.wrong(name, "holds what is no token id".to_owned()))
    }

    fn data(&self, name: &str, dtype: StoredDtype) -> Result<Vec<u8>, GoldenError> {
        let tensors =
            SafeTensors::deserialize(&self.bytes).map_err(|error| self.wrong(name, error.to_string()))?;
        let view = tensors.tensor(name).map_err(|_| self.wrong(name, "is missing".to_owned()))?;
        if view.dtype() == dtype {
            Ok(view.data().to_vec())
        } else {
            Err(self.wrong(name, format!("is {:?} where {dtype:?} is needed", view.dtype())))
        }
    }

    fn wrong(&self, tensor: &str, cause: String) -> GoldenError {
        GoldenError::Tensor { path: self.path.clone(), tensor: tensor.to_owned(), cause }
    }
}
