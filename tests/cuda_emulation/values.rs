//! Random values, the types they are stored in, and how results are compared.

use half::bf16;

use crate::device::Array;

/// A type in which activations or weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    F32,
    Bf16,
}

pub(crate) const BOTH: [Stored; 2] = [Stored::F32, Stored::Bf16];

impl Stored {
    /// Its name in the names of kernels.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// The values as this type holds them.
    pub(crate) fn round(self, values: Vec<f32>) -> Vec<f32> {
        match self {
            Self::F32 => values,
            Self::Bf16 => values.into_iter().map(|value| bf16::from_f32(value).to_f32()).collect(),
        }
    }

    /// An array of the values in this type.
    pub(crate) fn array(self, values: &[f32]) -> Array {
        match self {
            Self::F32 => Array::new(values),
            Self::Bf16 => Array::new(&values.iter().map(|value| bf16::from_f32(*value)).collect::<Vec<_>>()),
        }
    }

    /// An array of `elements` values that nothing computes, so that what is not written shows.
    pub(crate) fn unwritten(self, elements: usize) -> Array {
        self.array(&vec![f32::NAN; elements])
    }

    /// What an array of this type holds.
    pub(crate) fn read(self, array: &Array) -> Vec<f32> {
        match self {
            Self::F32 => array.read(),
            Self::Bf16 => array.read::<bf16>().into_iter().map(bf16::to_f32).collect(),
        }
    }

    /// What a result in this type may be away from the exact one, relative to the largest of its row or tensor.
    pub(crate) fn tolerance(self) -> f32 {
        match self {
            Self::F32 => 5e-6,
            // Half a unit in the last place of 8 bits, and a little for the sums before.
            Self::Bf16 => 4.5e-3,
        }
    }
}

/// Reproducible values in [-1, 1).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 32 random bits.
    pub(crate) fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.bits() as usize % end
    }

    /// `count` values as `stored` holds them.
    pub(crate) fn values(&mut self, count: usize, stored: Stored) -> Vec<f32> {
        stored.round((0..count).map(|_| self.bits() as f32 / 2.0_f32.powi(31) - 1.0).collect())
    }
}

/// Fails unless `got` is `expected` but for rounding to `stored`, `slack` times what it allows, relative to the largest
/// expected value.
#[track_caller]
pub(crate) fn assert_close(case: &str, got: &[f32], expected: &[f32], stored: Stored, slack: f32) {
    assert_eq!(got.len(), expected.len(), "{case}: lengths");
    let largest = expected.iter().fold(1e-6_f32, |largest, value| largest.max(value.abs()));
    let allowed = stored.tolerance() * slack * largest;
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        // Written so that NaN does not pass.
        assert!(
            (got - expected).abs() <= allowed,
            "{case}: element {index} is {got} where {expected} is due (±{allowed})"
        );
    }
}
