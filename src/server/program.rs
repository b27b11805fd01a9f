//! A program that serves: the command line with the stages that a user brings.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::stages::Registry;

/// The whole program, for a `main` of a few lines.
///
/// ```no_run
/// use omni_actors::{Registry, Server};
///
/// fn main() -> std::process::ExitCode {
///     Server::new(Registry::new()).run(std::env::args_os())
/// }
/// ```
#[derive(Debug)]
pub struct Server {
    registry: Registry,
    default_arguments: Vec<OsString>,
}

impl Server {
    /// A program with these custom stages.
    pub fn new(registry: Registry) -> Self {
        Self { registry, default_arguments: Vec::new() }
    }

    /// What is done when the program is started without arguments, such as `["serve", "--deploy-config", FILE]`.
    pub fn by_default<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.default_arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// Carries the command line out; `arguments` are those of the process, its own name first. All subcommands of
    /// `omni-actors` are there.
    pub fn run<A: Into<OsString>>(self, arguments: impl IntoIterator<Item = A>) -> ExitCode {
        let cli = match Cli::try_parse_from(self.command_line(arguments)) {
            Ok(cli) => cli,
            Err(error) => {
                // Help, too, comes this way. Nobody is left to be told of a closed pipe.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
            }
        };
        match cli.run(self.registry) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "error: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn command_line<A: Into<OsString>>(&self, arguments: impl IntoIterator<Item = A>) -> Vec<OsString> {
        let mut line: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        if line.len() < 2 {
            line.extend(self.default_arguments.iter().cloned());
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_take_the_place_of_the_default() {
        let server = Server::new(Registry::new()).by_default(["serve", "--log-stats"]);
        assert_eq!(server.command_line(["program"]), ["program", "serve", "--log-stats"]);
        assert_eq!(server.command_line(["program", "selftest"]), ["program", "selftest"]);
    }
}
