//! Where a model's weights come from.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Sub;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use super::checkpoint::SafetensorsFile;
use super::{Dtype, Weight, WeightError, dummy};

/// The file that holds all weights of a small checkpoint.
const SINGLE: &str = "model.safetensors";
/// The file that says which shard holds which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// A model's weights, looked up by name.
#[derive(Debug)]
pub struct WeightStore {
    /// Where they come from.
    origin: Origin,
    /// Parameters of the tensors that were given out.
    parameters: AtomicU64,
    /// Bytes of the tensors that were given out.
    bytes: AtomicU64,
}

/// What was taken from a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Numbers.
    pub parameters: u64,
    /// Bytes that they take in the type in which they are kept.
    pub bytes: u64,
}

impl Sub for Taken {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { parameters: self.parameters - before.parameters, bytes: self.bytes - before.bytes }
    }
}

#[derive(Debug)]
enum Origin {
    /// One file.
    File(Box<SafetensorsFile>),
    /// Several files and an index.
    Shards {
        /// Path of the index, for messages.
        index: String,
        /// The files.
        shards: Vec<SafetensorsFile>,
        /// Tensor name → position in `shards`.
        place: BTreeMap<String, usize>,
    },
    /// Made up from a seed.
    Dummy {
        /// Another seed gives other weights.
        seed: u64,
    },
}

/// The part of the index file that is read.
#[derive(Debug, Deserialize)]
struct Index {
    /// Tensor name → file name.
    weight_map: BTreeMap<String, String>,
}

/// The names of the files that [`WeightStore::open`] takes the weights from: the shards that the index names if there
/// is one, else the single file, whether it is there or not.
pub fn weight_files(directory: &Path) -> Result<Vec<String>, WeightError> {
    let index = directory.join(INDEX);
    if !index.is_file() {
        return Ok(vec![SINGLE.to_owned()]);
    }
    let shards = Index::read(&index)?.weight_map.into_values().collect::<BTreeSet<_>>();
    Ok(shards.into_iter().collect())
}

impl Index {
    /// Reads an index file. The files that it names are beside it.
    fn read(path: &Path) -> Result<Self, WeightError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| WeightError::Unreadable { file: file.clone(), cause: error.to_string() })?;
        let index: Self = serde_json::from_str(&text)
            .map_err(|error| WeightError::Malformed { file: file.clone(), cause: error.to_string() })?;
        let elsewhere = |shard: &str| Path::new(shard).file_name() != Some(shard.as_ref());
        match index.weight_map.iter().find(|(_, shard)| elsewhere(shard)) {
            None => Ok(index),
            Some((tensor, shard)) => Err(WeightError::Malformed {
                file,
                cause: format!("tensor {tensor} is placed in {shard}, which is not a plain file name"),
            }),
        }
    }
}

impl WeightStore {
    /// Opens the weights in a checkpoint directory: the shards of an index if there is one, else a single file.
    pub fn open(directory: &Path) -> Result<Self, WeightError> {
        let index = directory.join(INDEX);
        let single = directory.join(SINGLE);
        let origin = if index.is_file() {
            open_shards(directory, &index)?
        } else if single.is_file() {
            Origin::File(Box::new(SafetensorsFile::open(&single)?))
        } else {
            return Err(WeightError::NoWeights { directory: directory.display().to_string() });
        };
        Ok(Self::new(origin))
    }

