//! Which rows every stage of the vocoder has to compute.
//!
//! A window of a stream repeats frames that were decoded before, as context. Only its last samples are wanted, and
//! each stage is causal with a known reach, so most of what the context would give need not be computed. The rows
//! are planned backwards from the samples; what is left out does not change a bit of what is kept.

use super::CodecWindow;
use super::decoder::{DILATIONS, TAPS};
use crate::models::qwen3_omni::config::Code2WavConfig;
use crate::tensor::{DeviceError, WindowRows, Windows};

/// Rows that a convolution of [`TAPS`] taps sees before its own.
const REACH: usize = TAPS - 1;

/// The rows of all stages, for all windows of a call.
#[derive(Debug)]
pub(super) struct RowPlan {
    /// The pre-transformer: every frame.
    pub(super) frames: Windows,
    /// The blocks before the decoder.
    pub(super) upsample: Vec<UpsampleRows>,
    /// The decoder's first convolution.
    pub(super) first: Windows,
    /// The decoder's blocks.
    pub(super) blocks: Vec<BlockRows>,
    /// The samples that are wanted.
    pub(super) samples: Windows,
}

/// The rows of an upsampling block.
#[derive(Debug)]
pub(super) struct UpsampleRows {
    /// After the transposed convolution.
    pub(super) raised: Windows,
    /// After the convolution that follows.
    pub(super) mixed: Windows,
}

/// The rows of a decoder block.
#[derive(Debug)]
pub(super) struct BlockRows {
    /// Before the transposed convolution.
    pub(super) entry: Windows,
    /// After it, and after each of the residual units.
    pub(super) units: [Windows; DILATIONS.len() + 1],
}

impl RowPlan {
    pub(super) fn new(config: &Code2WavConfig, windows: &[CodecWindow<'_>]) -> Result<Self, DeviceError> {
        let plans: Vec<WindowPlan> = windows
            .iter()
            .map(|window| {
                WindowPlan::new(config, window.codes.len() / config.num_quantizers, window.keep_from)
            })
            .collect();
        let rows = |pick: &dyn Fn(&WindowPlan) -> WindowRows| Windows::new(plans.iter().map(pick).collect());
        let upsample = (0..config.upsampling_ratios.len())
            .map(|stage| {
                Ok(UpsampleRows {
                    raised: rows(&|plan| plan.upsample[stage].0)?,
                    mixed: rows(&|plan| plan.upsample[stage].1)?,
                })
            })
            .collect::<Result<_, DeviceError>>()?;
        let blocks = (0..config.upsample_rates.len())
            .map(|block| {
                let unit = |unit: usize| rows(&|plan| plan.blocks[block].1[unit]);
                Ok(BlockRows {
                    entry: rows(&|plan| plan.blocks[block].0)?,
                    units: [unit(0)?, unit(1)?, unit(2)?, unit(3)?],
                })
            })
            .collect::<Result<_, DeviceError>>()?;
        Ok(Self {
            frames: rows(&|plan| plan.frames)?,
            upsample,
            first: rows(&|plan| plan.first)?,
            blocks,
            samples: rows(&|plan| plan.samples)?,
        })
    }
}

/// The rows of all stages for one window.
struct WindowPlan {
    /// See [`RowPlan`].
    frames: WindowRows,
    /// Raised and mixed rows of each upsampling block.
    upsample: Vec<(WindowRows, WindowRows)>,
    /// See [`RowPlan`].
    first: WindowRows,
    /// Entry and units of each decoder block.
    blocks: Vec<(WindowRows, [WindowRows; DILATIONS.len() + 1])>,
    /// See [`RowPlan`].
    samples: WindowRows,
}

impl WindowPlan {
    fn new(config: &Code2WavConfig, frames: usize, keep_from: usize) -> Self {
        // The lengths, forwards.
        let ratios = &config.upsampling_ratios;
        let rates = &config.upsample_rates;
        let raised: Vec<usize> = lengths(ratios, frames, |rows, ratio| rows * ratio);
        let decoder_rows = raised.last().copied().unwrap_or(frames);
        let lengths = lengths(rates, decoder_rows, |rows, rate| rows.saturating_sub(1) * rate);
        let samples_end = lengths.last().copied().unwrap_or(decoder_rows);

        // The first rows that are needed, backwards. An origin of 0 is replaced by
        // `set_origins`: a stage's input lies as the stage before has left it.
        let keep_from = keep_from.min(samples_end);
        let mut need = keep_from.saturating_sub(REACH);
        let mut blocks = Vec::with_capacity(rates.len());
        for (stage, (rate, end)) in rates.iter().zip(&lengths).enumerate().rev() {
            let mut firsts = [need; DILATIONS.len() + 1];
            for (unit, dilation) in DILATIONS.iter().enumerate().rev() {
                need = need.saturating_sub(REACH * dilation);
                firsts[unit] = need;
            }
            need /= rate;
            let origin = need * rate;
            firsts[0] = origin;
            let entry_end =
                stage.checked_sub(1).and_then(|before| lengths.get(before).copied()).unwrap_or(decoder_rows);
            let need_here = need.min(entry_end);
            let units = firsts.map(|first| WindowRows { origin, first: first.min(*end), end: *end });
            blocks.push((WindowRows { origin: 0, first: need_here, end: entry_end }, units));
            need = need_here;
        }
        blocks.reverse();
        let first = WindowRows { origin: 0, first: need.min(decoder_rows), end: decoder_rows };
        need = need.saturating_sub(REACH);
        let mut upsample = Vec::with_capacity(ratios.len());
        for (ratio, end) in ratios.iter().zip(&raised).rev() {
            let mixed = need.min(*end);
            need = need.saturating_sub(REACH) / ratio;
            let origin = need * ratio;
            let rows = |first| WindowRows { origin, first, end: *end };
            upsample.push((rows(origin), rows(mixed)));
        }
        upsample.reverse();
        let samples = WindowRows { origin: 0, first: keep_from, end: samples_end };
        let mut plan = Self {
            frames: WindowRows { origin: 0, first: 0, end: frames },
            upsample,
            first,
            blocks,
            samples,
        };
        plan.set_origins();
        plan
    }

    /// Fills in the origins of stages that work on rows as the stage before has left them.
    fn set_origins(&mut self) {
        let mut origin = self.upsample.last().map_or(self.frames.origin, |(_, mixed)| mixed.origin);
        self.first.origin = origin;
        for (entry, units) in &mut self.blocks {
            entry.origin = origin;
            origin = units[0].origin;
        }
        self.samples.origin = origin;
    }
}

/// The rows after each of several stages.
fn lengths(factors: &[usize], rows: usize, step: impl Fn(usize, usize) -> usize) -> Vec<usize> {
    factors
        .iter()
        .scan(rows, |rows, factor| {
            *rows = step(*rows, *factor);
            Some(*rows)
        })
        .collect()
}
