//! The types in which values lie in a device's memory.

use half::bf16;

/// A type in which values are stored. Sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stored {
    /// 32-bit floats.
    F32,
    /// Brain floats.
    Bf16,
}

impl Stored {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<bf16>(),
        }
    }

    /// The bytes of `values` in this type.
    pub(super) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => bytemuck::cast_slice(values).to_vec(),
            Self::Bf16 => {
                let rounded: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
                bytemuck::cast_slice(&rounded).to_vec()
            }
        }
    }

    /// The values whose bytes these are, appended to `values`.
    pub(super) fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            Self::F32 => {
                let (words, _) = bytes.as_chunks::<4>();
                values.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
            }
            Self::Bf16 => {
                let (words, _) = bytes.as_chunks::<2>();
                values.extend(words.iter().map(|word| bf16::from_le_bytes(*word).to_f32()));
            }
        }
    }

    /// The one of two kernels that works on this type.
    pub(super) fn kernel(self, f32: &'static str, bf16: &'static str) -> &'static str {
        match self {
            Self::F32 => f32,
            Self::Bf16 => bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_comes_back_rounded_to_the_type() {
        for (stored, expected) in [(Stored::F32, 1.0 + 1e-4), (Stored::Bf16, 1.0)] {
            let bytes = stored.encode(&[1.0 + 1e-4, -2.5]);
            assert_eq!(bytes.len(), 2 * stored.bytes());
            let mut values = Vec::new();
            stored.decode(&bytes, &mut values);
            assert_eq!(values, [expected, -2.5]);
        }
    }
}
