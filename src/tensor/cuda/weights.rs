//! The way of weights into a device's memory: straight from where they lie, or made where they are to lie.

use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;

use super::driver::{Address, Driver, Launch, Memory};
use super::stored::Stored;
use crate::tensor::error::require_exact;
use crate::tensor::weights::{Elements, Recipe, dummy_draws};
use crate::tensor::{DeviceError, Weight};

/// Elements that are converted at a time on the way to the device.
const CHUNK: usize = 1 << 20;
/// Values that a block of `dummy_*` makes.
const MADE_BY_BLOCK: usize = 1024;

/// The draws that made-up weights are picked from, on the device once the first one is needed.
#[derive(Debug, Default)]
pub(super) struct Draws(Mutex<Option<Arc<Memory>>>);

impl Draws {
    fn on(&self, driver: &Arc<dyn Driver>) -> Result<Arc<Memory>, DeviceError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(memory) = known.as_ref() {
            return Ok(memory.clone());
        }
        let memory = Arc::new(Memory::holding(driver, bytemuck::cast_slice(dummy_draws()))?);
        *known = Some(memory.clone());
        Ok(memory)
    }
}

/// Brings weights to a device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<'a> {
    /// The device.
    pub(super) driver: &'a Arc<dyn Driver>,
    /// For weights that are made up.
    pub(super) draws: &'a Draws,
}

impl Weights<'_> {
    /// Memory that holds parts one after the other.
    pub(super) fn bring<'a>(
        self,
        stored: Stored,
        parts: impl Iterator<Item = &'a Weight> + Clone,
    ) -> Result<Memory, DeviceError> {
        let elements: usize = parts.clone().map(Weight::elements).sum();
        let memory = Memory::zeros(self.driver, elements * stored.bytes())?;
        let mut to = memory.address();
        for part in parts {
            self.bring_part(stored, part, to)?;
            to += (part.elements() * stored.bytes()) as u64;
        }
        Ok(memory)
    }

    fn bring_part(self, stored: Stored, part: &Weight, to: Address) -> Result<(), DeviceError> {
        let values = match &part.data.0 {
            Elements::F32(values) => return self.send_f32(stored, values.as_slice(), to),
            Elements::Bf16(values) => values,
        };
        match (values.recipe(), stored) {
            (Some(Recipe::Ones), _) => self.make(stored, None, part.elements(), to),
            (Some(Recipe::Draws { stream }), _) => self.make(stored, Some(*stream), part.elements(), to),
            // Rounded on the way, so that there is no rounded copy of all of them.
            (Some(Recipe::Rounded(wide)), Stored::Bf16) => self.send_f32(stored, wide.as_slice(), to),
            (_, Stored::Bf16) => self.driver.upload(bytemuck::cast_slice(values.as_slice()), to),
            (_, Stored::F32) => self.send_chunks(values.as_slice(), to, |chunk| {
                let wide: Vec<f32> = chunk.iter().copied().map(bf16::to_f32).collect();
                bytemuck::cast_slice(&wide).to_vec()
            }),
        }
    }

    fn send_f32(self, stored: Stored, values: &[f32], to: Address) -> Result<(), DeviceError> {
        match stored {
            Stored::F32 => self.driver.upload(bytemuck::cast_slice(values), to),
            Stored::Bf16 => self.send_chunks(values, to, |chunk| stored.encode(chunk)),
        }
    }

    /// Sends values after turning them into the bytes that are kept, some at a time.
    fn send_chunks<T>(
        self,
        values: &[T],
        mut to: Address,
        kept: impl Fn(&[T]) -> Vec<u8>,
    ) -> Result<(), DeviceError> {
        for chunk in values.chunks(CHUNK) {
            let bytes = kept(chunk);
            self.driver.upload(&bytes, to)?;
            to += bytes.len() as u64;
        }
        Ok(())
    }

    /// Has the device make `count` values: draws of a stream, or ones where there is none.
    fn make(self, stored: Stored, stream: Option<u64>, count: usize, to: Address) -> Result<(), DeviceError> {
        let draws = self.draws.on(self.driver)?;
        Launch::new(stored.kernel("dummy_f32", "dummy_bf16"), [count.div_ceil(MADE_BY_BLOCK), 1, 1], 256)
            .memory(&draws)
            .count(usize::from(stream.is_some()))
            .wide(stream.unwrap_or(0))
            .wide(count as u64)
            .pointer(to)
            .queue(self.driver.as_ref())
    }
}

/// Inner width and stacked output width of parts.
pub(super) fn extents(operation: &'static str, parts: &[Weight]) -> Result<(usize, usize), DeviceError> {
    let mut inner = None;
    let mut out = 0;
    for part in parts {
        let &[rows, width] = part.shape.as_slice() else {
            return Err(DeviceError::Shape {
                operation,
                operand: "the shape of a part",
                have: part.shape.len(),
                need: 2,
            });
        };
        require_exact(operation, "the inner width of a part", width, *inner.get_or_insert(width))?;
        out += rows;
    }
    Ok((inner.unwrap_or(0), out))
}

/// The type in which weights are kept: with bf16 activations always bf16, else as they are stored if all agree.
pub(in crate::tensor) fn kept_as<'a>(
    activations: Stored,
    mut parts: impl Iterator<Item = &'a Weight>,
) -> Stored {
    match activations {
        Stored::Bf16 => Stored::Bf16,
        Stored::F32 if parts.all(|part| matches!(part.data.0, Elements::Bf16(_))) => Stored::Bf16,
        Stored::F32 => Stored::F32,
    }
}
