//! Models by name: what was typed is a directory, or a repository on the Hugging Face hub that is in the cache or
//! comes into it.

mod cache;
mod client;
mod download;
mod environment;
mod error;
mod name;
mod progress;
mod transfer;

use std::path::{Path, PathBuf};

use self::cache::RepositoryCache;
use self::download::download;
use self::name::{is_revision, looks_like_a_path};

pub use self::environment::{HubSettings, Token};
pub use self::error::HubError;
pub use self::name::RepositoryId;

/// The revision that is taken unless another is asked for.
const DEFAULT_REVISION: &str = "main";

/// What is needed of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Configuration, tokenizer and weights.
    Everything,
    /// Configuration and tokenizer.
    AllButWeights,
}

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelPlace {
    /// In a directory that was named.
    Directory(PathBuf),
    /// In the cache of the hub.
    Snapshot(Snapshot),
}

/// A revision of a repository in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The repository.
    pub repository: RepositoryId,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit that it is.
    pub commit: String,
    /// Where its files are.
    pub directory: PathBuf,
}

/// Finds a model. If it is a repository whose configuration and tokenizer are not in the cache, they are downloaded; for
/// the weights see [`Snapshot::fetch_weights`].
///
/// What exists as a path is that path. `settings` is asked for only if it does not.
pub fn locate(
    given: &Path,
    revision: Option<&str>,
    settings: impl FnOnce() -> Result<HubSettings, HubError>,
) -> Result<ModelPlace, HubError> {
    if given.exists() {
        return match revision {
            None => Ok(ModelPlace::Directory(given.to_owned())),
            Some(revision) => Err(no_revisions(revision, &given.display().to_string())),
        };
    }
    let repository = given.to_str().and_then(RepositoryId::parse).ok_or_else(|| {
        let typed = given.display().to_string();
        match looks_like_a_path(given) {
            true => HubError::NoSuchPath { path: typed },
            false => HubError::NeitherDirectoryNorName { given: typed },
        }
    })?;
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    if !is_revision(revision) {
        return Err(HubError::Revision { revision: revision.to_owned() });
    }
    let wanted = Wanted::AllButWeights;
    let (commit, directory) = find(&settings()?, &repository, (revision, revision), wanted)?;
    Ok(ModelPlace::Snapshot(Snapshot { repository, revision: revision.to_owned(), commit, directory }))
}

impl Snapshot {
    /// Downloads the weights, unless they are in the cache.
    pub fn fetch_weights(
        &self,
        settings: impl FnOnce() -> Result<HubSettings, HubError>,
    ) -> Result<(), HubError> {
        // The branch may have moved on since its configuration was read.
        let names = (self.revision.as_str(), self.commit.as_str());
        find(&settings()?, &self.repository, names, Wanted::Everything).map(drop)
    }
}

/// The error for a revision of something that is no repository.
pub fn no_revisions(revision: &str, model: &str) -> HubError {
    HubError::NoRevisions { revision: revision.to_owned(), model: model.to_owned() }
}

/// The commit and directory of what is called `asked` and is looked for as `revision`.
fn find(
    settings: &HubSettings,
    repository: &RepositoryId,
    (asked, revision): (&str, &str),
    wanted: Wanted,
) -> Result<(String, PathBuf), HubError> {
    let cache = RepositoryCache::new(&settings.cache, repository, revision);
    let missing = match cache.complete(wanted) {
        Ok(found) => return Ok(found),
        Err(missing) => missing,
    };
    if settings.offline {
        let (repository, revision) = (repository.clone(), asked.to_owned());
        return Err(HubError::Offline { repository, revision, missing });
    }
    let commit = download(settings, repository, revision, &cache, (wanted, missing))?;
    let directory = cache.snapshot(&commit);
    Ok((commit, directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Why something that is not there is not found. The hub and the cache are not asked.
    fn refusal(given: &str, revision: Option<&str>) -> String {
        let place = locate(Path::new(given), revision, || Err(HubError::NoCache));
        place.unwrap_err().to_string()
    }

    #[test]
    fn what_exists_is_a_path_and_has_no_revision() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let place = locate(path, None, || Err(HubError::NoCache)).unwrap();
        assert_eq!(place, ModelPlace::Directory(path.to_owned()));
        assert!(refusal(path.to_str().unwrap(), Some("main")).contains("has no revisions"));
    }

    #[test]
    fn both_readings_of_what_is_neither_are_named() {
        let message = refusal("gpt2", None);
        assert!(message.contains("neither a directory here nor the name of a repository"), "{message}");
        for path in ["/no/such/model", "./omni", "models/qwen/omni"] {
            let message = refusal(path, None);
            assert!(message.starts_with(&format!("{path} does not exist")), "{message}");
        }
    }

    #[test]
    fn a_name_leads_to_the_cache() {
        assert_eq!(refusal("org/name", None), HubError::NoCache.to_string());
        assert!(refusal("org/name", Some("../main")).contains("--revision \"../main\""));
    }
}
