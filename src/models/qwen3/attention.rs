//! The attention of one layer.

use super::config::DecoderConfig;
use super::workspace::{Loader, Workspace};
use crate::models::LoadError;
use crate::tensor::{Backend, DeviceError};

/// Weights of one layer's attention.
pub(super) struct Attention<B: Backend> {
    /// Queries, keys and values in one product, `[qkv, hidden]`.
    qkv: B::Matrix,
    /// Back to the residual stream, `[hidden, heads * head_dim]`.
    out: B::Matrix,
    /// Gain of the norm of each query head, `[head_dim]`.
    query_norm: B::Vector,
    /// Gain of the norm of each key head, `[head_dim]`.
    key_norm: B::Vector,
}

impl<B: Backend> Attention<B> {
    /// Loads `prefix.{q,k,v,o}_proj` and `prefix.{q,k}_norm`.
    pub(super) fn load(
        loader: &Loader<'_, B>,
        prefix: &str,
        config: &DecoderConfig,
    ) -> Result<Self, LoadError> {
        let shape = config.attention;
        let name = |part: &str| format!("{prefix}.{part}.weight");
        Ok(Self {
            qkv: loader.matrix(
                &[
                    (&name("q_proj"), shape.query_width()),
                    (&name("k_proj"), shape.kv_width()),
                    (&name("v_proj"), shape.kv_width()),
                ],
                config.hidden_size,
            )?,
            out: loader.matrix(&[(&name("o_proj"), config.hidden_size)], shape.query_width())?,
            query_norm: loader.vector(&name("q_norm"), shape.head_dim)?,
            key_norm: loader.vector(&name("k_norm"), shape.head_dim)?,
        })
    }

    /// Reads `space.normed`, writes `space.delta`, and stores the rows' keys and values.
    pub(super) fn forward(
        &self,
        backend: &B,
        config: &DecoderConfig,
        layer: usize,
        rows: usize,
        cache: &mut B::Cache,
        space: &mut Workspace<B>,
    ) -> Result<(), DeviceError> {
        let shape = config.attention;
        backend.matmul(&space.normed, &self.qkv, rows, &mut space.qkv)?;
        backend.norm_rotate_store(
            &mut space.qkv,
            &self.query_norm,
            &self.key_norm,
            config.eps,
            &space.rotary,
            &space.batch,
            shape,
            layer,
            cache,
        )?;
        backend.attention(&space.qkv, &space.batch, shape, layer, cache, &mut space.attended)?;
        backend.matmul(&space.attended, &self.out, rows, &mut space.delta)
    }
}
