//! What travels over an edge.

use std::fmt;

use half::bf16;

use crate::ids::RequestId;

/// A sequence-numbered piece of a request's data on its way to the next stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// The request it belongs to.
    pub request: RequestId,
    /// Counts the chunks of this request on this edge from 0, without gaps.
    pub sequence: u32,
    /// No further chunk follows on this edge.
    pub last: bool,
    /// What is handed over.
    pub payload: Payload,
}

/// The kinds of data that stages hand to each other.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// Nothing: a chunk that only says that it is the last.
    End,
    /// Text, UTF-8.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Codec frames, one after the other.
    Codes {
        /// Codes of a frame.
        groups: u32,
        /// `[frames, groups]`.
        codes: Vec<u32>,
    },
    /// Sound.
    Audio(AudioPacket),
    /// Named tensors, for stages whose data has no kind of its own.
    Tensors(Vec<(String, HostTensor)>),
    /// Bytes that the stages on both sides understand.
    Bytes(Vec<u8>),
}

/// The kinds of data by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadKind {
    /// [`Payload::Text`]
    Text,
    /// [`Payload::Tokens`]
    Tokens,
    /// [`Payload::Codes`]
    Codes,
    /// [`Payload::Audio`]
    Audio,
    /// [`Payload::Tensors`]
    Tensors,
    /// [`Payload::Bytes`]
    Bytes,
}

/// A piece of sound.
#[derive(Debug, Clone, PartialEq)]
pub struct AudioPacket {
    /// Samples in [-1, 1], channels interleaved.
    pub samples: Vec<f32>,
    /// Samples per second and channel.
    pub sample_rate: u32,
    /// Number of channels.
    pub channels: u16,
}

impl AudioPacket {
    /// Samples per channel.
    pub fn frames(&self) -> u64 {
        self.samples.len() as u64 / u64::from(self.channels.max(1))
    }

    /// How long it plays; 0 if it does not say how fast.
    pub fn seconds(&self) -> f64 {
        let per_second = f64::from(self.sample_rate) * f64::from(self.channels);
        if per_second > 0.0 { self.samples.len() as f64 / per_second } else { 0.0 }
    }
}

/// A tensor in host memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: HostData,
}

/// Elements of a [`HostTensor`].
#[derive(Debug, Clone, PartialEq)]
pub enum HostData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// Brain floats.
    Bf16(Vec<bf16>),
    /// 32-bit unsigned integers, such as token ids and codes.
    U32(Vec<u32>),
}

impl PayloadKind {
    /// The word for it in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Tokens => "tokens",
            Self::Codes => "codes",
            Self::Audio => "audio",
            Self::Tensors => "tensors",
            Self::Bytes => "bytes",
        }
    }
}

impl fmt::Display for PayloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Payload {
    /// The kind of data; `None` where there is none.
    pub fn kind(&self) -> Option<PayloadKind> {
        Some(match self {
            Self::End => return None,
            Self::Text(_) => PayloadKind::Text,
            Self::Tokens(_) => PayloadKind::Tokens,
            Self::Codes { .. } => PayloadKind::Codes,
            Self::Audio(_) => PayloadKind::Audio,
            Self::Tensors(_) => PayloadKind::Tensors,
            Self::Bytes(_) => PayloadKind::Bytes,
        })
    }

    /// The word for the kind of data in messages.
    pub fn kind_name(&self) -> &'static str {
        self.kind().map_or("nothing", PayloadKind::as_str)
    }

    /// Bytes of content, without framing.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::End => 0,
            Self::Text(text) => text.len(),
            Self::Tokens(ids) => size_of_val(ids.as_slice()),
            Self::Codes { codes, .. } => size_of_val(codes.as_slice()),
            Self::Audio(packet) => size_of_val(packet.samples.as_slice()),
            Self::Tensors(tensors) => tensors.iter().map(|(_, tensor)| tensor.data.bytes().len()).sum(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

impl HostData {
    /// The elements as they lie in memory.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::Bf16(values) => bytemuck::cast_slice(values),
            Self::U32(values) => bytemuck::cast_slice(values),
        }
    }
}
