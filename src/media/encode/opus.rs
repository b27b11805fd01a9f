//! Opus (RFC 6716) in an Ogg file (RFC 7845).

use ogg::writing::{PacketWriteEndInfo, PacketWriter};
use opus_rs::{Application, OpusEncoder};

use super::{AudioFormat, EncodeError, quantise};
use crate::media::SampleLayout;

/// Rates that the codec works at; players always give 48 000.
const SAMPLE_RATES: [u32; 5] = [8000, 12_000, 16_000, 24_000, 48_000];
/// Positions in the file count samples of this rate, whatever the codec works at.
const CLOCK: u32 = 48_000;
/// Packets per second: 20 ms each, as is usual.
const PACKETS_PER_SECOND: u32 = 50;
/// Bits per second and channel; speech is transparent well below it.
const BITRATE: i32 = 48_000;
/// The largest packet of the format.
const MAX_PACKET: usize = 1275;
/// Samples of [`CLOCK`] by which the codec's output lags behind its input (6.5 ms), which players skip.
const PRE_SKIP: u16 = 312;
/// The serial number of the one stream in the file.
const SERIAL: u32 = 1;
/// What made the file.
const VENDOR: &str = concat!("omni-actors ", env!("CARGO_PKG_VERSION"));

/// Writes a complete file.
pub(super) fn encode(samples: &[f32], layout: SampleLayout) -> Result<Vec<u8>, EncodeError> {
    let SampleLayout { sample_rate, channels } = layout;
    if !SAMPLE_RATES.contains(&sample_rate) || !(1..=2).contains(&channels) {
        return Err(super::unfit(AudioFormat::Opus, layout));
    }
    let mut encoder = OpusEncoder::new(sample_rate as i32, channels.into(), Application::Audio)
        .map_err(|message| failure(message.to_owned()))?;
    encoder.bitrate_bps = BITRATE * i32::from(channels);

    let ticks = u64::from(CLOCK / sample_rate);
    let frames = layout.frames(samples.len()) as u64;
    let end = u64::from(PRE_SKIP) + frames * ticks;
    let packet_frames = (sample_rate / PACKETS_PER_SECOND) as usize;
    let packet_ticks = u64::from(CLOCK / PACKETS_PER_SECOND);
    let packet_samples = packet_frames * usize::from(channels);

    let mut file = PacketWriter::new(Vec::new());
    let write = |file: &mut PacketWriter<'_, Vec<u8>>, packet: Vec<u8>, info, position| {
        file.write_packet(packet, SERIAL, info, position).map_err(|error| failure(error.to_string()))
    };
    write(&mut file, identification(layout), PacketWriteEndInfo::EndPage, 0)?;
    write(&mut file, comments(), PacketWriteEndInfo::EndPage, 0)?;
    // Silence follows the last sample until the codec has given everything back.
    let mut pieces = samples.chunks(packet_samples);
    let mut position = 0;
    let mut input = Vec::with_capacity(packet_samples);
    while position < end {
        input.clear();
        input.extend(pieces.next().unwrap_or_default().iter().map(|sample| quantise(*sample)));
        input.resize(packet_samples, 0);
        let mut packet = vec![0; MAX_PACKET];
        let length = encoder
            .encode_i16(&input, packet_frames, &mut packet)
            .map_err(|message| failure(message.to_owned()))?;
        packet.truncate(length);
        position += packet_ticks;
        let info =
            if position < end { PacketWriteEndInfo::NormalPacket } else { PacketWriteEndInfo::EndStream };
        // The last position cuts off what was only appended.
        write(&mut file, packet, info, position.min(end))?;
    }
    Ok(file.into_inner())
}

/// The first packet: what is in the stream.
fn identification(layout: SampleLayout) -> Vec<u8> {
    const VERSION: u8 = 1;
    const NO_GAIN: u16 = 0;
    const ONE_STREAM: u8 = 0;
    let mut packet = b"OpusHead".to_vec();
    packet.extend([VERSION, layout.channels as u8]);
    packet.extend(PRE_SKIP.to_le_bytes());
    packet.extend(layout.sample_rate.to_le_bytes());
    packet.extend(NO_GAIN.to_le_bytes());
    packet.push(ONE_STREAM);
    packet
}

