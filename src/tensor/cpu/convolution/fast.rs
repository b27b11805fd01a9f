//! Convolutions on all cores with the widest vectors. Operations that cost little are those of [`Plain`].

use super::kernel::{CpuDepthwise, CpuKernel, CpuSnake};
use super::plain::{check_rows, computed, gelu_rows};
use super::product::{Store, convolve};
use super::snake::SnakeRows;
use super::span;
use crate::tensor::cpu::memory::{CpuBuffer, CpuVector};
use crate::tensor::cpu::simd::dispatch;
use crate::tensor::cpu::{Cpu, Plain};
use crate::tensor::error::require;
use crate::tensor::{AttentionShape, Convolution, DeviceError, Weight, Windows};

/// Values that a task of an activation works on.
const TASK: usize = 1 << 13;

impl Convolution for Cpu {
    type Kernel = CpuKernel;
    type Depthwise = CpuDepthwise;
    type Snake = CpuSnake;

    fn kernel(&self, weight: &Weight, bias: &Weight, dilation: usize) -> Result<CpuKernel, DeviceError> {
        Plain.kernel(weight, bias, dilation)
    }

    fn transposed_kernel(
        &self,
        weight: &Weight,
        bias: &Weight,
        stride: usize,
    ) -> Result<CpuKernel, DeviceError> {
        Plain.transposed_kernel(weight, bias, stride)
    }

    fn depthwise_kernel(&self, weight: &Weight, bias: &Weight) -> Result<CpuDepthwise, DeviceError> {
        Plain.depthwise_kernel(weight, bias)
    }

    fn snake(&self, alpha: &Weight, beta: &Weight) -> Result<CpuSnake, DeviceError> {
        Plain.snake(alpha, beta)
    }

    fn convolve(
        &self,
        x: &CpuBuffer,
        kernel: &CpuKernel,
        windows: &Windows,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        let spans = span::causal(&x.0, kernel, windows, &out.0)?;
        convolve(self.pool(), self.isa(), &x.0, kernel, &spans, Store::Replace, &mut out.0);
        Ok(())
    }

    fn convolve_add(
        &self,
        x: &CpuBuffer,
        kernel: &CpuKernel,
        windows: &Windows,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        let spans = span::causal(&x.0, kernel, windows, &out.0)?;
        convolve(self.pool(), self.isa(), &x.0, kernel, &spans, Store::Add, &mut out.0);
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
        let spans = span::transposed(&x.0, input, kernel, output, &out.0)?;
        convolve(self.pool(), self.isa(), &x.0, kernel, &spans, Store::Replace, &mut out.0);
        Ok(())
    }

    fn depthwise(
        &self,
        x: &CpuBuffer,
        kernel: &CpuDepthwise,
        windows: &Windows,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        Plain.depthwise(x, kernel, windows, out)
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
        let task = (TASK / width).max(1) * width;
        for range in computed(windows, width) {
            let x = &x.0[range.clone()];
            self.pool().chunks(&mut out.0[range], task, |index, out| {
                let x = &x[index * task..][..out.len()];
                dispatch(self.isa(), SnakeRows { snake, x, out });
            });
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
        Plain.layer_norm(x, gain, bias, eps, windows, out)
    }

    fn bias_gelu(&self, x: &mut CpuBuffer, bias: &CpuVector, windows: &Windows) -> Result<(), DeviceError> {
        let width = bias.0.len();
        require("bias_gelu", "x", x.0.len(), windows.stored_rows() * width)?;
        let task = (TASK / width).max(1) * width;
        for range in computed(windows, width) {
            self.pool().chunks(&mut x.0[range], task, |_, rows| gelu_rows(rows, &bias.0));
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
        Plain.add_scaled(delta, bias, scale, windows, out)
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
        Plain.window_attention(qkv, table, shape, sliding, windows, out)
    }

    fn clamp(&self, x: &mut CpuBuffer, width: usize, windows: &Windows) -> Result<(), DeviceError> {
        Plain.clamp(x, width, windows)
    }
}
