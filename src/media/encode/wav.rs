//! RIFF WAVE: a header of 44 bytes, then 16-bit samples.

use super::{AudioFormat, EncodeError, pcm};
use crate::media::SampleLayout;

/// Bytes of a sample.
const SAMPLE_BYTES: u16 = 2;
/// Bytes of the header that the size at its beginning does not count: `RIFF` and the size itself.
const UNCOUNTED: u32 = 8;
/// Bytes of the whole header.
const HEADER: u32 = 44;
/// Length of the format chunk for plain samples.
const FORMAT_CHUNK: u32 = 16;
/// The format's code for plain samples.
const PLAIN: u16 = 1;

/// Writes a complete file.
pub(super) fn encode(samples: &[f32], layout: SampleLayout) -> Result<Vec<u8>, EncodeError> {
    let SampleLayout { sample_rate, channels } = layout;
    let frame = channels.checked_mul(SAMPLE_BYTES);
    let byte_rate = frame.and_then(|frame| sample_rate.checked_mul(frame.into()));
    let (Some(frame), Some(byte_rate)) = (frame, byte_rate) else {
        return Err(super::unfit(AudioFormat::Wav, layout));
    };
    let size = samples
        .len()
        .checked_mul(SAMPLE_BYTES.into())
        .and_then(|size| u32::try_from(size).ok())
        .filter(|size| *size <= u32::MAX - HEADER)
        .ok_or(EncodeError::TooLong { format: AudioFormat::Wav.word(), samples: samples.len() })?;
    let mut file = Vec::with_capacity(HEADER as usize + size as usize);
    file.extend(b"RIFF");
    file.extend((HEADER - UNCOUNTED + size).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(FORMAT_CHUNK.to_le_bytes());
    file.extend(PLAIN.to_le_bytes());
    file.extend(channels.to_le_bytes());
    file.extend(sample_rate.to_le_bytes());
    file.extend(byte_rate.to_le_bytes());
    file.extend(frame.to_le_bytes());
    file.extend((SAMPLE_BYTES * 8).to_le_bytes());
    file.extend(b"data");
    file.extend(size.to_le_bytes());
    file.extend(pcm::encode(samples));
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONO: SampleLayout = SampleLayout { sample_rate: 24_000, channels: 1 };

    #[test]
    fn the_header_says_what_follows() {
        let file = encode(&[0.5, -0.5, 0.0], MONO).unwrap();
        assert_eq!(file.len(), 44 + 6);
        let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let short = |at: usize| u16::from_le_bytes(file[at..at + 2].try_into().unwrap());
        assert_eq!((&file[..4], number(4), &file[8..16]), (&b"RIFF"[..], 42, &b"WAVEfmt "[..]));
        assert_eq!((number(16), short(20), short(22)), (16, 1, 1));
        assert_eq!((number(24), number(28), short(32), short(34)), (24_000, 48_000, 2, 16));
        assert_eq!((&file[36..40], number(40)), (&b"data"[..], 6));
        assert_eq!(&file[44..], pcm::encode(&[0.5, -0.5, 0.0]));
    }

    #[test]
    fn pieces_of_a_sound_have_the_same_header_but_for_their_sizes() {
        let short = encode(&[0.1; 10], MONO).unwrap();
        let long = encode(&[0.2; 1000], MONO).unwrap();
        assert_eq!(short[8..40], long[8..40]);
    }

    /// Python's `wave` is what many clients open such files with.
    #[test]
    fn python_reads_the_same_samples() {
        const SCRIPT: &str = "import sys, wave\n\
            w = wave.open(sys.stdin.buffer)\n\
            print(w.getparams()[:4], w.readframes(w.getnframes()).hex())";
        let file =
            encode(&[0.0, 1.0, -1.0, 0.25], SampleLayout { sample_rate: 16_000, channels: 2 }).unwrap();
        let child = std::process::Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        // A machine without Python shows nothing; the bytes are held against the format above.
        let Ok(mut child) = child else { return };
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), &file).unwrap();
        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(output.trim(), "(2, 2, 16000, 2) 0000ff7f01800020");
    }
}
