//! Chunks as bytes: a small header by `bincode`, the content as it lies in memory behind it.
//!
//! The header is bounded and says how long every part of the content is, so that a damaged message is an error and
//! never a large allocation. Both ends have the same byte order: it is part of the magic number.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use half::bf16;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::RequestId;
use crate::transport::payload::HostData;
use crate::transport::{AudioPacket, Chunk, HostTensor, Payload};

/// Begins every message; reads differently on a machine of another byte order.
const MAGIC: u32 = 0x6f6d_6e31;
/// The most bytes that a header may take, names of tensors included.
const HEADER_LIMIT: usize = 64 << 10;

/// Why bytes are not a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// The header cannot be read.
    #[error("the header cannot be read: {0}")]
    Header(String),
    /// It was written by something else.
    #[error("the message does not begin as a chunk does")]
    NotAChunk,
    /// The content has another length than the header says.
    #[error("the content has {have} bytes where the header says {need}")]
    Length {
        /// Bytes that are there.
        have: usize,
        /// Bytes that should be.
        need: usize,
    },
    /// A text is not UTF-8.
    #[error("the text is not UTF-8")]
    NotText,
    /// A header is larger than one may be.
    #[error("the header cannot be written: {0}")]
    TooLarge(String),
}

/// All of a chunk but its content.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    magic: u32,
    request: RequestId,
    sequence: u32,
    last: bool,
    kind: Kind,
}

/// The kind of a payload, with the number of elements of its content.
#[derive(Debug, Serialize, Deserialize)]
enum Kind {
    End,
    Text { bytes: u64 },
    Tokens { ids: u64 },
    Codes { groups: u32, codes: u64 },
    Audio { samples: u64, sample_rate: u32, channels: u16 },
    Tensors(Vec<TensorHeader>),
    Bytes { bytes: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct TensorHeader {
    name: String,
    shape: Vec<u64>,
    element: Element,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Element {
    F32,
    Bf16,
    U32,
}

fn configuration() -> Configuration<LittleEndian, Fixint, Limit<HEADER_LIMIT>> {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<HEADER_LIMIT>()
}

/// Writes a chunk.
pub fn encode(chunk: &Chunk) -> Result<Vec<u8>, WireError> {
    let Chunk { request, sequence, last, payload } = chunk;
    let kind = Kind::of(payload);
    let header = Header { magic: MAGIC.to_be(), request: *request, sequence: *sequence, last: *last, kind };
    let mut bytes = bincode::serde::encode_to_vec(&header, configuration())
        .map_err(|error| WireError::TooLarge(error.to_string()))?;
    bytes.reserve(payload.size_bytes());
    match payload {
        Payload::End => {}
        Payload::Text(text) => bytes.extend_from_slice(text.as_bytes()),
        Payload::Tokens(values) | Payload::Codes { codes: values, .. } => {
            bytes.extend_from_slice(bytemuck::cast_slice(values));
        }
        Payload::Audio(packet) => bytes.extend_from_slice(bytemuck::cast_slice(&packet.samples)),
        Payload::Bytes(content) => bytes.extend_from_slice(content),
        Payload::Tensors(tensors) => {
            for (_, tensor) in tensors {
                bytes.extend_from_slice(tensor.data.bytes());
            }
        }
    }
    Ok(bytes)
}

/// Reads a chunk.
pub fn decode(bytes: &[u8]) -> Result<Chunk, WireError> {
    let (header, read): (Header, usize) = bincode::serde::decode_from_slice(bytes, configuration())
        .map_err(|error| WireError::Header(error.to_string()))?;
    if header.magic != MAGIC.to_be() {
        return Err(WireError::NotAChunk);
    }
    let mut content = Content { bytes: bytes.get(read..).unwrap_or_default() };
    let payload = match header.kind {
        Kind::End => Payload::End,
        Kind::Text { bytes } => {
            let text = String::from_utf8(content.take::<u8>(bytes)?).map_err(|_| WireError::NotText)?;
            Payload::Text(text)
        }
        Kind::Tokens { ids } => Payload::Tokens(content.take(ids)?),
        Kind::Codes { groups, codes } => Payload::Codes { groups, codes: content.take(codes)? },
        Kind::Audio { samples, sample_rate, channels } => {
            Payload::Audio(AudioPacket { samples: content.take(samples)?, sample_rate, channels })
        }
        Kind::Bytes { bytes } => Payload::Bytes(content.take(bytes)?),
        Kind::Tensors(headers) => {
            let tensors = headers.into_iter().map(|header| content.take_tensor(header));
            Payload::Tensors(tensors.collect::<Result<_, _>>()?)
        }
    };
    content.end()?;
    Ok(Chunk { request: header.request, sequence: header.sequence, last: header.last, payload })
}

impl Kind {
    fn of(payload: &Payload) -> Self {
        match payload {
            Payload::End => Self::End,
            Payload::Text(text) => Self::Text { bytes: text.len() as u64 },
            Payload::Tokens(ids) => Self::Tokens { ids: ids.len() as u64 },
            Payload::Codes { groups, codes } => Self::Codes { groups: *groups, codes: codes.len() as u64 },
            Payload::Audio(AudioPacket { samples, sample_rate, channels }) => {
                Self::Audio { samples: samples.len() as u64, sample_rate: *sample_rate, channels: *channels }
            }
            Payload::Bytes(bytes) => Self::Bytes { bytes: bytes.len() as u64 },
            Payload::Tensors(tensors) => {
                let header = |(name, tensor): &(String, HostTensor)| TensorHeader {
                    name: name.clone(),
                    shape: tensor.shape.iter().map(|&extent| extent as u64).collect(),
                    element: match tensor.data {
                        HostData::F32(_) => Element::F32,
                        HostData::Bf16(_) => Element::Bf16,
                        HostData::U32(_) => Element::U32,
                    },
                };
                Self::Tensors(tensors.iter().map(header).collect())
            }
        }
    }
}

/// The part of a message behind its header, taken piece by piece.
struct Content<'a> {
    bytes: &'a [u8],
}

impl Content<'_> {
    /// Takes a number of elements; copies, so that they need not be aligned in the message.
    fn take<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &mut self,
        elements: u64,
    ) -> Result<Vec<T>, WireError> {
        let length = usize::try_from(elements).ok().and_then(|elements| elements.checked_mul(size_of::<T>()));
        let need = length.unwrap_or(usize::MAX);
        let have = self.bytes.len();
        let (taken, rest) = self.bytes.split_at_checked(need).ok_or(WireError::Length { have, need })?;
        self.bytes = rest;
        Ok(bytemuck::pod_collect_to_vec(taken))
    }

