//! Operations on rows: embeddings, norms, products, gates.

use super::operations::{Operation, precise, shown, tokens, weight};
use super::random::Random;
use crate::tensor::{Backend, BatchLimits, DeviceError};

/// Added under the root of norms.
pub(super) const EPS: f32 = 1e-6;

/// `embed`, `copy` and `gather_logit_rows`.
pub(super) struct EmbeddedRows {
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Operation for EmbeddedRows {
    fn subject(&self) -> &'static str {
        "embed, copy, gather_logit_rows"
    }

    fn case(&self) -> String {
        format!("{} rows of {}", self.rows, self.width)
    }

    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>, DeviceError> {
        let Self { rows, width } = *self;
        let vocabulary = rows + 5;
        let table = weight(vec![vocabulary, width], Random::new(width).values(vocabulary * width), true)?;
        let table = backend.matrix(vec![table])?;
        let mut step = tokens((0..rows).map(|row| ((row * 3 + 4) % vocabulary) as u32));
        step.logit_rows = (0..rows as u32).rev().step_by(2).collect();
        let wanted = step.logit_rows.len();
        let mut batch = backend.batch(BatchLimits { rows: rows + 2, logit_rows: wanted })?;
        backend.upload(&step, &mut batch)?;
        let [mut embedded, mut copied] = [backend.buffer(rows * width)?, backend.buffer(rows * width)?];
        let mut gathered = backend.buffer(wanted * width)?;
        backend.embed(&table, &batch, &mut embedded)?;
        backend.copy(&embedded, rows * width, &mut copied)?;
        backend.gather_logit_rows(&copied, width, &batch, &mut gathered)?;
        Ok(vec![
            shown(backend, &embedded, rows * width)?,
            shown(backend, &copied, rows * width)?,
            shown(backend, &gathered, wanted * width)?,
        ])
    }
}

/// `rms_norm`.
pub(super) struct Norm {
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Operation for Norm {
    fn subject(&self) -> &'static str {
        "rms_norm"
    }

    fn case(&self) -> String {
        format!("{} rows of {}", self.rows, self.width)
    }

    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>, DeviceError> {
        let mut random = Random::new(self.width);
        let elements = self.rows * self.width;
        let x = backend.upload_values(&random.values(elements))?;
        let gain = backend.vector(&weight(vec![self.width], random.values(self.width), true)?)?;
        let mut out = backend.buffer(elements)?;
        backend.rms_norm(&x, &gain, EPS, self.rows, &mut out)?;
        Ok(vec![shown(backend, &out, elements)?])
    }
}

/// `add_rms_norm`.
pub(super) struct AddedNorm {
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Operation for AddedNorm {
    fn subject(&self) -> &'static str {
        "add_rms_norm"
    }

    fn case(&self) -> String {
        format!("{} rows of {}", self.rows, self.width)
    }

    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>, DeviceError> {
        let mut random = Random::new(self.width + 1);
        let elements = self.rows * self.width;
        let mut residual = backend.upload_values(&random.values(elements))?;
        let delta = backend.upload_values(&random.values(elements))?;
        let gain = backend.vector(&weight(vec![self.width], random.values(self.width), true)?)?;
        let mut out = backend.buffer(elements)?;
        backend.add_rms_norm(&mut residual, &delta, &gain, EPS, self.rows, &mut out)?;
        Ok(vec![shown(backend, &residual, elements)?, shown(backend, &out, elements)?])
    }
}

/// `swiglu`.
pub(super) struct Activation {
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Operation for Activation {
    fn subject(&self) -> &'static str {
        "swiglu"
    }

    fn case(&self) -> String {
        format!("{} rows of {}", self.rows, self.width)
    }

    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>, DeviceError> {
        let elements = self.rows * self.width;
        let gate_up: Vec<f32> =
            Random::new(self.width + 2).values(2 * elements).iter().map(|value| 4.0 * value).collect();
        let gate_up = backend.upload_values(&gate_up)?;
        let mut out = backend.buffer(elements)?;
        backend.swiglu(&gate_up, self.rows, self.width, &mut out)?;
        Ok(vec![shown(backend, &out, elements)?])
    }
}

/// `add_gated`.
pub(super) struct GatedSum {
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Operation for GatedSum {
    fn subject(&self) -> &'static str {
        "add_gated"
    }

    fn case(&self) -> String {
        format!("{} rows of {}", self.rows, self.width)
    }

    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>, DeviceError> {
        let mut random = Random::new(self.width + 3);
        let elements = self.rows * self.width;
        let gate = precise(backend, &random.values(self.rows))?;
        let x = backend.upload_values(&random.values(elements))?;
        let mut out = backend.upload_values(&random.values(elements))?;
        backend.add_gated(&gate, &x, self.rows, self.width, &mut out)?;
        Ok(vec![shown(backend, &out, elements)?])
    }
}

/// What weights are called in a case.
pub(super) fn stored_as(narrow: bool) -> &'static str {
    if narrow { "bf16" } else { "f32" }
}

/// `matmul`, to activations and to values kept in f32.
pub(super) struct Product {
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) out: usize,
    /// Whether the weights are stored as bf16.
    pub(super) narrow: bool,
}

impl Operation for Product {
    fn subject(&self) -> &'static str {
        "matmul"
    }

    fn case(&self) -> String {
        let Self { rows, inner, out, narrow } = self;
        format!("{rows} rows, [{out}, {inner}] of {}", stored_as(*narrow))
    }

    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>, DeviceError> {
        let Self { rows, inner, out, narrow } = *self;
        let mut random = Random::new(rows + inner);
        let x = backend.upload_values(&random.values(rows * inner))?;
        // Two tensors stacked, as queries and keys are.
        let first = out / 3;
        let parts =
            [first, out - first].map(|rows| weight(vec![rows, inner], random.values(rows * inner), narrow));
        let matrix = backend.matrix(parts.into_iter().collect::<Result<_, _>>()?)?;
        let (mut result, mut logits) = (backend.buffer(rows * out)?, backend.precise_buffer(rows * out)?);
        backend.matmul(&x, &matrix, rows, &mut result)?;
        backend.matmul(&x, &matrix, rows, &mut logits)?;
        Ok(vec![shown(backend, &result, rows * out)?, shown(backend, &logits, rows * out)?])
    }
}
