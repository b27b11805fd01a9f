//! `omni-actors selftest`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::DeviceArg;
use super::logging::{self, LogFormat, LogLevel};
use crate::selftest::operations::{self, Precision};
use crate::selftest::{Check, bandwidth, decode, sampling, thinker};
use crate::server::open_gpu;
use crate::tensor::cpu::Cpu;
use crate::tensor::cuda::{Cuda, CudaDevice, Stored};
use crate::tensor::{Backend, DeviceSteps};

/// f32 values that are copied to measure a GPU: 1 GiB.
const GPU_COPY: usize = 1 << 28;
/// The same for a CPU: 128 MiB, more than its caches hold.
const CPU_COPY: usize = 1 << 25;

/// What `selftest` can be told.
#[derive(Debug, Clone, Args)]
pub struct SelftestArgs {
    /// The device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: DeviceArg,
    /// A directory of golden sets; the thinker is held against those of Qwen3-Omni.
    #[arg(long, value_name = "DIR")]
    pub goldens: Option<PathBuf>,
    /// Give the results as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What came out.
#[derive(Debug, Serialize)]
struct Report {
    /// The device.
    device: String,
    /// Whether every check is within its bound.
    ok: bool,
    /// Checks that are not.
    failed: usize,
    /// How long all of it took.
    seconds: f64,
    /// Bytes read and written per second by copies.
    copy_bytes_per_second: f64,
    /// The checks, by what they ran with.
    checks: Vec<Section>,
}

/// Checks of one kind.
#[derive(Debug, Serialize)]
struct Section {
    /// What they ran with.
    name: &'static str,
    /// The checks.
    checks: Vec<Check>,
}

/// Runs all checks, prints them, and fails if one does.
pub(super) fn run(args: &SelftestArgs) -> Result<(), String> {
    logging::init(LogLevel::Info, LogFormat::Text);
    let start = Instant::now();
    let gpu = open_gpu(args.device).map_err(|error| format!("--device {}: {error}", args.device))?;
    let mut report = match gpu {
        Some(device) => on_gpu(args, device)?,
        None => on_cpu(args)?,
    };
    report.seconds = start.elapsed().as_secs_f64();
    report.failed =
        report.checks.iter().flat_map(|section| &section.checks).filter(|check| !check.ok).count();
    report.ok = report.failed == 0;
    print(&report, args.json).map_err(|error| error.to_string())?;
    if report.ok { Ok(()) } else { Err(format!("{} checks failed on {}", report.failed, report.device)) }
}

fn on_gpu(args: &SelftestArgs, device: Arc<CudaDevice>) -> Result<Report, String> {
    let name = device.describe();
    let exact = Cuda::new(device.clone(), Stored::F32);
    let rounded = Cuda::new(device, Stored::Bf16);
    let checks = vec![
        operations("operations, f32 activations", &exact, Precision::F32)?,
        operations("operations, bf16 activations", &rounded, Precision::Bf16)?,
        choices(&exact)?,
        goldens(args, &exact)?,
        decoded_goldens(args, &exact)?,
    ];
    report(name, checks, &exact, GPU_COPY)
}

fn on_cpu(args: &SelftestArgs) -> Result<Report, String> {
    let cpu = Cpu::new(None).map_err(|error| error.to_string())?;
    let name = format!("cpu ({}, {} threads)", cpu.isa().name(), cpu.threads());
    let checks = vec![operations("operations", &cpu, Precision::F32)?, goldens(args, &cpu)?];
    report(name, checks, &cpu, CPU_COPY)
}

fn operations<B: Backend>(name: &'static str, backend: &B, precision: Precision) -> Result<Section, String> {
    let mut checks = Vec::new();
    operations::compare(backend, precision, |check| checks.push(check)).map_err(|error| error.to_string())?;
    Ok(Section { name, checks })
}

/// The choice of tokens.
fn choices<B: DeviceSteps>(backend: &B) -> Result<Section, String> {
    let mut checks = Vec::new();
    sampling::compare(backend, |check| checks.push(check)).map_err(|error| error.to_string())?;
    Ok(Section { name: "choice of tokens", checks })
}

/// The golden sets that were named, decoded without the host.
fn decoded_goldens<B: DeviceSteps>(args: &SelftestArgs, backend: &B) -> Result<Section, String> {
    let mut checks = Vec::new();
    if let Some(directory) = &args.goldens {
        for set in thinker::sets(directory).map_err(|error| error.to_string())? {
            decode::compare(backend, &set, |check| checks.push(check)).map_err(|error| error.to_string())?;
        }
    }
    Ok(Section { name: "golden answers of the thinker, a step in flight", checks })
}

/// The golden sets that were named; none if none were.
fn goldens<B: Backend>(args: &SelftestArgs, backend: &B) -> Result<Section, String> {
    let mut checks = Vec::new();
    if let Some(directory) = &args.goldens {
        for set in thinker::sets(directory).map_err(|error| error.to_string())? {
            thinker::compare(backend, &set, |check| checks.push(check)).map_err(|error| error.to_string())?;
        }
    }
    Ok(Section { name: "golden outputs of the thinker, f32", checks })
}

fn report<B: Backend>(
    device: String,
    checks: Vec<Section>,
    backend: &B,
    copied: usize,
) -> Result<Report, String> {
    let copy_bytes_per_second =
        backend.scope(|| bandwidth::measure(backend, copied)).map_err(|error| error.to_string())?;
    Ok(Report { device, ok: false, failed: 0, seconds: 0.0, copy_bytes_per_second, checks })
}

fn print(report: &Report, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        return writeln!(out);
    }
    writeln!(out, "{}", report.device)?;
    for Section { name, checks } in report.checks.iter().filter(|section| !section.checks.is_empty()) {
        writeln!(out, "\n{name}")?;
        for Check { subject, case, difference, bound, ok } in checks {
            let verdict = if *ok { "pass" } else { "FAIL" };
            writeln!(out, "  {verdict}  {difference:8.1e} of {bound:7.1e}  {subject}: {case}")?;
        }
    }
    let checks: usize = report.checks.iter().map(|section| section.checks.len()).sum();
    writeln!(out, "\ncopies read and write {:.1} GB/s", report.copy_bytes_per_second / 1e9)?;
    writeln!(out, "{checks} checks, {} failed, {:.1} s", report.failed, report.seconds)
}