    fn take_tensor(&mut self, header: TensorHeader) -> Result<(String, HostTensor), WireError> {
        let elements = header.shape.iter().try_fold(1_u64, |all, &extent| all.checked_mul(extent));
        let elements = elements.unwrap_or(u64::MAX);
        let data = match header.element {
            Element::F32 => HostData::F32(self.take(elements)?),
            Element::Bf16 => {
                HostData::Bf16(self.take::<u16>(elements)?.into_iter().map(bf16::from_bits).collect())
            }
            Element::U32 => HostData::U32(self.take(elements)?),
        };
        let shape = header.shape.into_iter().map(|extent| extent as usize).collect();
        Ok((header.name, HostTensor { shape, data }))
    }

    fn end(self) -> Result<(), WireError> {
        match self.bytes.len() {
            0 => Ok(()),
            more => Err(WireError::Length { have: more, need: 0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payloads() -> impl Strategy<Value = Payload> {
        let tensor = (prop::collection::vec(any::<u32>(), 0..40), 0..3_u8).prop_map(|(values, element)| {
            let shape = vec![values.len(), 1];
            let data = match element {
                0 => HostData::F32(values.iter().map(|&value| value as f32).collect()),
                1 => HostData::Bf16(values.iter().map(|&value| bf16::from_f32(value as f32)).collect()),
                _ => HostData::U32(values),
            };
            HostTensor { shape, data }
        });
        prop_oneof![
            Just(Payload::End),
            any::<String>().prop_map(Payload::Text),
            prop::collection::vec(any::<u32>(), 0..99).prop_map(Payload::Tokens),
            (any::<u32>(), prop::collection::vec(any::<u32>(), 0..99))
                .prop_map(|(groups, codes)| Payload::Codes { groups, codes }),
            (prop::collection::vec(-1.0_f32..1.0, 0..99), any::<u32>(), any::<u16>()).prop_map(
                |(samples, sample_rate, channels)| Payload::Audio(AudioPacket {
                    samples,
                    sample_rate,
                    channels
                })
            ),
            prop::collection::vec(("[a-z]{0,9}", tensor), 0..4).prop_map(Payload::Tensors),
            prop::collection::vec(any::<u8>(), 0..99).prop_map(Payload::Bytes),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(id in any::<u64>(), sequence in any::<u32>(), last in any::<bool>(), payload in payloads()) {
            let chunk = Chunk { request: RequestId(id), sequence, last, payload };
            let bytes = encode(&chunk).unwrap();
            prop_assert_eq!(decode(&bytes), Ok(chunk));
        }

        #[test]
        fn damaged_messages_are_errors_and_nothing_else(payload in payloads(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let chunk = Chunk { request: RequestId(1), sequence: 2, last: false, payload };
            let mut bytes = encode(&chunk).unwrap();
            prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_header_that_promises_more_than_there_is_allocates_nothing() {
        let chunk =
            Chunk { request: RequestId(1), sequence: 0, last: true, payload: Payload::Tokens(vec![7]) };
        let mut bytes = encode(&chunk).unwrap();
        let count = bytes.len() - 4 - 8;
        bytes[count..count + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(decode(&bytes), Err(WireError::Length { .. })));
    }
}
