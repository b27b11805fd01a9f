//! The operations as launches of kernels.

use std::sync::{Arc, Mutex, PoisonError};

use super::batch::{CudaBatch, Part};
use super::driver::{Driver, Launch, Memory};
use super::memory::{CudaBuffer, CudaCache, CudaExperts, CudaMatrix, CudaRouting, CudaVector};
use super::mixture::other_weights;
use super::stored::Stored;
use super::variants;
use crate::tensor::error::{require, require_exact};
use crate::tensor::{
    AttentionShape, Backend, BatchLimits, DeviceError, ExpertInput, KvShape, RotarySpec, RouteSpec,
    StepBatch, Weight,
};

/// A GPU that carries out the operations. Clones share the device.
#[derive(Debug, Clone)]
pub struct Cuda {
    /// The device.
    driver: Arc<dyn Driver>,
    /// The type of activations and of the cache.
    activations: Stored,
    /// The inverse frequencies of every rotary embedding that was asked for, which do not change from step to step.
    frequencies: Arc<Mutex<Vec<Frequencies>>>,
}

/// Inverse frequencies with the device's copy of them.
type Frequencies = (Vec<f32>, Arc<Memory>);

impl Cuda {
    /// The operations on a device, with activations kept in a type.
    pub fn new(driver: Arc<dyn Driver>, activations: Stored) -> Self {
        Self { driver, activations, frequencies: Arc::default() }
    }

    /// Bytes of the device's memory that are free.
    pub fn free_memory(&self) -> Result<u64, DeviceError> {
        self.driver.free_memory()
    }

    pub(super) fn driver(&self) -> &dyn Driver {
        self.driver.as_ref()
    }

    /// The device, for memory to keep.
    pub(super) fn shared_driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// The inverse frequencies on the device.
    pub(super) fn frequencies(&self, spec: &RotarySpec) -> Result<Arc<Memory>, DeviceError> {
        let mut known = self.frequencies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, memory)) = known.iter().find(|(values, _)| *values == spec.inverse_frequencies) {
            return Ok(memory.clone());
        }
        let bytes = bytemuck::cast_slice(&spec.inverse_frequencies);
        let memory = Arc::new(Memory::holding(&self.driver, bytes)?);
        known.push((spec.inverse_frequencies.clone(), memory.clone()));
        Ok(memory)
    }
}

impl Backend for Cuda {
    type Buffer = CudaBuffer;
    type Matrix = CudaMatrix;
    type Vector = CudaVector;
    type Experts = CudaExperts;
    type Cache = CudaCache;
    type Batch = CudaBatch;
    type Routing = CudaRouting;

    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    fn matrix(&self, parts: Vec<Weight>) -> Result<CudaMatrix, DeviceError> {
        CudaMatrix::stack(&self.driver, self.activations, &parts)
    }

    fn vector(&self, weight: &Weight) -> Result<CudaVector, DeviceError> {
        let values = weight.to_f32();
        let memory = Memory::holding(&self.driver, bytemuck::cast_slice(&values))?;
        Ok(CudaVector { memory, length: values.len() })
    }

    fn experts(&self, experts: Vec<Vec<Weight>>) -> Result<CudaExperts, DeviceError> {
        CudaExperts::new(&self.driver, self.activations, &experts)
    }

    fn buffer(&self, elements: usize) -> Result<CudaBuffer, DeviceError> {
        CudaBuffer::zeros(&self.driver, self.activations, elements)
    }

    fn precise_buffer(&self, elements: usize) -> Result<CudaBuffer, DeviceError> {
        CudaBuffer::zeros(&self.driver, Stored::F32, elements)
    }

    fn upload_values(&self, values: &[f32]) -> Result<CudaBuffer, DeviceError> {
        let memory = Memory::holding(&self.driver, &self.activations.encode(values))?;
        Ok(CudaBuffer { memory, stored: self.activations, elements: values.len() })
    }

    fn cache(&self, shape: KvShape, blocks: usize) -> Result<CudaCache, DeviceError> {
        CudaCache::new(&self.driver, self.activations, shape, blocks)
    }

    fn cache_bytes_per_block(&self, shape: KvShape) -> usize {
        CudaCache::bytes_per_block(self.activations, shape)
    }

