//! Every operation by straightforward loops. This is what the operations mean; the others are held against it.

use super::memory::{CpuBatch, CpuBuffer, CpuCache, CpuExperts, CpuMatrix, CpuRouting, CpuVector};
use crate::tensor::batch::{BLOCK_SIZE, BatchLimits, StepBatch};
use crate::tensor::error::{require, require_exact};
use crate::tensor::weights::{Element, Elements};
use crate::tensor::{
    AttentionShape, Backend, DeviceError, ExpertInput, KvShape, RotarySpec, RouteSpec, Weight,
};

/// One thread, no vector instructions, no blocking.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Backend for Plain {
    type Buffer = CpuBuffer;
    type Matrix = CpuMatrix;
    type Vector = CpuVector;
    type Experts = CpuExperts;
    type Cache = CpuCache;
    type Batch = CpuBatch;
    type Routing = CpuRouting;

    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    fn matrix(&self, parts: Vec<Weight>) -> Result<CpuMatrix, DeviceError> {
        CpuMatrix::stack(parts)
    }

    fn vector(&self, weight: &Weight) -> Result<CpuVector, DeviceError> {
        Ok(CpuVector(weight.to_f32()))
    }

    fn experts(&self, experts: Vec<Vec<Weight>>) -> Result<CpuExperts, DeviceError> {
        CpuExperts::new(experts)
    }

    fn buffer(&self, elements: usize) -> Result<CpuBuffer, DeviceError> {
        Ok(CpuBuffer::zeros(elements))
    }

    fn upload_values(&self, values: &[f32]) -> Result<CpuBuffer, DeviceError> {
        Ok(CpuBuffer(values.to_vec()))
    }

    fn cache(&self, shape: KvShape, blocks: usize) -> Result<CpuCache, DeviceError> {
        Ok(CpuCache::new(shape, blocks))
    }

    fn cache_bytes_per_block(&self, shape: KvShape) -> usize {
        2 * shape.layers * shape.kv_heads * shape.head_dim * BLOCK_SIZE * size_of::<f32>()
    }

    fn batch(&self, limits: BatchLimits) -> Result<CpuBatch, DeviceError> {
        Ok(CpuBatch::new(limits))
    }

    fn routing(&self, rows: usize, top_k: usize) -> Result<CpuRouting, DeviceError> {
        Ok(CpuRouting::new(rows, top_k))
    }

    fn upload(&self, step: &StepBatch, batch: &mut CpuBatch) -> Result<(), DeviceError> {
        batch.upload(step)
    }

    fn rotary(&self, batch: &CpuBatch, spec: &RotarySpec, table: &mut CpuBuffer) -> Result<(), DeviceError> {
        let pairs = spec.inverse_frequencies.len();
        require("rotary", "table", table.0.len(), batch.rows() * 2 * pairs)?;
        for (row, out) in table.0.chunks_exact_mut(2 * pairs).take(batch.rows()).enumerate() {
            let (cosines, sines) = out.split_at_mut(pairs);
            for (pair, frequency) in spec.inverse_frequencies.iter().enumerate() {
                let angle = batch.positions[spec.axis(pair)][row] * frequency;
                (sines[pair], cosines[pair]) = angle.sin_cos();
            }
        }
        Ok(())
    }

    fn embed(&self, weight: &CpuMatrix, batch: &CpuBatch, out: &mut CpuBuffer) -> Result<(), DeviceError> {
        let width = weight.inner;
        require_exact("embed", "token ids", batch.token_ids.len(), batch.rows())?;
        require("embed", "out", out.0.len(), batch.rows() * width)?;
        if let Some(id) = batch.token_ids.iter().find(|id| **id as usize >= weight.out) {
            return Err(DeviceError::Batch(format!("token id {id} where the table has {} rows", weight.out)));
        }
        for (id, out) in batch.token_ids.iter().zip(out.0.chunks_exact_mut(width)) {
            let mut row = *id as usize;
            for part in weight.parts.iter() {
                if row < part.shape[0] {
                    match &part.data.0 {
                        Elements::Bf16(values) => widen(&values.as_slice()[row * width..][..width], out),
                        Elements::F32(values) => widen(&values.as_slice()[row * width..][..width], out),
                    }
                    break;
                }
                row -= part.shape[0];
            }
        }
        Ok(())
    }

    fn rms_norm(
        &self,
        x: &CpuBuffer,
        gain: &CpuVector,
        eps: f32,
        rows: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        let width = gain.0.len();
        require("rms_norm", "x", x.0.len(), rows * width)?;
        require("rms_norm", "out", out.0.len(), rows * width)?;
        for (x, out) in x.0.chunks_exact(width).zip(out.0.chunks_exact_mut(width)).take(rows) {
            out.copy_from_slice(x);
            normalize(out, &gain.0, eps);
        }
        Ok(())
    }

    fn add_rms_norm(
        &self,
        residual: &mut CpuBuffer,
        delta: &CpuBuffer,
        gain: &CpuVector,
        eps: f32,
        rows: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        let elements = rows * gain.0.len();
        require("add_rms_norm", "residual", residual.0.len(), elements)?;
        require("add_rms_norm", "delta", delta.0.len(), elements)?;
        require("add_rms_norm", "out", out.0.len(), elements)?;
        for (sum, delta) in residual.0.iter_mut().zip(&delta.0).take(elements) {
            *sum += delta;
        }
        self.rms_norm(residual, gain, eps, rows, out)
    }

    fn matmul(
        &self,
        x: &CpuBuffer,
        weight: &CpuMatrix,
        rows: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        check_matmul(x, weight, rows, out)?;
        for (x, out) in x.0.chunks_exact(weight.inner).zip(out.0.chunks_exact_mut(weight.out)).take(rows) {
            row_product(x, weight, out);
        }
        Ok(())
    }

    fn norm_rotate_store(
        &self,
        qkv: &mut CpuBuffer,
        query_gain: &CpuVector,
        key_gain: &CpuVector,
        eps: f32,
        table: &CpuBuffer,
        batch: &CpuBatch,
        shape: AttentionShape,
        layer: usize,
        cache: &mut CpuCache,
    ) -> Result<(), DeviceError> {
        check_norm_rotate_store(qkv, [query_gain, key_gain], table, batch, shape, layer, cache)?;
        let width = shape.head_dim;
        let rows = qkv.0.chunks_exact_mut(shape.qkv_width()).zip(table.0.chunks_exact(width));
        for (row, table) in rows.take(batch.rows()) {
            let (queries, rest) = row.split_at_mut(shape.query_width());
            for query in queries.chunks_exact_mut(width) {
                normalize(query, &query_gain.0, eps);
                rotate(query, table);
            }
            for key in rest[..shape.kv_width()].chunks_exact_mut(width) {
                normalize(key, &key_gain.0, eps);
                rotate(key, table);
            }
        }
        store(qkv, batch, shape, layer, cache);
        Ok(())
    }

    fn attention(
        &self,
        qkv: &CpuBuffer,
        batch: &CpuBatch,
        shape: AttentionShape,
        layer: usize,
        cache: &CpuCache,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        let width = shape.head_dim;
        check_attention(qkv, batch, shape, layer, cache, out)?;
        let scale = (width as f32).powf(-0.5);
        let rows = qkv.0.chunks_exact(shape.qkv_width()).zip(out.0.chunks_exact_mut(shape.query_width()));
        let mut scores = Vec::new();
        for ((row, out), visible) in rows.zip(&batch.visible) {
            let at = |key: usize, head: usize| {
                let block = batch.blocks[visible.first_block as usize + key / BLOCK_SIZE] as usize;
                cache.offset(block, head) + key % BLOCK_SIZE * width
            };
            for (head, (query, out)) in row.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
                let head = head / (shape.heads / shape.kv_heads);
                scores.clear();
                scores.extend((0..visible.keys as usize).map(|key| {
                    let key = &cache.keys[layer][at(key, head)..][..width];
                    scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>()
                }));
                softmax(&mut scores);
                out.fill(0.0);
                for (key, score) in scores.iter().enumerate() {
                    let value = &cache.values[layer][at(key, head)..][..width];
                    for (out, value) in out.iter_mut().zip(value) {
                        *out += score * value;
                    }
                }
            }
        }
        Ok(())
    }

    fn swiglu(
        &self,
        gate_up: &CpuBuffer,
        rows: usize,
        width: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        require("swiglu", "gate_up", gate_up.0.len(), rows * 2 * width)?;
        require("swiglu", "out", out.0.len(), rows * width)?;
        for (pair, out) in gate_up.0.chunks_exact(2 * width).zip(out.0.chunks_exact_mut(width)).take(rows) {
            let (gate, up) = pair.split_at(width);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate / (1.0 + (-gate).exp()) * up;
            }
        }
        Ok(())
    }

    fn route(
        &self,
        logits: &CpuBuffer,
        spec: RouteSpec,
        rows: usize,
        routing: &mut CpuRouting,
    ) -> Result<(), DeviceError> {
        require("route", "logits", logits.0.len(), rows * spec.experts)?;
        require("route", "rows of the routing", routing.capacity, rows)?;
        require_exact("route", "choices of the routing", routing.top_k, spec.top_k)?;
        require("route", "experts", spec.experts, spec.top_k)?;
        routing.rows = rows;
        routing.experts.clear();
        routing.weights.clear();
        for logits in logits.0.chunks_exact(spec.experts).take(rows) {
            choose(logits, spec, routing);
        }
        routing.group(spec.experts);
        Ok(())
    }

    fn expert_matmul(
        &self,
        x: &CpuBuffer,
        input: ExpertInput,
        experts: &CpuExperts,
        routing: &CpuRouting,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        check_expert_matmul(x, input, experts, routing, out)?;
        for (pair, out) in out.0.chunks_exact_mut(experts.out).enumerate().take(routing.experts.len()) {
            let row = match input {
                ExpertInput::Row => pair / routing.top_k,
                ExpertInput::Pair => pair,
            };
            let x = &x.0[row * experts.inner..][..experts.inner];
            row_product(x, &experts.experts[routing.experts[pair] as usize], out);
        }
        Ok(())
    }

    fn combine_experts(
        &self,
        x: &CpuBuffer,
        routing: &CpuRouting,
        width: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        require("combine_experts", "x", x.0.len(), routing.rows * routing.top_k * width)?;
        require("combine_experts", "out", out.0.len(), routing.rows * width)?;
        for (row, out) in out.0.chunks_exact_mut(width).enumerate().take(routing.rows) {
            out.fill(0.0);
            for pair in row * routing.top_k..(row + 1) * routing.top_k {
                let weight = routing.weights[pair];
                for (out, x) in out.iter_mut().zip(&x.0[pair * width..][..width]) {
                    *out += weight * x;
                }
            }
        }
        Ok(())
    }

    fn add_gated(
        &self,
        gate: &CpuBuffer,
        x: &CpuBuffer,
        rows: usize,
        width: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        require("add_gated", "gate", gate.0.len(), rows)?;
        require("add_gated", "x", x.0.len(), rows * width)?;
        require("add_gated", "out", out.0.len(), rows * width)?;
        let pairs = x.0.chunks_exact(width).zip(out.0.chunks_exact_mut(width));
        for (gate, (x, out)) in gate.0.iter().zip(pairs).take(rows) {
            let open = 1.0 / (1.0 + (-gate).exp());
            for (out, x) in out.iter_mut().zip(x) {
                *out += open * x;
            }
        }
        Ok(())
    }

    fn gather_logit_rows(
        &self,
        x: &CpuBuffer,
        width: usize,
        batch: &CpuBatch,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        require("gather_logit_rows", "x", x.0.len(), batch.rows() * width)?;
        require("gather_logit_rows", "out", out.0.len(), batch.logit_rows.len() * width)?;
        for (row, out) in batch.logit_rows.iter().zip(out.0.chunks_exact_mut(width)) {
            out.copy_from_slice(&x.0[*row as usize * width..][..width]);
        }
        Ok(())
    }

    fn copy(&self, x: &CpuBuffer, elements: usize, out: &mut CpuBuffer) -> Result<(), DeviceError> {
        require("copy", "x", x.0.len(), elements)?;
        require("copy", "out", out.0.len(), elements)?;
        out.0[..elements].copy_from_slice(&x.0[..elements]);
        Ok(())
    }

    fn read<'a>(
        &self,
        buffer: &'a CpuBuffer,
        elements: usize,
        _staging: &'a mut Vec<f32>,
    ) -> Result<&'a [f32], DeviceError> {
        require("read", "buffer", buffer.0.len(), elements)?;
        Ok(&buffer.0[..elements])
    }
}

