//! Inputs that are the same in every run and that bf16 holds exactly.

use half::bf16;

/// A stream of random numbers: xorshift by Marsaglia (2003), 64 bits of state.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: usize) -> Self {
        Self((seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Values in [-1, 1), rounded to bf16.
    pub(super) fn values(&mut self, count: usize) -> Vec<f32> {
        let value = |bits: u32| bf16::from_f32(bits as f32 / 2.0_f32.powi(31) - 1.0).to_f32();
        (0..count).map(|_| value(self.bits())).collect()
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.bits() as usize % end.max(1)
    }

    fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }
}
