//! Which stretches of which buffers a convolution works on, after checking that they are there.

use super::kernel::CpuKernel;
use crate::tensor::error::{require, require_exact};
use crate::tensor::{DeviceError, Windows};

/// The work of a convolution in one window. A transposed convolution is a causal one whose rows are counted from
/// its last tap and whose output rows for one input row lie side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// Where the window's first stored row begins in the input, in elements.
    pub(super) input: usize,
    /// Which row of the window that is.
    pub(super) origin: usize,
    /// The first row that is computed.
    pub(super) first: usize,
    /// One past the last.
    pub(super) end: usize,
    /// Where the first computed row begins in the output, in elements.
    pub(super) output: usize,
}

/// The spans of a causal convolution.
pub(super) fn causal(
    x: &[f32],
    kernel: &CpuKernel,
    windows: &Windows,
    out: &[f32],
) -> Result<Vec<Span>, DeviceError> {
    let shape = kernel.shape;
    require_exact("convolve", "the kernel's stride", shape.stride, 1)?;
    require("convolve", "x", x.len(), windows.stored_rows() * shape.in_channels)?;
    require("convolve", "out", out.len(), windows.stored_rows() * shape.out_channels)?;
    windows
        .iter()
        .map(|(place, rows)| {
            check_reach(kernel, rows.origin, rows.first, rows.end)?;
            Ok(Span {
                input: place * shape.in_channels,
                origin: rows.origin,
                first: rows.first,
                end: rows.end,
                output: (place + rows.first - rows.origin) * shape.out_channels,
            })
        })
        .collect()
}

/// The spans of a transposed convolution.
pub(super) fn transposed(
    x: &[f32],
    input: &Windows,
    kernel: &CpuKernel,
    output: &Windows,
    out: &[f32],
) -> Result<Vec<Span>, DeviceError> {
    const NAME: &str = "upsample";
    let shape = kernel.shape;
    require(NAME, "x", x.len(), input.stored_rows() * shape.in_channels)?;
    require(NAME, "out", out.len(), output.stored_rows() * shape.out_channels)?;
    require_exact(NAME, "windows of the output", output.len(), input.len())?;
    let last_tap = shape.taps.saturating_sub(1);
    input
        .iter()
        .zip(output.iter())
        .map(|((from, before), (to, after))| {
            require_exact(
                NAME,
                "rows of an output window",
                after.end,
                before.end.saturating_sub(last_tap) * shape.stride,
            )?;
            if !after.first.is_multiple_of(shape.stride) || !after.origin.is_multiple_of(shape.stride) {
                return Err(DeviceError::Batch(format!(
                    "output rows {after:?} with stride {}",
                    shape.stride
                )));
            }
            let (first, end) = (after.first / shape.stride + last_tap, after.end / shape.stride + last_tap);
            if first < end {
                check_reach(kernel, before.origin, first, before.end)?;
            }
            Ok(Span {
                input: from * shape.in_channels,
                origin: before.origin,
                first,
                end,
                output: (to + after.first - after.origin) * shape.out_channels,
            })
        })
        .collect()
}

/// Whether the stored rows begin early enough for the first that is computed.
pub(super) fn check_reach(
    kernel: &CpuKernel,
    origin: usize,
    first: usize,
    end: usize,
) -> Result<(), DeviceError> {
    if first == end || origin <= first.saturating_sub(kernel.shape.reach()) {
        return Ok(());
    }
    Err(DeviceError::Batch(format!(
        "row {first} of a window needs {} rows before it, and they are kept from {origin} on",
        kernel.shape.reach()
    )))
}
