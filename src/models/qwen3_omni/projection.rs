//! From the thinker's width to the talker's.

use crate::models::LoadError;
use crate::models::qwen3::Loader;
use crate::tensor::{Backend, DeviceError, InputRows};

/// `second · silu(first · x + bias) + bias`.
pub(super) struct Projection<B: Backend> {
    /// `[inner, in]`.
    first: B::Matrix,
    /// `[inner]`.
    first_bias: B::Vector,
    /// `[out, inner]`.
    second: B::Matrix,
    /// `[out]`.
    second_bias: B::Vector,
}

/// Buffers for projections of up to a number of rows.
pub(super) struct ProjectionSpace<B: Backend> {
    /// Rows of the thinker, `[rows, in]`. Callers write them here.
    pub(super) input: B::Buffer,
    /// `[rows, inner]`.
    inner: B::Buffer,
    /// Rows for the talker, `[rows, out]`.
    pub(super) output: B::Buffer,
}

/// Widths of a projection.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProjectionShape {
    /// The thinker's.
    pub(super) input: usize,
    /// In between.
    pub(super) inner: usize,
    /// The talker's.
    pub(super) output: usize,
}

impl<B: Backend> ProjectionSpace<B> {
    pub(super) fn new(backend: &B, shape: ProjectionShape, rows: usize) -> Result<Self, DeviceError> {
        Ok(Self {
            input: backend.buffer(rows * shape.input)?,
            inner: backend.buffer(rows * shape.inner)?,
            output: backend.buffer(rows * shape.output)?,
        })
    }
}

impl<B: InputRows> Projection<B> {
    /// Loads `prefix.linear_fc1` and `prefix.linear_fc2`.
    pub(super) fn load(
        loader: &Loader<'_, B>,
        prefix: &str,
        shape: ProjectionShape,
    ) -> Result<Self, LoadError> {
        let name = |part: &str| format!("{prefix}.{part}");
        Ok(Self {
            first: loader.matrix(&[(&name("linear_fc1.weight"), shape.inner)], shape.input)?,
            first_bias: loader.vector(&name("linear_fc1.bias"), shape.inner)?,
            second: loader.matrix(&[(&name("linear_fc2.weight"), shape.output)], shape.inner)?,
            second_bias: loader.vector(&name("linear_fc2.bias"), shape.output)?,
        })
    }

    /// Takes `rows` rows from `space.input` to `space.output`.
    pub(super) fn forward(
        &self,
        backend: &B,
        rows: usize,
        space: &mut ProjectionSpace<B>,
    ) -> Result<(), DeviceError> {
        backend.matmul(&space.input, &self.first, rows, &mut space.inner)?;
        backend.bias_silu(&mut space.inner, &self.first_bias, rows)?;
        backend.matmul(&space.inner, &self.second, rows, &mut space.output)?;
        backend.add_bias(&mut space.output, &self.second_bias, rows)
    }
}
