//! The cache on disk, as Hugging Face's own tools lay it out: `refs/<revision>` holds the name of a commit,
//! `snapshots/<commit>/<file>` is a link to `blobs/<etag>`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::name::is_commit;
use super::{HubError, RepositoryId, Wanted};
use crate::tensor::weight_files;

/// What the cache holds of one revision of a repository.
#[derive(Debug)]
pub(super) struct RepositoryCache {
    /// Where hf-hub says that things are.
    layout: CacheRepo,
    /// The repository's directory.
    directory: PathBuf,
    /// The directory of its locks.
    locks: PathBuf,
    /// The revision.
    revision: String,
}

impl RepositoryCache {
    /// A repository in the cache directory, which need not exist.
    pub(super) fn new(cache: &Path, repository: &RepositoryId, revision: &str) -> Self {
        let repo = Repo::with_revision(repository.as_str().to_owned(), RepoType::Model, revision.to_owned());
        let folder = repo.folder_name();
        Self {
            layout: Cache::new(cache.to_owned()).repo(repo),
            directory: cache.join(&folder),
            locks: cache.join(".locks").join(folder),
            revision: revision.to_owned(),
        }
    }

    /// The commit and directory of the revision, if all that is wanted is there; else what is missing.
    pub(super) fn complete(&self, wanted: Wanted) -> Result<(String, PathBuf), String> {
        let commit = self.commit()?;
        let snapshot = self.snapshot(&commit);
        let missing = if snapshot.is_dir() { missing_file(&snapshot, wanted) } else { Some(String::new()) };
        match missing {
            None => Ok((commit, snapshot)),
            Some(file) => Err(does_not_exist(&snapshot.join(file))),
        }
    }

    /// The commit that the revision stands for, as far as the cache knows.
    fn commit(&self) -> Result<String, String> {
        let file = self.directory.join("refs").join(&self.revision);
        match fs::read_to_string(&file) {
            Ok(commit) if is_commit(commit.trim()) => Ok(commit.trim().to_owned()),
            Ok(_) => Err(format!("{} holds no commit", file.display())),
            Err(_) if is_commit(&self.revision) => Ok(self.revision.clone()),
            Err(_) => Err(does_not_exist(&file)),
        }
    }

    /// The directory with the files of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    /// Where the contents that have this ETag are kept.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.layout.blob_path(etag)
    }

    /// Where they are while some are still to come. Hugging Face's tools use the same file.
    pub(super) fn incomplete_blob(&self, etag: &str) -> PathBuf {
        self.layout.blob_path(&format!("{etag}.incomplete"))
    }

    /// Keeps other processes, Hugging Face's tools included, from fetching the same contents until it is dropped.
    /// Waits for one that does, and calls `waiting` before.
    pub(super) fn lock(&self, etag: &str, waiting: impl FnOnce()) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_directories(&self.locks)?;
        let lock = File::create(&path).map_err(HubError::writing(&path, 0))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                lock.lock().map_err(HubError::writing(&path, 0))?;
            }
            Err(TryLockError::Error(error)) => return Err(HubError::writing(&path, 0)(error)),
        }
        Ok(lock)
    }

    /// Makes contents that are there a file of a commit.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let snapshot = self.snapshot(commit);
        create_directories(&snapshot)?;
        let link = snapshot.join(file);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HubError::writing(link, 0)(error));
            }
            _ => {}
        }
        let target = Path::new("../../blobs").join(etag);
        std::os::unix::fs::symlink(target, &link).map_err(HubError::writing(link, 0))
    }

    /// Notes that the revision stands for a commit whose files are all there.
    pub(super) fn note(&self, commit: &str) -> Result<(), HubError> {
        if self.revision == commit {
            return Ok(());
        }
        let file = self.directory.join("refs").join(&self.revision);
        self.layout.create_ref(commit).map_err(HubError::writing(file, 0))
    }

    /// Makes the directory of the contents.
    pub(super) fn create(&self) -> Result<(), HubError> {
        create_directories(&self.directory.join("blobs"))
    }
}

fn create_directories(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(HubError::writing(path, 0))
}

