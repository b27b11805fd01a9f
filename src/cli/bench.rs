//! `omni-actors bench`.

use std::io::IsTerminal;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::{ModalityArg, ServeArgs, logging, output};
use crate::bench::{self, Report, Schedule, Workload};
use crate::stages::Registry;

/// What the bar looks like.
const BAR: &str = "{pos} of {len} requests {wide_bar} {elapsed}, {eta} left";

/// What `bench` can be told.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// The subcommands of `bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Send requests in batches, one after the other, and say how long they take.
    Latency(Box<LatencyArgs>),
    /// Send requests as fast as they are taken, and say how many are served in a second.
    Throughput(Box<ThroughputArgs>),
}

/// What both kinds of measurement can be told.
#[derive(Debug, Args)]
pub struct WorkloadArgs {
    /// What is to be served, and how. Options about the port and about requests' defaults are accepted and mean nothing
    /// here.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Tokens of each prompt. They are random.
    #[arg(long, default_value_t = 32, value_name = "TOKENS", value_parser = positive())]
    pub input_len: u32,
    /// Tokens of each answer, whatever they are.
    #[arg(long, default_value_t = 128, value_name = "TOKENS", value_parser = positive())]
    pub output_len: u32,
    /// What answers are made of; speech comes with its text.
    #[arg(long, value_enum, default_value = "text", value_name = "KIND")]
    pub modalities: ModalityArg,
    /// Codec frames of each spoken answer, 12.5 of which are a second; by default 4 per token of the answer.
    #[arg(long, value_name = "FRAMES", value_parser = positive())]
    pub codec_frames: Option<u32>,
    /// The temperature at which tokens are drawn; 0 takes the most likely ones.
    #[arg(long, default_value_t = 1.0, value_parser = temperature)]
    pub temperature: f32,
    /// Give the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What `bench latency` can be told.
#[derive(Debug, Args)]
pub struct LatencyArgs {
    /// What is measured.
    #[command(flatten)]
    pub workload: WorkloadArgs,
    /// Requests of a batch.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = positive())]
    pub batch_size: u32,
    /// Batches that are measured.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = positive())]
    pub num_iters: u32,
    /// Batches before those, which are not.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub num_iters_warmup: u32,
}

/// What `bench throughput` can be told.
#[derive(Debug, Args)]
pub struct ThroughputArgs {
    /// What is measured.
    #[command(flatten)]
    pub workload: WorkloadArgs,
    /// Requests in all.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = positive())]
    pub num_prompts: u32,
    /// Requests at the same time, at most; by default all of them, up to as many as a server holds.
    #[arg(long, value_name = "N", value_parser = positive())]
    pub max_concurrency: Option<u32>,
}

/// Numbers from 1 on, of which a measurement does not need many.
fn positive() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 24)
}

/// A temperature that can be sampled at.
fn temperature(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("it must be a number from 0 on".to_owned()),
    }
}

impl WorkloadArgs {
    fn workload(&self) -> Workload {
        Workload {
            input_len: self.input_len as usize,
            output_len: self.output_len,
            spoken: self.modalities == ModalityArg::Audio,
            codec_frames: self.codec_frames,
            temperature: self.temperature,
        }
    }
}

/// Measures, and prints what came out.
pub(super) fn run(args: &BenchArgs, registry: Registry) -> Result<(), String> {
    let (workload, schedule) = match &args.command {
        BenchCommand::Latency(args) => {
            let size = args.batch_size as usize;
            let (iterations, warmup) = (args.num_iters as usize, args.num_iters_warmup as usize);
            (&args.workload, Schedule::Batches { size, iterations, warmup })
        }
        BenchCommand::Throughput(args) => {
            let prompts = args.num_prompts as usize;
            let concurrency = match args.max_concurrency {
                Some(concurrency) => concurrency as usize,
                None => prompts.min(bench::most_concurrent()),
            };
            (&args.workload, Schedule::Stream { prompts, concurrency })
        }
    };
    let _log = logging::init(workload.serve.log_level, workload.serve.log_format);
    let bar = progress_bar(schedule);
    let ended = || bar.iter().for_each(|bar| bar.inc(1));
    let report = bench::run(&workload.serve, registry, &workload.workload(), schedule, &ended);
    bar.iter().for_each(ProgressBar::finish_and_clear);
    let report = report.map_err(|error| error.to_string())?;
    output::print(&report, workload.json, Report::write_table)
}

/// A bar on a terminal; elsewhere nothing.
fn progress_bar(schedule: Schedule) -> Option<ProgressBar> {
    std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(schedule.requests() as u64).with_style(style)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperatures_are_numbers_from_zero_on() {
        assert_eq!((temperature("0"), temperature("1.5")), (Ok(0.0), Ok(1.5)));
        for text in ["-0.1", "warm", "NaN", "inf", ""] {
            assert!(temperature(text).is_err(), "{text}");
        }
    }
}
