//! Why a model cannot be had by name. Each message is one line for the user.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::RepositoryId;
use crate::tensor::WeightError;

/// A model that cannot be found or fetched.
#[derive(Debug, Error)]
pub enum HubError {
    /// What was typed is neither a directory nor the name of a repository.
    #[error(
        "\"{given}\" is neither a directory here nor the name of a repository, which would be \
         organisation/name as in Qwen/Qwen3-Omni-30B-A3B-Instruct"
    )]
    NeitherDirectoryNorName {
        /// What was typed.
        given: String,
    },
    /// What was typed is a path, and nothing is there.
    #[error(
        "{path} does not exist; a model is a directory with a config.json in it, or organisation/name on the hub"
    )]
    NoSuchPath {
        /// What was typed.
        path: String,
    },
    /// A revision was asked for that no revision can be called.
    #[error("--revision \"{revision}\": no branch, tag or commit has such a name")]
    Revision {
        /// What was typed.
        revision: String,
    },
    /// A revision was asked for of something that has none.
    #[error("--revision {revision}: {model} is no repository on the hub, and has no revisions")]
    NoRevisions {
        /// What was typed.
        revision: String,
        /// The model.
        model: String,
    },
    /// Nothing says where the cache is.
    #[error("no cache for models from the hub: none of HF_HUB_CACHE, HF_HOME and HOME is set")]
    NoCache,
    /// The hub's address is none.
    #[error("HF_ENDPOINT \"{endpoint}\" does not begin with https:// or http://")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// The token cannot be sent.
    #[error("the token in HF_TOKEN or in the token file holds a blank or a character that is not ASCII")]
    Token,
    /// The hub must not be asked, and the cache does not have it.
    #[error(
        "HF_HUB_OFFLINE is set, there is no directory {repository} here, and the cache does not have it at revision \
         {revision}: {missing}"
    )]
    Offline {
        /// The repository.
        repository: RepositoryId,
        /// Its revision.
        revision: String,
        /// What was looked for, and where.
        missing: String,
    },
    /// The hub does not answer.
    #[error(
        "there is no directory {repository} here, and {endpoint} cannot be reached for it: {cause}; the cache does not \
         have it either: {missing}"
    )]
    Unreachable {
        /// The hub.
        endpoint: String,
        /// The repository.
        repository: RepositoryId,
        /// What was looked for, and where.
        missing: String,
        /// What went wrong.
        cause: String,
    },
    /// The hub has no such repository, or does not admit it.
    #[error(
        "there is no directory {repository} here, and {endpoint} has no such repository, or none that {who} may see"
    )]
    NoSuchRepository {
        /// The hub.
        endpoint: String,
        /// The repository.
        repository: RepositoryId,
        /// Who asked.
        who: &'static str,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repository} has no revision \"{revision}\"")]
    NoSuchRevision {
        /// The repository.
        repository: RepositoryId,
        /// What was asked for.
        revision: String,
    },
    /// The hub wants to know who asks.
    #[error("{endpoint} does not give {repository} to {who} (status {status}): {advice}")]
    Denied {
        /// The hub.
        endpoint: String,
        /// The repository.
        repository: RepositoryId,
        /// Who asked.
        who: &'static str,
        /// 401 or 403.
        status: u16,
        /// What may help.
        advice: String,
    },
    /// The hub gave another answer than it should.
    #[error("{address}: {problem}")]
    Answer {
        /// What was asked for.
        address: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// A file kept breaking off.
    #[error(
        "{file} of {repository} broke off after {received} of {size} bytes, {attempts} times: {cause}; the next start goes on from there"
    )]
    BrokeOff {
        /// The file.
        file: String,
        /// The repository.
        repository: RepositoryId,
        /// What is there.
        received: u64,
        /// What should be there.
        size: u64,
        /// How often it was tried without a byte.
        attempts: usize,
        /// What went wrong the last time.
        cause: String,
    },
    /// A file does not hold what the hub says that it does.
    #[error("{file} of {repository} came spoilt: its SHA-256 is {have} and should be {need}; it was removed")]
    Spoilt {
        /// The file.
        file: String,
        /// The repository.
        repository: RepositoryId,
        /// What came.
        have: String,
        /// What the hub says.
        need: String,
    },
    /// The repository lacks a file without which it is no model.
    #[error("{repository} at {commit} has no {file}; {need}")]
    NoModel {
        /// The repository.
        repository: RepositoryId,
        /// Its commit.
        commit: String,
        /// The file.
        file: String,
        /// What it is needed for.
        need: &'static str,
    },
    /// The index of the weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// There is no room for a file.
    #[error(
        "no room left on the disk for {path}, {size} bytes; HF_HUB_CACHE may name a directory with more room"
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// The cache cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl HubError {
    /// A failure to write a file of `size` bytes.
    pub(super) fn writing(path: impl Into<PathBuf>, size: u64) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, size },
            _ => Self::Write { path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_called_so() {
        let full = HubError::writing("/cache/blob", 7)(io::ErrorKind::StorageFull.into());
        assert!(full.to_string().starts_with("no room left on the disk for /cache/blob, 7 bytes"), "{full}");
        let other = HubError::writing("/cache/blob", 7)(io::ErrorKind::PermissionDenied.into());
        assert!(other.to_string().starts_with("cannot write /cache/blob"), "{other}");
    }
}
