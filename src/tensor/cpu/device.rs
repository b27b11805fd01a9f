//! The fast CPU backend.

use std::ops::Range;
use std::sync::Arc;

use super::elementwise::{CombineRow, NormRotateRow, NormRow, Row, SwigluRow};
use super::matmul::{Product, Rows, multiply};
use super::memory::{CpuBatch, CpuBuffer, CpuCache, CpuExperts, CpuMatrix, CpuRouting, CpuVector};
use super::plain::{
    Plain, check_attention, check_expert_matmul, check_matmul, check_norm_rotate_store, store,
};
use super::pool::Pool;
use super::simd::dispatch;
use super::{Isa, attention, pool};
use crate::tensor::batch::{BatchLimits, StepBatch};
use crate::tensor::error::require;
use crate::tensor::{
    AttentionShape, Backend, DeviceError, ExpertInput, KvShape, RotarySpec, RouteSpec, Weight,
};

/// Values below which a row-by-row operation stays on the calling thread.
const SERIAL: usize = 1 << 15;

/// All cores, and the widest vectors there are. Operations that cost little are those of [`Plain`].
#[derive(Debug, Clone)]
pub struct Cpu {
    /// The instructions that kernels use. Private: only sets that the processor has may stand here.
    isa: Isa,
    /// The process's compute threads.
    pool: Arc<Pool>,
}

impl Cpu {
    /// With the instruction set that `OMNI_CPU_ISA` names, or the fastest that there is. The first call in a process
    /// decides how many threads there are; `None` means one for every processor.
    pub fn new(threads: Option<usize>) -> Result<Self, DeviceError> {
        Self::with_isa(Isa::from_environment(false)?, threads)
    }

    /// The same, among those instruction sets that keep activations in f32.
    pub fn exact(threads: Option<usize>) -> Result<Self, DeviceError> {
        Self::with_isa(Isa::from_environment(true)?, threads)
    }

    /// This one, if it keeps activations in f32, else one with the fastest instruction set that does.
    pub fn with_exact_activations(&self) -> Self {
        Self { isa: self.isa.exact_counterpart(), ..self.clone() }
    }

