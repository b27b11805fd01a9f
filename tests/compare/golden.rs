//! A golden safetensors file, read.

use std::error::Error;
use std::fs;
use std::path::Path;

use half::bf16;
use safetensors::{Dtype, SafeTensors};

/// The tensors of one case.
pub(crate) struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    /// Reads `golden/<case>.safetensors` of a set.
    pub(crate) fn read(set: &Path, case: &str) -> Result<Self, Box<dyn Error>> {
        let path = set.join("golden").join(format!("{case}.safetensors"));
        let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        SafeTensors::deserialize(&bytes)?;
        Ok(Self { bytes })
    }

    /// Names of the tensors that are there.
    pub(crate) fn names(&self) -> Result<Vec<String>, Box<dyn Error>> {
        Ok(SafeTensors::deserialize(&self.bytes)?.names().into_iter().map(str::to_owned).collect())
    }

    /// A tensor of f32 values.
    pub(crate) fn floats(&self, name: &str) -> Result<Vec<f32>, Box<dyn Error>> {
        let data = self.data(name, Dtype::F32)?;
        Ok(data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// A tensor of ids, which are stored as i64.
    pub(crate) fn ids(&self, name: &str) -> Result<Vec<u32>, Box<dyn Error>> {
        let data = self.data(name, Dtype::I64)?;
        let ids = data.as_chunks::<8>().0.iter().map(|bytes| u32::try_from(i64::from_le_bytes(*bytes)));
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// A tensor's values; integers and masks as floats. Panics where there is no such tensor.
    pub(crate) fn numbers(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("checked when it was read");
        let view = tensors.tensor(name).unwrap_or_else(|_| panic!("no tensor {name}"));
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Dtype::I64 => {
                data.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as f32).collect()
            }
            Dtype::BF16 => {
                data.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
            }
            Dtype::U8 => data.iter().map(|byte| f32::from(*byte)).collect(),
            other => panic!("tensor {name} has type {other:?}"),
        }
    }

    /// The shape of a tensor. Panics where there is no such tensor.
    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("checked when it was read");
        tensors.tensor(name).unwrap_or_else(|_| panic!("no tensor {name}")).shape().to_vec()
    }

    /// A matrix `[rows, columns]` turned to `[columns, rows]`.
    pub(crate) fn transposed(&self, name: &str) -> Vec<f32> {
        let (values, shape) = (self.numbers(name), self.shape(name));
        let (rows, columns) = (shape[0], shape[1]);
        (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
    }

    fn data(&self, name: &str, dtype: Dtype) -> Result<Vec<u8>, Box<dyn Error>> {
        let tensors = SafeTensors::deserialize(&self.bytes)?;
        let view = tensors.tensor(name)?;
        if view.dtype() != dtype {
            return Err(format!("{name} is {:?}, not {dtype:?}", view.dtype()).into());
        }
        Ok(view.data().to_vec())
    }
}
