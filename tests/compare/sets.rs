//! Where golden sets are, and the files in them that are JSON.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The directories that hold golden sets: the repository's own and those named in `OMNI_GOLDENS`.
pub(crate) fn golden_directories() -> Vec<PathBuf> {
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")];
    if let Some(more) = std::env::var_os("OMNI_GOLDENS") {
        directories.extend(std::env::split_paths(&more).filter(|path| !path.as_os_str().is_empty()));
    }
    directories
}

/// The sets `<model>/<variant>` under a directory, by name.
pub(crate) fn model_sets(directory: &Path) -> Result<Vec<(String, PathBuf)>, Box<dyn Error>> {
    let mut sets = Vec::new();
    for model in subdirectories(directory)? {
        for variant in subdirectories(&model)? {
            if variant.join("golden").is_dir() {
                let name = variant.strip_prefix(directory)?.display().to_string();
                sets.push((name, variant));
            }
        }
    }
    sets.sort();
    Ok(sets)
}

/// Reads a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value, Box<dyn Error>> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn subdirectories(directory: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let entries = fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}
