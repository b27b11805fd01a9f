//! Samples to files, one format a file.
//!
//! MP3 and AAC are left out: their encoders carry licences that do not go with this project's.

mod flac;
mod opus;
mod pcm;
mod wav;

use thiserror::Error;

pub use self::pcm::quantise;
use crate::media::SampleLayout;

/// How sound is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AudioFormat {
    /// RIFF WAVE with 16-bit samples.
    #[default]
    Wav,
    /// Bare 16-bit little-endian samples without any header.
    Pcm16,
    /// FLAC with 16-bit samples: lossless, about half the size.
    Flac,
    /// Opus in an Ogg file: lossy, about a tenth of the size.
    Opus,
}

/// Why samples could not be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// There are no samples, or the rate or number of channels is 0.
    #[error("there is no sound to write")]
    Empty,
    /// The format cannot hold this rate or number of channels.
    #[error("{format} cannot hold {channels} channel(s) of {sample_rate} samples per second")]
    Layout {
        /// The word of the format.
        format: &'static str,
        /// Samples per second and channel.
        sample_rate: u32,
        /// Number of channels.
        channels: u16,
    },
    /// There is more sound than the format can hold.
    #[error("{samples} samples are more than one {format} file holds")]
    TooLong {
        /// The word of the format.
        format: &'static str,
        /// Samples over all channels.
        samples: usize,
    },
    /// The encoder failed.
    #[error("the {format} encoder failed: {message}")]
    Encoder {
        /// The word of the format.
        format: &'static str,
        /// What it says.
        message: String,
    },
}

impl EncodeError {
    /// A stable word for the kind of error.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "audio_empty",
            Self::Layout { .. } => "audio_layout",
            Self::TooLong { .. } => "audio_too_long",
            Self::Encoder { .. } => "audio_encoder",
        }
    }
}

impl AudioFormat {
    /// All formats, the default one first.
    pub const ALL: [Self; 4] = [Self::Wav, Self::Pcm16, Self::Flac, Self::Opus];

    /// The word for the format in requests and answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Wav => "wav",
            Self::Pcm16 => "pcm16",
            Self::Flac => "flac",
            Self::Opus => "opus",
        }
    }

    /// The format of a word in a request; `pcm` is another name of `pcm16`.
    pub fn from_word(word: &str) -> Option<Self> {
        let word = if word == "pcm" { "pcm16" } else { word };
        Self::ALL.into_iter().find(|format| format.word() == word)
    }

    /// Whether pieces of a sound that were encoded one by one play on without a seam. FLAC and Opus are coded in
    /// blocks that the pieces do not fill, and Opus predicts each block from the one before.
    pub fn joins(self) -> bool {
        matches!(self, Self::Wav | Self::Pcm16)
    }
}

/// Writes `samples`, interleaved and in [-1, 1], as one complete file.
pub fn encode(format: AudioFormat, samples: &[f32], layout: SampleLayout) -> Result<Vec<u8>, EncodeError> {
    if samples.is_empty() || layout.sample_rate == 0 || layout.channels == 0 {
        return Err(EncodeError::Empty);
    }
    match format {
        AudioFormat::Wav => wav::encode(samples, layout),
        AudioFormat::Pcm16 => Ok(pcm::encode(samples)),
        AudioFormat::Flac => flac::encode(samples, layout),
        AudioFormat::Opus => opus::encode(samples, layout),
    }
}

/// The layout that a format cannot hold.
fn unfit(format: AudioFormat, layout: SampleLayout) -> EncodeError {
    let SampleLayout { sample_rate, channels } = layout;
    EncodeError::Layout { format: format.word(), sample_rate, channels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_a_word_of_its_own_and_pcm_is_pcm16() {
        for format in AudioFormat::ALL {
            assert_eq!(AudioFormat::from_word(format.word()), Some(format));
        }
        assert_eq!(AudioFormat::from_word("pcm"), Some(AudioFormat::Pcm16));
        assert_eq!(AudioFormat::from_word("mp3"), None);
    }

    #[test]
    fn no_format_makes_a_file_of_nothing() {
        let mono = SampleLayout { sample_rate: 24_000, channels: 1 };
        for format in AudioFormat::ALL {
            assert_eq!(encode(format, &[], mono), Err(EncodeError::Empty));
            let silent = SampleLayout { sample_rate: 0, channels: 1 };
            assert_eq!(encode(format, &[0.0], silent), Err(EncodeError::Empty));
        }
    }

    #[test]
    fn what_a_format_cannot_hold_is_named() {
        let odd = SampleLayout { sample_rate: 22_050, channels: 1 };
        let message = encode(AudioFormat::Opus, &[0.0; 10], odd).unwrap_err().to_string();
        assert_eq!(message, "opus cannot hold 1 channel(s) of 22050 samples per second");
        let many = SampleLayout { sample_rate: 24_000, channels: 9 };
        assert!(encode(AudioFormat::Flac, &[0.0; 9], many).is_err());
    }
}