/// Whether the operands of a product fit together.
pub(super) fn check_matmul(
    x: &CpuBuffer,
    weight: &CpuMatrix,
    rows: usize,
    out: &CpuBuffer,
) -> Result<(), DeviceError> {
    require("matmul", "x", x.0.len(), rows * weight.inner)?;
    require("matmul", "out", out.0.len(), rows * weight.out)
}

/// Whether the operands of `norm_rotate_store` fit together.
pub(super) fn check_norm_rotate_store(
    qkv: &CpuBuffer,
    gains: [&CpuVector; 2],
    table: &CpuBuffer,
    batch: &CpuBatch,
    shape: AttentionShape,
    layer: usize,
    cache: &CpuCache,
) -> Result<(), DeviceError> {
    const NAME: &str = "norm_rotate_store";
    require(NAME, "qkv", qkv.0.len(), batch.rows() * shape.qkv_width())?;
    require(NAME, "table", table.0.len(), batch.rows() * shape.head_dim)?;
    for gain in gains {
        require_exact(NAME, "gain", gain.0.len(), shape.head_dim)?;
    }
    batch.check_cache(NAME, cache, layer, shape.kv_heads, shape.head_dim)
}

/// Whether the operands of attention fit together.
pub(super) fn check_attention(
    qkv: &CpuBuffer,
    batch: &CpuBatch,
    shape: AttentionShape,
    layer: usize,
    cache: &CpuCache,
    out: &CpuBuffer,
) -> Result<(), DeviceError> {
    require("attention", "qkv", qkv.0.len(), batch.rows() * shape.qkv_width())?;
    require("attention", "out", out.0.len(), batch.rows() * shape.query_width())?;
    batch.check_cache("attention", cache, layer, shape.kv_heads, shape.head_dim)
}

