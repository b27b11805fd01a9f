//! A decoder that is fed with input rows instead of token ids.

use super::config::DecoderConfig;
use super::decoder::Decoder;
use super::taps::{TapPoint, Taps};
use super::workspace::{Loader, Workspace};
use crate::models::LoadError;
use crate::tensor::{Backend, BatchLimits, DeviceError, StepBatch};

/// Layers and final norm, for models that make their own input rows and have several output projections.
pub struct EmbeddedDecoder<B: Backend> {
    /// The device that holds it.
    backend: B,
    /// The layers.
    decoder: Decoder<B>,
}

impl<B: Backend> EmbeddedDecoder<B> {
    /// Loads `prefix.layers.N` and `prefix.norm`.
    pub(crate) fn load(
        loader: &Loader<'_, B>,
        prefix: &str,
        config: DecoderConfig,
    ) -> Result<Self, LoadError> {
        Ok(Self { backend: loader.backend.clone(), decoder: Decoder::load(loader, prefix, config)? })
    }

    /// Its dimensions.
    pub fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    /// A KV cache of `blocks` blocks of [`BLOCK_SIZE`](crate::tensor::BLOCK_SIZE) tokens.
    pub fn new_cache(&self, blocks: usize) -> Result<B::Cache, DeviceError> {
        self.backend.cache(self.config().kv_shape(), blocks)
    }

    /// Bytes of one block of the KV cache, over all layers.
    pub fn kv_bytes_per_block(&self) -> usize {
        self.backend.cache_bytes_per_block(self.config().kv_shape())
    }

    /// Memory for steps within `limits`.
    pub fn new_workspace(&self, limits: BatchLimits) -> Result<Workspace<B>, DeviceError> {
        Workspace::new(&self.backend, self.config(), limits)
    }

    /// Room to keep the hidden states of up to `max_rows` rows at some points.
    pub fn new_taps(&self, points: &[TapPoint], max_rows: usize) -> Result<Taps<B>, DeviceError> {
        Taps::new(&self.backend, points, max_rows * self.config().hidden_size)
    }

    /// Runs one step. `fill` writes the input rows, `[rows, hidden]`; the logits of `step.logit_rows` are the
    /// product of their final-norm states with `head`, `[vocab, hidden]`, and are left in `space` beside the states.
    pub fn forward(
        &self,
        step: &StepBatch,
        fill: impl FnOnce(&mut B::Buffer) -> Result<(), DeviceError> + Send,
        head: &B::Matrix,
        cache: &mut B::Cache,
        space: &mut Workspace<B>,
        taps: Option<&mut Taps<B>>,
    ) -> Result<(), DeviceError> {
        let backend = &self.backend;
        let (rows, wanted) = (step.rows(), step.logit_rows.len());
        backend.scope(|| {
            backend.upload(step, &mut space.batch)?;
            fill(&mut space.residual)?;
            self.decoder.forward(rows, cache, space, taps)?;
            space.logit_elements = wanted * self.config().vocab_size;
            let hidden = self.config().hidden_size;
            backend.gather_logit_rows(&space.normed, hidden, &space.batch, &mut space.logit_states)?;
            backend.matmul(&space.logit_states, head, wanted, &mut space.logits)
        })
    }
}
