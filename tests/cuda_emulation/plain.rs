//! The plain backend as the reference: values go in as embeddings and come out by reading.

use omni_actors::tensor::cpu::{CpuBatch, CpuBuffer, CpuMatrix, CpuVector, Plain};
use omni_actors::tensor::{Backend, BatchLimits, SequenceSpan, StepBatch, Weight};

/// A buffer that holds `values`.
pub(crate) fn buffer(values: &[f32]) -> CpuBuffer {
    let mut out = Plain.buffer(values.len()).unwrap();
    let table = matrix(values, values.len(), 1);
    Plain.embed(&table, &batch((0..values.len() as u32).collect(), Vec::new()), &mut out).unwrap();
    out
}

/// A buffer for `elements` results.
pub(crate) fn room(elements: usize) -> CpuBuffer {
    Plain.buffer(elements).unwrap()
}

/// The first `elements` of a buffer.
pub(crate) fn read(buffer: &CpuBuffer, elements: usize) -> Vec<f32> {
    Plain.read(buffer, elements, &mut Vec::new()).unwrap().to_vec()
}

/// A weight matrix `[out, inner]`.
pub(crate) fn matrix(values: &[f32], out: usize, inner: usize) -> CpuMatrix {
    Plain.matrix(vec![weight(values, vec![out, inner])]).unwrap()
}

/// A weight vector.
pub(crate) fn vector(values: &[f32]) -> CpuVector {
    Plain.vector(&weight(values, vec![values.len()])).unwrap()
}

/// A weight of any shape.
pub(crate) fn weight(values: &[f32], shape: Vec<usize>) -> Weight {
    Weight::from_f32(shape, values.to_vec()).unwrap()
}

/// A step of one sequence with these tokens.
pub(crate) fn batch(token_ids: Vec<u32>, logit_rows: Vec<u32>) -> CpuBatch {
    let rows = token_ids.len() as u32;
    let step = StepBatch {
        token_ids,
        positions: [(); 3].map(|()| vec![0.0; rows as usize]),
        slot_mapping: (0..rows).collect(),
        sequences: vec![SequenceSpan {
            first_row: 0,
            rows,
            context: rows,
            block_table: (0..rows.div_ceil(16)).collect(),
        }],
        logit_rows,
    };
    let limits = BatchLimits { rows: rows as usize, logit_rows: step.logit_rows.len() };
    let mut batch = Plain.batch(limits).unwrap();
    Plain.upload(&step, &mut batch).unwrap();
    batch
}
