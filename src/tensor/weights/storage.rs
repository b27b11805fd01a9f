//! A weight in memory: its shape, and a share in whatever holds its elements.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use bytemuck::Pod;
use half::bf16;
use memmap2::Mmap;

use super::Recipe;

/// The type in which weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// As the file has it.
    #[default]
    Auto,
    /// Computes in f32; bf16 weights stay bf16 in memory, which is exact.
    Float32,
    /// bf16; f32 weights are rounded once.
    Bfloat16,
}

/// Whatever keeps the bytes of weights alive.
#[derive(Debug)]
pub(super) enum Source {
    /// A file mapped into memory.
    Mapped(Mmap),
    /// Bytes in the binary itself.
    Embedded(&'static [u8]),
    /// Weights that were made or converted here.
    Bf16(Vec<bf16>),
    /// As above, in f32.
    F32(Vec<f32>),
    /// bf16 values that are made when they are first asked for.
    Made {
        /// What they are made by.
        recipe: Recipe,
        /// How many there are.
        count: usize,
        /// The values, once they are made.
        values: OnceLock<Vec<bf16>>,
    },
}

impl Source {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping,
            Self::Embedded(bytes) => bytes,
            Self::Bf16(values) => bytemuck::cast_slice(values),
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::Made { recipe, count, values } => {
                bytemuck::cast_slice(values.get_or_init(|| recipe.values(*count)))
            }
        }
    }
}

/// Elements of a [`Source`], without a copy of their own.
#[derive(Debug)]
pub(crate) struct SharedSlice<T> {
    /// Keeps the memory alive.
    source: Arc<Source>,
    /// First byte.
    start: usize,
    /// Bytes.
    length: usize,
    /// What the bytes are read as.
    element: PhantomData<T>,
}

impl<T> Clone for SharedSlice<T> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), start: self.start, length: self.length, element: PhantomData }
    }
}

impl<T: Pod> SharedSlice<T> {
    /// None if the range is not there, or its start is not aligned for `T`.
    pub(super) fn new(source: Arc<Source>, start: usize, length: usize) -> Option<Self> {
        let bytes = source.bytes().get(start..start.checked_add(length)?)?;
        bytemuck::try_cast_slice::<u8, T>(bytes).ok()?;
        Some(Self { source, start, length, element: PhantomData })
    }

    /// Bytes that the elements take.
    fn size_bytes(&self) -> usize {
        self.length
    }

    /// Whether the elements lie in a file, which costs no memory that the system could not take back.
    fn is_in_a_file(&self) -> bool {
        matches!(*self.source, Source::Mapped(_) | Source::Embedded(_))
    }

    /// The elements. The constructor has made sure that the range exists and is aligned.
    pub(crate) fn as_slice(&self) -> &[T] {
        let bytes = self.source.bytes().get(self.start..self.start + self.length).unwrap_or_default();
        bytemuck::try_cast_slice(bytes).unwrap_or_default()
    }
}

impl SharedSlice<bf16> {
    /// `count` values that are made when they are first asked for.
    pub(super) fn made_by(recipe: Recipe, count: usize) -> Self {
        let source = Source::Made { recipe, count, values: OnceLock::new() };
        Self {
            source: Arc::new(source),
            start: 0,
            length: count.saturating_mul(size_of::<bf16>()),
            element: PhantomData,
        }
    }

    /// What all of these values are made by, if they are.
    pub(crate) fn recipe(&self) -> Option<&Recipe> {
        match &*self.source {
            Source::Made { recipe, .. } => Some(recipe),
            _ => None,
        }
    }
}

/// An element type in which weights are stored.
pub(crate) trait Element: Pod + Send + Sync {
    /// The exact value.
    fn widen(self) -> f32;
}

