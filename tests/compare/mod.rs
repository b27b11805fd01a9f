//! Comparisons with golden sets: what is compared, and how.

use std::error::Error;
use std::fmt;

pub(crate) mod bf16;
pub(crate) mod code2wav;
pub(crate) mod golden;
pub(crate) mod sampling;
pub(crate) mod sets;
pub(crate) mod talker;
pub(crate) mod text;
pub(crate) mod thinker;

pub(crate) use sets::{golden_directories, model_sets, read_json};

/// What a comparison gives when the set itself cannot be read.
pub(crate) type Outcome = Result<Vec<Comparison>, Box<dyn Error>>;

/// One tensor, or one text, held against its golden value.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    /// The case of the set.
    pub(crate) case: String,
    /// What of the case.
    pub(crate) tensor: String,
    /// Greatest absolute difference; infinite where shapes differ or an exact comparison fails.
    pub(crate) max_abs: f64,
    /// ‖ours − golden‖ / ‖golden‖.
    pub(crate) rel_l2: f64,
    /// What the set demands.
    pub(crate) bound: Bound,
    /// Whether it holds.
    pub(crate) ok: bool,
}

/// What a golden set demands of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// The same value.
    Exact,
    /// A bound on the greatest absolute difference.
    MaxAbs(f64),
    /// A bound on the relative L2 distance.
    RelL2(f64),
}

/// Bound on logits.
pub(crate) const LOGITS: Bound = Bound::MaxAbs(1e-3);
/// Bound on hidden states and embeddings.
pub(crate) const HIDDEN: Bound = Bound::RelL2(1e-4);
/// Bound on waveforms.
pub(crate) const WAVE: Bound = Bound::MaxAbs(1e-4);

impl Comparison {
    /// Compares values that must be equal.
    pub(crate) fn exact<T: PartialEq + ?Sized>(case: &str, tensor: &str, ours: &T, golden: &T) -> Self {
        let ok = ours == golden;
        let difference = if ok { 0.0 } else { f64::INFINITY };
        Self {
            case: case.to_owned(),
            tensor: tensor.to_owned(),
            max_abs: difference,
            rel_l2: difference,
            bound: Bound::Exact,
            ok,
        }
    }

    /// Compares numbers. Entries that are infinite in one must be the same in the other and count as no difference.
    pub(crate) fn numbers(case: &str, tensor: &str, ours: &[f32], golden: &[f32], bound: Bound) -> Self {
        let (mut max_abs, mut square, mut norm) = (0.0_f64, 0.0_f64, 0.0_f64);
        for (&ours, &golden) in ours.iter().zip(golden) {
            if ours == golden {
                norm += if golden.is_finite() { f64::from(golden).powi(2) } else { 0.0 };
                continue;
            }
            let difference = (f64::from(ours) - f64::from(golden)).abs();
            max_abs = if difference.is_nan() { f64::INFINITY } else { max_abs.max(difference) };
            square += difference * difference;
            norm += f64::from(golden).powi(2);
        }
        if ours.len() != golden.len() {
            max_abs = f64::INFINITY;
        }
        let rel_l2 = (square / norm.max(f64::MIN_POSITIVE)).sqrt();
        let ok = match bound {
            Bound::Exact => max_abs == 0.0,
            Bound::MaxAbs(bound) => max_abs <= bound,
            Bound::RelL2(bound) => max_abs.is_finite() && rel_l2 <= bound,
        };
        Self { case: case.to_owned(), tensor: tensor.to_owned(), max_abs, rel_l2, bound, ok }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = match self.bound {
            Bound::Exact => "exact".to_owned(),
            Bound::MaxAbs(bound) => format!("{bound:.0e}"),
            Bound::RelL2(bound) => format!("rel_l2:{bound:.0e}"),
        };
        let verdict = if self.ok { "ok" } else { "FAIL" };
        write!(f, "{} {} {:.2e} {:.2e} {bound} {verdict}", self.case, self.tensor, self.max_abs, self.rel_l2)
    }
}
