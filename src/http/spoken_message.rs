//! Speech in the JSON of chat answers, whole and in pieces.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::web;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::http::errors::ApiError;
use crate::http::recording::Recording;
use crate::http::request_id::ExternalId;
use crate::media::{AudioFormat, SampleLayout, encode};

/// Seconds for which clients may take speech to be known to the server.
const LIFETIME_SECONDS: u64 = 86_400;

/// What a piece of sound is, beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AudioMetadata {
    /// The word of the format.
    pub format: &'static str,
    /// Samples per second and channel.
    pub sample_rate_hz: u32,
    /// Samples per channel.
    pub frame_count: usize,
    /// Number of channels.
    pub channels: u16,
}

/// `audio` of a message, or of what a chunk adds to one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MessageAudio {
    /// `audio-` and 16 hexadecimal digits; the same on all chunks of an answer.
    pub id: String,
    /// Base64 of a complete file. Chunks that only carry a transcript have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Seconds since 1970.
    pub expires_at: u64,
    /// What is spoken. A chunk has what was written since the last one, if anything was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transcript: Option<String>,
}

/// An encoded piece of sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedAudio {
    /// Base64 of a complete file.
    pub data: String,
    /// What it is.
    pub metadata: AudioMetadata,
}

impl EncodedAudio {
    /// Encodes samples in [-1, 1], channels interleaved, as a complete file.
    pub fn new(format: AudioFormat, samples: &[f32], layout: SampleLayout) -> Result<Self, ApiError> {
        let file = encode(format, samples, layout).map_err(ApiError::Encode)?;
        Ok(Self {
            data: STANDARD.encode(file),
            metadata: AudioMetadata {
                format: format.word(),
                sample_rate_hz: layout.sample_rate,
                frame_count: layout.frames(samples.len()),
                channels: layout.channels,
            },
        })
    }

    /// Encodes a whole recording, away from the threads that serve connections.
    pub async fn of_recording(format: AudioFormat, recording: Recording) -> Result<Self, ApiError> {
        web::block(move || Self::new(format, &recording.samples, recording.layout))
            .await
            .map_err(|error| ApiError::Internal(format!("the encoder was lost: {error}")))?
    }
}

impl MessageAudio {
    /// Speech that begins now, without content as yet.
    pub fn begin() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // The second half of a generated id is the one that no other of this process has.
        let unique = ExternalId::generate().0;
        let (_, digits) = unique.split_at_checked(16).unwrap_or_default();
        Self {
            id: format!("audio-{digits}"),
            data: None,
            expires_at: now + LIFETIME_SECONDS,
            transcript: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sixteen_digits_and_differ() {
        let (one, other) = (MessageAudio::begin(), MessageAudio::begin());
        assert_ne!(one.id, other.id);
        let digits = one.id.strip_prefix("audio-").unwrap();
        assert!(digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{digits}");
    }

    #[test]
    fn a_frame_has_one_sample_of_each_channel() {
        let layout = SampleLayout { sample_rate: 24_000, channels: 2 };
        let audio = EncodedAudio::new(AudioFormat::Pcm16, &[0.0; 6], layout).unwrap();
        assert_eq!((audio.metadata.frame_count, audio.metadata.format), (3, "pcm16"));
        assert_eq!(STANDARD.decode(audio.data).unwrap().len(), 12);
    }
}
