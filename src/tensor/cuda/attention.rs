//! Rotation, the paged cache, and attention over it.

use super::backend::Cuda;
use super::batch::{CudaBatch, Part};
use super::driver::Launch;
use super::memory::{CudaBuffer, CudaCache, CudaVector};
use super::stored::Stored;
use super::variants::{MAX_HEAD_DIM, attention_on_tensor_cores};
use crate::tensor::error::{require, require_exact};
use crate::tensor::{AttentionShape, DeviceError, RotarySpec};

impl Cuda {
    /// See [`Backend::rotary`](crate::tensor::Backend::rotary).
    pub(super) fn launch_rotary(
        &self,
        batch: &CudaBatch,
        spec: &RotarySpec,
        table: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        let pairs = spec.inverse_frequencies.len();
        table.check("rotary", "table", batch.rows * 2 * pairs, Stored::F32)?;
        let frequencies = self.frequencies(spec)?;
        Launch::new("rotary_table", [(batch.rows * pairs).div_ceil(256), 1, 1], 256)
            .pointer(batch.part(Part::Positions))
            .count(batch.position_stride())
            .memory(&frequencies)
            .count(spec.sections[1])
            .count(spec.sections[2])
            .count(batch.rows)
            .count(pairs)
            .memory(&table.memory)
            .queue(self.driver())
    }

    /// See [`Backend::norm_rotate_store`](crate::tensor::Backend::norm_rotate_store).
    #[allow(clippy::too_many_arguments, reason = "the operation has them")]
    pub(super) fn launch_norm_rotate_store(
        &self,
        qkv: &mut CudaBuffer,
        [query_gain, key_gain]: [&CudaVector; 2],
        eps: f32,
        table: &CudaBuffer,
        batch: &CudaBatch,
        shape: AttentionShape,
        layer: usize,
        cache: &mut CudaCache,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "norm_rotate_store";
        qkv.check(NAME, "qkv", batch.rows * shape.qkv_width(), cache.stored)?;
        table.check(NAME, "table", batch.rows * shape.head_dim, Stored::F32)?;
        for gain in [query_gain, key_gain] {
            require_exact(NAME, "gain", gain.length, shape.head_dim)?;
        }
        batch.check_cache(NAME, cache, layer, shape)?;
        let kernel = cache.stored.kernel("norm_rotate_store_f32", "norm_rotate_store_bf16");
        let heads = shape.heads + 2 * shape.kv_heads;
        let [keys, values] = cache.layer(layer);
        Launch::new(kernel, [batch.rows, heads.div_ceil(4), 1], 128)
            .memory(&qkv.memory)
            .memory(&query_gain.memory)
            .memory(&key_gain.memory)
            .float(eps)
            .memory(&table.memory)
            .pointer(batch.part(Part::Slots))
            .count(shape.heads)
            .count(shape.kv_heads)
            .count(shape.head_dim)
            .pointer(keys)
            .pointer(values)
            .queue(self.driver())
    }

    /// See [`Backend::attention`](crate::tensor::Backend::attention).
    pub(super) fn launch_attention(
        &self,
        qkv: &CudaBuffer,
        batch: &CudaBatch,
        shape: AttentionShape,
        layer: usize,
        cache: &CudaCache,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        qkv.check("attention", "qkv", batch.rows * shape.qkv_width(), cache.stored)?;
        out.check("attention", "out", batch.rows * shape.query_width(), cache.stored)?;
        batch.check_cache("attention", cache, layer, shape)?;
        require("attention", "the widest head", MAX_HEAD_DIM, shape.head_dim)?;
        match attention_on_tensor_cores(cache.stored, shape) {
            Some((decode, prefill)) => {
                // What the first leaves as zeros, the second fills: rows that are not alone in their sequence.
                self.launch_decode(decode, qkv, batch, shape, (cache, layer), out)?;
                self.launch_prefill(prefill, qkv, batch, shape, cache.layer(layer), out)
            }
            None => self.launch_any(qkv, batch, shape, (cache, layer), out),
        }
    }

    /// Rows that are alone in their sequence, on tensor cores; other rows become zeros.
    fn launch_decode(
        &self,
        kernel: &'static str,
        qkv: &CudaBuffer,
        batch: &CudaBatch,
        shape: AttentionShape,
        (cache, layer): (&CudaCache, usize),
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        let Some(longest) = batch.longest_alone() else { return Ok(()) };
        let [keys, values] = cache.layer(layer);
        let (splits, space) = batch.split_contexts(shape, shape.kv_heads, longest, cache.blocks)?;
        Launch::new(kernel, [splits, shape.kv_heads, batch.rows], 128)
            .memory(&qkv.memory)
            .pointer(keys)
            .pointer(values)
            .memory(batch.block_table())
            .pointer(batch.part(Part::FirstBlock))
            .pointer(batch.part(Part::VisibleAlone))
            .count(shape.heads)
            .memory(&out.memory)
            .memory(&space.sums)
            .memory(&space.weights)
            .queue(self.driver())?;
        self.combine_splits(&space.sums, &space.weights, splits, batch.rows, shape, out)
    }

    /// Sequences with several rows, on tensor cores.
    fn launch_prefill(
        &self,
        kernel: &'static str,
        qkv: &CudaBuffer,
        batch: &CudaBatch,
        shape: AttentionShape,
        [keys, values]: [u64; 2],
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        let mut space = batch.attention_space();
        let tiles = batch.prefill_tiles(&mut space, shape)?;
        Launch::new(kernel, [tiles, shape.kv_heads, 1], 256)
            .memory(&qkv.memory)
            .pointer(keys)
            .pointer(values)
            .memory(batch.block_table())
            .memory(&space.tiles)
            .count(shape.heads)
            .memory(&out.memory)
            .queue(self.driver())
    }

    /// All rows, each by itself, for any types and widths.
    fn launch_any(
        &self,
        qkv: &CudaBuffer,
        batch: &CudaBatch,
        shape: AttentionShape,
        (cache, layer): (&CudaCache, usize),
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        let [keys, values] = cache.layer(layer);
        let (splits, space) = batch.split_contexts(shape, shape.heads, batch.longest(), cache.blocks)?;
        let kernel = out.stored.kernel("attention_any_f32", "attention_any_bf16");
        Launch::new(kernel, [splits, shape.heads, batch.rows], 128)
            .shared(4 * (shape.head_dim + 128 + 8))
            .memory(&qkv.memory)
            .pointer(keys)
            .pointer(values)
            .memory(batch.block_table())
            .pointer(batch.part(Part::FirstBlock))
            .pointer(batch.part(Part::Visible))
            .count(shape.kv_heads)
            .count(shape.head_dim)
            .memory(&out.memory)
            .memory(&space.sums)
            .memory(&space.weights)
            .queue(self.driver())?;
        self.combine_splits(&space.sums, &space.weights, splits, batch.rows, shape, out)
    }

    /// Puts the splits of each row's context together, where there are several.
    fn combine_splits(
        &self,
        sums: &super::driver::Memory,
        weights: &super::driver::Memory,
        splits: usize,
        rows: usize,
        shape: AttentionShape,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        if splits == 1 {
            return Ok(());
        }
        let kernel = out.stored.kernel("attention_combine_f32", "attention_combine_bf16");
        Launch::new(kernel, [shape.heads, rows, 1], 128)
            .memory(sums)
            .memory(weights)
            .count(splits)
            .count(shape.head_dim)
            .memory(&out.memory)
            .queue(self.driver())
    }
}
