//! Weights that are made up, to measure speed at real sizes without a checkpoint.

use std::f32::consts::TAU;
use std::sync::OnceLock;

use half::bf16;

use super::{Recipe, Weight};
use crate::tensor::cpu::pool::divide_chunks;

/// Standard deviation of the values.
const DEVIATION: f32 = 0.02;
/// Draws in the table; a power of two that 16 bits address.
const TABLE: usize = 1 << 16;
/// Values that one task fills; known to `kernels/dummy.cu` too.
pub(super) const CHUNK: usize = 1 << 18;

/// A tensor whose values depend on `seed`, its name and its shape alone: ones for the gain of a norm, otherwise
/// draws from a normal distribution, in bf16.
pub(super) fn weight(seed: u64, name: &str, shape: &[usize]) -> Weight {
    let recipe = if is_norm_gain(name) {
        Recipe::Ones
    } else {
        Recipe::Draws { stream: name.bytes().fold(mix(seed), |state, byte| mix(state ^ u64::from(byte))) }
    };
    Weight::made_by(recipe, shape.to_vec())
}

/// The first `count` draws of a stream.
///
/// Each value is one of 65,536 draws made once, picked by 16 random bits, so that gigabytes take seconds. GPUs do the
/// same in `kernels/dummy.cu`.
pub(super) fn values(stream: u64, count: usize) -> Vec<bf16> {
    let table = table();
    let mut values = vec![bf16::ZERO; count];
    divide_chunks(&mut values, CHUNK, |chunk, values| {
        let mut counter = stream.wrapping_add(((chunk * CHUNK) as u64) << 1);
        for group in values.chunks_mut(4) {
            counter = counter.wrapping_add(1);
            let mut bits = mix(counter);
            for value in group {
                *value = table.get((bits & 0xffff) as usize).copied().unwrap_or_default();
                bits >>= 16;
            }
        }
    });
    values
}

/// Norm gains are named `…norm.weight` throughout the supported models.
fn is_norm_gain(name: &str) -> bool {
    name.strip_suffix(".weight").is_some_and(|stem| stem.ends_with("norm"))
}

/// Draws from the normal distribution by the Box–Muller transform, `[65,536]`.
pub(crate) fn table() -> &'static [bf16] {
    static DRAWS: OnceLock<Vec<bf16>> = OnceLock::new();
    DRAWS.get_or_init(|| {
        (0..TABLE as u64)
            .map(|index| {
                let bits = mix(index);
                let radius = (((bits >> 40) as f32 + 0.5) / (1u64 << 24) as f32).ln() * -2.0;
                let angle = TAU * (bits & 0xff_ffff) as f32 / (1u64 << 24) as f32;
                bf16::from_f32(DEVIATION * radius.sqrt() * angle.cos())
            })
            .collect()
    })
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): spreads a counter over 64 bits.
fn mix(counter: u64) -> u64 {
    let mut bits = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_deviation_and_repeat_for_a_seed() {
        let first = weight(7, "a.weight", &[400, 300]).to_f32();
        assert_eq!(first, weight(7, "a.weight", &[400, 300]).to_f32());
        assert_ne!(first, weight(8, "a.weight", &[400, 300]).to_f32());
        assert_ne!(first, weight(7, "b.weight", &[400, 300]).to_f32());
        let variance = first.iter().map(|v| v * v).sum::<f32>() / first.len() as f32;
        assert!((variance.sqrt() - DEVIATION).abs() < 5e-4, "{}", variance.sqrt());
    }

    #[test]
    fn norm_gains_are_one() {
        for name in
            ["model.norm.weight", "layers.0.input_layernorm.weight", "layers.0.self_attn.q_norm.weight"]
        {
            assert_eq!(weight(7, name, &[3]).to_f32(), [1.0; 3]);
        }
    }
}
