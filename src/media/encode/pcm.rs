//! Bare 16-bit samples, little-endian, channels interleaved.

/// The nearest 16-bit sample: `round(clamp(x, -1, 1) · 32767)`. What is not a number becomes silence.
pub fn quantise(sample: f32) -> i16 {
    (sample.clamp(-1.0, 1.0) * f32::from(i16::MAX)).round() as i16
}

/// Writes the samples one after the other.
pub(super) fn encode(samples: &[f32]) -> Vec<u8> {
    samples.iter().flat_map(|sample| quantise(*sample).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_round_to_the_nearest_and_stay_within_the_range() {
        assert_eq!([0.0, 1.0, -1.0, 2.0, -7.5].map(quantise), [0, 32767, -32767, 32767, -32767]);
        assert_eq!([1.4 / 32767.0, 1.6 / 32767.0].map(quantise), [1, 2]);
        assert_eq!(quantise(f32::NAN), 0);
    }

    #[test]
    fn bytes_are_little_endian() {
        assert_eq!(encode(&[1.0, -1.0]), [0xff, 0x7f, 0x01, 0x80]);
    }
}
