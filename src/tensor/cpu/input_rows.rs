//! Input rows on a CPU.

use super::Cpu;
use super::memory::{CpuBuffer, CpuMatrix, CpuVector};
use super::plain::Plain;
use crate::tensor::error::{require, require_exact};
use crate::tensor::weights::{Element, Elements};
use crate::tensor::{DeviceError, InputRows};

impl InputRows for Plain {
    fn write(&self, values: &[f32], out: &mut CpuBuffer) -> Result<(), DeviceError> {
        require("write", "out", out.0.len(), values.len())?;
        out.0[..values.len()].copy_from_slice(values);
        Ok(())
    }

    fn add_embeddings(
        &self,
        tables: &[&CpuMatrix],
        ids: &[u32],
        rows: &[u32],
        scale: f32,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "add_embeddings";
        let Some(width) = tables.first().map(|table| table.inner) else { return Ok(()) };
        require_exact(NAME, "ids", ids.len(), rows.len() * tables.len())?;
        let last = rows.iter().max().map_or(0, |row| *row as usize + 1);
        require(NAME, "out", out.0.len(), last * width)?;
        for table in tables {
            require_exact(NAME, "the width of a table", table.inner, width)?;
        }
        for (at, id) in ids.iter().enumerate() {
            let table = tables[at % tables.len()];
            if *id as usize >= table.out {
                return Err(DeviceError::Batch(format!("id {id} where the table has {} rows", table.out)));
            }
        }
        let mut sum = vec![0.0; width];
        for (ids, row) in ids.chunks_exact(tables.len()).zip(rows) {
            sum.fill(0.0);
            for (table, id) in tables.iter().zip(ids) {
                add_row(table, *id as usize, &mut sum);
            }
            let out = &mut out.0[*row as usize * width..][..width];
            for (out, sum) in out.iter_mut().zip(&sum) {
                *out += scale * sum;
            }
        }
        Ok(())
    }

    fn add_bias(&self, x: &mut CpuBuffer, bias: &CpuVector, rows: usize) -> Result<(), DeviceError> {
        require("add_bias", "x", x.0.len(), rows * bias.0.len())?;
        for x in x.0.chunks_exact_mut(bias.0.len()).take(rows) {
            x.iter_mut().zip(&bias.0).for_each(|(x, bias)| *x += bias);
        }
        Ok(())
    }

    fn bias_silu(&self, x: &mut CpuBuffer, bias: &CpuVector, rows: usize) -> Result<(), DeviceError> {
        require("bias_silu", "x", x.0.len(), rows * bias.0.len())?;
        for x in x.0.chunks_exact_mut(bias.0.len()).take(rows) {
            for (x, bias) in x.iter_mut().zip(&bias.0) {
                let value = *x + bias;
                *x = value / (1.0 + (-value).exp());
            }
        }
        Ok(())
    }

    fn copy_rows(
        &self,
        x: &CpuBuffer,
        pairs: &[(u32, u32)],
        width: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        let rows = |row: Option<u32>| row.map_or(0, |row| (row as usize + 1) * width);
        require("copy_rows", "x", x.0.len(), rows(pairs.iter().map(|pair| pair.0).max()))?;
        require("copy_rows", "out", out.0.len(), rows(pairs.iter().map(|pair| pair.1).max()))?;
        for (from, to) in pairs {
            let row = &x.0[*from as usize * width..][..width];
            out.0[*to as usize * width..][..width].copy_from_slice(row);
        }
        Ok(())
    }
}

/// As [`Plain`]: these operations cost little beside the products around them.
impl InputRows for Cpu {
    fn write(&self, values: &[f32], out: &mut CpuBuffer) -> Result<(), DeviceError> {
        Plain.write(values, out)
    }

    fn add_embeddings(
        &self,
        tables: &[&CpuMatrix],
        ids: &[u32],
        rows: &[u32],
        scale: f32,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        Plain.add_embeddings(tables, ids, rows, scale, out)
    }

    fn add_bias(&self, x: &mut CpuBuffer, bias: &CpuVector, rows: usize) -> Result<(), DeviceError> {
        Plain.add_bias(x, bias, rows)
    }

    fn bias_silu(&self, x: &mut CpuBuffer, bias: &CpuVector, rows: usize) -> Result<(), DeviceError> {
        Plain.bias_silu(x, bias, rows)
    }

    fn copy_rows(
        &self,
        x: &CpuBuffer,
        pairs: &[(u32, u32)],
        width: usize,
        out: &mut CpuBuffer,
    ) -> Result<(), DeviceError> {
        Plain.copy_rows(x, pairs, width, out)
    }
}

/// Adds a row of a table; the caller has checked that it is there.
fn add_row(table: &CpuMatrix, mut row: usize, out: &mut [f32]) {
    let width = table.inner;
    for part in table.parts.iter() {
        if row < part.shape[0] {
            return match &part.data.0 {
                Elements::Bf16(values) => add(&values.as_slice()[row * width..][..width], out),
                Elements::F32(values) => add(&values.as_slice()[row * width..][..width], out),
            };
        }
        row -= part.shape[0];
    }
}

fn add<T: Element>(values: &[T], out: &mut [f32]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out += value.widen();
    }
}
