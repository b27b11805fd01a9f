//! The hub's answers: what a revision holds, what is known of a file, and its bytes.
//!
//! Names and addresses are hf-hub's. The requests are made here, since that crate's own downloads (of 0.5) have no
//! time-outs, do not check what comes, write wherever an ETag says, and append the whole of a file to its beginning when
//! they go on with it and the first attempt fails.

use std::time::Duration;

use hf_hub::api::RepoInfo;
use hf_hub::{Repo, RepoType};
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::name::{is_commit, is_plain_file};
use super::{HubError, HubSettings, RepositoryId};

/// How long it may take to find the hub and to be connected with it.
const CONNECT: Duration = Duration::from_secs(15);
/// How long the hub may be silent: before its answer, and between two pieces of it.
const SILENCE: Duration = Duration::from_secs(60);
/// Redirects that are followed to learn of a file, from one name of a repository to another.
const REDIRECTS: usize = 5;
/// The header with the length of a file that is kept elsewhere.
const LINKED_SIZE: &str = "X-Linked-Size";
/// The most bytes of a listing.
const LISTING: u64 = 64 << 20;

/// Asks the hub about one repository.
pub(super) struct Client<'a> {
    agent: Agent,
    settings: &'a HubSettings,
    repository: &'a RepositoryId,
    /// The branch, tag or commit that is asked for.
    revision: &'a str,
}

/// What a revision holds.
#[derive(Debug)]
pub(super) struct Listing {
    /// The commit that it is.
    pub(super) commit: String,
    /// The files at its top; those in directories are left out.
    pub(super) files: Vec<String>,
}

/// What the hub knows of a file.
#[derive(Debug)]
pub(super) struct RemoteFile {
    /// Its name.
    pub(super) name: String,
    /// Where it is.
    pub(super) address: String,
    /// Its length in bytes.
    pub(super) size: u64,
    /// Names its contents.
    pub(super) etag: String,
}

impl RemoteFile {
    /// The SHA-256 of the contents in hexadecimal digits, if the hub gives it: it does for large files, as their ETag.
    pub(super) fn sha256(&self) -> Option<&str> {
        let digits = self.etag.len() == 64 && self.etag.chars().all(|c| c.is_ascii_hexdigit());
        digits.then_some(self.etag.as_str())
    }
}

