//! The vocoder: frames of codec codes in, samples out.
//!
//! Codes are embedded and averaged over the codebooks, a small causal transformer with a sliding window mixes the
//! frames, and a stack of transposed and causal convolutions brings the frame rate up to the sample rate.

mod decoder;
mod load;
mod pre_transformer;
mod rows;
pub mod streaming;
#[cfg(test)]
mod tests;
mod upsampler;
mod workspace;

pub use streaming::{CodecStream, Demand, StreamWindow, StreamingSchedule};
pub use workspace::Code2WavWorkspace;

use self::decoder::WaveDecoder;
use self::load::Weights;
use self::pre_transformer::PreTransformer;
use self::rows::RowPlan;
use self::upsampler::UpsampleBlock;
use super::config::Code2WavConfig;
use crate::models::LoadError;
use crate::tensor::{Convolution, DeviceError, Dtype, InputRows, WeightStore};

/// Samples of a second of its output.
pub const SAMPLE_RATE: u32 = 24_000;

/// The vocoder.
pub struct Code2Wav<B: Convolution + InputRows> {
    /// The device that holds it.
    backend: B,
    /// Its dimensions.
    config: Code2WavConfig,
    /// The codebooks one after the other, `[quantizers * codebook, hidden]`.
    embedding: B::Matrix,
    /// Mixes frames.
    pre_transformer: PreTransformer<B>,
    /// Bring the frame rate up before the decoder.
    upsample: Vec<UpsampleBlock<B>>,
    /// Brings it up to the sample rate.
    decoder: WaveDecoder<B>,
}

/// A stretch of frames to decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodecWindow<'a> {
    /// The codes of its frames, `[frames, quantizers]`.
    pub codes: &'a [u32],
    /// The first sample of the window that is wanted; what only earlier ones depend on is not computed.
    pub keep_from: usize,
}

/// A place in the vocoder where its rows, channels last, can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code2WavPoint {
    /// The averaged code embeddings, `[frames, hidden]`.
    Embeddings,
    /// The output of the pre-transformer, `[frames, hidden]`.
    PreTransformer,
    /// The input of the decoder, `[rows, hidden]`.
    Upsampled,
    /// The output of the decoder's first convolution (0) or of the block of that number (from 1 on).
    Decoder(usize),
}

/// Is shown the rows of all windows at every point.
pub type Code2WavObserver<'a> = &'a mut (dyn FnMut(Code2WavPoint, &[f32]) + Send);

impl<B: Convolution + InputRows> Code2Wav<B> {
    /// Loads the weights under `code2wav.`.
    pub fn load(
        backend: &B,
        config: &Code2WavConfig,
        store: &WeightStore,
        dtype: Dtype,
    ) -> Result<Self, LoadError> {
        let weights = Weights { backend, store, dtype };
        let hidden = config.hidden_size;
        let codes = config.num_quantizers * config.codebook_size;
        let table = weights.tensor("code2wav.code_embedding.weight", &[codes, hidden])?;
        Ok(Self {
            backend: backend.clone(),
            config: config.clone(),
            embedding: backend.matrix(vec![table])?,
            pre_transformer: PreTransformer::load(&weights, config)?,
            upsample: UpsampleBlock::load_all(&weights, config)?,
            decoder: WaveDecoder::load(&weights, config)?,
        })
    }

    /// Its dimensions.
    pub fn config(&self) -> &Code2WavConfig {
        &self.config
    }

    /// Memory for up to `max_frames` frames, over all windows of a call.
    pub fn new_workspace(&self, max_frames: usize) -> Result<Code2WavWorkspace<B>, DeviceError> {
        Code2WavWorkspace::new(&self.backend, &self.config, max_frames)
    }

    /// Decodes windows. The samples are read from `space`.
    ///
    /// Fails on a code that the codebook does not have and on a row of codes that is not whole.
    pub fn forward(
        &self,
        windows: &[CodecWindow<'_>],
        space: &mut Code2WavWorkspace<B>,
        mut observer: Option<Code2WavObserver<'_>>,
    ) -> Result<(), DeviceError> {
        let ids = self.embedding_ids(windows)?;
        let plan = RowPlan::new(&self.config, windows)?;
        let backend = &self.backend;
        backend.scope(|| {
            let mut show =
                |point, buffer: &B::Buffer, rows: usize, width: usize| match observer.as_deref_mut() {
                    Some(observer) => {
                        let mut staging = Vec::new();
                        observer(point, backend.read(buffer, rows * width, &mut staging)?);
                        Ok(())
                    }
                    None => Ok(()),
                };
            let (frames, hidden) = (plan.frames.stored_rows(), self.config.hidden_size);
            let numbers: Vec<u32> = (0..frames as u32).collect();
            let tables = vec![&self.embedding; self.config.num_quantizers];
            let share = 1.0 / self.config.num_quantizers as f32;
            backend.write(&vec![0.0; frames * hidden], &mut space.signal)?;
            backend.add_embeddings(&tables, &ids, &numbers, share, &mut space.signal)?;
            show(Code2WavPoint::Embeddings, &space.signal, frames, hidden)?;
            self.pre_transformer.forward(backend, &plan.frames, space)?;
            show(Code2WavPoint::PreTransformer, &space.signal, frames, hidden)?;
            let mut input = &plan.frames;
            for (block, rows) in self.upsample.iter().zip(&plan.upsample) {
                block.forward(backend, input, rows, space)?;
                input = &rows.mixed;
            }
            show(Code2WavPoint::Upsampled, &space.signal, input.stored_rows(), hidden)?;
            self.decoder.forward(backend, &plan, space, &mut show)?;
            space.samples = plan.samples;
            Ok(())
        })
    }

    /// The codes as rows of the stacked codebooks, `[frames, quantizers]`.
    fn embedding_ids(&self, windows: &[CodecWindow<'_>]) -> Result<Vec<u32>, DeviceError> {
        let (quantizers, codebook) = (self.config.num_quantizers, self.config.codebook_size as u32);
        let mut ids = Vec::with_capacity(windows.iter().map(|window| window.codes.len()).sum());
        for window in windows {
            if !window.codes.len().is_multiple_of(quantizers) {
                let codes = window.codes.len();
                return Err(DeviceError::Batch(format!(
                    "{codes} codes, which are not frames of {quantizers}"
                )));
            }
            if let Some(code) = window.codes.iter().find(|code| **code >= codebook) {
                return Err(DeviceError::Batch(format!("code {code} where a codebook has {codebook}")));
            }
            let books = (0..quantizers as u32).cycle();
            ids.extend(window.codes.iter().zip(books).map(|(code, book)| code + codebook * book));
        }
        Ok(ids)
    }
}
