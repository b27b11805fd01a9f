//! The command line: one file per subcommand.

mod bench;
mod check;
mod config;
mod deploy;
mod device;
mod docs;
mod logging;
mod output;
mod ptx;
mod selftest;
mod serve;

use clap::{Parser, Subcommand};

use crate::stages::Registry;

pub use bench::{BenchArgs, BenchCommand, LatencyArgs, ThroughputArgs, WorkloadArgs};
pub use check::CheckArgs;
pub use config::{ConfigArgs, ConfigCommand};
pub use deploy::{ConnectorArg, DeployArgs, DtypeArg};
pub use device::{DeviceArg, GpuArgs, LibraryArg};
pub use docs::{DocsArgs, DocsCommand};
pub use logging::{LogFormat, LogLevel};
pub use ptx::PtxArgs;
pub use selftest::SelftestArgs;
pub use serve::{AudioDeltaArg, LoadFormat, ModalityArg, ServeArgs};

/// Serves any-to-any models as a pipeline of actors.
#[derive(Debug, Parser)]
#[command(name = "omni-actors", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model over HTTP; without one, the built-in demo.
    Serve(Box<ServeArgs>),
    /// Do all that `serve` would do but listen, run a small request through every stage, and print what was found.
    Check(Box<CheckArgs>),
    /// Measure how fast a model is served, without HTTP.
    Bench(BenchArgs),
    /// Show the configuration.
    Config(ConfigArgs),
    /// Hold every operation of a device against its plain form, and say how fast it is.
    Selftest(SelftestArgs),
    /// Generate kernels/ptx from kernels/ in a source tree.
    #[command(hide = true)]
    Ptx(PtxArgs),
    /// Write parts of the documentation of a source tree.
    #[command(hide = true)]
    Docs(DocsArgs),
}

impl Cli {
    /// Carries the command out, with the custom stages of `registry`. The error is one line for the user.
    pub fn run(self, registry: Registry) -> Result<(), String> {
        match self.command {
            Command::Serve(args) => serve::run(*args, registry),
            Command::Check(args) => check::run(&args, registry),
            Command::Bench(args) => bench::run(&args, registry),
            Command::Config(args) => config::run(&args, &registry),
            Command::Selftest(args) => selftest::run(&args),
            Command::Ptx(args) => ptx::run(&args),
            Command::Docs(args) => docs::run(&args),
        }
    }
}