/// A request that did not give what it should.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may do so the next time.
    Passing(String),
    /// It will not.
    Final(HubError),
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a HubSettings, repository: &'a RepositoryId, revision: &'a str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The hub's token is not shown to the servers that keep large files.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("omni-actors/", env!("CARGO_PKG_VERSION")))
            // Lengths and ranges are those of the files, not of something packed.
            .accept_encoding("identity")
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE));
        Self { agent: config.build().into(), settings, repository, revision }
    }

    /// The files of the revision. `Passing` means that the hub cannot be reached.
    pub(super) fn list(&self) -> Result<Listing, Failure> {
        let address = format!("{}/api/{}", self.settings.endpoint, self.repo(self.revision).api_url());
        let mut answer = self.with_token(self.agent.get(&address), &address).call().map_err(passing)?;
        if !answer.status().is_success() {
            return Err(self.refusal(&answer, &address));
        }
        let broken = |problem: String| HubError::Answer { address: address.clone(), problem };
        let body = answer.body_mut().with_config().limit(LISTING);
        let info: RepoInfo =
            body.read_json().map_err(|error| Failure::Final(broken(format!("no listing: {error}"))))?;
        if !is_commit(&info.sha) {
            return Err(Failure::Final(broken(format!("{:?} is the name of no commit", info.sha))));
        }
        let files = info.siblings.into_iter().map(|file| file.rfilename);
        Ok(Listing { commit: info.sha, files: files.filter(|name| is_plain_file(name)).collect() })
    }

    /// What is known of a file of a commit.
    pub(super) fn describe(&self, commit: &str, file: &str) -> Result<RemoteFile, Failure> {
        let repo = self.repo(commit);
        let (endpoint, revision) = (&self.settings.endpoint, repo.url_revision());
        let address = format!("{endpoint}/{}/resolve/{revision}/{file}", repo.url());
        let mut asked = address.clone();
        for _ in 0..REDIRECTS {
            let request = self.with_token(self.agent.head(&asked), &asked);
            let answer = request.config().max_redirects(0).build().call().map_err(passing)?;
            let (status, headers) = (answer.status(), answer.headers());
            // Of a large file all that is to be known stands beside the address where it is kept.
            let linked = status.is_redirection() && headers.contains_key(LINKED_SIZE);
            if status.is_success() || linked {
                return described(headers, file, &address).map_err(Failure::Final);
            }
            asked = match header(headers, "Location").filter(|_| status.is_redirection()) {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    origin(&asked).to_owned() + path
                }
                Some(elsewhere) => elsewhere.to_owned(),
                None => return Err(self.refusal(&answer, &asked)),
            };
        }
        let problem = format!("more than {REDIRECTS} redirects");
        Err(Failure::Final(HubError::Answer { address, problem }))
    }

    /// The contents of a file from a byte on, or, with status 200, all of it.
    pub(super) fn read(&self, file: &RemoteFile, from: u64) -> Result<Response<Body>, Failure> {
        let mut request = self.with_token(self.agent.get(&file.address), &file.address);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let answer = request.call().map_err(passing)?;
        let broken = |problem: String| {
            Err(Failure::Final(HubError::Answer { address: file.address.clone(), problem }))
        };
        match (answer.status(), whole_length(answer.status(), answer.headers())) {
            (StatusCode::OK | StatusCode::PARTIAL_CONTENT, Some(length)) if length != file.size => {
                broken(format!("it has {length} bytes, and was to have {}", file.size))
            }
            (StatusCode::PARTIAL_CONTENT, _) if !begins_at(answer.headers(), from) => {
                broken(format!("asked from byte {from} on, it gives another part"))
            }
            (StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE, _) => {
                Ok(answer)
            }
            _ => Err(self.refusal(&answer, &file.address)),
        }
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repository.as_str().to_owned(), RepoType::Model, revision.to_owned())
    }

    /// Shows the token, if the address is the hub's own.
    fn with_token(&self, request: RequestBuilder<WithoutBody>, address: &str) -> RequestBuilder<WithoutBody> {
        let own = origin(address) == origin(&self.settings.endpoint);
        match self.settings.token.as_ref().filter(|_| own) {
            Some(token) => request.header("Authorization", token.authorization()),
            None => request,
        }
    }

    /// What a status that is no success means. The hub answers 401 also for what does not exist, and says more in a
    /// header of its own.
    fn refusal(&self, answer: &Response<Body>, address: &str) -> Failure {
        let status = answer.status();
        let code = header(answer.headers(), "X-Error-Code").unwrap_or_default();
        let endpoint = self.settings.endpoint.clone();
        let repository = self.repository.clone();
        let has_token = self.settings.token.is_some();
        let who = if has_token { "the owner of this token" } else { "somebody without a token" };
        Failure::Final(match (status.as_u16(), code) {
            (408 | 429 | 500.., _) => return Failure::Passing(format!("the hub answers {status}")),
            (_, "RevisionNotFound") => {
                HubError::NoSuchRevision { repository, revision: self.revision.to_owned() }
            }
            (_, "RepoNotFound") | (404, "") => HubError::NoSuchRepository { endpoint, repository, who },
            (status @ (401 | 403), code) => {
                let advice = match code {
                    "GatedRepo" => format!(
                        "accept its terms at {endpoint}/{repository}, and set HF_TOKEN to a token of that account"
                    ),
                    _ if has_token => "the token is wrong, or may not read it".to_owned(),
                    _ => "set HF_TOKEN to a token that may read it".to_owned(),
                };
                HubError::Denied { endpoint, repository, who, status, advice }
            }
            _ => HubError::Answer {
                address: address.to_owned(),
                problem: format!("the hub answers {status} {code}").trim_end().to_owned(),
            },
        })
    }
}

fn passing(error: ureq::Error) -> Failure {
    Failure::Passing(error.to_string())
}

