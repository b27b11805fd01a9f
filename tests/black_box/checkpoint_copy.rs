//! Copies of a small golden checkpoint, to be spoilt.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use tempfile::TempDir;

/// The file of its weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// The checkpoint of the set `qwen3_omni/tiny`.
pub(crate) fn original() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/qwen3_omni/tiny/checkpoint")
}

/// A tensor as it stands in a file.
#[derive(Clone)]
pub(crate) struct StoredTensor {
    /// Extents, outermost first.
    pub(crate) shape: Vec<usize>,
    /// Type of its elements.
    dtype: Dtype,
    /// Its elements.
    bytes: Vec<u8>,
}

impl StoredTensor {
    /// f32 values between -0.1 and 0.1 that look random, the same for the same seed.
    pub(crate) fn random(shape: &[usize], seed: u64) -> Self {
        let mut state = seed;
        let mut value = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.2
        };
        let values = (0..shape.iter().product()).map(|_| value());
        let bytes = values.flat_map(f32::to_le_bytes).collect();
        Self { shape: shape.to_vec(), dtype: Dtype::F32, bytes }
    }

    /// Makes no number of every value.
    pub(crate) fn spoil(&mut self) {
        self.bytes.fill(0xff);
    }
}

/// A copy in a directory of its own, which is removed with it.
pub(crate) struct CheckpointCopy(TempDir);

impl CheckpointCopy {
    /// A copy of all files.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for file in fs::read_dir(original()).expect("the checkpoint is there") {
            let file = file.expect("a file").path();
            let name = file.file_name().expect("a name");
            fs::copy(&file, directory.path().join(name)).expect("the file can be copied");
        }
        Self(directory)
    }

    /// A copy without some files.
    pub(crate) fn without(names: &[&str]) -> Self {
        let copy = Self::new();
        for name in names {
            fs::remove_file(copy.file(name)).expect("the file is there");
        }
        copy
    }

    /// The model directory.
    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().expect("a path in UTF-8")
    }

    /// Where a file is.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file anew.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.file(name), contents).expect("the file can be written");
    }

    /// Reads a file.
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).expect("the file is there")
    }

    /// Writes the weights anew, changed.
    pub(crate) fn change_weights(&self, change: impl FnOnce(&mut BTreeMap<String, StoredTensor>)) {
        let bytes = self.read(WEIGHTS);
        let file = SafeTensors::deserialize(&bytes).expect("the weights can be read");
        let stored = file.iter().map(|(name, view)| {
            let (shape, dtype, bytes) = (view.shape().to_vec(), view.dtype(), view.data().to_vec());
            (name.to_owned(), StoredTensor { shape, dtype, bytes })
        });
        let mut tensors = stored.collect();
        change(&mut tensors);
        self.write_tensors(WEIGHTS, &tensors);
    }

    /// Writes the weights anew, as two shards with an index, and gives the names of the shards.
    pub(crate) fn split_weights(&self) -> [&'static str; 2] {
        const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let mut weight_map = BTreeMap::new();
        self.change_weights(|tensors| {
            let middle = tensors.keys().nth(tensors.len() / 2).expect("tensors").clone();
            let second = tensors.split_off(&middle);
            for (shard, tensors) in SHARDS.into_iter().zip([&*tensors, &second]) {
                weight_map.extend(tensors.keys().map(|name| (name.clone(), shard)));
                self.write_tensors(shard, tensors);
            }
        });
        fs::remove_file(self.file(WEIGHTS)).expect("the file is there");
        self.write("model.safetensors.index.json", json!({"weight_map": weight_map}).to_string());
        SHARDS
    }

    fn write_tensors(&self, file: &str, tensors: &BTreeMap<String, StoredTensor>) {
        let views = tensors.iter().map(|(name, tensor)| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
            (name, view.expect("as many bytes as the shape says"))
        });
        self.write(file, safetensors::serialize(views, None).expect("weights can be written"));
    }
}
