//! A decoder with an embedding table before it and an output projection behind it.

use super::config::DecoderConfig;
use super::decoder::Decoder;
use super::taps::{TapPoint, Taps};
use super::workspace::{Loader, Workspace};
use crate::models::LoadError;
use crate::tensor::{Backend, BatchLimits, DeviceError, Dtype, StepBatch, WeightStore};

/// What a checkpoint calls the parts of a language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names<'a> {
    /// Before `embed_tokens`, `layers` and `norm`.
    pub model: &'a str,
    /// The output projection, without `.weight`.
    pub head: &'a str,
}

/// A language model: token ids in, logits out.
pub struct LanguageModel<B: Backend> {
    /// The device that holds it.
    backend: B,
    /// `[vocab, hidden]`.
    embedding: B::Matrix,
    /// The layers.
    decoder: Decoder<B>,
    /// `[vocab, hidden]`; the embedding table itself where the two are tied.
    head: B::Matrix,
}

impl<B: Backend> LanguageModel<B> {
    /// Loads all weights.
    pub fn load(
        backend: &B,
        names: Names<'_>,
        config: DecoderConfig,
        store: &WeightStore,
        dtype: Dtype,
    ) -> Result<Self, LoadError> {
        backend.scope(|| Self::load_in_scope(&Loader { backend, store, dtype }, names, config))
    }

    fn load_in_scope(
        loader: &Loader<'_, B>,
        names: Names<'_>,
        config: DecoderConfig,
    ) -> Result<Self, LoadError> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embedding = loader.matrix(&[(&format!("{}.embed_tokens.weight", names.model), vocab)], hidden)?;
        let head = if config.tied_embeddings {
            embedding.clone()
        } else {
            loader.matrix(&[(&format!("{}.weight", names.head), vocab)], hidden)?
        };
        let decoder = Decoder::load(loader, names.model, config)?;
        Ok(Self { backend: loader.backend.clone(), embedding, decoder, head })
    }

    /// The device that holds it.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Its dimensions.
    pub fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    /// The embedding table, `[vocab, hidden]`; clones share its memory.
    pub fn embedding(&self) -> &B::Matrix {
        &self.embedding
    }

    /// A KV cache of `blocks` blocks of [`BLOCK_SIZE`](crate::tensor::BLOCK_SIZE) tokens.
    pub fn new_cache(&self, blocks: usize) -> Result<B::Cache, DeviceError> {
        self.backend.cache(self.config().kv_shape(), blocks)
    }

    /// Bytes of one block of the KV cache, over all layers.
    pub fn kv_bytes_per_block(&self) -> usize {
        self.backend.cache_bytes_per_block(self.config().kv_shape())
    }

    /// Memory for steps of up to `max_rows` rows, `max_logit_rows` of which want logits.
    pub fn new_workspace(&self, max_rows: usize, max_logit_rows: usize) -> Result<Workspace<B>, DeviceError> {
        Workspace::new(
            &self.backend,
            self.config(),
            BatchLimits { rows: max_rows, logit_rows: max_logit_rows },
        )
    }

    /// Room to keep the hidden states of up to `max_rows` rows at some points.
    pub fn new_taps(&self, points: &[TapPoint], max_rows: usize) -> Result<Taps<B>, DeviceError> {
        Taps::new(&self.backend, points, max_rows * self.config().hidden_size)
    }

    /// Runs one step: writes keys and values into `cache`, logits of `step.logit_rows` into `space`, and hidden
    /// states into `taps`. Both are read with a wait of their own.
    pub fn forward(
        &self,
        step: &StepBatch,
        cache: &mut B::Cache,
        space: &mut Workspace<B>,
        taps: Option<&mut Taps<B>>,
    ) -> Result<(), DeviceError> {
        self.backend.scope(|| {
            self.upload(step, space)?;
            self.compute(step, cache, space, taps)
        })
    }

    /// The first part of [`forward`](Self::forward): brings a step's description to the device.
    pub fn upload(&self, step: &StepBatch, space: &mut Workspace<B>) -> Result<(), DeviceError> {
        space.logit_elements = step.logit_rows.len() * self.config().vocab_size;
        self.backend.upload(step, &mut space.batch)
    }

    /// The second part of [`forward`](Self::forward), for the step that was uploaded. Nothing in it depends on
    /// anything but the numbers of rows and what lies on the device.
    pub fn compute(
        &self,
        step: &StepBatch,
        cache: &mut B::Cache,
        space: &mut Workspace<B>,
        taps: Option<&mut Taps<B>>,
    ) -> Result<(), DeviceError> {
        let backend = &self.backend;
        let (rows, wanted) = (step.rows(), step.logit_rows.len());
        let hidden = self.config().hidden_size;
        backend.embed(&self.embedding, &space.batch, &mut space.residual)?;
        self.decoder.forward(rows, cache, space, taps)?;
        backend.gather_logit_rows(&space.normed, hidden, &space.batch, &mut space.logit_states)?;
        backend.matmul(&space.logit_states, &self.head, wanted, &mut space.logits)
    }
}
