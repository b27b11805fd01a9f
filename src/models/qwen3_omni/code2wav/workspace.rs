//! The vocoder's memory, made once for the most frames of a call.

use super::pre_transformer::attention_shape;
use super::upsampler::EXPANSION;
use crate::models::qwen3_omni::config::Code2WavConfig;
use crate::tensor::{Convolution, DeviceError, RotarySpec, Weight, Windows};

/// Buffers for one call at a time. They hold nothing between calls but the samples.
pub struct Code2WavWorkspace<B: Convolution> {
    /// The device that the buffers are on.
    backend: B,
    /// What runs through all stages, `[rows, channels]`; at the end the samples.
    pub(super) signal: B::Buffer,
    /// What an activation gives.
    pub(super) activated: B::Buffer,
    /// What a convolution gives.
    pub(super) convolved: B::Buffer,
    /// For the pre-transformer.
    pub(super) pre_transformer: PreTransformerSpace<B>,
    /// Where the samples of the last call lie.
    pub(super) samples: Windows,
    /// Where samples are shown when the device has memory of its own.
    staging: Vec<f32>,
}

/// Buffers of the pre-transformer.
pub(super) struct PreTransformerSpace<B: Convolution> {
    /// A norm's output, `[frames, hidden]`.
    pub(super) normed: B::Buffer,
    /// `[frames, queries | keys | values]`.
    pub(super) qkv: B::Buffer,
    /// What the heads gathered, `[frames, heads * head_dim]`.
    pub(super) attended: B::Buffer,
    /// What is added to the signal, `[frames, hidden]`.
    pub(super) delta: B::Buffer,
    /// `[frames, 2 * intermediate]`.
    pub(super) gate_up: B::Buffer,
    /// `[frames, intermediate]`.
    pub(super) gated: B::Buffer,
    /// Cosines and sines of the places in a window, `[frames, head_dim]`.
    pub(super) rotary: B::Vector,
}

impl<B: Convolution> Code2WavWorkspace<B> {
    pub(super) fn new(backend: &B, config: &Code2WavConfig, max_frames: usize) -> Result<Self, DeviceError> {
        let elements = max_frames * widest_frame(config);
        let shape = attention_shape(config);
        Ok(Self {
            backend: backend.clone(),
            signal: backend.buffer(elements)?,
            activated: backend.buffer(elements)?,
            convolved: backend.buffer(elements)?,
            pre_transformer: PreTransformerSpace {
                normed: backend.buffer(max_frames * config.hidden_size)?,
                qkv: backend.buffer(max_frames * shape.qkv_width())?,
                attended: backend.buffer(max_frames * shape.query_width())?,
                delta: backend.buffer(max_frames * config.hidden_size)?,
                gate_up: backend.buffer(max_frames * 2 * config.intermediate_size)?,
                gated: backend.buffer(max_frames * config.intermediate_size)?,
                rotary: backend.vector(&rotary_table(config.rope_theta, shape.head_dim, max_frames)?)?,
            },
            samples: Windows::default(),
            staging: Vec::new(),
        })
    }

    /// Waits for the last call and shows the wanted samples of each of its windows, in `[-1, 1]`.
    pub fn samples(&mut self) -> Result<Vec<&[f32]>, DeviceError> {
        let all = self.backend.read(&self.signal, self.samples.stored_rows(), &mut self.staging)?;
        let window = |(place, rows): (usize, crate::tensor::WindowRows)| {
            all.get(place + rows.first - rows.origin..place + rows.end - rows.origin).unwrap_or_default()
        };
        Ok(self.samples.iter().map(window).collect())
    }
}

/// The most values that any stage has for a frame.
fn widest_frame(config: &Code2WavConfig) -> usize {
    let mut rows = 1;
    let mut widest = config.hidden_size;
    for ratio in &config.upsampling_ratios {
        rows *= ratio;
        widest = widest.max(rows * EXPANSION * config.hidden_size);
    }
    let mut channels = config.decoder_dim;
    widest = widest.max(rows * channels);
    for rate in &config.upsample_rates {
        rows *= rate;
        channels /= 2;
        widest = widest.max(rows * channels);
    }
    widest.max(rows)
}

/// Cosines and then sines of `position / theta^(2i / head_dim)`, `[positions, head_dim]`.
fn rotary_table(theta: f32, head_dim: usize, positions: usize) -> Result<Weight, DeviceError> {
    let spec = RotarySpec::new(theta, head_dim, [0; 3]);
    let mut values = Vec::with_capacity(positions * head_dim);
    for position in 0..positions {
        let angles = spec.inverse_frequencies.iter().map(|frequency| position as f32 * frequency);
        values.extend(angles.clone().map(f32::cos));
        values.extend(angles.map(f32::sin));
    }
    let have = values.len();
    Weight::from_f32(vec![positions, head_dim], values).ok_or(DeviceError::Shape {
        operation: "rotary table",
        operand: "values",
        have,
        need: positions * head_dim,
    })
}
