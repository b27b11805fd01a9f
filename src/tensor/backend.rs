//! The interface between models and devices.
//!
//! Operations take buffers that the caller made once for the largest step; they write results there and allocate
//! nothing that grows with the step. They may run later than they are called, in the order in which they are
//! called: only [`Backend::read`] waits. All activations are f32 in the mathematics; a device may hold them
//! otherwise. Shapes are row-major and written `[rows, width]`.

use super::{BatchLimits, DeviceError, StepBatch, Weight};

/// The heads of one attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads; a multiple of `kv_heads`. Head `h` reads key-value head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Width of the queries of a row.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of the keys of a row, which is also that of its values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Width of queries, keys and values of a row, which lie one after the other.
    pub fn qkv_width(&self) -> usize {
        self.query_width() + 2 * self.kv_width()
    }
}

/// The extents of a paged KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Decoder layers.
    pub layers: usize,
    /// Key and value heads of a layer.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// Rotary embedding over three position axes, interleaved (M-RoPE).
///
/// Pair `i` of a head turns by `position[axis(i)] * inverse_frequency[i]`. With `sections` all zero, or equal
/// positions on the three axes, this is the ordinary rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RotarySpec {
    /// `theta^(-2i/head_dim)` for each pair, `[head_dim / 2]`.
    pub inverse_frequencies: Vec<f32>,
    /// Pairs that belong to the time, height and width axis.
    pub sections: [usize; 3],
}

impl RotarySpec {
    /// The inverse frequencies for a base `theta`.
    pub fn new(theta: f32, head_dim: usize, sections: [usize; 3]) -> Self {
        let inverse_frequencies =
            (0..head_dim / 2).map(|pair| 1.0 / theta.powf((2 * pair) as f32 / head_dim as f32)).collect();
        Self { inverse_frequencies, sections }
    }

    /// The axis whose position turns a pair: 0 time, 1 height, 2 width.
    pub fn axis(&self, pair: usize) -> usize {
        match pair % 3 {
            axis @ (1 | 2) if pair < 3 * self.sections[axis] => axis,
            _ => 0,
        }
    }
}

/// How rows choose experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteSpec {
    /// Experts to choose from.
    pub experts: usize,
    /// Experts per row.
    pub top_k: usize,
    /// Whether the chosen weights are divided by their sum.
    pub normalize: bool,
}

/// Which row of its input an expert product reads for the pair (row, choice).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertInput {
    /// The row itself: the input is `[rows, in]`.
    Row,
    /// The pair's own: the input is `[rows * top_k, in]`.
    Pair,
}