    /// With a given instruction set, which the processor must have.
    pub fn with_isa(isa: Isa, threads: Option<usize>) -> Result<Self, DeviceError> {
        Ok(Self { isa: isa.require()?, pool: pool::shared(threads)? })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The process's compute threads.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Does `work` for every item below `count` with all threads that are free; each call gets items of its own that follow
    /// one another.
    pub fn divide(&self, count: usize, work: impl Fn(Range<usize>) + Sync) {
        self.pool.divide(count, work);
    }

    /// Does `work` with all threads that are free for every chunk of `size` values, the last of which may be shorter; it
    /// gets the index of each and the chunk.
    pub fn divide_chunks<T: Send>(
        &self,
        values: &mut [T],
        size: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        self.pool.chunks(values, size, work);
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

/// Rows of `width` of a buffer that an operation writes, in parallel if there is enough to do.
fn each_row(pool: &Pool, out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < SERIAL {
        out.chunks_exact_mut(width).enumerate().for_each(|(row, out)| work(row, out));
    } else {
        pool.chunks(out, width, work);
    }
}

impl Backend for Cpu {
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
        Plain.matrix(parts)
    }

    fn vector(&self, weight: &Weight) -> Result<CpuVector, DeviceError> {
        Plain.vector(weight)
    }

    fn experts(&self, experts: Vec<Vec<Weight>>) -> Result<CpuExperts, DeviceError> {
        Plain.experts(experts)
    }

    fn buffer(&self, elements: usize) -> Result<CpuBuffer, DeviceError> {
        Plain.buffer(elements)
    }

    fn upload_values(&self, values: &[f32]) -> Result<CpuBuffer, DeviceError> {
        Plain.upload_values(values)
    }

    fn cache(&self, shape: KvShape, blocks: usize) -> Result<CpuCache, DeviceError> {
        Plain.cache(shape, blocks)
    }

    fn cache_bytes_per_block(&self, shape: KvShape) -> usize {
        Plain.cache_bytes_per_block(shape)
    }

    fn batch(&self, limits: BatchLimits) -> Result<CpuBatch, DeviceError> {
        Plain.batch(limits)
    }

    fn routing(&self, rows: usize, top_k: usize) -> Result<CpuRouting, DeviceError> {
        Plain.routing(rows, top_k)
    }

    fn upload(&self, step: &StepBatch, batch: &mut CpuBatch) -> Result<(), DeviceError> {
        Plain.upload(step, batch)
    }

    fn rotary(&self, batch: &CpuBatch, spec: &RotarySpec, table: &mut CpuBuffer) -> Result<(), DeviceError> {
        Plain.rotary(batch, spec, table)
    }

    fn embed(&self, weight: &CpuMatrix, batch: &CpuBatch, out: &mut CpuBuffer) -> Result<(), DeviceError> {
        Plain.embed(weight, batch, out)
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
        each_row(&self.pool, &mut out.0[..rows * width], width, |row, out| {
            let residual = Row::Read(&x.0[row * width..][..width]);
            dispatch(self.isa, NormRow { delta: None, gain: &gain.0, eps, residual, out });
        });
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
        let width = gain.0.len();
        let elements = rows * width;
        require("add_rms_norm", "residual", residual.0.len(), elements)?;
        require("add_rms_norm", "delta", delta.0.len(), elements)?;
        require("add_rms_norm", "out", out.0.len(), elements)?;
        let work = |row: usize, residual: &mut [f32], out: &mut [f32]| {
            let (residual, delta) = (Row::Write(residual), Some(&delta.0[row * width..][..width]));
            dispatch(self.isa, NormRow { delta, gain: &gain.0, eps, residual, out });
        };
        let (residual, out) = (&mut residual.0[..elements], &mut out.0[..elements]);
        if elements < SERIAL {
            let rows = residual.chunks_exact_mut(width).zip(out.chunks_exact_mut(width));
            rows.enumerate().for_each(|(row, (residual, out))| work(row, residual, out));
        } else {
            self.pool.chunk_pairs((residual, out), width, work);
        }
        Ok(())
    }

    fn matmul(
        &self,
        x: &CpuBuffer,
        weight: &CpuMatrix,
        rows: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        check_matmul(x, weight, rows, out)?;
        multiply(&self.pool, self.isa, &x.0, 1, |_| Product { weight, rows: Rows::First(rows) }, &mut out.0);
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
        let elements = batch.rows() * shape.qkv_width();
        each_row(&self.pool, &mut qkv.0[..elements], shape.qkv_width(), |row, qkv| {
            let table = &table.0[row * shape.head_dim..][..shape.head_dim];
            let (queries, rest) = qkv.split_at_mut(shape.query_width());
            let keys = &mut rest[..shape.kv_width()];
            for (heads, gain) in [(queries, &query_gain.0), (keys, &key_gain.0)] {
                dispatch(self.isa, NormRotateRow { heads, gain, eps, table });
            }
        });
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
        check_attention(qkv, batch, shape, layer, cache, out)?;
        attention::attend(&self.pool, self.isa, &qkv.0, batch, shape, layer, cache, &mut out.0);
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
        each_row(&self.pool, &mut out.0[..rows * width], width, |row, out| {
            dispatch(self.isa, SwigluRow { gate_up: &gate_up.0[row * 2 * width..][..2 * width], out });
        });
        Ok(())
    }

    fn route(
        &self,
        logits: &CpuBuffer,
        spec: RouteSpec,
        rows: usize,
        routing: &mut CpuRouting,
    ) -> Result<(), DeviceError> {
        Plain.route(logits, spec, rows, routing)
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
        let divisor = match input {
            ExpertInput::Row => routing.top_k,
            ExpertInput::Pair => 1,
        };
        let product = |index: usize| {
            let expert = routing.active[index] as usize;
            let rows = Rows::Pairs { pairs: routing.pairs_of(expert), divisor };
            Product { weight: &experts.experts[expert], rows }
        };
        // Decided by all experts, and not by those that a step visits: what a token gets does not depend on the others.
        let isa = if experts.all_bf16 { self.isa } else { self.isa.exact_counterpart() };
        multiply(&self.pool, isa, &x.0, routing.active.len(), product, &mut out.0);
        Ok(())
    }

    fn combine_experts(
        &self,
        x: &CpuBuffer,
        routing: &CpuRouting,
        width: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        let top_k = routing.top_k;
        require("combine_experts", "x", x.0.len(), routing.rows * top_k * width)?;
        require("combine_experts", "out", out.0.len(), routing.rows * width)?;
        each_row(&self.pool, &mut out.0[..routing.rows * width], width, |row, out| {
            let weights = &routing.weights[row * top_k..][..top_k];
            let x = &x.0[row * top_k * width..][..top_k * width];
            dispatch(self.isa, CombineRow { weights, x, out });
        });
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
        Plain.add_gated(gate, x, rows, width, out)
    }

    fn gather_logit_rows(
        &self,
        x: &CpuBuffer,
        width: usize,
        batch: &CpuBatch,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        Plain.gather_logit_rows(x, width, batch, out)
    }

    fn copy(&self, x: &CpuBuffer, elements: usize, out: &mut CpuBuffer) -> Result<(), DeviceError> {
        Plain.copy(x, elements, out)
    }

    fn read<'a>(
        &self,
        buffer: &'a CpuBuffer,
        elements: usize,
        staging: &'a mut Vec<f32>,
    ) -> Result<&'a [f32], DeviceError> {
        Plain.read(buffer, elements, staging)
    }
}
