//! Every operation of a device against its plain form, on random inputs of several shapes.

use half::bf16;

use super::attention::{AttentionSteps, Rotary};
use super::experts::{ExpertNetwork, ExpertProduct};
use super::rows::{Activation, AddedNorm, EmbeddedRows, GatedSum, Norm, Product};
use super::{Check, largest_difference};
use crate::tensor::cpu::Plain;
use crate::tensor::{AttentionShape, Backend, BatchLimits, DeviceError, ExpertInput, StepBatch, Weight};

/// How exactly a device computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Activations are f32.
    F32,
    /// Activations are rounded to bf16.
    Bf16,
}

impl Precision {
    /// How far a result may be from the plain one, relative to the largest of its values.
    fn bound(self) -> f32 {
        match self {
            Self::F32 => 2e-5,
            // Up to three roundings of half a unit in the last of eight bits.
            Self::Bf16 => 1.2e-2,
        }
    }
}

/// An operation with its inputs.
pub(super) trait Operation: Send + Sync {
    /// What it is called in the table.
    fn subject(&self) -> &'static str;

    /// Its shapes.
    fn case(&self) -> String;

    /// Carries it out and shows the results.
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>, DeviceError>;
}

/// Compares every operation. `report` is told of each comparison as it is made.
pub fn compare<B: Backend>(
    backend: &B,
    precision: Precision,
    mut report: impl FnMut(Check),
) -> Result<(), DeviceError> {
    let mut with = Comparison { backend, bound: precision.bound(), report: &mut report };
    for (rows, width) in [(1, 8), (3, 37), (5, 2056)] {
        with.hold(&EmbeddedRows { rows, width })?;
        with.hold(&Norm { rows, width })?;
        with.hold(&AddedNorm { rows, width })?;
        with.hold(&Activation { rows, width })?;
        with.hold(&GatedSum { rows, width })?;
    }
    with.hold_products()?;
    for (head_dim, sections) in [(10, [0; 3]), (32, [6, 5, 5]), (128, [24, 20, 20])] {
        with.hold(&Rotary { rows: 7, head_dim, sections })?;
    }
    for (heads, kv_heads, head_dim) in
        [(3, 1, 10), (4, 2, 32), (4, 2, 64), (8, 1, 128), (32, 4, 128), (2, 1, 256)]
    {
        with.hold(&AttentionSteps { shape: AttentionShape { heads, kv_heads, head_dim } })?;
    }
    // Few pairs, more, and so many that each expert has some dozens.
    for (experts, top_k, rows) in [(128, 8, 1), (6, 2, 20), (128, 8, 9), (4, 2, 75)] {
        for (inner, width) in [(64, 24), (37, 9)] {
            for (input, narrow) in [(ExpertInput::Row, true), (ExpertInput::Pair, false)] {
                with.hold(&ExpertProduct { experts, top_k, rows, inner, out: 2 * width, input, narrow })?;
            }
            with.hold(&ExpertNetwork { experts, top_k, rows, hidden: inner, width })?;
        }
    }
    Ok(())
}

/// Compares matrix products alone, as [`compare`] does.
pub fn compare_products<B: Backend>(
    backend: &B,
    precision: Precision,
    mut report: impl FnMut(Check),
) -> Result<(), DeviceError> {
    Comparison { backend, bound: precision.bound(), report: &mut report }.hold_products()
}

/// What operations are held against their plain form with.
struct Comparison<'a, B> {
    /// The device.
    backend: &'a B,
    /// See [`Precision::bound`].
    bound: f32,
    /// Takes the outcomes.
    report: &'a mut dyn FnMut(Check),
}

impl<B: Backend> Comparison<'_, B> {
    /// Few rows and many, of widths that a library takes and of others.
    fn hold_products(&mut self) -> Result<(), DeviceError> {
        for (inner, out) in [(64, 48), (264, 37), (2048, 24), (37, 130)] {
            for rows in [1, 5, 13, 29, 70, 130] {
                for narrow in [false, true] {
                    self.hold(&Product { rows, inner, out, narrow })?;
                }
            }
        }
        Ok(())
    }

    fn hold<O: Operation>(&mut self, operation: &O) -> Result<(), DeviceError> {
        let ours = self.backend.scope(|| operation.run(self.backend))?;
        let plain = operation.run(&Plain)?;
        let mut worst = if ours.len() == plain.len() { 0.0 } else { f32::INFINITY };
        for (ours, plain) in ours.iter().zip(&plain) {
            let largest = plain.iter().fold(1e-6_f32, |largest, value| largest.max(value.abs()));
            worst = f32::max(worst, largest_difference(ours, plain) / largest);
        }
        (self.report)(Check::new(operation.subject(), operation.case(), worst, self.bound));
        Ok(())
    }
}

/// What the first `elements` of a buffer hold.
pub(super) fn shown<B: Backend>(
    backend: &B,
    buffer: &B::Buffer,
    elements: usize,
) -> Result<Vec<f32>, DeviceError> {
    Ok(backend.read(buffer, elements, &mut Vec::new())?.to_vec())
}

/// A weight of values that bf16 holds exactly, stored as bf16 if it is to be `narrow`, else as f32. Fails where they are not as many as the shape says.
pub(super) fn weight(shape: Vec<usize>, values: Vec<f32>, narrow: bool) -> Result<Weight, DeviceError> {
    let (have, need) = (values.len(), shape.iter().product());
    let weight = if narrow {
        Weight::from_bf16(shape, values.into_iter().map(bf16::from_f32).collect())
    } else {
        Weight::from_f32(shape, values)
    };
    weight.ok_or(DeviceError::Shape { operation: "selftest", operand: "a weight", have, need })
}

/// A buffer whose values the device keeps in f32: they come in as rows of width 1 of an embedding table.
pub(super) fn precise<B: Backend>(backend: &B, values: &[f32]) -> Result<B::Buffer, DeviceError> {
    let count = values.len();
    let table = backend.matrix(vec![weight(vec![count, 1], values.to_vec(), false)?])?;
    let mut batch = backend.batch(BatchLimits { rows: count, logit_rows: 0 })?;
    backend.upload(&tokens(0..count as u32), &mut batch)?;
    let mut out = backend.precise_buffer(count)?;
    backend.embed(&table, &batch, &mut out)?;
    Ok(out)
}

/// A step of one sequence with these tokens.
pub(super) fn tokens(ids: impl ExactSizeIterator<Item = u32>) -> StepBatch {
    let blocks: Vec<u32> = (0..ids.len().div_ceil(crate::tensor::BLOCK_SIZE) as u32).collect();
    let mut step = StepBatch::default();
    step.push_text(ids, 0, &blocks, false);
    step
}
