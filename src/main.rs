//! The `omni-actors` program: reads the command line and hands over to [`omni_actors::cli`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use omni_actors::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}