/// Whether the operands of an expert product fit together.
pub(super) fn check_expert_matmul(
    x: &CpuBuffer,
    input: ExpertInput,
    experts: &CpuExperts,
    routing: &CpuRouting,
    out: &CpuBuffer,
) -> Result<(), DeviceError> {
    let pairs = routing.rows * routing.top_k;
    let rows = match input {
        ExpertInput::Row => routing.rows,
        ExpertInput::Pair => pairs,
    };
    require("expert_matmul", "x", x.0.len(), rows * experts.inner)?;
    require("expert_matmul", "out", out.0.len(), pairs * experts.out)?;
    require_exact("expert_matmul", "experts", experts.experts.len() + 1, routing.starts.len())
}

/// Copies the keys and values of all rows to their slots.
pub(super) fn store(
    qkv: &CpuBuffer,
    batch: &CpuBatch,
    shape: AttentionShape,
    layer: usize,
    cache: &mut CpuCache,
) {
    let width = shape.head_dim;
    for (row, slot) in qkv.0.chunks_exact(shape.qkv_width()).zip(&batch.slot_mapping) {
        let (keys, values) = row[shape.query_width()..].split_at(shape.kv_width());
        let (block, place) = (*slot as usize / BLOCK_SIZE, *slot as usize % BLOCK_SIZE);
        for (head, (key, value)) in keys.chunks_exact(width).zip(values.chunks_exact(width)).enumerate() {
            let at = cache.offset(block, head) + place * width;
            cache.keys[layer][at..at + width].copy_from_slice(key);
            cache.values[layer][at..at + width].copy_from_slice(value);
        }
    }
}