    fn batch(&self, limits: BatchLimits) -> Result<CudaBatch, DeviceError> {
        CudaBatch::new(&self.driver, limits)
    }

    fn routing(&self, rows: usize, top_k: usize) -> Result<CudaRouting, DeviceError> {
        CudaRouting::new(&self.driver, rows, top_k)
    }

    fn upload(&self, step: &StepBatch, batch: &mut CudaBatch) -> Result<(), DeviceError> {
        batch.upload(step)
    }

    fn rotary(
        &self,
        batch: &CudaBatch,
        spec: &RotarySpec,
        table: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        self.launch_rotary(batch, spec, table)
    }

    fn embed(&self, weight: &CudaMatrix, batch: &CudaBatch, out: &mut CudaBuffer) -> Result<(), DeviceError> {
        require_exact("embed", "token ids", batch.tokens, batch.rows)?;
        require("embed", "out", out.elements, batch.rows * weight.inner)?;
        if batch.tokens > 0 && batch.largest_token as usize >= weight.out {
            return Err(DeviceError::Batch(format!(
                "token id {} where the table has {} rows",
                batch.largest_token, weight.out
            )));
        }
        let kernel = variants::embed(weight.stored, out.stored)
            .ok_or_else(|| other_weights("embed", out.stored, weight.stored))?;
        Launch::new(kernel, [batch.rows, 1, 1], 256)
            .memory(&weight.memory)
            .pointer(batch.part(Part::Tokens))
            .count(weight.out)
            .count(weight.inner)
            .memory(&out.memory)
            .pointer(batch.fault())
            .queue(self.driver())
    }

    fn rms_norm(
        &self,
        x: &CudaBuffer,
        gain: &CudaVector,
        eps: f32,
        rows: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        x.check("rms_norm", "x", rows * gain.length, out.stored)?;
        require("rms_norm", "out", out.elements, rows * gain.length)?;
        Launch::new(out.stored.kernel("rms_norm_f32", "rms_norm_bf16"), [rows, 1, 1], 256)
            .memory(&x.memory)
            .memory(&gain.memory)
            .float(eps)
            .count(gain.length)
            .memory(&out.memory)
            .queue(self.driver())
    }

    fn add_rms_norm(
        &self,
        residual: &mut CudaBuffer,
        delta: &CudaBuffer,
        gain: &CudaVector,
        eps: f32,
        rows: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        let elements = rows * gain.length;
        residual.check("add_rms_norm", "residual", elements, out.stored)?;
        delta.check("add_rms_norm", "delta", elements, out.stored)?;
        require("add_rms_norm", "out", out.elements, elements)?;
        Launch::new(out.stored.kernel("add_rms_norm_f32", "add_rms_norm_bf16"), [rows, 1, 1], 256)
            .memory(&residual.memory)
            .memory(&delta.memory)
            .memory(&gain.memory)
            .float(eps)
            .count(gain.length)
            .memory(&out.memory)
            .queue(self.driver())
    }

    fn matmul(
        &self,
        x: &CudaBuffer,
        weight: &CudaMatrix,
        rows: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        require("matmul", "x", x.elements, rows * weight.inner)?;
        require("matmul", "out", out.elements, rows * weight.out)?;
        let (kernel, grid) =
            variants::product((x.stored, weight.stored, out.stored), rows, weight.inner, weight.out)
                .ok_or_else(|| other_weights("matmul", x.stored, weight.stored))?;
        Launch::new(kernel, grid, 256)
            .memory(&x.memory)
            .memory(&weight.memory)
            .count(rows)
            .count(weight.inner)
            .count(weight.out)
            .memory(&out.memory)
            .queue(self.driver())
    }

    fn norm_rotate_store(
        &self,
        qkv: &mut CudaBuffer,
        query_gain: &CudaVector,
        key_gain: &CudaVector,
        eps: f32,
        table: &CudaBuffer,
        batch: &CudaBatch,
        shape: AttentionShape,
        layer: usize,
        cache: &mut CudaCache,
    ) -> Result<(), DeviceError> {
        let gains = [query_gain, key_gain];
        self.launch_norm_rotate_store(qkv, gains, eps, table, batch, shape, layer, cache)
    }