/// The second packet: who wrote the file, and no comments.
fn comments() -> Vec<u8> {
    const NONE: u32 = 0;
    let mut packet = b"OpusTags".to_vec();
    packet.extend((VENDOR.len() as u32).to_le_bytes());
    packet.extend(VENDOR.bytes());
    packet.extend(NONE.to_le_bytes());
    packet
}

fn failure(message: String) -> EncodeError {
    EncodeError::Encoder { format: AudioFormat::Opus.word(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 24_000;

    /// A tone that rises, so that it is like itself at one shift only.
    fn chirp(frames: usize) -> Vec<f32> {
        let at = |index: usize| index as f32 / RATE as f32;
        (0..frames)
            .map(|index| (std::f32::consts::TAU * (300.0 + 400.0 * at(index)) * at(index)).sin() * 0.5)
            .collect()
    }

    /// The packets of a file, with the position at the end of each page.
    fn packets(file: Vec<u8>) -> Vec<ogg::Packet> {
        let mut reader = ogg::PacketReader::new(std::io::Cursor::new(file));
        std::iter::from_fn(|| reader.read_packet().unwrap()).collect()
    }

    fn decode(packets: &[ogg::Packet], channels: usize) -> Vec<f32> {
        let mut decoder = opus_rs::OpusDecoder::new(RATE as i32, channels).unwrap();
        let mut samples = Vec::new();
        for packet in packets {
            let mut piece = vec![0.0; 480 * channels];
            let frames = decoder.decode(&packet.data, 480, &mut piece).unwrap();
            samples.extend_from_slice(&piece[..frames * channels]);
        }
        samples
    }

    /// Normalised correlation of `a` with `b`.
    fn likeness(a: &[f32], b: &[f32]) -> f32 {
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn the_file_says_how_long_it_is_and_what_to_skip() {
        for frames in [1, 324, 480, 12_345] {
            let file = encode(&chirp(frames), SampleLayout { sample_rate: RATE, channels: 1 }).unwrap();
            assert_eq!(&file[..4], b"OggS");
            let packets = packets(file);
            assert_eq!(packets[0].data, b"OpusHead\x01\x01\x38\x01\xc0\x5d\x00\x00\x00\x00\x00");
            assert!(packets[1].data.starts_with(b"OpusTags"));
            let end = packets.last().unwrap();
            assert!(end.last_in_stream());
            assert_eq!(end.absgp_page(), 312 + 2 * frames as u64, "{frames} frames");
            assert_eq!(packets.len(), 2 + (156 + frames).div_ceil(480));
        }
    }

    #[test]
    fn what_is_skipped_is_what_the_codec_lags_behind() {
        let samples = chirp(RATE as usize);
        let packets = packets(encode(&samples, SampleLayout { sample_rate: RATE, channels: 1 }).unwrap());
        let decoded = decode(&packets[2..], 1);
        let shift = usize::from(PRE_SKIP) / 2;
        let at = |shift: usize| likeness(&samples, &decoded[shift..]);
        let best = (0..400).max_by(|a, b| at(*a).total_cmp(&at(*b))).unwrap();
        assert_eq!(
            (best, at(best) > 0.98),
            (shift, true),
            "likeness {} at {best}, {} at {shift}",
            at(best),
            at(shift)
        );
    }

    #[test]
    fn two_channels_keep_apart() {
        let left = chirp(9600);
        let samples: Vec<f32> = left.iter().flat_map(|sample| [*sample, 0.0]).collect();
        let packets = packets(encode(&samples, SampleLayout { sample_rate: RATE, channels: 2 }).unwrap());
        let decoded = decode(&packets[2..], 2);
        let energy = |channel: usize| -> f32 {
            decoded.iter().skip(channel).step_by(2).map(|sample| sample * sample).sum()
        };
        assert!(energy(1) < 0.01 * energy(0), "{} beside {}", energy(1), energy(0));
    }

    #[test]
    fn speech_like_sound_takes_less_than_a_quarter_of_its_samples() {
        let file = encode(&chirp(48_000), SampleLayout { sample_rate: RATE, channels: 1 }).unwrap();
        assert!(file.len() * 4 < 48_000 * 2, "{}", file.len());
    }
}