/// Copies stored values as f32.
fn widen<T: Element>(values: &[T], out: &mut [f32]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = value.widen();
    }
}

/// One row times all rows of a matrix.
fn row_product(x: &[f32], weight: &CpuMatrix, out: &mut [f32]) {
    let mut rest = out;
    for part in weight.parts.iter() {
        let (own, others) = rest.split_at_mut(part.shape[0]);
        match &part.data.0 {
            Elements::Bf16(values) => products(x, values.as_slice(), own),
            Elements::F32(values) => products(x, values.as_slice(), own),
        }
        rest = others;
    }
}

fn products<T: Element>(x: &[f32], weight: &[T], out: &mut [f32]) {
    for (out, weight) in out.iter_mut().zip(weight.chunks_exact(x.len())) {
        *out = x.iter().zip(weight).map(|(x, w)| x * w.widen()).sum();
    }
}

/// RMS norm of one row, in place.
fn normalize(x: &mut [f32], gain: &[f32], eps: f32) {
    let mean = x.iter().map(|value| value * value).sum::<f32>() / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for (value, gain) in x.iter_mut().zip(gain) {
        *value = *value * scale * gain;
    }
}

/// Turns the pairs (first half, second half) of a head by the angles whose cosines and sines are given.
pub(super) fn rotate(head: &mut [f32], table: &[f32]) {
    let pairs = head.len() / 2;
    let (first, second) = head.split_at_mut(pairs);
    let (cosines, sines) = table.split_at(pairs);
    for (((first, second), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*first, *second) = (*first * cosine - *second * sine, *second * cosine + *first * sine);
    }
}

