//! One file from the hub into the cache: goes on where it stopped, and is checked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use ring::digest;
use ureq::http::StatusCode;

use super::cache::RepositoryCache;
use super::client::{Client, Failure, RemoteFile};
use super::progress::Progress;
use super::{HubError, RepositoryId};

/// Waits before the attempts that follow one that brought nothing.
const WAITS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];
/// Bytes that are read at a time.
const PIECE: usize = 1 << 18;

/// Counts the attempts in a row that brought nothing.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: usize,
}

impl Patience {
    /// Waits before the next attempt. Says no when there have been enough.
    pub(super) fn wait(&mut self, cause: &str, subject: &str, progress: &Progress) -> bool {
        let Some(wait) = WAITS.get(self.failures) else { return false };
        self.failures += 1;
        let seconds = wait.as_secs();
        progress.say(|| tracing::warn!("{subject}: {cause}; trying again in {seconds} s"));
        thread::sleep(*wait);
        true
    }

    /// The last attempt brought something.
    fn renew(&mut self) {
        self.failures = 0;
    }
}

/// Brings the contents of a file into the cache, unless they are there.
pub(super) fn fetch(
    client: &Client<'_>,
    repository: &RepositoryId,
    cache: &RepositoryCache,
    file: &RemoteFile,
    progress: &mut Progress,
) -> Result<(), HubError> {
    let _lock = cache.lock(&file.etag, || {
        progress.say(|| tracing::info!("{}: another process fetches it; waiting for that", file.name));
    })?;
    let blob = cache.blob(&file.etag);
    if fs::metadata(&blob).is_ok_and(|there| there.len() == file.size) {
        progress.found(file.size);
        return Ok(());
    }
    let mut part = Part::open(cache.incomplete_blob(&file.etag), file.size)?;
    progress.found(part.length);
    let mut resumed = part.length > 0;
    loop {
        receive_all(client, repository, file, &mut part, progress)?;
        let have = part.sha256();
        match file.sha256() {
            Some(need) if need != have => {
                progress.lost(part.length);
                part.clear()?;
                if !resumed {
                    // An empty file would be taken for the beginning of a transfer the next time.
                    let _ = fs::remove_file(&part.path);
                    let (file, need) = (file.name.clone(), need.to_owned());
                    return Err(HubError::Spoilt { file, repository: repository.clone(), have, need });
                }
                // What an earlier run left may be to blame.
                resumed = false;
                progress.say(|| tracing::warn!("{}: what was there is spoilt; fetching it anew", file.name));
            }
            _ => return part.keep_as(blob),
        }
    }
}

/// Receives what a part lacks, in as many attempts as it takes, as long as they bring something.
fn receive_all(
    client: &Client<'_>,
    repository: &RepositoryId,
    file: &RemoteFile,
    part: &mut Part,
    progress: &mut Progress,
) -> Result<(), HubError> {
    let mut patience = Patience::default();
    while part.length < file.size {
        let before = part.length;
        let cause = match receive(client, file, part, progress) {
            Ok(()) => continue,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(cause)) => cause,
        };
        if part.length > before {
            patience.renew();
        }
        if !patience.wait(&cause, &file.name, progress) {
            return Err(HubError::BrokeOff {
                file: file.name.clone(),
                repository: repository.clone(),
                received: part.length,
                size: file.size,
                attempts: WAITS.len() + 1,
                cause,
            });
        }
    }
    Ok(())
}

/// One request for what a part lacks.
fn receive(
    client: &Client<'_>,
    file: &RemoteFile,
    part: &mut Part,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let mut answer = client.read(file, part.length)?;
    if part.length > 0 && answer.status() != StatusCode::PARTIAL_CONTENT {
        // The hub does not give parts, or knows this one no more.
        progress.lost(part.length);
        part.clear().map_err(Failure::Final)?;
    }
    if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        return Err(Failure::Passing("the hub does not have the rest of what is there".to_owned()));
    }
    let mut body = answer.body_mut().as_reader();
    let mut piece = vec![0; PIECE];
    while part.length < file.size {
        let count = match body.read(&mut piece) {
            Ok(0) => return Err(Failure::Passing("the connection was closed too early".to_owned())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Passing(error.to_string())),
        };
        let bytes = piece.get(..count).unwrap_or_default();
        let room = usize::try_from(file.size - part.length).unwrap_or(usize::MAX);
        let bytes = bytes.get(..room).unwrap_or(bytes);
        part.append(bytes).map_err(Failure::Final)?;
        progress.received(bytes.len() as u64);
    }
    Ok(())
}

/// The beginning of a file.
struct Part {
    path: PathBuf,
    file: File,
    /// Bytes that are there.
    length: u64,
    /// Bytes that there are to be.
    size: u64,
    /// SHA-256 of the bytes that are there.
    sum: digest::Context,
}

impl Part {
    /// Opens what an earlier transfer left, or begins anew.
    fn open(path: PathBuf, size: u64) -> Result<Self, HubError> {
        let options = OpenOptions::new().read(true).append(true).create(true).clone();
        let mut file = options.open(&path).map_err(HubError::writing(&path, size))?;
        let mut sum = digest::Context::new(&digest::SHA256);
        let mut length = 0;
        let mut piece = vec![0; PIECE];
        loop {
            let count = match file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(HubError::writing(&path, size)(error)),
            };
            sum.update(piece.get(..count).unwrap_or_default());
            length += count as u64;
        }
        let mut part = Self { path, file, length, size, sum };
        if part.length > size {
            part.clear()?;
        }
        Ok(part)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::writing(&self.path, self.size))?;
        self.sum.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what is there.
    fn clear(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::writing(&self.path, self.size))?;
        self.sum = digest::Context::new(&digest::SHA256);
        self.length = 0;
        Ok(())
    }

    /// In hexadecimal digits.
    fn sha256(&self) -> String {
        self.sum.clone().finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Gives it the name of a whole file.
    fn keep_as(self, blob: PathBuf) -> Result<(), HubError> {
        self.file.sync_data().map_err(HubError::writing(&self.path, self.size))?;
        fs::rename(&self.path, &blob).map_err(HubError::writing(blob, self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc`, from FIPS 180-4's examples.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_part_goes_on_where_it_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.incomplete");
        let mut part = Part::open(path.clone(), 3).unwrap();
        part.append(b"a").unwrap();
        drop(part);
        let mut part = Part::open(path.clone(), 3).unwrap();
        assert_eq!(part.length, 1);
        part.append(b"bc").unwrap();
        assert_eq!(part.sha256(), ABC);
        part.keep_as(directory.path().join("x")).unwrap();
        assert_eq!(fs::read(directory.path().join("x")).unwrap(), b"abc");
        assert!(!path.exists());
    }

    #[test]
    fn a_part_that_is_too_long_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.incomplete");
        fs::write(&path, "abcd").unwrap();
        let mut part = Part::open(path, 3).unwrap();
        assert_eq!(part.length, 0);
        part.append(b"abc").unwrap();
        assert_eq!(part.sha256(), ABC);
    }
}
