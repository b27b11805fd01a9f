//! Convolutions and what stands between them by straightforward loops. This is what the operations mean.

use super::attention::window_attention;
use super::kernel::{CpuDepthwise, CpuKernel, CpuSnake};
use super::span::{self, Span};
use crate::tensor::cpu::Plain;
use crate::tensor::cpu::memory::{CpuBuffer, CpuVector};
use crate::tensor::error::{require, require_exact};
use crate::tensor::{AttentionShape, Convolution, DeviceError, Weight, Windows};

impl Convolution for Plain {
    type Kernel = CpuKernel;
    type Depthwise = CpuDepthwise;
    type Snake = CpuSnake;

    fn kernel(&self, weight: &Weight, bias: &Weight, dilation: usize) -> Result<CpuKernel, DeviceError> {
        CpuKernel::causal(weight, bias, dilation)
    }

    fn transposed_kernel(
        &self,
        weight: &Weight,
        bias: &Weight,
        stride: usize,
    ) -> Result<CpuKernel, DeviceError> {
        CpuKernel::transposed(weight, bias, stride)
    }

    fn depthwise_kernel(&self, weight: &Weight, bias: &Weight) -> Result<CpuDepthwise, DeviceError> {
        CpuDepthwise::new(weight, bias)
    }

    fn snake(&self, alpha: &Weight, beta: &Weight) -> Result<CpuSnake, DeviceError> {
        CpuSnake::new(alpha, beta)
    }

    fn convolve(
        &self,
        x: &CpuBuffer,
        kernel: &CpuKernel,
        windows: &Windows,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        for span in span::causal(&x.0, kernel, windows, &out.0)? {
            products(&x.0, kernel, span, &mut out.0, |out, value| *out = value);
        }
        Ok(())
    }

    fn convolve_add(
        &self,
        x: &CpuBuffer,
        kernel: &CpuKernel,
        windows: &Windows,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        for span in span::causal(&x.0, kernel, windows, &out.0)? {
            products(&x.0, kernel, span, &mut out.0, |out, value| *out += value);
        }
        Ok(())
    }

    fn upsample(
        &self,
        x: &CpuBuffer,
        input: &Windows,
        kernel: &CpuKernel,
        output: &Windows,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        for span in span::transposed(&x.0, input, kernel, output, &out.0)? {
            products(&x.0, kernel, span, &mut out.0, |out, value| *out = value);
        }
        Ok(())
    }

    fn depthwise(
        &self,
        x: &CpuBuffer,
        kernel: &CpuDepthwise,
        windows: &Windows,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        let width = kernel.bias.len();
        let reach = kernel.taps.len() / width.max(1);
        check_rows("depthwise", x, width, windows, out)?;
        for (place, rows) in windows.iter() {
            for row in rows.first..rows.end {
                let out = &mut out.0[(place + row - rows.origin) * width..][..width];
                out.copy_from_slice(&kernel.bias);
                for (tap, taps) in kernel.taps.chunks_exact(width).enumerate() {
                    // Tap `tap` reads the row `reach - 1 - tap` before this one.
                    let Some(from) = (row + tap + 1).checked_sub(reach) else { continue };
                    let Some(from) = from.checked_sub(rows.origin) else {
                        return Err(DeviceError::Batch(format!(
                            "depthwise row {row} with rows kept from {}",
                            rows.origin
                        )));
                    };
                    let x = &x.0[(place + from) * width..][..width];
                    for ((out, x), tap) in out.iter_mut().zip(x).zip(taps) {
                        *out += tap * x;
                    }
                }
            }
        }
        Ok(())
    }

    fn snake_beta(
        &self,
        x: &CpuBuffer,
        snake: &CpuSnake,
        windows: &Windows,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        let width = snake.rate.len();
        check_rows("snake_beta", x, width, windows, out)?;
        for range in computed(windows, width) {
            let rows = x.0[range.clone()].chunks_exact(width).zip(out.0[range].chunks_exact_mut(width));
            for (x, out) in rows {
                for (((out, x), rate), height) in out.iter_mut().zip(x).zip(&snake.rate).zip(&snake.height) {
                    let sine = (x * rate).sin();
                    *out = x + height * (sine * sine);
                }
            }
        }
        Ok(())
    }

