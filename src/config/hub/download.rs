//! A revision from the hub into the cache: what is needed of it, and nothing else.

use super::cache::RepositoryCache;
use super::client::{Client, Failure, Listing, RemoteFile};
use super::progress::Progress;
use super::transfer::{Patience, fetch};
use super::{HubError, HubSettings, RepositoryId, Wanted};
use crate::tensor::weight_files;

/// Downloads a revision, and gives its commit. `missing` is what the cache lacks, for a hub that cannot be reached.
pub(super) fn download(
    settings: &HubSettings,
    repository: &RepositoryId,
    revision: &str,
    cache: &RepositoryCache,
    (wanted, missing): (Wanted, String),
) -> Result<String, HubError> {
    let client = Client::new(settings, repository, revision);
    let listing = client.list().map_err(|failure| match failure {
        Failure::Final(error) => error,
        Failure::Passing(cause) => HubError::Unreachable {
            endpoint: settings.endpoint.clone(),
            repository: repository.clone(),
            missing,
            cause,
        },
    })?;
    let commit = listing.commit.clone();
    tracing::info!("fetching {repository} at {commit} into {}", cache.snapshot(&commit).display());
    cache.create()?;
    let progress = Progress::new(repository);
    let mut download = Download { client, repository, cache, listing, progress };
    download.fetch_all(&download.small_files()?)?;
    if wanted == Wanted::Everything {
        download.fetch_all(&weight_files(&cache.snapshot(&commit))?)?;
    }
    cache.note(&commit)?;
    Ok(commit)
}

/// A download that is under way.
struct Download<'a> {
    client: Client<'a>,
    repository: &'a RepositoryId,
    cache: &'a RepositoryCache,
    listing: Listing,
    progress: Progress,
}

impl Download<'_> {
    /// Configuration, tokenizer, templates, and the index of the weights.
    fn small_files(&self) -> Result<Vec<String>, HubError> {
        self.must_have("config.json", "it is no checkpoint in the layout of Transformers")?;
        Ok(self.listing.files.iter().filter(|name| is_small_and_needed(name)).cloned().collect())
    }

    /// Makes files of the snapshot of those names.
    fn fetch_all(&mut self, names: &[String]) -> Result<(), HubError> {
        let snapshot = self.cache.snapshot(&self.listing.commit);
        let mut files = Vec::new();
        // A commit's files never change.
        for name in names.iter().filter(|name| !snapshot.join(name).is_file()) {
            self.must_have(name, "only weights in safetensors files can be used")?;
            let file = self.describe(name)?;
            self.progress.expect(file.size);
            files.push(file);
        }
        for file in files {
            self.progress.file(&file.name);
            fetch(&self.client, self.repository, self.cache, &file, &mut self.progress)?;
            self.cache.link(&self.listing.commit, &file.name, &file.etag)?;
        }
        Ok(())
    }

    fn describe(&self, name: &str) -> Result<RemoteFile, HubError> {
        let mut patience = Patience::default();
        loop {
            match self.client.describe(&self.listing.commit, name) {
                Ok(file) => return Ok(file),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(cause)) if patience.wait(&cause, name, &self.progress) => {}
                Err(Failure::Passing(problem)) => {
                    let address = format!("{name} of {}", self.repository);
                    return Err(HubError::Answer { address, problem });
                }
            }
        }
    }

    fn must_have(&self, file: &str, need: &'static str) -> Result<(), HubError> {
        if self.listing.files.iter().any(|name| name == file) {
            return Ok(());
        }
        let (repository, commit) = (self.repository.clone(), self.listing.commit.clone());
        Err(HubError::NoModel { repository, commit, file: file.to_owned(), need })
    }
}

/// Whether a file belongs to a model and holds no weights. Weights in other formats bring indices of their own.
fn is_small_and_needed(name: &str) -> bool {
    match name.rsplit_once('.') {
        Some((stem, "json")) => !stem.ends_with(".bin.index"),
        Some((_, "jinja")) => true,
        _ => ["merges.txt", "vocab.txt"].contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_model_is_fetched_and_the_rest_is_not() {
        for name in [
            "config.json",
            "generation_config.json",
            "model.safetensors.index.json",
            "tokenizer.json",
            "merges.txt",
            "chat_template.jinja",
        ] {
            assert!(is_small_and_needed(name), "{name}");
        }
        for name in [
            "README.md",
            "LICENSE.txt",
            "model.safetensors",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "model.gguf",
            "consolidated.pth",
            "modeling.py",
        ] {
            assert!(!is_small_and_needed(name), "{name}");
        }
    }
}
