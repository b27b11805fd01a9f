//! From rows to samples: blocks that raise the rate and halve the channels, made of convolutions and SnakeBeta.

use super::Code2WavPoint;
use super::load::Weights;
use super::rows::{BlockRows, RowPlan};
use super::workspace::Code2WavWorkspace;
use crate::models::LoadError;
use crate::models::qwen3_omni::config::Code2WavConfig;
use crate::tensor::{Convolution, DeviceError, InputRows};

/// Taps of all convolutions but those of one row.
pub(super) const TAPS: usize = 7;
/// Dilations of the residual units of a block.
pub(super) const DILATIONS: [usize; 3] = [1, 3, 9];

/// The decoder.
pub(super) struct WaveDecoder<B: Convolution> {
    /// To the decoder's channels.
    first: B::Kernel,
    /// Its channels.
    channels: usize,
    /// First to last.
    blocks: Vec<Block<B>>,
    /// Before the last convolution.
    last_snake: B::Snake,
    /// To one channel.
    last: B::Kernel,
}

/// A block that raises the rate.
struct Block<B: Convolution> {
    /// Before the transposed convolution.
    snake: B::Snake,
    /// Twice as long as its stride: neighbouring rows overlap.
    raise: B::Kernel,
    /// Channels after it.
    channels: usize,
    /// One for each of [`DILATIONS`].
    units: Vec<ResidualUnit<B>>,
}

/// `x += mix(snake(spread(snake x)))`.
struct ResidualUnit<B: Convolution> {
    /// Before `spread`.
    spread_snake: B::Snake,
    /// Over rows at the unit's dilation.
    spread: B::Kernel,
    /// Before `mix`.
    mix_snake: B::Snake,
    /// Over channels.
    mix: B::Kernel,
}

impl<B: Convolution + InputRows> WaveDecoder<B> {
    /// Loads `code2wav.decoder`.
    pub(super) fn load(weights: &Weights<'_, B>, config: &Code2WavConfig) -> Result<Self, LoadError> {
        let name = |index: usize| format!("code2wav.decoder.{index}");
        let mut channels = config.decoder_dim;
        let first =
            weights.convolution(&format!("{}.conv", name(0)), [channels, config.hidden_size, TAPS], 1)?;
        let mut blocks = Vec::with_capacity(config.upsample_rates.len());
        for (index, rate) in config.upsample_rates.iter().enumerate() {
            blocks.push(Block::load(weights, &format!("{}.block", name(index + 1)), channels, *rate)?);
            channels /= 2;
        }
        let end = blocks.len() + 1;
        Ok(Self {
            first,
            channels: config.decoder_dim,
            blocks,
            last_snake: weights.snake(&name(end), channels)?,
            last: weights.convolution(&format!("{}.conv", name(end + 1)), [1, channels, TAPS], 1)?,
        })
    }

    /// Takes `space.signal` from the vocoder's hidden rows to samples.
    pub(super) fn forward(
        &self,
        backend: &B,
        plan: &RowPlan,
        space: &mut Code2WavWorkspace<B>,
        show: &mut impl FnMut(Code2WavPoint, &B::Buffer, usize, usize) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        backend.convolve(&space.signal, &self.first, &plan.first, &mut space.convolved)?;
        std::mem::swap(&mut space.signal, &mut space.convolved);
        show(Code2WavPoint::Decoder(0), &space.signal, plan.first.stored_rows(), self.channels)?;
        for (index, (block, rows)) in self.blocks.iter().zip(&plan.blocks).enumerate() {
            block.forward(backend, rows, space)?;
            let stored = rows.units.last().map_or(0, |rows| rows.stored_rows());
            show(Code2WavPoint::Decoder(index + 1), &space.signal, stored, block.channels)?;
        }
        let before_last = plan.blocks.last().and_then(|block| block.units.last()).unwrap_or(&plan.first);
        backend.snake_beta(&space.signal, &self.last_snake, before_last, &mut space.activated)?;
        backend.convolve(&space.activated, &self.last, &plan.samples, &mut space.signal)?;
        backend.clamp(&mut space.signal, 1, &plan.samples)
    }
}

impl<B: Convolution + InputRows> Block<B> {
    fn load(weights: &Weights<'_, B>, prefix: &str, channels: usize, rate: usize) -> Result<Self, LoadError> {
        let halved = channels / 2;
        let units = DILATIONS
            .iter()
            .enumerate()
            .map(|(index, dilation)| {
                let unit = |part: &str| format!("{prefix}.{}.{part}", index + 2);
                Ok(ResidualUnit {
                    spread_snake: weights.snake(&unit("act1"), halved)?,
                    spread: weights.convolution(&unit("conv1.conv"), [halved, halved, TAPS], *dilation)?,
                    mix_snake: weights.snake(&unit("act2"), halved)?,
                    mix: weights.convolution(&unit("conv2.conv"), [halved, halved, 1], 1)?,
                })
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        Ok(Self {
            snake: weights.snake(&format!("{prefix}.0"), channels)?,
            raise: weights.transposed(&format!("{prefix}.1.conv"), [channels, halved, 2], rate)?,
            channels: halved,
            units,
        })
    }

    fn forward(
        &self,
        backend: &B,
        rows: &BlockRows,
        space: &mut Code2WavWorkspace<B>,
    ) -> Result<(), DeviceError> {
        let (signal, activated, convolved) = (&mut space.signal, &mut space.activated, &mut space.convolved);
        backend.snake_beta(signal, &self.snake, &rows.entry, activated)?;
        let [raised, ..] = &rows.units;
        backend.upsample(activated, &rows.entry, &self.raise, raised, convolved)?;
        std::mem::swap(signal, convolved);
        for (unit, pair) in self.units.iter().zip(rows.units.windows(2)) {
            let [before, after] = pair else { continue };
            backend.snake_beta(signal, &unit.spread_snake, before, activated)?;
            backend.convolve(activated, &unit.spread, after, convolved)?;
            backend.snake_beta(convolved, &unit.mix_snake, after, activated)?;
            backend.convolve_add(activated, &unit.mix, after, signal)?;
        }
        Ok(())
    }
}
