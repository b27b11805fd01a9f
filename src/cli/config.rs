//! `omni-actors config show`.

use std::io::Write;

use clap::{Args, Subcommand};

use super::ServeArgs;
use crate::server;
use crate::stages::Registry;

/// What `config` can be told.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The subcommands of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print how `serve` with the same arguments would deploy the model, and where each value comes from. What is printed
    /// is a deploy file.
    Show(Box<ServeArgs>),
}

/// Prints the deployment.
pub(super) fn run(args: &ConfigArgs, registry: &Registry) -> Result<(), String> {
    let ConfigCommand::Show(args) = &args.command;
    let (deploy, notes) = server::effective_deploy(args, registry).map_err(|error| error.to_string())?;
    let notes = notes.lines().iter().map(|note| format!("# {note}\n"));
    let page = notes.collect::<String>() + &deploy.to_yaml();
    std::io::stdout().write_all(page.as_bytes()).map_err(|error| error.to_string())
}
