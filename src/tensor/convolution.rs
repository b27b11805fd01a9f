//! Operations of networks that turn rows into a signal: convolutions over time and what stands between them.
//!
//! Signals lie channels last, `[rows, channels]`, row after row of one window after the other. A convolution with
//! `k` taps is then `k` matrix products over shifted rows, and a transposed convolution one product whose output
//! rows are already in order of time. What a window gets does not depend on the other windows of the batch.
//!
//! Every operation computes rows `first..end` of each window and leaves the others as they are.

use super::{AttentionShape, Backend, DeviceError, Weight, Windows};

/// The extents of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelShape {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output; for a transposed convolution of one output row.
    pub out_channels: usize,
    /// Input rows that an output row depends on.
    pub taps: usize,
    /// Distance between these rows.
    pub dilation: usize,
    /// Output rows for each input row; 1 but for transposed convolutions.
    pub stride: usize,
}

impl KernelShape {
    /// How many rows before its own an output row of a causal convolution sees.
    pub fn reach(&self) -> usize {
        self.taps.saturating_sub(1) * self.dilation
    }
}

/// A device that carries out convolutions.
///
/// As with [`Backend`], every operation fails with [`DeviceError::Shape`] when a buffer is too small for it, and
/// changes nothing then.
pub trait Convolution: Backend {
    /// Weights and bias of a convolution, laid out for the device.
    type Kernel: Send + Sync;
    /// Weights and bias of a convolution that treats each channel for itself.
    type Depthwise: Send + Sync;
    /// The two constants of SnakeBeta for each channel.
    type Snake: Send + Sync;

    /// Takes over a convolution: weight `[out, in, taps]`, bias `[out]`.
    fn kernel(&self, weight: &Weight, bias: &Weight, dilation: usize) -> Result<Self::Kernel, DeviceError>;

    /// Takes over a transposed convolution: weight `[in, out, taps * stride]`, bias `[out]`.
    fn transposed_kernel(
        &self,
        weight: &Weight,
        bias: &Weight,
        stride: usize,
    ) -> Result<Self::Kernel, DeviceError>;

    /// Takes over a convolution by channel: weight `[channels, 1, taps]`, bias `[channels]`.
    fn depthwise_kernel(&self, weight: &Weight, bias: &Weight) -> Result<Self::Depthwise, DeviceError>;

    /// Takes over the constants of SnakeBeta, both `[channels]` and stored as logarithms.
    fn snake(&self, alpha: &Weight, beta: &Weight) -> Result<Self::Snake, DeviceError>;

    /// Causal convolution: `out[t] = bias + Σ_j W_j · x[t - (taps - 1 - j) * dilation]`, where rows before the
    /// window are zero. `[rows, in]` gives `[rows, out]`.
    fn convolve(
        &self,
        x: &Self::Buffer,
        kernel: &Self::Kernel,
        windows: &Windows,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// As [`convolve`](Self::convolve), added to what is in `out`.
    fn convolve_add(
        &self,
        x: &Self::Buffer,
        kernel: &Self::Kernel,
        windows: &Windows,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// Transposed convolution that lacks the first and last `(taps - 1) * stride` rows of the full result:
    /// with `q = t / stride` and `r = t % stride`, `out[t] = bias + Σ_d W_(r + d * stride) · x[q + taps - 1 - d]`.
    ///
    /// `n` rows of a window give `(n - taps + 1) * stride`. `input` and `output` describe the windows before and
    /// after; `first` and `origin` of an output are multiples of the stride.
    fn upsample(
        &self,
        x: &Self::Buffer,
        input: &Windows,
        kernel: &Self::Kernel,
        output: &Windows,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// Causal convolution of each channel with its own taps: `[rows, channels]` gives the same.
    fn depthwise(
        &self,
        x: &Self::Buffer,
        kernel: &Self::Depthwise,
        windows: &Windows,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// SnakeBeta: `out = x + sin(x * e^alpha)² / (e^beta + 1e-9)` (Ziyin, Hartwig and Ueda 2020, with the beta of
    /// BigVGAN).
    fn snake_beta(
        &self,
        x: &Self::Buffer,
        snake: &Self::Snake,
        windows: &Windows,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `out = (x - mean) / sqrt(variance + eps) * gain + bias`, each row for itself; the width is the gain's.
    fn layer_norm(
        &self,
        x: &Self::Buffer,
        gain: &Self::Vector,
        bias: &Self::Vector,
        eps: f32,
        windows: &Windows,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `x = gelu(x + bias)` with `gelu(v) = v / 2 * (1 + erf(v / √2))`; the width is the bias's.
    fn bias_gelu(
        &self,
        x: &mut Self::Buffer,
        bias: &Self::Vector,
        windows: &Windows,
    ) -> Result<(), DeviceError>;

    /// `out += scale * (delta + bias)` by channel; the width is the scale's. Without a bias it is zero.
    fn add_scaled(
        &self,
        delta: &Self::Buffer,
        bias: Option<&Self::Vector>,
        scale: &Self::Vector,
        windows: &Windows,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// Causal attention inside each window: row `i` sees rows `j` with `i - sliding < j <= i`.
    ///
    /// `qkv` is `[rows, queries | keys | values]`; queries and keys are turned in place by the row of `table`,
    /// `[positions, cosines | sines]`, that belongs to their place in the window, as in
    /// [`Backend::norm_rotate_store`]. Scores are scaled by `head_dim^-0.5`. Every row of a window is computed;
    /// `out` is `[rows, heads * head_dim]`.
    fn window_attention(
        &self,
        qkv: &mut Self::Buffer,
        table: &Self::Vector,
        shape: AttentionShape,
        sliding: usize,
        windows: &Windows,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// Limits every value of rows of `width` to `[-1, 1]`.
    fn clamp(&self, x: &mut Self::Buffer, width: usize, windows: &Windows) -> Result<(), DeviceError>;
}
