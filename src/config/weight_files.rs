//! Which files hold a checkpoint's weights, and which tensor is said to be in which.

#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::demo;

/// The weight files of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFiles {
    /// All of them, in order of name.
    pub files: Vec<WeightFile>,
    /// Tensor name → file name, as the index says. Empty where one file holds everything.
    pub placement: BTreeMap<String, String>,
}

/// One safetensors file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightFile {
    /// On disk, to be memory-mapped.
    Path(PathBuf),
    /// In this binary, to be used in place. The bytes begin at a multiple of 64.
    Embedded {
        /// The name that it would have in a directory, for messages.
        name: &'static str,
        /// The file.
        bytes: &'static [u8],
    },
}

/// The names under which weights are saved: by `transformers`, and by `diffusers`.
const STEMS: [&str; 2] = ["model", "diffusion_pytorch_model"];

impl Checkpoint {
    /// Finds the weight files: one file, or the shards that an index lists.
    pub fn weight_files(&self) -> Result<WeightFiles, CheckpointError> {
        let Some(directory) = self.directory() else {
            let name = "model.safetensors";
            let bytes =
                demo::file(name).ok_or_else(|| CheckpointError::NoWeights { directory: self.location() })?;
            return Ok(WeightFiles {
                files: vec![WeightFile::Embedded { name, bytes }],
                placement: BTreeMap::new(),
            });
        };
        for stem in STEMS {
            let single = format!("{stem}.safetensors");
            if self.has(&single) {
                return Ok(WeightFiles {
                    files: vec![WeightFile::Path(directory.join(single))],
                    placement: BTreeMap::new(),
                });
            }
            let index = format!("{stem}.safetensors.index.json");
            if let Some(contents) = self.object(&index)? {
                let placement = self.placement(&index, &contents)?;
                let names: BTreeSet<&String> = placement.values().collect();
                let files = names.into_iter().map(|name| WeightFile::Path(directory.join(name))).collect();
                return Ok(WeightFiles { files, placement });
            }
        }
        Err(CheckpointError::NoWeights { directory: self.location() })
    }

    /// Reads an index's `weight_map` and checks that every shard is a file of this directory.
    fn placement(&self, index: &str, contents: &Value) -> Result<BTreeMap<String, String>, CheckpointError> {
        let invalid = |message: String| CheckpointError::Invalid { path: self.path_of(index), message };
        let map = contents
            .get("weight_map")
            .and_then(Value::as_object)
            .filter(|map| !map.is_empty())
            .ok_or_else(|| invalid("the object \"weight_map\" is missing or empty".to_owned()))?;
        let mut placement = BTreeMap::new();
        for (tensor, shard) in map {
            let shard = shard
                .as_str()
                .filter(|name| !name.contains(['/', '\\']))
                .ok_or_else(|| invalid(format!("the place of tensor {tensor} must be a plain file name")))?;
            if !self.has(shard) {
                return Err(CheckpointError::MissingShard {
                    index: self.path_of(index),
                    tensor: tensor.clone(),
                    shard: shard.to_owned(),
                });
            }
            placement.insert(tensor.clone(), shard.to_owned());
        }
        Ok(placement)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn checkpoint(files: &[(&str, &str)]) -> (tempfile::TempDir, Checkpoint) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), "{}").unwrap();
        for (name, contents) in files {
            fs::write(directory.path().join(name), contents).unwrap();
        }
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        (directory, checkpoint)
    }

    #[test]
    fn the_demo_has_one_embedded_file() {
        let files = Checkpoint::demo().weight_files().unwrap().files;
        assert!(matches!(files.as_slice(), [WeightFile::Embedded { bytes, .. }] if bytes.len() > 1_000_000));
    }

    #[test]
    fn shards_are_listed_once_each() {
        let index = r#"{"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}"#;
        let (keep, checkpoint) = checkpoint(&[
            ("model.safetensors.index.json", index),
            ("a.safetensors", ""),
            ("b.safetensors", ""),
        ]);
        let weights = checkpoint.weight_files().unwrap();
        let expected =
            ["a.safetensors", "b.safetensors"].map(|name| WeightFile::Path(keep.path().join(name)));
        assert_eq!(weights.files, expected);
        assert_eq!(weights.placement.get("z").map(String::as_str), Some("b.safetensors"));
    }

    #[test]
    fn a_missing_shard_is_named_with_a_tensor() {
        let index = r#"{"weight_map": {"x": "b.safetensors"}}"#;
        let (_keep, checkpoint) = checkpoint(&[("model.safetensors.index.json", index)]);
        let error = checkpoint.weight_files().unwrap_err().to_string();
        assert!(error.ends_with("places tensor x in b.safetensors, which does not exist"), "{error}");
    }

    #[test]
    fn a_shard_outside_the_directory_is_refused() {
        let index = r#"{"weight_map": {"x": "../b.safetensors"}}"#;
        let (_keep, checkpoint) = checkpoint(&[("model.safetensors.index.json", index)]);
        assert_eq!(checkpoint.weight_files().unwrap_err().reason(), "invalid_file");
    }

    #[test]
    fn a_directory_without_weights_is_refused() {
        let (_keep, checkpoint) = checkpoint(&[]);
        assert_eq!(checkpoint.weight_files().unwrap_err().reason(), "no_weights");
    }
}
