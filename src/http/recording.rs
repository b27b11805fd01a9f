//! Sound packets put together into one piece.

use crate::http::errors::ApiError;
use crate::media::SampleLayout;
use crate::stages::AudioPacket;

/// All sound of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// Samples in [-1, 1], channels interleaved.
    pub samples: Vec<f32>,
    /// What they mean.
    pub layout: SampleLayout,
}

impl Recording {
    /// Appends a packet to a recording, which begins with the first packet that is not empty.
    pub fn append(recording: &mut Option<Self>, packet: AudioPacket) -> Result<(), ApiError> {
        let layout = layout_of(&packet);
        match recording {
            _ if packet.samples.is_empty() => {}
            None => *recording = Some(Self { samples: packet.samples, layout }),
            Some(own) if own.layout == layout => own.samples.extend(packet.samples),
            Some(own) => {
                let (before, now) = (own.layout, layout);
                return Err(ApiError::Internal(format!("the sound changed from {before:?} to {now:?}")));
            }
        }
        Ok(())
    }
}

/// What the samples of a packet mean.
pub fn layout_of(packet: &AudioPacket) -> SampleLayout {
    SampleLayout { sample_rate: packet.sample_rate, channels: packet.channels }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(samples: &[f32], sample_rate: u32) -> AudioPacket {
        AudioPacket { samples: samples.to_vec(), sample_rate, channels: 1 }
    }

    #[test]
    fn packets_follow_one_another_and_empty_ones_count_for_nothing() {
        let mut recording = None;
        Recording::append(&mut recording, packet(&[], 1)).unwrap();
        assert_eq!(recording, None);
        for samples in [&[0.1, 0.2][..], &[], &[0.3]] {
            Recording::append(&mut recording, packet(samples, 24_000)).unwrap();
        }
        assert_eq!(recording.unwrap().samples, [0.1, 0.2, 0.3]);
    }

    #[test]
    fn a_rate_that_changes_is_an_error() {
        let mut recording = None;
        Recording::append(&mut recording, packet(&[0.1], 24_000)).unwrap();
        assert!(Recording::append(&mut recording, packet(&[0.1], 16_000)).is_err());
    }
}
