//! How fast a device copies its memory, and how fast a CPU reads it.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::tensor::cpu::Cpu;
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

/// Passes over the memory that a CPU reads.
const READS: usize = 5;
/// 64-bit words that a thread reads in one go.
const SPAN: usize = 1 << 16;

/// Bytes per second that all threads of a CPU together read from `bytes` of memory, the best of five passes as STREAM by
/// McCalpin (1995) has it. It is the memory's speed if no cache holds so much.
pub fn measure_reads(cpu: &Cpu, bytes: usize) -> f64 {
    let words = bytes / size_of::<u64>();
    cpu.scope(|| {
        // Written by the threads that read it, so that it lies near them.
        let memory: Vec<u64> =
            (0..words).into_par_iter().with_min_len(SPAN).map(|word| word as u64).collect();
        let seconds = (0..READS).map(|_| {
            let start = Instant::now();
            let spans = memory.par_chunks(SPAN);
            let sum = spans.map(|span| span.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word)));
            black_box(sum.reduce(|| 0, u64::wrapping_add));
            start.elapsed().as_secs_f64()
        });
        (words * size_of::<u64>()) as f64 / seconds.fold(f64::INFINITY, f64::min)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_positive_and_finite() {
        let cpu = Cpu::new(None).unwrap();
        for bandwidth in [measure_reads(&cpu, 1 << 22), measure(&cpu, 1 << 18).unwrap()] {
            assert!(bandwidth.is_finite() && bandwidth > 0.0);
        }
    }
}
