//! The memory of a forward pass, made once for the largest step; and the loader that layers take weights from.

use super::config::{DecoderConfig, FeedForwardConfig};
use crate::models::LoadError;
use crate::tensor::{Backend, BatchLimits, DeviceError, Dtype, Weight, WeightStore};

/// Buffers for one forward pass at a time. They hold nothing between steps but the logits.
pub struct Workspace<B: Backend> {
    /// The device that the buffers are on.
    backend: B,
    /// The step at work.
    pub(super) batch: B::Batch,
    /// The residual stream, `[rows, hidden]`. Callers write the first layer's input here.
    pub(super) residual: B::Buffer,
    /// A norm's output, `[rows, hidden]`.
    pub(super) normed: B::Buffer,
    /// What attention or feed-forward adds to the residual stream, `[rows, hidden]`.
    pub(super) delta: B::Buffer,
    /// Queries, keys and values, `[rows, qkv]`.
    pub(super) qkv: B::Buffer,
    /// What the heads gathered, `[rows, heads * head_dim]`.
    pub(super) attended: B::Buffer,
    /// Cosines and sines, `[rows, head_dim]`.
    pub(super) rotary: B::Buffer,
    /// For the feed-forward networks.
    pub(super) feed_forward: FeedForwardSpace<B>,
    /// Final-norm states of the rows whose logits are wanted, `[logit_rows, hidden]`.
    pub(super) logit_states: B::Buffer,
    /// `[logit_rows, vocab]`.
    pub(super) logits: B::Buffer,
    /// Logits that the last step wrote.
    pub(super) logit_elements: usize,
    /// Where logits are shown when the device has memory of its own.
    staging: Vec<f32>,
}

/// Buffers of the feed-forward networks, wide enough for every layer.
pub(super) struct FeedForwardSpace<B: Backend> {
    /// Gate and up projections of a dense or shared network, `[rows, 2 * width]`.
    pub(super) gate_up: B::Buffer,
    /// Their gated product, `[rows, width]`.
    pub(super) gated: B::Buffer,
    /// The router's logits, `[rows, experts]`.
    pub(super) router_logits: B::Buffer,
    /// The choices of the rows; there if a layer is sparse.
    pub(super) routing: Option<B::Routing>,
    /// Gate and up projections of the chosen experts, `[rows * top_k, 2 * width]`.
    pub(super) expert_gate_up: B::Buffer,
    /// Their gated product, `[rows * top_k, width]`.
    pub(super) expert_gated: B::Buffer,
    /// The experts' outputs, `[rows * top_k, hidden]`.
    pub(super) expert_out: B::Buffer,
    /// The shared expert's output, `[rows, hidden]`.
    pub(super) shared_out: B::Buffer,
    /// The shared expert's gate, `[rows]`.
    pub(super) shared_gate: B::Buffer,
}

impl<B: Backend> Workspace<B> {
    /// Makes the buffers for steps up to `limits`.
    pub(super) fn new(backend: &B, config: &DecoderConfig, limits: BatchLimits) -> Result<Self, DeviceError> {
        let rows = limits.rows;
        let hidden = rows * config.hidden_size;
        Ok(Self {
            batch: backend.batch(limits)?,
            residual: backend.buffer(hidden)?,
            normed: backend.buffer(hidden)?,
            delta: backend.buffer(hidden)?,
            qkv: backend.buffer(rows * config.attention.qkv_width())?,
            attended: backend.buffer(rows * config.attention.query_width())?,
            rotary: backend.precise_buffer(rows * config.attention.head_dim)?,
            feed_forward: FeedForwardSpace::new(backend, config, rows)?,
            logit_states: backend.buffer(limits.logit_rows * config.hidden_size)?,
            logits: backend.precise_buffer(limits.logit_rows * config.vocab_size)?,
            logit_elements: 0,
            staging: Vec::new(),
            backend: backend.clone(),
        })
    }

    /// Waits for the last step and shows its logits, `[logit_rows, vocab]`.
    pub fn logits(&mut self) -> Result<&[f32], DeviceError> {
        self.backend.read(&self.logits, self.logit_elements, &mut self.staging)
    }

    /// The step's description on the device.
    pub fn batch(&self) -> &B::Batch {
        &self.batch
    }

    /// The same, for a device that completes it.
    pub fn batch_mut(&mut self) -> &mut B::Batch {
        &mut self.batch
    }

    /// The logits where they were computed, `[logit_rows, vocab]`. They may be changed.
    pub fn logits_on_device(&mut self) -> &mut B::Buffer {
        &mut self.logits
    }

    /// The final-norm states of the rows whose logits were wanted, `[logit_rows, hidden]`.
    pub fn logit_states(&self) -> &B::Buffer {
        &self.logit_states
    }
}

impl<B: Backend> FeedForwardSpace<B> {
    fn new(backend: &B, config: &DecoderConfig, rows: usize) -> Result<Self, DeviceError> {
        let (mut dense, mut shared_rows, mut routed) = (0, 0, None);
        let mut expert_width = 0;
        for layer in &config.layers {
            match layer {
                FeedForwardConfig::Dense { width } => dense = dense.max(*width),
                FeedForwardConfig::Sparse { route, width, shared } => {
                    routed = Some(*route);
                    expert_width = expert_width.max(*width);
                    if let Some(shared) = shared {
                        dense = dense.max(*shared);
                        shared_rows = rows;
                    }
                }
            }
        }
        let pairs = routed.map_or(0, |route| rows * route.top_k);
        Ok(Self {
            gate_up: backend.buffer(rows * 2 * dense)?,
            gated: backend.buffer(rows * dense)?,
            router_logits: backend.precise_buffer(routed.map_or(0, |route| rows * route.experts))?,
            routing: routed.map(|route| backend.routing(rows, route.top_k)).transpose()?,
            expert_gate_up: backend.buffer(pairs * 2 * expert_width)?,
            expert_gated: backend.buffer(pairs * expert_width)?,
            expert_out: backend.buffer(pairs * config.hidden_size)?,
            shared_out: backend.buffer(shared_rows * config.hidden_size)?,
            shared_gate: backend.precise_buffer(shared_rows)?,
        })
    }
}

/// Takes named weights from a store to a device.
pub(crate) struct Loader<'a, B: Backend> {
    /// Where they go.
    pub(crate) backend: &'a B,
    /// Where they come from.
    pub(crate) store: &'a WeightStore,
    /// How they are kept.
    pub(crate) dtype: Dtype,
}

impl<B: Backend> Loader<'_, B> {
    /// One weight `[out, in]`.
    pub(crate) fn weight(&self, name: &str, out: usize, inner: usize) -> Result<Weight, LoadError> {
        Ok(self.store.tensor(name, &[out, inner], self.dtype)?)
    }

    /// Weights `[out_i, in]`, stacked along `out`.
    pub(crate) fn matrix(&self, parts: &[(&str, usize)], inner: usize) -> Result<B::Matrix, LoadError> {
        let parts =
            parts.iter().map(|(name, out)| self.weight(name, *out, inner)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.backend.matrix(parts)?)
    }

    /// A vector.
    pub(crate) fn vector(&self, name: &str, length: usize) -> Result<B::Vector, LoadError> {
        Ok(self.backend.vector(&self.store.tensor(name, &[length], self.dtype)?)?)
    }
}