/// A device that carries out the operations of a model.
///
/// Every operation fails with [`DeviceError::Shape`] when a buffer is too small for it, and changes nothing then.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Activations: f32 values.
    type Buffer: Send + Sync;
    /// A weight matrix `[out, in]`, kept in the type it is stored in. Clones share memory.
    type Matrix: Clone + Send + Sync;
    /// A weight vector, such as the gain of a norm.
    type Vector: Send + Sync;
    /// The matrices of all experts of a layer, `[experts][out, in]`.
    type Experts: Send + Sync;
    /// Keys and values of all layers, in blocks of [`BLOCK_SIZE`](super::BLOCK_SIZE) tokens.
    type Cache: Send + Sync;
    /// A step's description on the device.
    type Batch: Send + Sync;
    /// The experts chosen by each row, with their weights.
    type Routing: Send + Sync;

    /// Runs a forward pass, or loads a model, in the way that suits the device.
    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R;

    /// Takes weights `[out_i, in]` over, stacked along `out`.
    fn matrix(&self, parts: Vec<Weight>) -> Result<Self::Matrix, DeviceError>;

    /// Takes a weight vector over.
    fn vector(&self, weight: &Weight) -> Result<Self::Vector, DeviceError>;

    /// Takes the matrices of a layer's experts over; those of one expert are stacked along `out`.
    fn experts(&self, experts: Vec<Vec<Weight>>) -> Result<Self::Experts, DeviceError>;

    /// A buffer of `elements` zeros.
    fn buffer(&self, elements: usize) -> Result<Self::Buffer, DeviceError>;

    /// A buffer of zeros for values that every device keeps in f32: logits, gates, tables of angles.
    fn precise_buffer(&self, elements: usize) -> Result<Self::Buffer, DeviceError> {
        self.buffer(elements)
    }

    /// A buffer that holds `values`.
    fn upload_values(&self, values: &[f32]) -> Result<Self::Buffer, DeviceError>;

    /// A KV cache of `blocks` blocks.
    fn cache(&self, shape: KvShape, blocks: usize) -> Result<Self::Cache, DeviceError>;

    /// Bytes of one block of such a cache, over all layers.
    fn cache_bytes_per_block(&self, shape: KvShape) -> usize;

    /// Room for the description of a step.
    fn batch(&self, limits: BatchLimits) -> Result<Self::Batch, DeviceError>;

    /// Room for the choices of `rows` rows.
    fn routing(&self, rows: usize, top_k: usize) -> Result<Self::Routing, DeviceError>;

    /// Checks a step and brings its description to the device; once per step.
    fn upload(&self, step: &StepBatch, batch: &mut Self::Batch) -> Result<(), DeviceError>;

    /// Cosines and sines of all rows: `table[row] = [cos(a_0), …, sin(a_0), …]`, `[rows, head_dim]`, where
    /// `a_i` is the position of the row times the inverse frequency of the pair, in f32.
    fn rotary(
        &self,
        batch: &Self::Batch,
        spec: &RotarySpec,
        table: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `out[row] = weight[token_id[row]]`, `[rows, in]`. Fails on an id that the table does not have.
    fn embed(
        &self,
        weight: &Self::Matrix,
        batch: &Self::Batch,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `out = x / sqrt(mean(x²) + eps) * gain`, each row of `[rows, width]` for itself; the width is the gain's.
    fn rms_norm(
        &self,
        x: &Self::Buffer,
        gain: &Self::Vector,
        eps: f32,
        rows: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `residual += delta`, then `out = rms_norm(residual)`; all `[rows, width]`.
    fn add_rms_norm(
        &self,
        residual: &mut Self::Buffer,
        delta: &Self::Buffer,
        gain: &Self::Vector,
        eps: f32,
        rows: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `out = x · weightᵀ`: `[rows, in]` and `[out, in]` give `[rows, out]`.
    fn matmul(
        &self,
        x: &Self::Buffer,
        weight: &Self::Matrix,
        rows: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// Makes queries and keys ready and stores keys and values.
    ///
    /// `qkv` is `[rows, queries | keys | values]`. Each head of queries and keys is RMS-normalised with its gain
    /// `[head_dim]` and turned: with `x1, x2` the halves of a head, `x1' = x1 cos - x2 sin`,
    /// `x2' = x2 cos + x1 sin`. Queries are written back in place; keys and values go to the row's slot of
    /// `layer` in the cache.
    #[allow(clippy::too_many_arguments)]
    fn norm_rotate_store(
        &self,
        qkv: &mut Self::Buffer,
        query_gain: &Self::Vector,
        key_gain: &Self::Vector,
        eps: f32,
        table: &Self::Buffer,
        batch: &Self::Batch,
        shape: AttentionShape,
        layer: usize,
        cache: &mut Self::Cache,
    ) -> Result<(), DeviceError>;

    /// Causal attention of the queries in `qkv` over the cached keys and values of their sequences, scaled by
    /// `head_dim^-0.5`: `out` is `[rows, heads * head_dim]`.
    fn attention(
        &self,
        qkv: &Self::Buffer,
        batch: &Self::Batch,
        shape: AttentionShape,
        layer: usize,
        cache: &Self::Cache,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `out = silu(gate) * up`, where `gate_up` is `[rows, gate | up]` and `out` `[rows, width]`.
    fn swiglu(
        &self,
        gate_up: &Self::Buffer,
        rows: usize,
        width: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// Softmax over the router's logits `[rows, experts]` and the choice of the `top_k` largest, largest first;
    /// of equal ones the lower index first.
    fn route(
        &self,
        logits: &Self::Buffer,
        spec: RouteSpec,
        rows: usize,
        routing: &mut Self::Routing,
    ) -> Result<(), DeviceError>;

    /// The product of each pair (row, choice) with the matrix of the expert that was chosen:
    /// `out` is `[rows * top_k, out]`.
    fn expert_matmul(
        &self,
        x: &Self::Buffer,
        input: ExpertInput,
        experts: &Self::Experts,
        routing: &Self::Routing,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// [`expert_matmul`](Self::expert_matmul) of rows with gate and up projections, and
    /// [`swiglu`](Self::swiglu): `out` is `[pairs, width]` for an extent of `(pairs, width)`. `products` has room
    /// for `[pairs, 2 * width]`; what it holds afterwards is of no use, for a device may do both in one.
    fn expert_gate_up(
        &self,
        x: &Self::Buffer,
        experts: &Self::Experts,
        routing: &Self::Routing,
        (pairs, width): (usize, usize),
        products: &mut Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError> {
        self.expert_matmul(x, ExpertInput::Row, experts, routing, products)?;
        self.swiglu(products, pairs, width, out)
    }

    /// [`expert_matmul`](Self::expert_matmul) of pairs with down projections, and
    /// [`combine_experts`](Self::combine_experts): `out` is `[rows, width]`. `products` has room for
    /// `[pairs, width]`; what it holds afterwards is of no use, for a device may do both in one.
    fn expert_down(
        &self,
        x: &Self::Buffer,
        experts: &Self::Experts,
        routing: &Self::Routing,
        width: usize,
        products: &mut Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError> {
        self.expert_matmul(x, ExpertInput::Pair, experts, routing, products)?;
        self.combine_experts(products, routing, width, out)
    }

    /// `out[row] = Σ_choice weight * x[row, choice]`, summed in the order of choice:
    /// `[rows * top_k, width]` gives `[rows, width]`.
    fn combine_experts(
        &self,
        x: &Self::Buffer,
        routing: &Self::Routing,
        width: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `out += sigmoid(gate) * x`, with one gate a row: `[rows]`, `[rows, width]`.
    fn add_gated(
        &self,
        gate: &Self::Buffer,
        x: &Self::Buffer,
        rows: usize,
        width: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// Collects the rows whose logits are wanted: `[rows, width]` gives `[logit_rows, width]`.
    fn gather_logit_rows(
        &self,
        x: &Self::Buffer,
        width: usize,
        batch: &Self::Batch,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// Copies the first `elements` of a buffer.
    fn copy(&self, x: &Self::Buffer, elements: usize, out: &mut Self::Buffer) -> Result<(), DeviceError>;

    /// Waits for everything before and shows the first `elements` of a buffer. `staging` is where a device with
    /// memory of its own puts them; a CPU shows the buffer itself.
    fn read<'a>(
        &self,
        buffer: &'a Self::Buffer,
        elements: usize,
        staging: &'a mut Vec<f32>,
    ) -> Result<&'a [f32], DeviceError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_interleave_the_axes_and_leave_the_rest_to_time() {
        let spec = RotarySpec::new(1e6, 32, [6, 5, 5]);
        let axes: Vec<usize> = (0..16).map(|pair| spec.axis(pair)).collect();
        assert_eq!(axes, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]);
        let uneven = RotarySpec::new(1e6, 16, [4, 2, 2]);
        let axes: Vec<usize> = (0..8).map(|pair| uneven.axis(pair)).collect();
        assert_eq!(axes, [0, 1, 2, 0, 1, 2, 0, 0]);
    }

    #[test]
    fn no_sections_mean_the_ordinary_rotary_embedding() {
        let spec = RotarySpec::new(1e4, 8, [0; 3]);
        assert!((0..4).all(|pair| spec.axis(pair) == 0));
        assert_eq!(spec.inverse_frequencies[0], 1.0);
    }
}
