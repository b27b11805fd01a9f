//! How weights of convolutions are found.

use crate::models::LoadError;
use crate::tensor::{Convolution, Dtype, Weight, WeightStore};

/// Takes the vocoder's weights from a store to a device.
pub(super) struct Weights<'a, B: Convolution> {
    /// Where they go.
    pub(super) backend: &'a B,
    /// Where they come from.
    pub(super) store: &'a WeightStore,
    /// How they are kept.
    pub(super) dtype: Dtype,
}

impl<B: Convolution> Weights<'_, B> {
    /// A tensor by its full name.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Weight, LoadError> {
        Ok(self.store.tensor(name, shape, self.dtype)?)
    }

    /// A vector by its full name.
    pub(super) fn vector(&self, name: &str, length: usize) -> Result<B::Vector, LoadError> {
        Ok(self.backend.vector(&self.tensor(name, &[length])?)?)
    }

    /// Matrices `[out_i, in]` by their full names, stacked along `out`.
    pub(super) fn matrix(&self, parts: &[(&str, usize)], inner: usize) -> Result<B::Matrix, LoadError> {
        let parts = parts
            .iter()
            .map(|(name, out)| self.tensor(name, &[*out, inner]))
            .collect::<Result<Vec<_>, LoadError>>()?;
        Ok(self.backend.matrix(parts)?)
    }

    /// A causal convolution `prefix.{weight,bias}`: `[out, in, taps]`.
    pub(super) fn convolution(
        &self,
        prefix: &str,
        [out, inner, taps]: [usize; 3],
        dilation: usize,
    ) -> Result<B::Kernel, LoadError> {
        let weight = self.tensor(&format!("{prefix}.weight"), &[out, inner, taps])?;
        let bias = self.tensor(&format!("{prefix}.bias"), &[out])?;
        Ok(self.backend.kernel(&weight, &bias, dilation)?)
    }

    /// A transposed convolution `prefix.{weight,bias}`: `[in, out, taps * stride]`.
    pub(super) fn transposed(
        &self,
        prefix: &str,
        [inner, out, taps]: [usize; 3],
        stride: usize,
    ) -> Result<B::Kernel, LoadError> {
        let weight = self.tensor(&format!("{prefix}.weight"), &[inner, out, taps * stride])?;
        let bias = self.tensor(&format!("{prefix}.bias"), &[out])?;
        Ok(self.backend.transposed_kernel(&weight, &bias, stride)?)
    }

    /// The activation `prefix.{alpha,beta}`.
    pub(super) fn snake(&self, prefix: &str, channels: usize) -> Result<B::Snake, LoadError> {
        let alpha = self.tensor(&format!("{prefix}.alpha"), &[channels])?;
        let beta = self.tensor(&format!("{prefix}.beta"), &[channels])?;
        Ok(self.backend.snake(&alpha, &beta)?)
    }
}
