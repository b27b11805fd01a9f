//! Rotary embedding, the paged cache, and attention over it.

use super::operations::{Operation, shown, tokens, weight};
use super::random::Random;
use super::rows::EPS;
use crate::tensor::{AttentionShape, Backend, BatchLimits, DeviceError, KvShape, RotarySpec, StepBatch};

/// `rotary`.
pub(super) struct Rotary {
    pub(super) rows: usize,
    pub(super) head_dim: usize,
    pub(super) sections: [usize; 3],
}

impl Operation for Rotary {
    fn subject(&self) -> &'static str {
        "rotary"
    }

    fn case(&self) -> String {
        format!("{} rows, heads of {}, sections {:?}", self.rows, self.head_dim, self.sections)
    }

    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>, DeviceError> {
        let mut step = tokens((0..self.rows).map(|row| row as u32));
        for (axis, positions) in step.positions.iter_mut().enumerate() {
            positions.iter_mut().enumerate().for_each(|(row, at)| *at = (row * (axis + 3)) as f32 * 20.5);
        }
        let mut batch = backend.batch(BatchLimits { rows: self.rows + 3, logit_rows: 0 })?;
        backend.upload(&step, &mut batch)?;
        let elements = self.rows * self.head_dim;
        let mut table = backend.precise_buffer(elements)?;
        backend.rotary(&batch, &RotarySpec::new(1e6, self.head_dim, self.sections), &mut table)?;
        Ok(vec![shown(backend, &table, elements)?])
    }
}

/// `norm_rotate_store` and `attention` over three steps of three sequences: prompts; a chunk of a prompt between
/// single rows; single rows.
pub(super) struct AttentionSteps {
    pub(super) shape: AttentionShape,
}

/// Layers of the cache; the second one is used.
const LAYERS: usize = 2;
/// Blocks of a sequence.
const BLOCKS: usize = 10;
/// For each step, the tokens that each sequence gets.
const STEPS: [[usize; 3]; 3] = [[37, 130, 16], [1, 21, 1], [1, 1, 1]];

impl Operation for AttentionSteps {
    fn subject(&self) -> &'static str {
        "norm_rotate_store, attention"
    }

    fn case(&self) -> String {
        let AttentionShape { heads, kv_heads, head_dim } = self.shape;
        format!("{heads} heads over {kv_heads} of {head_dim}, up to 152 tokens")
    }

    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>, DeviceError> {
        let AttentionShape { kv_heads, head_dim, .. } = self.shape;
        let mut random = Random::new(head_dim);
        let gains = [(); 2].map(|()| weight(vec![head_dim], random.values(head_dim), true));
        let [query_gain, key_gain] = gains;
        let (query_gain, key_gain) = (backend.vector(&query_gain?)?, backend.vector(&key_gain?)?);
        let most: usize = STEPS[0].iter().sum();
        let mut cache = backend.cache(KvShape { layers: LAYERS, kv_heads, head_dim }, 3 * BLOCKS)?;
        let mut batch = backend.batch(BatchLimits { rows: most, logit_rows: 0 })?;
        let spec = RotarySpec::new(1e6, head_dim, [0; 3]);
        let mut table = backend.precise_buffer(most * head_dim)?;
        let mut out = backend.buffer(most * self.shape.query_width())?;
        let (mut lengths, mut results) = ([0; 3], Vec::new());
        for added in STEPS {
            let mut step = StepBatch::default();
            for (sequence, (length, added)) in lengths.iter_mut().zip(added).enumerate() {
                // Blocks of the sequences lie between each other, from the last to the first.
                let blocks: Vec<u32> = (0..BLOCKS).rev().map(|block| (block * 3 + sequence) as u32).collect();
                step.push_rows(added, *length, &blocks, false);
                *length += added;
            }
            let rows = step.rows();
            let qkv: Vec<f32> =
                random.values(rows * self.shape.qkv_width()).iter().map(|value| 4.0 * value).collect();
            let mut qkv = backend.upload_values(&qkv)?;
            backend.upload(&step, &mut batch)?;
            backend.rotary(&batch, &spec, &mut table)?;
            backend.norm_rotate_store(
                &mut qkv,
                &query_gain,
                &key_gain,
                EPS,
                &table,
                &batch,
                self.shape,
                LAYERS - 1,
                &mut cache,
            )?;
            backend.attention(&qkv, &batch, self.shape, LAYERS - 1, &cache, &mut out)?;
            let width = self.shape.qkv_width();
            let turned = shown(backend, &qkv, rows * width)?;
            // Keys and values in `qkv` may be left as they were or not; the queries count.
            let queries =
                turned.chunks_exact(width).flat_map(|row| row.iter().take(self.shape.query_width()));
            results.push(queries.copied().collect());
            results.push(shown(backend, &out, rows * self.shape.query_width())?);
        }
        Ok(results)
    }
}
