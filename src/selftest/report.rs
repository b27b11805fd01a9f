//! What came out of a self-test, as JSON and as a table.

use std::io::{self, Write};

use serde::Serialize;

use super::Check;
use super::thinker_speed::{DecodeSpeed, ThinkerSpeed};

/// What came out.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The device.
    pub device: String,
    /// What multiplies matrices of many rows: a library with its version, or our own kernels.
    pub products: String,
    /// Whether every check is within its bound.
    pub ok: bool,
    /// Checks that are not.
    pub failed: usize,
    /// How long all of it took.
    pub seconds: f64,
    /// Bytes read and written per second by copies.
    pub copy_bytes_per_second: f64,
    /// Multiplications and additions per second of a large square product.
    pub matrix_operations_per_second: MatrixRates,
    /// The thinker of a configuration, if one was named.
    pub thinker: Option<ThinkerSpeed>,
    /// The checks, by what they ran with.
    pub checks: Vec<Section>,
}

/// Multiplications and additions per second, by the type of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MatrixRates {
    /// bf16.
    pub bf16: f64,
    /// f32.
    pub f32: f64,
}

/// Checks of one kind.
#[derive(Debug, Serialize)]
pub struct Section {
    /// What they ran with.
    pub name: &'static str,
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// Counts the checks that failed.
    pub fn judge(&mut self) {
        self.failed =
            self.checks.iter().flat_map(|section| &section.checks).filter(|check| !check.ok).count();
        self.ok = self.failed == 0;
    }

    /// Writes it as a table for people.
    pub fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.device)?;
        for Section { name, checks } in self.checks.iter().filter(|section| !section.checks.is_empty()) {
            writeln!(out, "\n{name}")?;
            for Check { subject, case, difference, bound, ok } in checks {
                let verdict = if *ok { "pass" } else { "FAIL" };
                writeln!(out, "  {verdict}  {difference:8.1e} of {bound:7.1e}  {subject}: {case}")?;
            }
        }
        writeln!(out, "\ncopies read and write {:.1} GB/s", self.copy_bytes_per_second / 1e9)?;
        let MatrixRates { bf16, f32 } = self.matrix_operations_per_second;
        writeln!(
            out,
            "products reach {:.3} TFLOP/s with bf16 weights, {:.3} with f32 ({})",
            bf16 / 1e12,
            f32 / 1e12,
            self.products
        )?;
        if let Some(speed) = &self.thinker {
            write_speed(speed, out)?;
        }
        let checks: usize = self.checks.iter().map(|section| section.checks.len()).sum();
        writeln!(out, "{checks} checks, {} failed, {:.1} s", self.failed, self.seconds)
    }
}

fn write_speed(speed: &ThinkerSpeed, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "\nthe thinker of {} with made-up bf16 weights, loaded in {:.1} s",
        speed.config, speed.load_seconds
    )?;
    for DecodeSpeed { sequences, context, seconds, tokens_per_second, bytes, floor_seconds } in &speed.decode
    {
        writeln!(
            out,
            "  decode, {sequences:2} sequences of {context} tokens: {tokens_per_second:9.1} tokens/s, {:.3} ms a step; the \
             floor is {:.3} ms for {:.2} GB",
            seconds * 1e3,
            floor_seconds * 1e3,
            bytes / 1e9
        )?;
    }
    let prefill = &speed.prefill;
    writeln!(
        out,
        "  prefill, {} tokens, {} at a time: {:.1} tokens/s, {:.3} s; the floor is {:.3} s for {:.2} TFLOP\n",
        prefill.tokens,
        prefill.step,
        prefill.tokens_per_second,
        prefill.seconds,
        prefill.floor_seconds,
        prefill.operations / 1e12
    )
}
