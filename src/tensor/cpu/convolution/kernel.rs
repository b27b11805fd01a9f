//! Weights of convolutions in the order in which the CPU reads them.

use half::bf16;

use crate::tensor::error::require_exact;
use crate::tensor::weights::{Element, Elements};
use crate::tensor::{DeviceError, KernelShape, Weight};

/// Output channels that lie side by side in a panel.
pub(super) const LANES: usize = 16;

/// A convolution's weights, cut into panels of [`LANES`] output channels, and its bias.
///
/// A panel is `[taps, in, LANES]`; the last one is filled up with zeros. A transposed convolution has the output
/// rows that belong to one input row side by side as if they were channels.
#[derive(Debug)]
pub struct CpuKernel {
    /// Its extents.
    pub(super) shape: KernelShape,
    /// The panels, in the type in which the weights are stored.
    pub(super) panels: Panels,
    /// The bias, as long as all panels together are wide.
    pub(super) bias: Vec<f32>,
}

/// Weights in panels.
#[derive(Debug)]
pub(super) enum Panels {
    /// Brain floats, widened when they are used.
    Bf16(Vec<bf16>),
    /// 32-bit floats.
    F32(Vec<f32>),
}

impl CpuKernel {
    /// From a weight `[out, in, taps]`.
    pub(super) fn causal(weight: &Weight, bias: &Weight, dilation: usize) -> Result<Self, DeviceError> {
        let [out_channels, in_channels, taps] = extents("kernel", weight)?;
        let shape = KernelShape { in_channels, out_channels, taps, dilation, stride: 1 };
        let place = |tap: usize, input: usize, column: usize| (column * in_channels + input) * taps + tap;
        Self::arrange("kernel", weight, bias, shape, place)
    }

    /// From a weight `[in, out, taps * stride]`.
    pub(super) fn transposed(weight: &Weight, bias: &Weight, stride: usize) -> Result<Self, DeviceError> {
        const NAME: &str = "transposed_kernel";
        let [in_channels, out_channels, length] = extents(NAME, weight)?;
        let taps = length / stride.max(1);
        require_exact(NAME, "the weight's length", length, taps * stride)?;
        let shape = KernelShape { in_channels, out_channels, taps, dilation: 1, stride };
        let place = |tap: usize, input: usize, column: usize| {
            let (row, channel) = (column / out_channels, column % out_channels);
            (input * out_channels + channel) * length + row + (taps - 1 - tap) * stride
        };
        Self::arrange(NAME, weight, bias, shape, place)
    }

    /// Brings the weights into panels; `place` says where the weight of a tap, input and column is stored.
    fn arrange(
        operation: &'static str,
        weight: &Weight,
        bias: &Weight,
        shape: KernelShape,
        place: impl Fn(usize, usize, usize) -> usize,
    ) -> Result<Self, DeviceError> {
        let bias = bias.to_f32();
        require_exact(operation, "bias", bias.len(), shape.out_channels)?;
        let columns = shape.out_channels * shape.stride;
        let panels = match &weight.data.0 {
            Elements::Bf16(values) => Panels::Bf16(panels(values.as_slice(), shape, columns, place)),
            Elements::F32(values) => Panels::F32(panels(values.as_slice(), shape, columns, place)),
        };
        let mut wide: Vec<f32> = bias.iter().copied().cycle().take(columns).collect();
        wide.resize(columns.next_multiple_of(LANES), 0.0);
        Ok(Self { shape, panels, bias: wide })
    }

    /// Columns of the product: the output channels of all output rows of one input row.
    pub(super) fn columns(&self) -> usize {
        self.shape.out_channels * self.shape.stride
    }

    /// One weight.
    pub(super) fn weight(&self, tap: usize, input: usize, column: usize) -> f32 {
        let depth = self.shape.taps * self.shape.in_channels;
        let row = tap * self.shape.in_channels + input;
        let place = (column / LANES * depth + row) * LANES + column % LANES;
        match &self.panels {
            Panels::Bf16(values) => values[place].widen(),
            Panels::F32(values) => values[place],
        }
    }
}

/// The three extents of a convolution's weight.
fn extents(operation: &'static str, weight: &Weight) -> Result<[usize; 3], DeviceError> {
    <[usize; 3]>::try_from(weight.shape.as_slice()).map_err(|_| DeviceError::Shape {
        operation,
        operand: "the shape of the weight",
        have: weight.shape.len(),
        need: 3,
    })
}

fn panels<T: Element>(
    values: &[T],
    shape: KernelShape,
    columns: usize,
    place: impl Fn(usize, usize, usize) -> usize,
) -> Vec<T> {
    let depth = shape.taps * shape.in_channels;
    let mut panels = vec![T::zeroed(); columns.next_multiple_of(LANES) * depth];
    for (panel, out) in panels.chunks_exact_mut(depth * LANES).enumerate() {
        let wide = LANES.min(columns - panel * LANES);
        for (row, out) in out.chunks_exact_mut(LANES).enumerate() {
            let (tap, input) = (row / shape.in_channels, row % shape.in_channels);
            for (lane, out) in out.iter_mut().enumerate().take(wide) {
                *out = values[place(tap, input, panel * LANES + lane)];
            }
        }
    }
    panels
}

/// A convolution by channel.
#[derive(Debug)]
pub struct CpuDepthwise {
    /// `[taps, channels]`.
    pub(super) taps: Vec<f32>,
    /// `[channels]`.
    pub(super) bias: Vec<f32>,
}

impl CpuDepthwise {
    /// From a weight `[channels, 1, taps]`.
    pub(super) fn new(weight: &Weight, bias: &Weight) -> Result<Self, DeviceError> {
        const NAME: &str = "depthwise_kernel";
        let [channels, one, length] = extents(NAME, weight)?;
        require_exact(NAME, "channels of a group", one, 1)?;
        let bias = bias.to_f32();
        require_exact(NAME, "bias", bias.len(), channels)?;
        let values = weight.to_f32();
        let taps = (0..length * channels).map(|at| values[at % channels * length + at / channels]).collect();
        Ok(Self { taps, bias })
    }
}

/// The constants of SnakeBeta.
#[derive(Debug)]
pub struct CpuSnake {
    /// `e^alpha` by channel: what is multiplied before the sine.
    pub(super) rate: Vec<f32>,
    /// `1 / (e^beta + 1e-9)` by channel: what is multiplied after it.
    pub(super) height: Vec<f32>,
}

impl CpuSnake {
    /// From the stored logarithms.
    pub(super) fn new(alpha: &Weight, beta: &Weight) -> Result<Self, DeviceError> {
        let (alpha, beta) = (alpha.to_f32(), beta.to_f32());
        require_exact("snake", "beta", beta.len(), alpha.len())?;
        Ok(Self {
            rate: alpha.iter().map(|value| value.exp()).collect(),
            height: beta.iter().map(|value| 1.0 / (value.exp() + 1e-9)).collect(),
        })
    }
}
