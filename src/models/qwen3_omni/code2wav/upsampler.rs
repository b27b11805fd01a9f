//! Upsampling before the decoder: a transposed convolution and a ConvNeXt block.

use super::decoder::TAPS;
use super::load::Weights;
use super::rows::UpsampleRows;
use super::workspace::Code2WavWorkspace;
use crate::models::LoadError;
use crate::models::qwen3_omni::config::Code2WavConfig;
use crate::tensor::{Convolution, DeviceError, InputRows, Windows};

/// Added under the root of the block's norm.
const NORM_EPS: f32 = 1e-6;
/// How much wider the inside of the block is.
pub(super) const EXPANSION: usize = 4;

/// `x = raise x`, then `x += gamma * (narrow gelu(widen norm(depthwise x)))`.
pub(super) struct UpsampleBlock<B: Convolution> {
    /// Raises the rate; its stride is its length.
    raise: B::Kernel,
    /// Mixes rows, each channel for itself.
    depthwise: B::Depthwise,
    /// Gain of the norm over channels, `[hidden]`.
    norm_gain: B::Vector,
    /// Its bias.
    norm_bias: B::Vector,
    /// `[4 * hidden, hidden]`.
    widen: B::Matrix,
    /// `[4 * hidden]`.
    widen_bias: B::Vector,
    /// `[hidden, 4 * hidden]`.
    narrow: B::Matrix,
    /// `[hidden]`.
    narrow_bias: B::Vector,
    /// By which the block counts, `[hidden]`.
    gamma: B::Vector,
}

impl<B: Convolution + InputRows> UpsampleBlock<B> {
    /// Loads `code2wav.upsample.N` for all of `upsampling_ratios`.
    pub(super) fn load_all(
        weights: &Weights<'_, B>,
        config: &Code2WavConfig,
    ) -> Result<Vec<Self>, LoadError> {
        let ratios = config.upsampling_ratios.iter().enumerate();
        ratios.map(|(index, ratio)| Self::load(weights, config.hidden_size, index, *ratio)).collect()
    }

    fn load(weights: &Weights<'_, B>, hidden: usize, index: usize, ratio: usize) -> Result<Self, LoadError> {
        let name = |part: &str| format!("code2wav.upsample.{index}.{part}");
        let taps = weights.tensor(&name("1.dwconv.conv.weight"), &[hidden, 1, TAPS])?;
        let taps_bias = weights.tensor(&name("1.dwconv.conv.bias"), &[hidden])?;
        let wide = EXPANSION * hidden;
        Ok(Self {
            raise: weights.transposed(&name("0.conv"), [hidden, hidden, 1], ratio)?,
            depthwise: weights.backend.depthwise_kernel(&taps, &taps_bias)?,
            norm_gain: weights.vector(&name("1.norm.weight"), hidden)?,
            norm_bias: weights.vector(&name("1.norm.bias"), hidden)?,
            widen: weights.matrix(&[(&name("1.pwconv1.weight"), wide)], hidden)?,
            widen_bias: weights.vector(&name("1.pwconv1.bias"), wide)?,
            narrow: weights.matrix(&[(&name("1.pwconv2.weight"), hidden)], wide)?,
            narrow_bias: weights.vector(&name("1.pwconv2.bias"), hidden)?,
            gamma: weights.vector(&name("1.gamma"), hidden)?,
        })
    }

    /// Takes `space.signal` from the rows `input` to the rows `rows.mixed`.
    pub(super) fn forward(
        &self,
        backend: &B,
        input: &Windows,
        rows: &UpsampleRows,
        space: &mut Code2WavWorkspace<B>,
    ) -> Result<(), DeviceError> {
        let (signal, activated, convolved) = (&mut space.signal, &mut space.activated, &mut space.convolved);
        backend.upsample(signal, input, &self.raise, &rows.raised, convolved)?;
        std::mem::swap(signal, convolved);
        let mixed = &rows.mixed;
        backend.depthwise(signal, &self.depthwise, mixed, activated)?;
        backend.layer_norm(activated, &self.norm_gain, &self.norm_bias, NORM_EPS, mixed, convolved)?;
        backend.matmul(convolved, &self.widen, mixed.stored_rows(), activated)?;
        backend.bias_gelu(activated, &self.widen_bias, mixed)?;
        backend.matmul(activated, &self.narrow, mixed.stored_rows(), convolved)?;
        backend.add_scaled(convolved, Some(&self.narrow_bias), &self.gamma, mixed, signal)
    }
}