/// Softmax, in place.
pub(super) fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}

/// The choices of one row. A row of NaN chooses the first experts, so that no value can lead out of bounds.
fn choose(logits: &[f32], spec: RouteSpec, routing: &mut CpuRouting) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    let first = routing.experts.len();
    for _ in 0..spec.top_k {
        let taken = &routing.experts[first..];
        let mut best: Option<usize> = None;
        for (expert, logit) in logits.iter().enumerate() {
            let free = !taken.contains(&(expert as u32));
            if free && best.is_none_or(|best| *logit > logits[best]) {
                best = Some(expert);
            }
        }
        let expert = best.unwrap_or(0);
        routing.experts.push(expert as u32);
        routing.weights.push((logits[expert] - largest).exp() / total);
    }
    if spec.normalize {
        let chosen = &mut routing.weights[first..];
        let sum: f32 = chosen.iter().sum();
        for weight in chosen {
            *weight /= sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_choose_the_lower_expert_first() {
        let mut routing = CpuRouting::new(1, 2);
        let logits = CpuBuffer(vec![0.0, 1.0, 1.0, 1.0]);
        let spec = RouteSpec { experts: 4, top_k: 2, normalize: true };
        Plain.route(&logits, spec, 1, &mut routing).unwrap();
        assert_eq!(routing.experts, [1, 2]);
        assert_eq!(routing.weights, [0.5, 0.5]);
    }

    #[test]
    fn weights_stay_shares_of_all_experts_without_normalisation() {
        let mut routing = CpuRouting::new(1, 1);
        let spec = RouteSpec { experts: 2, top_k: 1, normalize: false };
        Plain.route(&CpuBuffer(vec![0.0, 0.0]), spec, 1, &mut routing).unwrap();
        assert_eq!(routing.weights, [0.5]);
    }

    #[test]
    fn a_buffer_that_is_too_small_is_named() {
        let gain = CpuVector(vec![1.0; 4]);
        let error = Plain.rms_norm(&CpuBuffer(vec![0.0; 8]), &gain, 1e-6, 2, &mut CpuBuffer(vec![0.0; 7]));
        assert_eq!(error.unwrap_err().to_string(), "rms_norm: out has 7 elements where 8 are needed");
    }
}
