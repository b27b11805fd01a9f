//! `omni-actors docs`, which developers run after they have changed what is documented.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::metrics::reference::page_with_tables;

/// What `docs` can be told.
#[derive(Debug, Clone, Args)]
pub struct DocsArgs {
    /// What is written.
    #[command(subcommand)]
    pub command: DocsCommand,
}

/// The parts of the documentation that are written by the program.
#[derive(Debug, Clone, Subcommand)]
pub enum DocsCommand {
    /// Write the tables of docs/metrics.md anew.
    Metrics {
        /// The source tree.
        #[arg(default_value = ".")]
        root: PathBuf,
    },
}

/// Writes a page anew.
pub(super) fn run(args: &DocsArgs) -> Result<(), String> {
    let DocsCommand::Metrics { root } = &args.command;
    let path = root.join("docs/metrics.md");
    let complaint = |error| format!("{}: {error}", path.display());
    let page = fs::read_to_string(&path).map_err(complaint)?;
    fs::write(&path, page_with_tables(&page)).map_err(complaint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_below_the_root_is_written_anew() {
        let root = tempfile::tempdir().unwrap();
        let args = DocsArgs { command: DocsCommand::Metrics { root: root.path().to_owned() } };
        let complaint = run(&args).unwrap_err();
        assert!(complaint.contains("docs/metrics.md: "), "{complaint}");
        fs::create_dir(root.path().join("docs")).unwrap();
        fs::write(root.path().join("docs/metrics.md"), "# Metrics\n").unwrap();
        run(&args).unwrap();
        let page = fs::read_to_string(root.path().join("docs/metrics.md")).unwrap();
        assert!(page.starts_with("# Metrics\n") && page.contains("requests_accepted_total"));
    }
}
