//! One safetensors file: its header, and views into its body.

use std::path::Path;
use std::sync::Arc;

use half::bf16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as StoredDtype, Metadata};

use super::mapped;
use super::storage::{Elements, SharedSlice, Source, Weight, WeightData};
use super::{Element, WeightError};

/// A safetensors file whose header has been read.
#[derive(Debug)]
pub(super) struct SafetensorsFile {
    /// For messages.
    pub(super) name: String,
    /// The whole file.
    source: Arc<Source>,
    /// Where the body begins.
    body: usize,
    /// Names, types, shapes and places.
    metadata: Metadata,
}

impl SafetensorsFile {
    /// Maps a file and reads its header.
    pub(super) fn open(path: &Path) -> Result<Self, WeightError> {
        Self::from_source(path.display().to_string(), Source::Mapped(mapped::map(path)?))
    }

    /// Reads the header of a file that is in memory.
    pub(super) fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, WeightError> {
        Self::from_source(name.to_owned(), Source::Embedded(bytes))
    }

    fn from_source(name: String, source: Source) -> Result<Self, WeightError> {
        let malformed = |cause: String| WeightError::Malformed { file: name.clone(), cause };
        let bytes = source.bytes();
        let (header, metadata) = SafeTensors::read_metadata(bytes)
            .map_err(|error| malformed(format!("not a complete safetensors file: {error}")))?;
        let body = header.saturating_add(size_of::<u64>());
        let need = body.saturating_add(metadata.data_len());
        if bytes.len() != need {
            return Err(malformed(format!(
                "the file has {} bytes where its header promises {need}",
                bytes.len()
            )));
        }
        Ok(Self { name, source: Arc::new(source), body, metadata })
    }

    /// Whether the file holds a tensor.
    pub(super) fn holds(&self, tensor: &str) -> bool {
        self.metadata.info(tensor).is_some()
    }

    /// The tensor, if the file holds it and it has the expected shape.
    pub(super) fn tensor(&self, tensor: &str, shape: &[usize]) -> Result<Weight, WeightError> {
        let info = self.metadata.info(tensor).ok_or_else(|| WeightError::Missing {
            source_name: self.name.clone(),
            tensor: tensor.to_owned(),
        })?;
        if info.shape != shape {
            return Err(WeightError::Shape {
                file: self.name.clone(),
                tensor: tensor.to_owned(),
                have: info.shape.clone(),
                need: shape.to_vec(),
            });
        }
        let (start, end) = info.data_offsets;
        let elements = match info.dtype {
            StoredDtype::BF16 => self.view::<bf16>(start, end).map(Elements::Bf16).or_else(|| {
                let values = self.copy(start, end, |bytes: [u8; 2]| bf16::from_le_bytes(bytes))?;
                whole(Source::Bf16(values)).map(Elements::Bf16)
            }),
            StoredDtype::F32 => self.view::<f32>(start, end).map(Elements::F32).or_else(|| {
                let values = self.copy(start, end, f32::from_le_bytes)?;
                whole(Source::F32(values)).map(Elements::F32)
            }),
            other => {
                return Err(WeightError::Dtype {
                    file: self.name.clone(),
                    tensor: tensor.to_owned(),
                    have: format!("{other:?}"),
                });
            }
        };
        let elements = elements.ok_or_else(|| WeightError::Malformed {
            file: self.name.clone(),
            cause: format!("tensor {tensor} lies outside the file"),
        })?;
        Ok(Weight { shape: shape.to_vec(), data: WeightData(elements) })
    }

    /// The elements where they are.
    fn view<T: Element>(&self, start: usize, end: usize) -> Option<SharedSlice<T>> {
        SharedSlice::new(self.source.clone(), self.body.checked_add(start)?, end.checked_sub(start)?)
    }

    /// The elements in memory of their own, for tensors whose place in the file is not aligned.
    fn copy<T, const N: usize>(&self, start: usize, end: usize, decode: fn([u8; N]) -> T) -> Option<Vec<T>> {
        let bytes = self.source.bytes().get(self.body.checked_add(start)?..self.body.checked_add(end)?)?;
        Some(bytes.as_chunks::<N>().0.iter().map(|chunk| decode(*chunk)).collect())
    }
}

/// All of a source that was just made.
fn whole<T: Element>(source: Source) -> Option<SharedSlice<T>> {
    let length = source.bytes().len();
    SharedSlice::new(Arc::new(source), 0, length)
}
