//! What the operations keep in a device's memory.

use std::sync::Arc;

use super::driver::{Address, Driver, Memory};
use super::stored::Stored;
use super::variants::{MAX_EXPERTS, expert_tiles};
use super::weights::{Weights, extents, kept_as};
use crate::tensor::batch::BLOCK_SIZE;
use crate::tensor::error::{require, require_exact};
use crate::tensor::{DeviceError, KvShape, Weight};

/// Activations.
#[derive(Debug)]
pub struct CudaBuffer {
    /// The values.
    pub(super) memory: Memory,
    /// Their type.
    pub(super) stored: Stored,
    /// How many there are.
    pub(super) elements: usize,
}

impl CudaBuffer {
    pub(super) fn zeros(
        driver: &Arc<dyn Driver>,
        stored: Stored,
        elements: usize,
    ) -> Result<Self, DeviceError> {
        Ok(Self { memory: Memory::zeros(driver, elements * stored.bytes())?, stored, elements })
    }

    /// Succeeds if the buffer has `need` elements and they are of this type.
    pub(super) fn check(
        &self,
        operation: &'static str,
        operand: &'static str,
        need: usize,
        stored: Stored,
    ) -> Result<(), DeviceError> {
        require(operation, operand, self.elements, need)?;
        require_exact(operation, "an element, in bytes,", self.stored.bytes(), stored.bytes())
    }
}

/// A weight matrix `[out, in]`. Clones share its memory.
#[derive(Debug, Clone)]
pub struct CudaMatrix {
    /// The weights.
    pub(super) memory: Arc<Memory>,
    /// Their type.
    pub(super) stored: Stored,
    /// Width of the input.
    pub(super) inner: usize,
    /// Width of the output.
    pub(super) out: usize,
}

impl CudaMatrix {
    /// Stacks parts of equal inner width along `out`.
    pub(super) fn stack(
        weights: Weights<'_>,
        activations: Stored,
        parts: &[Weight],
    ) -> Result<Self, DeviceError> {
        let (inner, out) = extents("matrix", parts)?;
        let stored = kept_as(activations, parts.iter());
        let memory = weights.bring(stored, parts.iter())?;
        Ok(Self { memory: Arc::new(memory), stored, inner, out })
    }
}

/// A weight vector, f32.
#[derive(Debug)]
pub struct CudaVector {
    /// The values.
    pub(super) memory: Memory,
    /// How many there are.
    pub(super) length: usize,
}

/// The matrices of a layer's experts one after the other, `[experts, out, in]`.
#[derive(Debug)]
pub struct CudaExperts {
    /// The weights.
    pub(super) memory: Memory,
    /// Their type.
    pub(super) stored: Stored,
    /// How many experts there are.
    pub(super) experts: usize,
    /// Width of the input.
    pub(super) inner: usize,
    /// Width of the output.
    pub(super) out: usize,
}

impl CudaExperts {
    /// Takes experts of equal shape, the parts of each stacked along `out`.
    pub(super) fn new(
        weights: Weights<'_>,
        activations: Stored,
        experts: &[Vec<Weight>],
    ) -> Result<Self, DeviceError> {
        let (mut inner, mut out) = (0, 0);
        for (index, parts) in experts.iter().enumerate() {
            let (own_inner, own_out) = extents("experts", parts)?;
            if index == 0 {
                (inner, out) = (own_inner, own_out);
            }
            require_exact("experts", "the inner width of an expert", own_inner, inner)?;
            require_exact("experts", "the output width of an expert", own_out, out)?;
        }
        let parts = experts.iter().flatten();
        let stored = kept_as(activations, parts.clone());
        let memory = weights.bring(stored, parts)?;
        Ok(Self { memory, stored, experts: experts.len(), inner, out })
    }
}

/// Keys and values of all layers, each layer `[blocks, kv_heads, BLOCK_SIZE, head_dim]`.
#[derive(Debug)]
pub struct CudaCache {
    /// Its extents.
    pub(super) shape: KvShape,
    /// Blocks that it holds.
    pub(super) blocks: usize,
    /// The type of keys and values.
    pub(super) stored: Stored,
    /// Keys of all layers.
    keys: Memory,
    /// Values of all layers.
    values: Memory,
}

impl CudaCache {
    pub(super) fn new(
        driver: &Arc<dyn Driver>,
        stored: Stored,
        shape: KvShape,
        blocks: usize,
    ) -> Result<Self, DeviceError> {
        let half = blocks * Self::bytes_per_block(stored, shape) / 2;
        let (keys, values) = (Memory::zeros(driver, half)?, Memory::zeros(driver, half)?);
        Ok(Self { shape, blocks, stored, keys, values })
    }

    /// Bytes of a block over all layers, keys and values together.
    pub(in crate::tensor) fn bytes_per_block(stored: Stored, shape: KvShape) -> usize {
        2 * shape.layers * shape.kv_heads * BLOCK_SIZE * shape.head_dim * stored.bytes()
    }

    /// Where the keys and the values of a layer begin.
    pub(super) fn layer(&self, layer: usize) -> [Address; 2] {
        let bytes = self.keys.bytes() / self.shape.layers.max(1);
        [&self.keys, &self.values].map(|memory| memory.address() + (layer * bytes) as u64)
    }
}

/// The experts that rows chose. A pair is one choice of one row: `row * top_k + choice`.
#[derive(Debug)]
pub struct CudaRouting {
    /// Rows it has room for.
    pub(super) capacity: usize,
    /// Choices of a row.
    pub(super) top_k: usize,
    /// Rows that chose.
    pub(super) rows: usize,
    /// Experts that they chose from.
    pub(super) experts: usize,
    /// The expert of each pair, u32.
    pub(super) chosen: Memory,
    /// The weight of each pair, f32.
    pub(super) weights: Memory,
    /// The pairs ordered by expert and then by pair, u32. As what follows, written only for many pairs.
    pub(super) order: Memory,
    /// Where the pairs of each expert begin in `order`, u32; one more than experts.
    pub(super) starts: Memory,
    /// The experts that someone chose, u32.
    pub(super) active: Memory,
    /// Pieces of `order` of one expert each, four words a tile.
    pub(super) tiles: Memory,
}

impl CudaRouting {
    pub(super) fn new(driver: &Arc<dyn Driver>, rows: usize, top_k: usize) -> Result<Self, DeviceError> {
        let pairs = rows * top_k;
        let words = |count: usize| Memory::zeros(driver, 4 * count);
        Ok(Self {
            capacity: rows,
            top_k,
            rows: 0,
            experts: 0,
            chosen: words(pairs)?,
            weights: words(pairs)?,
            order: words(pairs)?,
            starts: words(MAX_EXPERTS + 1)?,
            active: words(MAX_EXPERTS)?,
            tiles: words(4 * expert_tiles(pairs, MAX_EXPERTS))?,
        })
    }

    /// Pairs of the rows that chose.
    pub(super) fn pairs(&self) -> usize {
        self.rows * self.top_k
    }

    /// Length of `active` that counts.
    pub(super) fn active_length(&self) -> usize {
        self.experts.min(self.pairs())
    }
}
