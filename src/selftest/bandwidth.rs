//! How fast a device copies its memory, and how fast a CPU reads it.

use std::hint::black_box;
use std::time::Instant;

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
/// 64-bit words that a thread reads in one go, at least.
const SPAN: usize = 1 << 16;
/// Strands that a thread reads side by side: one alone gives little more than half of what a memory can.
const STRANDS: usize = 8;
/// 64-bit words of a strand that are read before the next has its turn.
const TURN: usize = 32;

/// Bytes per second that all threads of a CPU together read from `bytes` of memory, the best of five passes as STREAM by
/// McCalpin (1995) has it. It is the memory's speed if no cache holds so much.
pub fn measure_reads(cpu: &Cpu, bytes: usize) -> f64 {
    let memory = ReadMemory::new(cpu, bytes);
    (0..READS).map(|_| memory.pass()).fold(0.0, f64::max)
}

/// Memory that all threads of a CPU read.
#[derive(Debug)]
pub struct ReadMemory<'a> {
    /// The CPU.
    cpu: &'a Cpu,
    /// Whole spans.
    words: Vec<u64>,
}

impl<'a> ReadMemory<'a> {
    /// Takes at least `bytes`.
    pub fn new(cpu: &'a Cpu, bytes: usize) -> Self {
        let mut words = vec![0; bytes.div_ceil(size_of::<u64>()).next_multiple_of(SPAN)];
        // Written by all threads, so that it lies near them.
        cpu.divide_chunks(&mut words, SPAN, |span, words| words.fill(span as u64));
        Self { cpu, words }
    }

    /// Bytes per second of reading it once.
    pub fn pass(&self) -> f64 {
        let start = Instant::now();
        self.cpu.divide(self.words.len() / SPAN, |spans| {
            let strand = spans.len() * SPAN / STRANDS;
            let mut sums = [0u64; TURN];
            for at in (0..strand).step_by(TURN) {
                for first in (0..STRANDS).map(|index| spans.start * SPAN + index * strand + at) {
                    for (sum, word) in sums.iter_mut().zip(&self.words[first..first + TURN]) {
                        *sum = sum.wrapping_add(*word);
                    }
                }
            }
            black_box(sums);
        });
        (self.words.len() * size_of::<u64>()) as f64 / start.elapsed().as_secs_f64()
    }
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
