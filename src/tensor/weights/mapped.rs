//! Maps a weight file into memory. The only place in the crate that does.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use super::WeightError;

/// Maps `path` read-only.
pub(super) fn map(path: &Path) -> Result<Mmap, WeightError> {
    let unreadable = |cause: std::io::Error| WeightError::Unreadable {
        file: path.display().to_string(),
        cause: cause.to_string(),
    };
    let file = File::open(path).map_err(unreadable)?;
    // SAFETY: the mapping is read-only and private to this process. Checkpoints are not written while they are
    // served; whoever cuts the file short meanwhile gets a bus error, which no loader that maps files can avoid.
    let mapping = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
    Ok(mapping)
}
