//! A golden safetensors file, read.

use std::error::Error;
use std::fs;
use std::path::Path;

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

    fn data(&self, name: &str, dtype: Dtype) -> Result<Vec<u8>, Box<dyn Error>> {
        let tensors = SafeTensors::deserialize(&self.bytes)?;
        let view = tensors.tensor(name)?;
        if view.dtype() != dtype {
            return Err(format!("{name} is {:?}, not {dtype:?}", view.dtype()).into());
        }
        Ok(view.data().to_vec())
    }
}
