//! What a user runs first on a new machine: every operation against its plain form, the thinker against golden
//! outputs, and how fast memory is.
//!
//! [`operations`], [`sampling`], [`thinker`] and [`decode`] give [`Check`]s; [`bandwidth`] gives a figure.

pub mod bandwidth;
pub mod decode;
pub mod operations;
mod random;
mod rows;
pub mod sampling;
pub mod thinker;

mod attention;
mod experts;

use serde::Serialize;

/// One comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What was carried out: an operation, or a case of a golden set.
    pub subject: String,
    /// On what: shapes, or the tensor of the case.
    pub case: String,
    /// How far the result is from what is due, in the measure of the bound.
    pub difference: f32,
    /// How far it may be.
    pub bound: f32,
    /// Whether it is within the bound.
    pub ok: bool,
}

impl Check {
    /// A difference held against a bound. One that is no number is out of bounds.
    fn new(subject: &str, case: String, difference: f32, bound: f32) -> Self {
        Self { subject: subject.to_owned(), case, difference, bound, ok: difference <= bound }
    }
}

/// The largest difference between two results. Infinite where they are not of one length or hold what is no number.
fn largest_difference(ours: &[f32], due: &[f32]) -> f32 {
    if ours.len() != due.len() {
        return f32::INFINITY;
    }
    let differences = ours.iter().zip(due).map(|(ours, due)| (ours - due).abs());
    differences
        .fold(0.0, |largest, difference| if difference <= largest { largest } else { no_nan(difference) })
}

fn no_nan(difference: f32) -> f32 {
    if difference.is_nan() { f32::INFINITY } else { difference }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_or_missing_is_out_of_bounds() {
        assert_eq!(largest_difference(&[1.0, 2.0], &[1.0, 2.5]), 0.5);
        for ours in [&[1.0, f32::NAN][..], &[f32::NAN, 1.0], &[1.0]] {
            let difference = largest_difference(ours, &[1.0, 1.0]);
            assert_eq!(difference, f32::INFINITY);
            assert!(!Check::new("matmul", String::new(), difference, 1e-3).ok);
        }
    }
}