impl Element for f32 {
    fn widen(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// The elements of a weight in the type in which they are kept.
#[derive(Debug, Clone)]
pub struct WeightData(pub(crate) Elements);

/// See [`WeightData`].
#[derive(Debug, Clone)]
pub(crate) enum Elements {
    /// Brain floats.
    Bf16(SharedSlice<bf16>),
    /// 32-bit floats.
    F32(SharedSlice<f32>),
}

/// A named tensor. Cloning it shares the memory.
#[derive(Debug, Clone)]
pub struct Weight {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub data: WeightData,
}

impl Weight {
    /// A weight of f32 values that live here. None if they are not as many as the shape says.
    pub fn from_f32(shape: Vec<usize>, values: Vec<f32>) -> Option<Self> {
        let length = size_of_val(values.as_slice());
        (shape.iter().product::<usize>() == values.len()).then_some(())?;
        let elements = SharedSlice::new(Arc::new(Source::F32(values)), 0, length)?;
        Some(Self { shape, data: WeightData(Elements::F32(elements)) })
    }

    /// A weight of bf16 values that live here. None if they are not as many as the shape says.
    pub fn from_bf16(shape: Vec<usize>, values: Vec<bf16>) -> Option<Self> {
        let length = size_of_val(values.as_slice());
        (shape.iter().product::<usize>() == values.len()).then_some(())?;
        let elements = SharedSlice::new(Arc::new(Source::Bf16(values)), 0, length)?;
        Some(Self { shape, data: WeightData(Elements::Bf16(elements)) })
    }

    /// A weight whose bf16 values are made when they are first asked for.
    pub(super) fn made_by(recipe: Recipe, shape: Vec<usize>) -> Self {
        let count = shape.iter().fold(1, |product: usize, extent| product.saturating_mul(*extent));
        Self { shape, data: WeightData(Elements::Bf16(SharedSlice::made_by(recipe, count))) }
    }

    /// Makes values that are yet to be made, so that nobody waits for them later. A device that makes them itself
    /// does without.
    pub(crate) fn make(&self) {
        if let Elements::Bf16(values) = &self.data.0 {
            values.as_slice();
        }
    }

    /// How many elements it has; the most there can be where the shape asks for more.
    pub fn elements(&self) -> usize {
        self.shape.iter().fold(1, |product: usize, extent| product.saturating_mul(*extent))
    }

    /// All elements as f32, copied.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.data.0 {
            Elements::Bf16(values) => values.as_slice().iter().map(|value| value.widen()).collect(),
            Elements::F32(values) => values.as_slice().to_vec(),
        }
    }

    /// Bytes that the elements take.
    pub fn size_bytes(&self) -> usize {
        match &self.data.0 {
            Elements::Bf16(values) => values.size_bytes(),
            Elements::F32(values) => values.size_bytes(),
        }
    }

    /// Whether the elements lie in a file, mapped or part of the binary, where the system can drop them from memory
    /// and read them again.
    pub fn is_in_a_file(&self) -> bool {
        match &self.data.0 {
            Elements::Bf16(values) => values.is_in_a_file(),
            Elements::F32(values) => values.is_in_a_file(),
        }
    }

    /// The weight as `dtype` wants it kept.
    pub(super) fn into_dtype(self, dtype: Dtype) -> Self {
        match (&self.data.0, dtype) {
            (Elements::F32(values), Dtype::Bfloat16) => {
                Self::made_by(Recipe::Rounded(values.clone()), self.shape)
            }
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float32_keeps_bf16_storage_and_bfloat16_rounds_f32_once() {
        let stored = Weight::from_bf16(vec![1], vec![bf16::from_f32(1.5)]).unwrap();
        assert!(matches!(stored.into_dtype(Dtype::Float32).data.0, Elements::Bf16(_)));
        let wide = Weight::from_f32(vec![1], vec![1.0 + 1e-4]).unwrap();
        assert_eq!(wide.into_dtype(Dtype::Bfloat16).to_f32(), [1.0]);
    }

    #[test]
    fn values_are_made_when_they_are_asked_for() {
        let weight = Weight::made_by(Recipe::Ones, vec![3, 2]);
        let unmade = |weight: &Weight| match &weight.data.0 {
            Elements::Bf16(values) => {
                matches!(&*values.source, Source::Made { values, .. } if values.get().is_none())
            }
            Elements::F32(_) => false,
        };
        assert_eq!((weight.size_bytes(), weight.elements(), weight.is_in_a_file()), (12, 6, false));
        assert!(unmade(&weight), "its size is known without its values");
        weight.make();
        assert!(!unmade(&weight));
        assert_eq!(weight.to_f32(), [1.0; 6]);
    }

    #[test]
    fn a_slice_that_is_not_aligned_is_refused() {
        let source = Arc::new(Source::F32(vec![0.0; 4]));
        assert!(SharedSlice::<f32>::new(source.clone(), 2, 8).is_none());
        assert!(SharedSlice::<f32>::new(source, 4, 12).is_some());
    }
}
