//! The ranges of sampling parameters, each in one place: for requests, for deploy files, and for the engine itself.

/// A range of numbers, and what it is called in an error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Smallest value.
    least: f32,
    /// Whether the smallest value itself is allowed.
    with_least: bool,
    /// Largest value.
    most: f32,
    /// What a value must be.
    pub words: &'static str,
}

/// Of `temperature`.
pub const TEMPERATURE: Range = Range { least: 0.0, with_least: true, most: f32::MAX, words: "at least 0" };
/// Of `top_p`: something must be left to choose from.
pub const TOP_P: Range = Range { least: 0.0, with_least: false, most: 1.0, words: "above 0 and at most 1" };
/// Of `min_p`.
pub const MIN_P: Range = Range { least: 0.0, with_least: true, most: 1.0, words: "between 0 and 1" };
/// Of `repetition_penalty`, which logits are divided by.
pub const REPETITION_PENALTY: Range =
    Range { least: 0.0, with_least: false, most: f32::MAX, words: "above 0" };
/// Of `presence_penalty` and `frequency_penalty`.
pub const PENALTY: Range = Range { least: -2.0, with_least: true, most: 2.0, words: "between -2 and 2" };
/// Of the biases in `logit_bias`.
pub const LOGIT_BIAS: Range =
    Range { least: -100.0, with_least: true, most: 100.0, words: "between -100 and 100" };

impl Range {
    /// Whether a value is within it. A number that is no number, or becomes infinite in this type, never is.
    pub fn holds(&self, value: f32) -> bool {
        let above = value > self.least || (self.with_least && value == self.least);
        above && value <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_belong_to_a_range_or_do_not() {
        assert!(TEMPERATURE.holds(0.0) && TEMPERATURE.holds(f32::MAX));
        assert!(!TOP_P.holds(0.0) && TOP_P.holds(1.0) && !TOP_P.holds(1.1));
        assert!(PENALTY.holds(-2.0) && !PENALTY.holds(-2.1));
        for range in [TEMPERATURE, TOP_P, MIN_P, REPETITION_PENALTY, PENALTY, LOGIT_BIAS] {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(!range.holds(value), "{value} in {range:?}");
            }
        }
    }
}
