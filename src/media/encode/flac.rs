//! FLAC with 16-bit samples.

use std::fmt::Debug;

use flacenc::bitsink::ByteSink;
use flacenc::component::BitRepr;
use flacenc::config;
use flacenc::error::Verify;
use flacenc::source::MemSource;

use super::{AudioFormat, EncodeError, quantise};
use crate::media::SampleLayout;

/// The most channels of a FLAC file.
const MAX_CHANNELS: u16 = 8;
/// The highest rate that every player of the format takes.
const MAX_SAMPLE_RATE: u32 = 96_000;
/// Bits of a sample.
const BITS: usize = 16;

/// Writes a complete file.
pub(super) fn encode(samples: &[f32], layout: SampleLayout) -> Result<Vec<u8>, EncodeError> {
    let SampleLayout { sample_rate, channels } = layout;
    if channels > MAX_CHANNELS || sample_rate > MAX_SAMPLE_RATE {
        return Err(super::unfit(AudioFormat::Flac, layout));
    }
    let integers: Vec<i32> = samples.iter().map(|sample| i32::from(quantise(*sample))).collect();
    let source = MemSource::from_samples(&integers, channels.into(), BITS, sample_rate as usize);
    let config = config::Encoder::default().into_verified().map_err(|(_, error)| failure(error))?;
    let mut stream =
        flacenc::encode_with_fixed_block_size(&config, source, config.block_size).map_err(failure)?;
    // The block sizes in the head leave the last block out, which may be shorter; readers refuse them below 16.
    stream.stream_info_mut().set_block_sizes(config.block_size, config.block_size).map_err(failure)?;
    let mut sink = ByteSink::new();
    stream.write(&mut sink).map_err(failure)?;
    Ok(sink.into_inner())
}

fn failure(error: impl Debug) -> EncodeError {
    EncodeError::Encoder { format: AudioFormat::Flac.word(), message: format!("{error:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What another implementation finds in the file.
    fn decode(file: &[u8]) -> (u32, u32, Option<u64>, Vec<i32>) {
        let mut reader = claxon::FlacReader::new(file).unwrap();
        let info = reader.streaminfo();
        let samples = reader.samples().map(Result::unwrap).collect();
        (info.sample_rate, info.channels, info.samples, samples)
    }

    #[test]
    fn every_sample_comes_back_whatever_the_length_and_number_of_channels() {
        for (frames, channels) in [(1, 1), (31, 1), (4096, 1), (10_000, 1), (5000, 2)] {
            let samples: Vec<f32> =
                (0..frames * channels).map(|index| (index as f32 * 0.05).sin() * 0.7).collect();
            let layout = SampleLayout { sample_rate: 24_000, channels: channels as u16 };
            let (rate, found, total, decoded) = decode(&encode(&samples, layout).unwrap());
            assert_eq!((rate, found, total), (24_000, channels as u32, Some(frames as u64)));
            let expected: Vec<i32> = samples.iter().map(|sample| i32::from(quantise(*sample))).collect();
            assert_eq!(decoded, expected, "{frames} frames");
        }
    }

    #[test]
    fn a_tone_takes_less_room_than_its_samples() {
        let samples: Vec<f32> = (0..24_000).map(|index| (index as f32 * 0.05).sin() * 0.7).collect();
        let file = encode(&samples, SampleLayout { sample_rate: 24_000, channels: 1 }).unwrap();
        assert!(file.len() < samples.len() * 2, "{}", file.len());
    }
}
