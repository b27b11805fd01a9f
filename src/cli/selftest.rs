//! `omni-actors selftest`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use super::logging::{self, LogFormat, LogLevel};
use super::{DeviceArg, GpuArgs, output};
use crate::selftest::operations::{self, Precision};
use crate::selftest::report::{MatrixRates, Report, Section};
use crate::selftest::thinker_speed::{Rates, Subject};
use crate::selftest::{bandwidth, decode, matrix_rate, sampling, thinker};
use crate::server::{gpu_ledger, open_gpu};
use crate::stages::checkpoint_pipeline::ReplicaModel;
use crate::stages::device_memory::DeviceMemory;
use crate::stages::llm::{DeviceSampling, HostSampling};
use crate::stages::memory_ledger::MemoryLedger;
use crate::tensor::cpu::Cpu;
use crate::tensor::cuda::{Cuda, CudaDevice, Stored};
use crate::tensor::{Backend, DeviceError, DeviceSteps, Outlined};

/// What `selftest` can be told.
#[derive(Debug, Clone, Args)]
pub struct SelftestArgs {
    /// The device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: DeviceArg,
    /// How a GPU is used.
    #[command(flatten)]
    pub gpu: GpuArgs,
    /// A directory of golden sets; the thinker is held against those of Qwen3-Omni.
    #[arg(long, value_name = "DIR")]
    pub goldens: Option<PathBuf>,
    /// A directory with the `config.json` of a Qwen3-Omni model; the speed of its thinker is measured with made-up
    /// weights.
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Give the results as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// How large a device's work is to be, for figures that say something and do not take long.
struct Sizes {
    /// f32 values that are copied; more than any cache holds.
    copied: usize,
    /// Rows of the square matrices that are multiplied.
    side: usize,
    /// Tokens of a prompt that are computed at a time.
    prefill_rows: usize,
}

/// Copies of 1 GiB, and prompts of 2,000 tokens at once.
const GPU_SIZES: Sizes = Sizes { copied: 1 << 28, side: 8192, prefill_rows: 2000 };
/// Copies of 128 MiB, and parts of prompts after which a slow processor may stop.
const CPU_SIZES: Sizes = Sizes { copied: 1 << 25, side: 1024, prefill_rows: 250 };

/// Runs all checks, prints them, and fails if one does.
pub(super) fn run(args: &SelftestArgs) -> Result<(), String> {
    let _log = logging::init(LogLevel::Info, LogFormat::Text);
    let start = Instant::now();
    let gpu =
        open_gpu(args.device, &args.gpu).map_err(|error| format!("--device {}: {error}", args.device))?;
    let mut report = match gpu {
        Some(device) => on_gpu(args, &device)?,
        None => on_cpu(args)?,
    };
    report.seconds = start.elapsed().as_secs_f64();
    report.judge();
    output::print(&report, args.json, Report::write_table)?;
    if report.ok { Ok(()) } else { Err(format!("{} checks failed on {}", report.failed, report.device)) }
}

fn on_gpu(args: &SelftestArgs, device: &Arc<CudaDevice>) -> Result<Report, String> {
    let ledger = gpu_ledger(device, &args.gpu).map_err(|error| error.to_string())?;
    let subject = subject(args, ledger, Outlined::Gpu(Stored::Bf16), GPU_SIZES.prefill_rows)?;
    let exact = Cuda::new(device.clone(), Stored::F32);
    let rounded = Cuda::new(device.clone(), Stored::Bf16);
    let checks = vec![
        operations("operations, f32 activations", &exact, Precision::F32)?,
        operations("operations, bf16 activations", &rounded, Precision::Bf16)?,
        choices(&exact)?,
        goldens(args, &exact)?,
        decoded_goldens(args, &exact)?,
    ];
    let names = (device.describe(), device.products());
    measure(names, checks, [&rounded, &exact], DeviceSampling::boxed, &GPU_SIZES, subject)
}

fn on_cpu(args: &SelftestArgs) -> Result<Report, String> {
    let serving = Cpu::new(None).map_err(|error| error.to_string())?;
    let exact = serving.with_exact_activations();
    let name = format!("cpu ({}, {} threads)", serving.isa().name(), serving.threads());
    let ledger = MemoryLedger::new(&name, DeviceMemory::of_process());
    let subject = subject(args, ledger, Outlined::Process, CPU_SIZES.prefill_rows)?;
    let mut checks = vec![operations("operations", &exact, Precision::F32)?, goldens(args, &exact)?];
    if serving.isa().rounds_activations() {
        checks.insert(1, operations("operations, bf16 activations", &serving, Precision::Bf16)?);
    }
    let names = (name, "own kernels".to_owned());
    measure(names, checks, [&serving, &exact], HostSampling::boxed, &CPU_SIZES, subject)
}

/// The model whose speed is measured, if one was named and the device has memory for it.
fn subject(
    args: &SelftestArgs,
    mut ledger: MemoryLedger,
    outlined: Outlined,
    prefill_rows: usize,
) -> Result<Option<Subject>, String> {
    let Some(directory) = &args.config else { return Ok(None) };
    let subject = Subject::read(directory, prefill_rows).map_err(|error| error.to_string())?;
    let [weights, space] = subject.needs(outlined).map_err(|error| error.to_string())?;
    ledger.claim("thinker weights", weights);
    ledger.claim("thinker workspace and KV cache", space);
    ledger.settle().map_err(|error| format!("--config {}: {error}", directory.display()))?;
    Ok(Some(subject))
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

/// Measures a device by two backends on it: the one that serves, and one with f32 activations.
fn measure<B: Backend>(
    (device, products): (String, String),
    checks: Vec<Section>,
    [serving, exact]: [&B; 2],
    replica_model: ReplicaModel<B>,
    sizes: &Sizes,
    subject: Option<Subject>,
) -> Result<Report, String> {
    let figures = || {
        let copy_bytes_per_second = bandwidth::measure(exact, sizes.copied)?;
        let bf16 = matrix_rate::measure(serving, sizes.side, true)?;
        let f32 = matrix_rate::measure(exact, sizes.side, false)?;
        Ok((copy_bytes_per_second, MatrixRates { bf16, f32 }))
    };
    let (copy_bytes_per_second, rates) =
        exact.scope(figures).map_err(|error: DeviceError| error.to_string())?;
    let limits = Rates { bytes_per_second: copy_bytes_per_second, operations_per_second: rates.bf16 };
    let thinker = subject.map(|subject| subject.measure(serving, replica_model, limits)).transpose();
    Ok(Report {
        device,
        products,
        ok: false,
        failed: 0,
        seconds: 0.0,
        copy_bytes_per_second,
        matrix_operations_per_second: rates,
        thinker: thinker.map_err(|error| error.to_string())?,
        checks,
    })
}
