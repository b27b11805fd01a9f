//! Golden files, and how close our values are to them.

use std::fmt;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

/// A tensor file of a golden set.
pub(crate) struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    /// The file of a case; none where the set does not have it.
    pub(crate) fn open(set: &Path, case: &str) -> Option<Self> {
        let path = set.join("golden").join(format!("{case}.safetensors"));
        std::fs::read(path).ok().map(|bytes| Self { bytes })
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a golden file is a safetensors file")
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.file().tensor(name).unwrap_or_else(|_| panic!("tensor {name}")).shape().to_vec()
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> Vec<String> {
        self.file().names().into_iter().map(|name| name.to_owned()).collect()
    }

    /// A tensor's values; integers and masks as floats.
    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let file = self.file();
        let view = file.tensor(name).unwrap_or_else(|_| panic!("tensor {name}"));
        match view.dtype() {
            Dtype::F32 => {
                view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
            Dtype::I64 => {
                view.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as f32).collect()
            }
            Dtype::U8 => view.data().iter().map(|byte| f32::from(*byte)).collect(),
            other => panic!("tensor {name} has type {other:?}"),
        }
    }

    /// A tensor of ids or codes.
    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        self.floats(name).into_iter().map(|value| value as u32).collect()
    }

    /// A matrix `[rows, columns]` turned to `[columns, rows]`.
    pub(crate) fn transposed(&self, name: &str) -> Vec<f32> {
        let (values, shape) = (self.floats(name), self.shape(name));
        let (rows, columns) = (shape[0], shape[1]);
        (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
    }
}

/// How close values must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// Largest absolute difference.
    MaxAbs(f32),
    /// Relative L2 norm of the difference.
    RelativeL2(f32),
    /// No difference.
    Exact,
}

/// The bound of logits.
pub(crate) const LOGITS: Bound = Bound::MaxAbs(1e-3);
/// The bound of hidden states and embeddings.
pub(crate) const HIDDEN: Bound = Bound::RelativeL2(1e-4);
/// The bound of waveforms.
pub(crate) const WAVE: Bound = Bound::MaxAbs(1e-4);

/// One tensor compared.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    /// The set and its variant.
    pub(crate) set: String,
    /// The case.
    pub(crate) case: String,
    /// The tensor, and how it was computed.
    pub(crate) tensor: String,
    /// Largest absolute difference; infinite if the lengths differ.
    pub(crate) max_abs: f32,
    /// Relative L2 norm of the difference; infinite if the lengths differ.
    pub(crate) relative_l2: f32,
    /// What was asked for.
    pub(crate) bound: Bound,
}

impl Comparison {
    /// Compares our values with golden ones.
    pub(crate) fn new(
        set: &Path,
        case: &str,
        tensor: &str,
        ours: &[f32],
        golden: &[f32],
        bound: Bound,
    ) -> Self {
        let mut names = set.iter().rev().take(2).map(|name| name.to_string_lossy());
        let (variant, model) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
        let (mut max_abs, mut relative_l2) = (f32::INFINITY, f32::INFINITY);
        if ours.len() == golden.len() {
            let pairs = || ours.iter().zip(golden).map(|(a, b)| (f64::from(*a), f64::from(*b)));
            // `max` would hide a NaN.
            max_abs = pairs()
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m }) as f32;
            let difference: f64 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
            let norm: f64 = pairs().map(|(_, b)| b * b).sum();
            relative_l2 = if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() as f32 };
        }
        Self {
            set: format!("{model}/{variant}"),
            case: case.to_owned(),
            tensor: tensor.to_owned(),
            max_abs,
            relative_l2,
            bound,
        }
    }

    /// Whether the bound is kept.
    pub(crate) fn ok(&self) -> bool {
        match self.bound {
            Bound::MaxAbs(bound) => self.max_abs <= bound,
            Bound::RelativeL2(bound) => self.relative_l2 <= bound,
            Bound::Exact => self.max_abs == 0.0,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = match self.bound {
            Bound::MaxAbs(bound) => format!("max_abs<={bound:e}"),
            Bound::RelativeL2(bound) => format!("rel_l2<={bound:e}"),
            Bound::Exact => "exact".to_owned(),
        };
        let verdict = if self.ok() { "ok" } else { "FAIL" };
        write!(
            f,
            "{} {} {} {:.2e} {:.2e} {bound} {verdict}",
            self.set, self.case, self.tensor, self.max_abs, self.relative_l2
        )
    }
}
