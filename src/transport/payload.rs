//! What travels over an edge.

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
    /// Mono or interleaved samples in [-1, 1].
    Audio {
        /// Samples, channels interleaved.
        samples: Vec<f32>,
        /// Samples per second and channel.
        sample_rate: u32,
        /// Number of channels.
        channels: u16,
    },
    /// Named tensors, for stages whose data has no kind of its own.
    Tensors(Vec<(String, HostTensor)>),
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

impl Payload {
    /// The kind of data, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::End => "nothing",
            Self::Text(_) => "text",
            Self::Tokens(_) => "tokens",
            Self::Codes { .. } => "codes",
            Self::Audio { .. } => "audio",
            Self::Tensors(_) => "tensors",
        }
    }

    /// Bytes of content, without framing.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::End => 0,
            Self::Text(text) => text.len(),
            Self::Tokens(ids) => size_of_val(ids.as_slice()),
            Self::Codes { codes, .. } => size_of_val(codes.as_slice()),
            Self::Audio { samples, .. } => size_of_val(samples.as_slice()),
            Self::Tensors(tensors) => tensors.iter().map(|(_, tensor)| tensor.data.bytes().len()).sum(),
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
