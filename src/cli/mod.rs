//! The command line: one file per subcommand.

mod logging;
mod serve;

use clap::{Parser, Subcommand};

pub use logging::{LogFormat, LogLevel};
pub use serve::{AudioDeltaArg, ConnectorArg, DtypeArg, LoadFormat, ModalityArg, ServeArgs};

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
}

impl Cli {
    /// Carries the command out. The error is one line for the user.
    pub fn run(self) -> Result<(), String> {
        match self.command {
            Command::Serve(args) => serve::run(*args),
        }
    }
}