    fn layer_norm(
        &self,
        x: &CpuBuffer,
        gain: &CpuVector,
        bias: &CpuVector,
        eps: f32,
        windows: &Windows,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        let width = gain.0.len();
        require_exact("layer_norm", "bias", bias.0.len(), width)?;
        check_rows("layer_norm", x, width, windows, out)?;
        for range in computed(windows, width) {
            let rows = x.0[range.clone()].chunks_exact(width).zip(out.0[range].chunks_exact_mut(width));
            for (x, out) in rows {
                let mean = x.iter().sum::<f32>() / width as f32;
                let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width as f32;
                let scale = 1.0 / (variance + eps).sqrt();
                for (((out, x), gain), bias) in out.iter_mut().zip(x).zip(&gain.0).zip(&bias.0) {
                    *out = (x - mean) * scale * gain + bias;
                }
            }
        }
        Ok(())
    }

    fn bias_gelu(&self, x: &mut CpuBuffer, bias: &CpuVector, windows: &Windows) -> Result<(), DeviceError> {
        let width = bias.0.len();
        require("bias_gelu", "x", x.0.len(), windows.stored_rows() * width)?;
        for range in computed(windows, width) {
            gelu_rows(&mut x.0[range], &bias.0);
        }
        Ok(())
    }

    fn add_scaled(
        &self,
        delta: &CpuBuffer,
        bias: Option<&CpuVector>,
        scale: &CpuVector,
        windows: &Windows,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        let width = scale.0.len();
        if let Some(bias) = bias {
            require_exact("add_scaled", "bias", bias.0.len(), width)?;
        }
        check_rows("add_scaled", delta, width, windows, out)?;
        for range in computed(windows, width) {
            let rows = delta.0[range.clone()].chunks_exact(width).zip(out.0[range].chunks_exact_mut(width));
            for (delta, out) in rows {
                for (channel, (out, delta)) in out.iter_mut().zip(delta).enumerate() {
                    let bias = bias.map_or(0.0, |bias| bias.0[channel]);
                    *out += scale.0[channel] * (delta + bias);
                }
            }
        }
        Ok(())
    }

    fn window_attention(
        &self,
        qkv: &mut CpuBuffer,
        table: &CpuVector,
        shape: AttentionShape,
        sliding: usize,
        windows: &Windows,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        window_attention(qkv, table, shape, sliding, windows, out)
    }

    fn clamp(&self, x: &mut CpuBuffer, width: usize, windows: &Windows) -> Result<(), DeviceError> {
        require("clamp", "x", x.0.len(), windows.stored_rows() * width)?;
        for range in computed(windows, width) {
            x.0[range].iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
        }
        Ok(())
    }
}

/// `gelu(x + bias)` of rows as wide as the bias.
pub(super) fn gelu_rows(x: &mut [f32], bias: &[f32]) {
    for x in x.chunks_exact_mut(bias.len()) {
        for (x, bias) in x.iter_mut().zip(bias) {
            let value = *x + bias;
            *x = 0.5 * value * (1.0 + libm::erff(value * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

/// The elements of the computed rows of each window.
pub(super) fn computed(windows: &Windows, width: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    windows.iter().map(move |(place, rows)| {
        (place + rows.first - rows.origin) * width..(place + rows.end - rows.origin) * width
    })
}

/// Whether two buffers hold the rows of all windows.
pub(super) fn check_rows(
    operation: &'static str,
    x: &CpuBuffer,
    width: usize,
    windows: &Windows,
    out: &CpuBuffer,
) -> Result<(), DeviceError> {
    require(operation, "x", x.0.len(), windows.stored_rows() * width)?;
    require(operation, "out", out.0.len(), windows.stored_rows() * width)
}

/// The products of one window; `store` puts a result into its place.
fn products(x: &[f32], kernel: &CpuKernel, span: Span, out: &mut [f32], store: impl Fn(&mut f32, f32)) {
    let shape = kernel.shape;
    let columns = kernel.columns();
    let rows = out[span.output..].chunks_exact_mut(columns);
    for (row, out) in (span.first..span.end).zip(rows) {
        for (column, out) in out.iter_mut().enumerate() {
            let mut sum = 0.0;
            for tap in 0..shape.taps {
                let back = (shape.taps - 1 - tap) * shape.dilation;
                let Some(from) = row.checked_sub(back) else { continue };
                let x = &x[span.input + (from - span.origin) * shape.in_channels..][..shape.in_channels];
                for (input, x) in x.iter().enumerate() {
                    sum += x * kernel.weight(tap, input, column);
                }
            }
            store(out, sum + kernel.bias[column]);
        }
    }
}