    fn attention(
        &self,
        qkv: &CudaBuffer,
        batch: &CudaBatch,
        shape: AttentionShape,
        layer: usize,
        cache: &CudaCache,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        self.launch_attention(qkv, batch, shape, layer, cache, out)
    }

    fn swiglu(
        &self,
        gate_up: &CudaBuffer,
        rows: usize,
        width: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        gate_up.check("swiglu", "gate_up", rows * 2 * width, out.stored)?;
        require("swiglu", "out", out.elements, rows * width)?;
        Launch::new(out.stored.kernel("swiglu_f32", "swiglu_bf16"), [width.div_ceil(2048), rows, 1], 256)
            .memory(&gate_up.memory)
            .count(width)
            .memory(&out.memory)
            .queue(self.driver())
    }

    fn route(
        &self,
        logits: &CudaBuffer,
        spec: RouteSpec,
        rows: usize,
        routing: &mut CudaRouting,
    ) -> Result<(), DeviceError> {
        self.launch_route(logits, spec, rows, routing)
    }

    fn expert_matmul(
        &self,
        x: &CudaBuffer,
        input: ExpertInput,
        experts: &CudaExperts,
        routing: &CudaRouting,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        self.launch_expert_matmul(x, input, experts, routing, out)
    }

    fn expert_gate_up(
        &self,
        x: &CudaBuffer,
        experts: &CudaExperts,
        routing: &CudaRouting,
        (_, width): (usize, usize),
        products: &mut CudaBuffer,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        self.launch_expert_gate_up(x, experts, routing, width, products, out)
    }

    fn expert_down(
        &self,
        x: &CudaBuffer,
        experts: &CudaExperts,
        routing: &CudaRouting,
        _width: usize,
        products: &mut CudaBuffer,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        self.launch_expert_down(x, experts, routing, products, out)
    }

    fn combine_experts(
        &self,
        x: &CudaBuffer,
        routing: &CudaRouting,
        width: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        self.launch_combine_experts(x, routing, width, out)
    }

    fn add_gated(
        &self,
        gate: &CudaBuffer,
        x: &CudaBuffer,
        rows: usize,
        width: usize,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        gate.check("add_gated", "gate", rows, Stored::F32)?;
        x.check("add_gated", "x", rows * width, out.stored)?;
        require("add_gated", "out", out.elements, rows * width)?;
        let kernel = out.stored.kernel("add_gated_f32", "add_gated_bf16");
        Launch::new(kernel, [width.div_ceil(2048), rows, 1], 256)
            .memory(&gate.memory)
            .memory(&x.memory)
            .count(width)
            .memory(&out.memory)
            .queue(self.driver())
    }

    fn gather_logit_rows(
        &self,
        x: &CudaBuffer,
        width: usize,
        batch: &CudaBatch,
        out: &mut CudaBuffer,
    ) -> Result<(), DeviceError> {
        x.check("gather_logit_rows", "x", batch.rows * width, out.stored)?;
        require("gather_logit_rows", "out", out.elements, batch.logit_rows * width)?;
        let kernel = out.stored.kernel("gather_rows_f32", "gather_rows_bf16");
        Launch::new(kernel, [batch.logit_rows, 1, 1], 256)
            .memory(&x.memory)
            .pointer(batch.part(Part::LogitRows))
            .count(width)
            .memory(&out.memory)
            .queue(self.driver())
    }

    fn copy(&self, x: &CudaBuffer, elements: usize, out: &mut CudaBuffer) -> Result<(), DeviceError> {
        x.check("copy", "x", elements, out.stored)?;
        require("copy", "out", out.elements, elements)?;
        self.driver.copy(x.memory.address(), out.memory.address(), elements * x.stored.bytes())
    }

    fn read<'a>(
        &self,
        buffer: &'a CudaBuffer,
        elements: usize,
        staging: &'a mut Vec<f32>,
    ) -> Result<&'a [f32], DeviceError> {
        require("read", "buffer", buffer.elements, elements)?;
        let mut bytes = vec![0; elements * buffer.stored.bytes()];
        self.driver.download(buffer.memory.address(), &mut bytes)?;
        staging.clear();
        buffer.stored.decode(&bytes, staging);
        Ok(staging)
    }
}
