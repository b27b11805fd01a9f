//! The causal transformer over frames. Each layer adds `scale * attention(norm x)` and `scale * swiglu(norm x)`.

use super::load::Weights;
use super::workspace::Code2WavWorkspace;
use crate::models::LoadError;
use crate::models::qwen3_omni::config::Code2WavConfig;
use crate::tensor::{AttentionShape, Convolution, DeviceError, InputRows, Windows};

/// The layers and the final norm.
pub(super) struct PreTransformer<B: Convolution> {
    /// Heads of every layer.
    shape: AttentionShape,
    /// Frames that a frame sees, itself included.
    sliding_window: usize,
    /// Added under the root of RMS norms.
    eps: f32,
    /// Width of the feed-forward networks.
    intermediate: usize,
    /// First to last.
    layers: Vec<Layer<B>>,
    /// Gain of the final norm, `[hidden]`.
    norm: B::Vector,
}

/// One layer.
struct Layer<B: Convolution> {
    /// Gain of the norm before attention, `[hidden]`.
    attention_norm: B::Vector,
    /// `[qkv, hidden]`.
    qkv: B::Matrix,
    /// `[hidden, heads * head_dim]`.
    attention_out: B::Matrix,
    /// By which attention counts, `[hidden]`.
    attention_scale: B::Vector,
    /// Gain of the norm before the feed-forward network, `[hidden]`.
    feed_forward_norm: B::Vector,
    /// `[2 * intermediate, hidden]`.
    gate_up: B::Matrix,
    /// `[hidden, intermediate]`.
    down: B::Matrix,
    /// By which the feed-forward network counts, `[hidden]`.
    feed_forward_scale: B::Vector,
}

/// Heads as the configuration gives them.
pub(super) fn attention_shape(config: &Code2WavConfig) -> AttentionShape {
    AttentionShape {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.hidden_size / config.num_attention_heads,
    }
}

impl<B: Convolution + InputRows> PreTransformer<B> {
    /// Loads `code2wav.pre_transformer`.
    pub(super) fn load(weights: &Weights<'_, B>, config: &Code2WavConfig) -> Result<Self, LoadError> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let shape = attention_shape(config);
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let name = |part: &str| format!("code2wav.pre_transformer.layers.{layer}.{part}");
                let qkv = [
                    (&*name("self_attn.q_proj.weight"), shape.query_width()),
                    (&*name("self_attn.k_proj.weight"), shape.kv_width()),
                    (&*name("self_attn.v_proj.weight"), shape.kv_width()),
                ];
                let gate_up = [
                    (&*name("mlp.gate_proj.weight"), intermediate),
                    (&*name("mlp.up_proj.weight"), intermediate),
                ];
                Ok(Layer {
                    attention_norm: weights.vector(&name("input_layernorm.weight"), hidden)?,
                    qkv: weights.matrix(&qkv, hidden)?,
                    attention_out: weights
                        .matrix(&[(&name("self_attn.o_proj.weight"), hidden)], shape.query_width())?,
                    attention_scale: weights.vector(&name("self_attn_layer_scale.scale"), hidden)?,
                    feed_forward_norm: weights.vector(&name("post_attention_layernorm.weight"), hidden)?,
                    gate_up: weights.matrix(&gate_up, hidden)?,
                    down: weights.matrix(&[(&name("mlp.down_proj.weight"), hidden)], intermediate)?,
                    feed_forward_scale: weights.vector(&name("mlp_layer_scale.scale"), hidden)?,
                })
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        Ok(Self {
            shape,
            sliding_window: config.sliding_window,
            eps: config.rms_norm_eps,
            intermediate,
            layers,
            norm: weights.vector("code2wav.pre_transformer.norm.weight", hidden)?,
        })
    }

    /// Takes `space.signal`, `[frames, hidden]`, through the layers.
    pub(super) fn forward(
        &self,
        backend: &B,
        frames: &Windows,
        space: &mut Code2WavWorkspace<B>,
    ) -> Result<(), DeviceError> {
        let rows = frames.stored_rows();
        let inner = &mut space.pre_transformer;
        for layer in &self.layers {
            backend.rms_norm(&space.signal, &layer.attention_norm, self.eps, rows, &mut inner.normed)?;
            backend.matmul(&inner.normed, &layer.qkv, rows, &mut inner.qkv)?;
            backend.window_attention(
                &mut inner.qkv,
                &inner.rotary,
                self.shape,
                self.sliding_window,
                frames,
                &mut inner.attended,
            )?;
            backend.matmul(&inner.attended, &layer.attention_out, rows, &mut inner.delta)?;
            backend.add_scaled(&inner.delta, None, &layer.attention_scale, frames, &mut space.signal)?;
            backend.rms_norm(&space.signal, &layer.feed_forward_norm, self.eps, rows, &mut inner.normed)?;
            backend.matmul(&inner.normed, &layer.gate_up, rows, &mut inner.gate_up)?;
            backend.swiglu(&inner.gate_up, rows, self.intermediate, &mut inner.gated)?;
            backend.matmul(&inner.gated, &layer.down, rows, &mut inner.delta)?;
            backend.add_scaled(&inner.delta, None, &layer.feed_forward_scale, frames, &mut space.signal)?;
        }
        backend.rms_norm(&space.signal, &self.norm, self.eps, rows, &mut space.convolved)?;
        std::mem::swap(&mut space.signal, &mut space.convolved);
        Ok(())
    }
}
