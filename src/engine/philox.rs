//! Philox4x32-10, a counter-based random number generator.
//!
//! From J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC11). What is drawn is
//! a function of key and counter alone. Here the key is the request's seed and the counter says what the number is
//! for, so a token depends neither on the batch nor on what was drawn before.

/// Multipliers of the two halves of the counter.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];

/// What the two halves of the key are raised by in each round.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Which random number is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Draw {
    /// The request's seed.
    pub seed: u64,
    /// The stage that draws, so that stages with one seed do not follow each other.
    pub stage: u16,
    /// Which choice of the request.
    pub choice: u32,
    /// Which token of the choice, counted from 0.
    pub step: u32,
    /// Which number within the step: 0 for the token itself, 1 and up where a step chooses several, as a code
    /// predictor does.
    pub within_step: u32,
}

impl Draw {
    /// A number that is uniform in [0, 1), from 53 random bits.
    pub fn uniform(self) -> f64 {
        let key = [low(self.seed), low(self.seed >> 32)];
        let [first, second, ..] =
            philox4x32_10([self.step, self.choice, u32::from(self.stage), self.within_step], key);
        let bits = (u64::from(first) << 32 | u64::from(second)) >> 11;
        bits as f64 / (1_u64 << 53) as f64
    }
}

/// The lower half of a word.
fn low(word: u64) -> u32 {
    (word & u64::from(u32::MAX)) as u32
}

/// Ten rounds over a counter, with a key.
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            low(second >> 32) ^ counter[1] ^ key[0],
            low(second),
            low(first >> 32) ^ counter[3] ^ key[1],
            low(first),
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that are published with the paper's code.
    #[test]
    fn known_answers_are_met() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_part_of_the_draw_matters() {
        let draw = Draw { seed: 1, stage: 2, choice: 3, step: 4, within_step: 0 };
        let others = [
            Draw { seed: 1 << 40 | 1, ..draw },
            Draw { stage: 1, ..draw },
            Draw { choice: 0, ..draw },
            Draw { step: 5, ..draw },
            Draw { within_step: 1, ..draw },
        ];
        for other in others {
            assert_ne!(draw.uniform(), other.uniform());
        }
        assert_eq!(draw.uniform(), draw.uniform());
    }

    #[test]
    fn numbers_are_uniform() {
        let count = 20_000;
        let mut tenths = [0; 10];
        for step in 0..count {
            let number = Draw { seed: 42, step, ..Draw::default() }.uniform();
            assert!((0.0..1.0).contains(&number));
            tenths[(number * 10.0) as usize] += 1;
        }
        for tenth in tenths {
            assert!((1800..2200).contains(&tenth), "{tenths:?}");
        }
    }
}
