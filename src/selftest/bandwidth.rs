//! How fast a device copies its memory.

use std::time::Instant;

use crate::tensor::{Backend, DeviceError};

/// Copies that are timed.
const COPIES: usize = 10;

/// Bytes that a device reads and writes per second when it copies `elements` f32 values from one buffer to another, the
/// mean of ten copies after one that warms up.
pub fn measure<B: Backend>(backend: &B, elements: usize) -> Result<f64, DeviceError> {
    let (from, mut to) = (backend.precise_buffer(elements)?, backend.precise_buffer(elements)?);
    let mut staging = Vec::new();
    backend.copy(&from, elements, &mut to)?;
    backend.read(&to, 1, &mut staging)?;
    let start = Instant::now();
    for _ in 0..COPIES {
        backend.copy(&from, elements, &mut to)?;
    }
    // Waits for all of them.
    backend.read(&to, 1, &mut staging)?;
    let bytes = 2 * COPIES * elements * size_of::<f32>();
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}
