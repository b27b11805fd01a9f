//! What can be wrong with weights. Every message names the file and, where there is one, the tensor.

use thiserror::Error;

/// A weight that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WeightError {
    /// A file that is needed is not there or cannot be read.
    #[error("{file}: {cause}")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system says.
        cause: String,
    },
    /// A directory has neither `model.safetensors` nor an index of shards.
    #[error("{directory}: neither model.safetensors nor model.safetensors.index.json is there")]
    NoWeights {
        /// The directory.
        directory: String,
    },
    /// A file is not what its name says, or is cut off.
    #[error("{file}: {cause}")]
    Malformed {
        /// The file.
        file: String,
        /// What is wrong.
        cause: String,
    },
    /// The index names a tensor that the shard does not hold.
    #[error("{index}: tensor {tensor} is said to be in {shard}, which does not hold it")]
    NotInShard {
        /// The index file.
        index: String,
        /// The shard's file name.
        shard: String,
        /// The tensor.
        tensor: String,
    },
    /// No file has the tensor.
    #[error("{source_name}: tensor {tensor} is missing")]
    Missing {
        /// The file or index that was searched.
        source_name: String,
        /// The tensor.
        tensor: String,
    },
    /// The tensor has another shape than the configuration asks for.
    #[error("{file}: tensor {tensor} has shape {have:?} where config.json asks for {need:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape in the file.
        have: Vec<usize>,
        /// The shape that follows from the configuration.
        need: Vec<usize>,
    },
    /// The tensor's element type is none that is supported.
    #[error("{file}: tensor {tensor} has element type {have}; BF16 and F32 are supported")]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its element type in the file.
        have: String,
    },
}

impl WeightError {
    /// A stable word for the kind of failure.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "weights_unreadable",
            Self::NoWeights { .. } => "weights_not_found",
            Self::Malformed { .. } => "weights_malformed",
            Self::NotInShard { .. } => "tensor_not_in_shard",
            Self::Missing { .. } => "tensor_missing",
            Self::Shape { .. } => "tensor_shape",
            Self::Dtype { .. } => "tensor_dtype",
        }
    }
}
