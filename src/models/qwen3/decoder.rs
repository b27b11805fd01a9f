//! The stack of layers, from embeddings to the final norm.

use super::attention::Attention;
use super::config::DecoderConfig;
use super::feed_forward::FeedForward;
use super::taps::{TapPoint, Taps};
use super::workspace::{Loader, Workspace};
use crate::models::LoadError;
use crate::tensor::{Backend, DeviceError};

/// A decoder without embeddings and output projection.
pub struct Decoder<B: Backend> {
    /// The device that holds it.
    backend: B,
    /// Its dimensions.
    config: DecoderConfig,
    /// Its layers, first to last.
    layers: Vec<Layer<B>>,
    /// Gain of the final norm, `[hidden]`.
    final_norm: B::Vector,
}

/// One layer: `x += attention(norm x)`, `x += feed_forward(norm x)`.
struct Layer<B: Backend> {
    /// Gain of the norm before attention, `[hidden]`.
    attention_norm: B::Vector,
    /// Attention.
    attention: Attention<B>,
    /// Gain of the norm before the feed-forward network, `[hidden]`.
    feed_forward_norm: B::Vector,
    /// Feed-forward network.
    feed_forward: FeedForward<B>,
}

impl<B: Backend> Decoder<B> {
    /// Loads the layers `prefix.layers.N` and the final norm `prefix.norm`.
    pub(crate) fn load(
        loader: &Loader<'_, B>,
        prefix: &str,
        config: DecoderConfig,
    ) -> Result<Self, LoadError> {
        let hidden = config.hidden_size;
        let layers = config
            .layers
            .iter()
            .enumerate()
            .map(|(index, feed_forward)| {
                let name = |part: &str| format!("{prefix}.layers.{index}.{part}");
                Ok(Layer {
                    attention_norm: loader.vector(&name("input_layernorm.weight"), hidden)?,
                    attention: Attention::load(loader, &name("self_attn"), &config)?,
                    feed_forward_norm: loader.vector(&name("post_attention_layernorm.weight"), hidden)?,
                    feed_forward: FeedForward::load(loader, &name("mlp"), hidden, feed_forward)?,
                })
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        let final_norm = loader.vector(&format!("{prefix}.norm.weight"), hidden)?;
        Ok(Self { backend: loader.backend.clone(), config, layers, final_norm })
    }

    /// Its dimensions.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Takes the rows of the step in `space` from `space.residual`, the input of the first layer, to
    /// `space.normed`, the output of the final norm; both `[rows, hidden]`.
    ///
    /// The norm that follows an addition is one operation with it, so every layer ends with the norm of the next.
    pub(super) fn forward(
        &self,
        rows: usize,
        cache: &mut B::Cache,
        space: &mut Workspace<B>,
        mut taps: Option<&mut Taps<B>>,
    ) -> Result<(), DeviceError> {
        let (backend, config) = (&self.backend, &self.config);
        let elements = rows * config.hidden_size;
        let mut keep = |point, states: &B::Buffer| match taps.as_deref_mut() {
            Some(taps) => taps.keep(point, states, elements),
            None => Ok(()),
        };
        backend.rotary(&space.batch, &config.rotary, &mut space.rotary)?;
        keep(TapPoint::Embeddings, &space.residual)?;
        let first_norm = self.layers.first().map_or(&self.final_norm, |layer| &layer.attention_norm);
        backend.rms_norm(&space.residual, first_norm, config.eps, rows, &mut space.normed)?;
        for (index, layer) in self.layers.iter().enumerate() {
            layer.attention.forward(backend, config, index, rows, cache, space)?;
            backend.add_rms_norm(
                &mut space.residual,
                &space.delta,
                &layer.feed_forward_norm,
                config.eps,
                rows,
                &mut space.normed,
            )?;
            layer.feed_forward.forward(
                backend,
                config,
                rows,
                &space.normed,
                &mut space.feed_forward,
                &mut space.delta,
            )?;
            let next_norm = self.layers.get(index + 1).map_or(&self.final_norm, |next| &next.attention_norm);
            backend.add_rms_norm(
                &mut space.residual,
                &space.delta,
                next_norm,
                config.eps,
                rows,
                &mut space.normed,
            )?;
            keep(TapPoint::Layer(index), &space.residual)?;
        }
        keep(TapPoint::FinalNorm, &space.normed)
    }
}