fn does_not_exist(path: &Path) -> String {
    format!("{} does not exist", path.display())
}

/// The first file without which a snapshot cannot be served. An index of weights that cannot be read counts as one
/// that is complete: who opens it says what is wrong with it.
fn missing_file(snapshot: &Path, wanted: Wanted) -> Option<String> {
    let lacks = |name: &str| !snapshot.join(name).is_file();
    if lacks("config.json") {
        return Some("config.json".to_owned());
    }
    if lacks("tokenizer.json") && (lacks("vocab.json") || lacks("merges.txt")) {
        return Some("tokenizer.json".to_owned());
    }
    match wanted {
        Wanted::AllButWeights => None,
        Wanted::Everything => weight_files(snapshot).ok()?.into_iter().find(|name| lacks(name)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A cache with a snapshot of these files, to which `main` points.
    fn cache(files: &[(&str, &str)]) -> (TempDir, PathBuf) {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--org--name");
        let snapshot = repository.join("snapshots").join(COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), COMMIT).unwrap();
        for (name, contents) in files {
            fs::write(snapshot.join(name), contents).unwrap();
        }
        (cache, snapshot)
    }

    fn complete(cache: &TempDir, revision: &str, wanted: Wanted) -> Result<(String, PathBuf), String> {
        let repository = RepositoryId::parse("org/name").unwrap();
        RepositoryCache::new(cache.path(), &repository, revision).complete(wanted)
    }

    const TEXT: [(&str, &str); 2] = [("config.json", "{}"), ("tokenizer.json", "{}")];

    #[test]
    fn a_branch_and_its_commit_are_the_same_snapshot() {
        let (cache, snapshot) = cache(&[TEXT[0], TEXT[1], ("model.safetensors", "")]);
        for revision in ["main", COMMIT] {
            let found = complete(&cache, revision, Wanted::Everything);
            assert_eq!(found, Ok((COMMIT.to_owned(), snapshot.clone())));
        }
        let missing = complete(&cache, "v2", Wanted::Everything).unwrap_err();
        assert!(missing.ends_with("models--org--name/refs/v2 does not exist"), "{missing}");
    }

    #[test]
    fn every_shard_that_the_index_names_must_be_there() {
        let index = json!({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).to_string();
        let index = ("model.safetensors.index.json", index.as_str());
        let (cache, snapshot) = cache(&[TEXT[0], TEXT[1], index, ("1.safetensors", "")]);
        let missing = complete(&cache, "main", Wanted::Everything).unwrap_err();
        assert!(missing.ends_with("2.safetensors does not exist"), "{missing}");
        assert!(complete(&cache, "main", Wanted::AllButWeights).is_ok());
        // A link whose contents are gone is no file.
        std::os::unix::fs::symlink("../../blobs/gone", snapshot.join("2.safetensors")).unwrap();
        assert!(complete(&cache, "main", Wanted::Everything).is_err());
        fs::remove_file(snapshot.join("2.safetensors")).unwrap();
        fs::write(snapshot.join("2.safetensors"), "").unwrap();
        assert!(complete(&cache, "main", Wanted::Everything).is_ok());
    }

    #[test]
    fn configuration_tokenizer_and_weights_are_looked_for() {
        let lacking = [
            (vec![], "config.json"),
            (vec![TEXT[0]], "tokenizer.json"),
            (vec![TEXT[0], ("vocab.json", "")], "tokenizer.json"),
            (vec![TEXT[0], ("vocab.json", ""), ("merges.txt", "")], "model.safetensors"),
        ];
        for (files, missing) in lacking {
            let (cache, snapshot) = cache(&files);
            let expected = does_not_exist(&snapshot.join(missing));
            assert_eq!(complete(&cache, "main", Wanted::Everything), Err(expected));
        }
    }

    #[test]
    fn a_reference_to_no_commit_leads_nowhere() {
        let (cache, _) = cache(&TEXT);
        fs::write(cache.path().join("models--org--name/refs/main"), "../../etc").unwrap();
        let missing = complete(&cache, "main", Wanted::Everything).unwrap_err();
        assert!(missing.ends_with("refs/main holds no commit"), "{missing}");
    }
}
