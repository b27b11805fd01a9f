//! What bf16 weights are made by that do not lie anywhere as they are needed. A device with memory of its own can make
//! them there, so that they neither take memory of the process nor go through the bus.

use half::bf16;

use super::dummy;
use super::storage::SharedSlice;
use crate::tensor::cpu::pool::divide_chunks;

/// How the values of a weight are made.
#[derive(Debug, Clone)]
pub(crate) enum Recipe {
    /// All are 1.
    Ones,
    /// Draws from a normal distribution.
    Draws {
        /// Decides which ones.
        stream: u64,
    },
    /// Stored f32 values, rounded.
    Rounded(SharedSlice<f32>),
}

impl Recipe {
    /// The first `count` values.
    pub(super) fn values(&self, count: usize) -> Vec<bf16> {
        match self {
            Self::Ones => vec![bf16::ONE; count],
            Self::Draws { stream } => dummy::values(*stream, count),
            Self::Rounded(values) => {
                let mut rounded = vec![bf16::ZERO; count];
                divide_chunks(&mut rounded, dummy::CHUNK, |chunk, rounded| {
                    let values = values.as_slice().iter().skip(chunk * dummy::CHUNK);
                    for (rounded, value) in rounded.iter_mut().zip(values) {
                        *rounded = bf16::from_f32(*value);
                    }
                });
                rounded
            }
        }
    }
}
