//! What the CPU backends keep in memory.

use std::sync::Arc;

use crate::tensor::batch::{BLOCK_SIZE, BatchLimits, SequenceSpan, StepBatch};
use crate::tensor::error::{DeviceError, require_exact};
use crate::tensor::weights::Elements;
use crate::tensor::{KvShape, Weight};

/// Activations.
#[derive(Debug, Default)]
pub struct CpuBuffer(pub(super) Vec<f32>);

impl CpuBuffer {
    /// A buffer of `elements` zeros.
    pub(super) fn zeros(elements: usize) -> Self {
        Self(vec![0.0; elements])
    }
}

/// A weight matrix `[out, in]`: one or more stored tensors, stacked along `out`, where they lie in the file.
#[derive(Debug, Clone)]
pub struct CpuMatrix {
    /// The stored tensors, each `[out_i, in]`.
    pub(super) parts: Arc<[Weight]>,
    /// Width of the input.
    pub(super) inner: usize,
    /// Width of the output: the sum over the parts.
    pub(super) out: usize,
}

impl CpuMatrix {
    /// Stacks parts of equal inner width.
    pub(super) fn stack(parts: Vec<Weight>) -> Result<Self, DeviceError> {
        let mut inner = None;
        let mut out = 0;
        for part in &parts {
            require_exact("matrix", "the shape of a part", part.shape.len(), 2)?;
            require_exact(
                "matrix",
                "the inner width of a part",
                part.shape[1],
                *inner.get_or_insert(part.shape[1]),
            )?;
            out += part.shape[0];
            // Not in the middle of a step.
            part.make();
        }
        Ok(Self { parts: parts.into(), inner: inner.unwrap_or(0), out })
    }

    /// Whether all its weights are stored as bf16.
    pub(super) fn is_bf16(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.data.0, Elements::Bf16(_)))
    }
}

/// A weight vector, widened to f32.
#[derive(Debug)]
pub struct CpuVector(pub(super) Vec<f32>);

/// The matrices of a layer's experts, all of one shape.
#[derive(Debug)]
pub struct CpuExperts {
    /// One matrix an expert.
    pub(super) experts: Vec<CpuMatrix>,
    /// Width of the input.
    pub(super) inner: usize,
    /// Width of the output.
    pub(super) out: usize,
    /// Whether the weights of all of them are bf16.
    pub(super) all_bf16: bool,
}

impl CpuExperts {
    /// Takes experts of equal shape.
    pub(super) fn new(experts: Vec<Vec<Weight>>) -> Result<Self, DeviceError> {
        let experts = experts.into_iter().map(CpuMatrix::stack).collect::<Result<Vec<_>, _>>()?;
        let (inner, out) = experts.first().map_or((0, 0), |first| (first.inner, first.out));
        for expert in &experts {
            require_exact("experts", "the inner width of an expert", expert.inner, inner)?;
            require_exact("experts", "the output width of an expert", expert.out, out)?;
        }
        let all_bf16 = experts.iter().all(CpuMatrix::is_bf16);
        Ok(Self { experts, inner, out, all_bf16 })
    }
}

/// Keys and values of all layers, f32, each layer `[blocks, kv_heads, BLOCK_SIZE, head_dim]`.
#[derive(Debug)]
pub struct CpuCache {
    /// Its extents.
    pub(super) shape: KvShape,
    /// Blocks that it holds.
    pub(super) blocks: usize,
    /// Keys by layer.
    pub(super) keys: Vec<Vec<f32>>,
    /// Values by layer.
    pub(super) values: Vec<Vec<f32>>,
}

impl CpuCache {
    /// An empty cache. The system provides the memory as blocks are first written.
    pub(super) fn new(shape: KvShape, blocks: usize) -> Self {
        let layer = blocks * BLOCK_SIZE * shape.kv_heads * shape.head_dim;
        let zeros = || (0..shape.layers).map(|_| vec![0.0; layer]).collect();
        Self { shape, blocks, keys: zeros(), values: zeros() }
    }

    /// Where the first key (or value) of a block lies for one head; the others of the block follow it.
    pub(super) fn offset(&self, block: usize, head: usize) -> usize {
        (block * self.shape.kv_heads + head) * BLOCK_SIZE * self.shape.head_dim
    }
}

/// A step's description, checked, in memory that is kept from step to step.
#[derive(Debug)]
pub struct CpuBatch {
    /// The largest step it has room for.
    pub(super) limits: BatchLimits,
    /// As in [`StepBatch`].
    pub(super) token_ids: Vec<u32>,
    /// As in [`StepBatch`].
    pub(super) positions: [Vec<f32>; 3],
    /// As in [`StepBatch`].
    pub(super) slot_mapping: Vec<u32>,
    /// As in [`StepBatch`].
    pub(super) logit_rows: Vec<u32>,
    /// The blocks of all sequences one after the other.
    pub(super) blocks: Vec<u32>,
    /// What each row may see.
    pub(super) visible: Vec<Visible>,
    /// One more than the largest block that is named.
    pub(super) blocks_needed: usize,
}

/// The keys and values that a row may see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visible {
    /// Where its sequence's blocks begin in [`CpuBatch::blocks`].
    pub(super) first_block: u32,
    /// Tokens, itself included.
    pub(super) keys: u32,
}