    /// A safetensors file in memory, used where it is. Its first byte should be aligned to 8; tensors that are
    /// not aligned for their type are copied. `name` is for messages.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, WeightError> {
        Ok(Self::new(Origin::File(Box::new(SafetensorsFile::embedded(name, bytes)?))))
    }

    /// Random weights of whatever shape is asked for: bf16, normal with standard deviation 0.02, norm gains 1.
    pub fn dummy(seed: u64) -> Self {
        Self::new(Origin::Dummy { seed })
    }

    /// The tensor `name`, which must have `shape`, kept as `dtype` says.
    pub fn tensor(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<Weight, WeightError> {
        let missing = |source_name: &str| WeightError::Missing {
            source_name: source_name.to_owned(),
            tensor: name.to_owned(),
        };
        let weight = match &self.origin {
            Origin::File(file) => file.tensor(name, shape)?,
            Origin::Shards { index, shards, place } => place
                .get(name)
                .and_then(|shard| shards.get(*shard))
                .ok_or_else(|| missing(index))?
                .tensor(name, shape)?,
            Origin::Dummy { seed } => dummy::weight(*seed, name, shape).ok_or_else(|| missing("dummy"))?,
        };
        let weight = weight.into_dtype(dtype);
        self.parameters.fetch_add(shape.iter().product::<usize>() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(weight.size_bytes() as u64, Ordering::Relaxed);
        Ok(weight)
    }

    /// What was taken until now. A tensor that was taken twice counts twice.
    pub fn taken(&self) -> Taken {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Taken { parameters: count(&self.parameters), bytes: count(&self.bytes) }
    }

    fn new(origin: Origin) -> Self {
        Self { origin, parameters: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// Whether a tensor of this name can be had.
    pub fn holds(&self, name: &str) -> bool {
        match &self.origin {
            Origin::File(file) => file.holds(name),
            Origin::Shards { place, .. } => place.contains_key(name),
            Origin::Dummy { .. } => true,
        }
    }
}

/// Opens every shard that the index names and checks that each holds what the index says.
fn open_shards(directory: &Path, index: &Path) -> Result<Origin, WeightError> {
    let file = index.display().to_string();
    let mut shards: Vec<SafetensorsFile> = Vec::new();
    let mut opened: BTreeMap<String, usize> = BTreeMap::new();
    let mut place = BTreeMap::new();
    for (tensor, shard) in Index::read(index)?.weight_map {
        let position = match opened.get(&shard) {
            Some(position) => *position,
            None => {
                shards.push(SafetensorsFile::open(&directory.join(&shard))?);
                opened.insert(shard.clone(), shards.len() - 1);
                shards.len() - 1
            }
        };
        if !shards.get(position).is_some_and(|shard| shard.holds(&tensor)) {
            return Err(WeightError::NotInShard { index: file, shard, tensor });
        }
        place.insert(tensor, position);
    }
    Ok(Origin::Shards { index: file, shards, place })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::PathBuf;

    use safetensors::tensor::{Dtype as StoredDtype, TensorView};

    use super::*;

    /// A file with the tensor `a`, `[2, 2]` of f32.
    fn write(directory: &Path, file: &str, dtype: StoredDtype) -> PathBuf {
        let bytes: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let elements = bytes.len() * 8 / dtype.bitsize() / 2;
        let view = TensorView::new(dtype, vec![2, elements], &bytes).unwrap();
        let path = directory.join(file);
        std::fs::write(&path, safetensors::serialize(HashMap::from([("a", view)]), None).unwrap()).unwrap();
        path
    }

    #[test]
    fn a_tensor_comes_with_its_values() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), SINGLE, StoredDtype::F32);
        let store = WeightStore::open(directory.path()).unwrap();
        assert_eq!(store.tensor("a", &[2, 2], Dtype::Auto).unwrap().to_f32(), [1.0, 2.0, 3.0, 4.0]);
        let before = store.taken();
        assert_eq!(before, Taken { parameters: 4, bytes: 16 });
        store.tensor("a", &[2, 2], Dtype::Bfloat16).unwrap();
        assert_eq!(store.taken() - before, Taken { parameters: 4, bytes: 8 });
    }

    #[test]
    fn a_missing_name_names_file_and_tensor() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), SINGLE, StoredDtype::F32);
        let error =
            WeightStore::open(directory.path()).unwrap().tensor("b", &[2, 2], Dtype::Auto).unwrap_err();
        assert_eq!(error.reason(), "tensor_missing");
        assert!(error.to_string().contains(SINGLE) && error.to_string().contains("tensor b"), "{error}");
    }

    #[test]
    fn a_wrong_shape_names_both_shapes() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), SINGLE, StoredDtype::F32);
        let error =
            WeightStore::open(directory.path()).unwrap().tensor("a", &[4, 1], Dtype::Auto).unwrap_err();
        assert!(error.to_string().contains("[2, 2] where config.json asks for [4, 1]"), "{error}");
    }

    #[test]
    fn an_unsupported_element_type_is_named() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), SINGLE, StoredDtype::F16);
        let error =
            WeightStore::open(directory.path()).unwrap().tensor("a", &[2, 4], Dtype::Auto).unwrap_err();
        assert!(error.to_string().contains("F16"), "{error}");
    }

    #[test]
    fn a_truncated_file_is_refused_when_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), SINGLE, StoredDtype::F32);
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 4, 20, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = WeightStore::open(directory.path()).unwrap_err();
            assert!(error.to_string().contains(SINGLE), "{length}: {error}");
        }
    }

    #[test]
    fn an_index_must_name_files_and_tensors_that_exist() {
        let directory = tempfile::tempdir().unwrap();
        let index = directory.path().join(INDEX);
        std::fs::write(&index, r#"{"weight_map": {"a": "one.safetensors"}}"#).unwrap();
        let error = WeightStore::open(directory.path()).unwrap_err();
        assert_eq!(error.reason(), "weights_unreadable");
        assert!(error.to_string().contains("one.safetensors"), "{error}");

        write(directory.path(), "one.safetensors", StoredDtype::F32);
        assert_eq!(weight_files(directory.path()).unwrap(), ["one.safetensors"]);
        let store = WeightStore::open(directory.path()).unwrap();
        assert!(store.holds("a") && store.tensor("a", &[2, 2], Dtype::Auto).is_ok());

        std::fs::write(&index, r#"{"weight_map": {"a": "one.safetensors", "z": "one.safetensors"}}"#)
            .unwrap();
        let error = WeightStore::open(directory.path()).unwrap_err();
        assert_eq!(error.reason(), "tensor_not_in_shard");
        assert!(error.to_string().contains("tensor z"), "{error}");

        std::fs::write(&index, r#"{"weight_map": {"a": "../one.safetensors"}}"#).unwrap();
        assert_eq!(WeightStore::open(directory.path()).unwrap_err().reason(), "weights_malformed");
    }

    #[test]
    fn an_empty_directory_says_what_was_looked_for() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(weight_files(directory.path()).unwrap(), [SINGLE]);
        assert_eq!(WeightStore::open(directory.path()).unwrap_err().reason(), "weights_not_found");
    }
}
