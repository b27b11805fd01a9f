//! How fast a device multiplies matrices.

use std::time::Duration;

use super::operations::weight;
use super::random::Random;
use super::timing::Repeats;
use crate::tensor::{Backend, DeviceError};

/// How often the product is repeated.
const REPEATS: Repeats = Repeats { most: 40, together: 8, patience: Duration::from_millis(500) };

/// Multiplications and additions per second of the product of two square matrices of `side` rows, the weights stored as
/// bf16 if they are to be `narrow`, else as f32; the mean of several after one that warms up.
pub fn measure<B: Backend>(backend: &B, side: usize, narrow: bool) -> Result<f64, DeviceError> {
    let values = Random::new(side).values(side * side);
    let x = backend.upload_values(&values)?;
    let weight = backend.matrix(vec![weight(vec![side, side], values, narrow)?])?;
    let (mut out, mut staging) = (backend.buffer(side * side)?, Vec::new());
    let seconds = REPEATS.mean_seconds(
        &mut out,
        |out| backend.matmul(&x, &weight, side, out),
        |out| backend.read(out, 1, &mut staging).map(drop),
    )?;
    Ok(2.0 * (side as f64).powi(3) / seconds)
}