impl CpuBatch {
    pub(super) fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            token_ids: Vec::with_capacity(limits.rows),
            positions: [(); 3].map(|()| Vec::with_capacity(limits.rows)),
            slot_mapping: Vec::with_capacity(limits.rows),
            logit_rows: Vec::with_capacity(limits.logit_rows),
            blocks: Vec::new(),
            visible: Vec::with_capacity(limits.rows),
            blocks_needed: 0,
        }
    }

    /// Takes a step over after checking it.
    pub(super) fn upload(&mut self, step: &StepBatch) -> Result<(), DeviceError> {
        step.check(self.limits)?;
        self.token_ids.clone_from(&step.token_ids);
        for (own, given) in self.positions.iter_mut().zip(&step.positions) {
            own.clone_from(given);
        }
        self.slot_mapping.clone_from(&step.slot_mapping);
        self.logit_rows.clone_from(&step.logit_rows);
        self.blocks.clear();
        self.visible.clear();
        for SequenceSpan { rows, context, block_table, .. } in &step.sequences {
            let first_block = self.blocks.len() as u32;
            let used = (*context as usize).div_ceil(BLOCK_SIZE);
            self.blocks.extend(block_table.iter().take(used));
            let before = context - rows;
            self.visible.extend((1..=*rows).map(|row| Visible { first_block, keys: before + row }));
        }
        let written = self.slot_mapping.iter().map(|slot| *slot as usize / BLOCK_SIZE);
        let read = self.blocks.iter().map(|block| *block as usize);
        self.blocks_needed = written.chain(read).max().map_or(0, |block| block + 1);
        Ok(())
    }

    /// Rows of the step.
    pub(super) fn rows(&self) -> usize {
        self.slot_mapping.len()
    }

    /// Whether a cache fits the step and the attention.
    pub(super) fn check_cache(
        &self,
        operation: &'static str,
        cache: &CpuCache,
        layer: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<(), DeviceError> {
        if self.blocks_needed > cache.blocks {
            return Err(DeviceError::Batch(format!(
                "block {} is named where the cache has {}",
                self.blocks_needed - 1,
                cache.blocks
            )));
        }
        require_exact(operation, "the cache's heads", cache.shape.kv_heads, kv_heads)?;
        require_exact(operation, "the cache's head width", cache.shape.head_dim, head_dim)?;
        crate::tensor::error::require(operation, "the cache's layers", cache.shape.layers, layer + 1)
    }
}

/// The experts that rows chose. A pair is one choice of one row: `row * top_k + choice`.
#[derive(Debug)]
pub struct CpuRouting {
    /// Rows it has room for.
    pub(super) capacity: usize,
    /// Choices of a row.
    pub(super) top_k: usize,
    /// Rows that chose.
    pub(super) rows: usize,
    /// The expert of each pair.
    pub(super) experts: Vec<u32>,
    /// The weight of each pair.
    pub(super) weights: Vec<f32>,
    /// The pairs, ordered by expert and then by pair.
    pub(super) order: Vec<u32>,
    /// Where the pairs of each expert begin in `order`; one entry more than experts.
    pub(super) starts: Vec<u32>,
    /// The experts that someone chose, ascending.
    pub(super) active: Vec<u32>,
}

impl CpuRouting {
    pub(super) fn new(rows: usize, top_k: usize) -> Self {
        let pairs = rows * top_k;
        Self {
            capacity: rows,
            top_k,
            rows: 0,
            experts: Vec::with_capacity(pairs),
            weights: Vec::with_capacity(pairs),
            order: Vec::with_capacity(pairs),
            starts: Vec::new(),
            active: Vec::new(),
        }
    }

    /// Orders the pairs by expert, by counting.
    pub(super) fn group(&mut self, experts: usize) {
        self.starts.clear();
        self.starts.resize(experts + 1, 0);
        for expert in &self.experts {
            self.starts[*expert as usize + 1] += 1;
        }
        for expert in 0..experts {
            self.starts[expert + 1] += self.starts[expert];
        }
        self.order.clear();
        self.order.resize(self.experts.len(), 0);
        for (pair, expert) in self.experts.iter().enumerate() {
            let place = &mut self.starts[*expert as usize];
            self.order[*place as usize] = pair as u32;
            *place += 1;
        }
        // Each start has moved on to the next expert's; move them back.
        self.starts.copy_within(0..experts, 1);
        self.starts[0] = 0;
        self.active.clear();
        self.active.extend((0..experts as u32).filter(|expert| {
            let expert = *expert as usize;
            self.starts[expert] < self.starts[expert + 1]
        }));
    }

    /// The pairs that chose an expert.
    pub(super) fn pairs_of(&self, expert: usize) -> &[u32] {
        &self.order[self.starts[expert] as usize..self.starts[expert + 1] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_grouped_by_expert_in_order() {
        let mut routing = CpuRouting::new(3, 2);
        routing.experts = vec![2, 0, 0, 2, 2, 3];
        routing.group(4);
        assert_eq!(routing.pairs_of(0), [1, 2]);
        assert!(routing.pairs_of(1).is_empty());
        assert_eq!(routing.pairs_of(2), [0, 3, 4]);
        assert_eq!(routing.pairs_of(3), [5]);
        assert_eq!(routing.active, [0, 2, 3]);
    }

    #[test]
    fn parts_of_different_inner_width_do_not_stack() {
        let part =
            |shape: Vec<usize>| Weight::from_f32(shape.clone(), vec![0.0; shape.iter().product()]).unwrap();
        let error = CpuMatrix::stack(vec![part(vec![2, 3]), part(vec![2, 4])]).unwrap_err();
        assert_eq!(error.reason(), "shape_mismatch");
    }
}