/// Reads what the headers say of a file.
fn described(headers: &HeaderMap, file: &str, address: &str) -> Result<RemoteFile, HubError> {
    let lacking = |what: &str| HubError::Answer {
        address: address.to_owned(),
        problem: format!("the hub does not say {what} of the file"),
    };
    let etag = header(headers, "X-Linked-Etag").or_else(|| header(headers, "ETag"));
    let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
    let size = header(headers, LINKED_SIZE).or_else(|| header(headers, "Content-Length"));
    Ok(RemoteFile {
        name: file.to_owned(),
        address: address.to_owned(),
        size: size.and_then(|size| size.parse().ok()).ok_or_else(|| lacking("the length"))?,
        etag: etag.filter(|etag| is_plain_file(etag)).ok_or_else(|| lacking("the ETag"))?.to_owned(),
    })
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Whether an answer says that it begins at this byte.
fn begins_at(headers: &HeaderMap, byte: u64) -> bool {
    let range = header(headers, "Content-Range").and_then(|range| range.strip_prefix("bytes "));
    range.and_then(|range| range.split_once('-')).is_some_and(|(begin, _)| begin.parse() == Ok(byte))
}

/// The length of the whole file, as far as the answer tells.
fn whole_length(status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    let length = match status {
        StatusCode::PARTIAL_CONTENT => header(headers, "Content-Range")?.rsplit_once('/')?.1,
        _ => header(headers, "Content-Length")?,
    };
    length.parse().ok()
}

/// Scheme and host of an address.
fn origin(address: &str) -> &str {
    let host = address.find("://").map_or(0, |end| end + 3);
    let end = address.get(host..).and_then(|rest| rest.find('/')).map_or(address.len(), |slash| host + slash);
    address.get(..end).unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    const SHA256: &str = "f9343d7d7ec5c3d8bcced056c438fc9f1d3819e9ca3d42418a40857050e10e20";

    #[test]
    fn a_large_file_is_described_by_its_link() {
        let quoted = "\"f9343d7d7ec5c3d8bcced056c438fc9f1d3819e9ca3d42418a40857050e10e20\"";
        let linked = headers(&[
            ("X-Linked-Etag", quoted),
            ("ETag", "\"pointer\""),
            ("X-Linked-Size", "22"),
            ("Content-Length", "1000"),
        ]);
        let file = described(&linked, "model.safetensors", "address").unwrap();
        assert_eq!((file.size, file.sha256()), (22, Some(SHA256)));
    }

    #[test]
    fn a_small_file_has_an_etag_that_is_no_sum() {
        let plain = headers(&[("ETag", "W/\"6d34772f\""), ("Content-Length", "7")]);
        let file = described(&plain, "config.json", "address").unwrap();
        assert_eq!((file.size, file.etag.as_str(), file.sha256()), (7, "6d34772f", None));
    }

    #[test]
    fn an_etag_that_leads_elsewhere_is_refused() {
        for etag in ["\"../../evil\"", "\"/etc/passwd\"", "\"\"", "\".\""] {
            let spoilt = headers(&[("ETag", etag), ("Content-Length", "7")]);
            assert!(described(&spoilt, "config.json", "address").is_err(), "{etag}");
        }
        assert!(described(&headers(&[("ETag", "\"a\"")]), "config.json", "address").is_err());
    }

    #[test]
    fn a_part_must_begin_where_it_was_asked_to() {
        let range = headers(&[("Content-Range", "bytes 100-199/200")]);
        assert!(begins_at(&range, 100) && !begins_at(&range, 99));
        assert!(!begins_at(&headers(&[]), 0));
    }

    #[test]
    fn the_whole_length_is_told_with_a_part_of_it() {
        let part = headers(&[("Content-Range", "bytes 100-199/200"), ("Content-Length", "100")]);
        assert_eq!(whole_length(StatusCode::PARTIAL_CONTENT, &part), Some(200));
        assert_eq!(whole_length(StatusCode::OK, &headers(&[("Content-Length", "7")])), Some(7));
        assert_eq!(whole_length(StatusCode::OK, &headers(&[])), None);
    }

    #[test]
    fn an_origin_has_no_path() {
        assert_eq!(origin("https://hub.example/mirror/hf"), "https://hub.example");
        assert_eq!(origin("http://127.0.0.1:80"), "http://127.0.0.1:80");
    }
}
