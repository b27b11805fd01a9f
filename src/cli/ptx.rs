//! `omni-actors ptx`, which developers run after they have changed a kernel.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::tensor::cuda::kernels::write_ptx;
use crate::tensor::cuda::nvrtc::Nvrtc;

/// What `ptx` can be told.
#[derive(Debug, Clone, Args)]
pub struct PtxArgs {
    /// The source tree. Its kernels must be those that this program was built with.
    #[arg(default_value = ".")]
    pub root: PathBuf,
}

/// Writes the PTX of the kernels in this program, and names the files that changed.
pub(super) fn run(args: &PtxArgs) -> Result<(), String> {
    let nvrtc = Nvrtc::load().map_err(|error| error.to_string())?;
    let changed = write_ptx(&nvrtc, &args.root).map_err(|error| error.to_string())?;
    let mut out = std::io::stdout().lock();
    for path in changed {
        writeln!(out, "{}", path.display()).map_err(|error| error.to_string())?;
    }
    Ok(())
}
