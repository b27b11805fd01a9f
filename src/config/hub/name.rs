//! What a model may be called: a directory, or a repository on the hub.

use std::fmt;
use std::path::Path;

/// The longest name of a repository that the hub allows.
const LONGEST: usize = 96;
/// Characters of a commit's name: a SHA-1 in hexadecimal digits.
const COMMIT_DIGITS: usize = 40;

/// The name of a repository on the hub, such as `Qwen/Qwen3-Omni-30B-A3B-Instruct`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryId(String);

impl RepositoryId {
    /// Reads `organisation/name`. None if the hub allows no such name.
    pub fn parse(text: &str) -> Option<Self> {
        let (organisation, name) = text.split_once('/')?;
        let fits = text.len() <= LONGEST && is_part(organisation) && is_part(name);
        fits.then(|| Self(text.to_owned()))
    }

    /// The name as it was typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Letters, digits, `-`, `_` and `.`, the last two not doubled, `-` and `.` not at an end.
fn is_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = ['-', '.'];
    !part.is_empty()
        && part.chars().all(allowed)
        && !part.starts_with(ends)
        && !part.ends_with(ends)
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether somebody who typed this meant a path: it begins at the root, here, above or at home, or has more than one
/// slash.
pub(super) fn looks_like_a_path(text: &Path) -> bool {
    let text = text.to_string_lossy();
    let begins = |beginning: &str| text.starts_with(beginning);
    begins("/") || begins(".") || begins("~") || text.ends_with('/') || text.matches('/').count() > 1
}

/// Whether a branch, tag or commit may have this name. It becomes a part of paths and addresses.
pub(super) fn is_revision(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains("..");
    text.chars().all(allowed) && text.split('/').all(plain)
}

/// Whether this is the full name of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == COMMIT_DIGITS && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

/// Whether the hub's name of a file may become the name of a file in a directory of ours.
pub(super) fn is_plain_file(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '\\');
    !text.is_empty() && text.len() <= 255 && !text.starts_with('.') && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_an_organisation_and_a_name() {
        for name in ["Qwen/Qwen3-Omni-30B-A3B-Instruct", "a/b", "org_1/model.v2"] {
            assert_eq!(RepositoryId::parse(name).unwrap().as_str(), name);
        }
        let long = format!("a/{}", "b".repeat(LONGEST));
        for name in
            ["", "gpt2", "a/b/c", "/b", "a/", "../b", "a/..", "a b/c", "a/b--c", "-a/b", "a/b.", &long]
        {
            assert_eq!(RepositoryId::parse(name), None, "{name}");
        }
    }

    #[test]
    fn paths_are_told_from_names() {
        for path in ["/models/omni", "./omni", "../omni", "~/omni", "omni/", "a/b/c", "."] {
            assert!(looks_like_a_path(Path::new(path)), "{path}");
        }
        for name in ["Qwen/Qwen3-Omni-30B-A3B-Instruct", "omni"] {
            assert!(!looks_like_a_path(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn a_revision_stays_within_its_directory() {
        for revision in ["main", "v1.0", "refs/pr/3", "feature/x_y", "0123abc"] {
            assert!(is_revision(revision), "{revision}");
        }
        for revision in ["", "/main", "main/", "../../etc", "a/../b", ".hidden", "a b", "a?b", "ä"] {
            assert!(!is_revision(revision), "{revision}");
        }
    }

    #[test]
    fn a_commit_is_named_in_full() {
        assert!(is_commit("0123456789abcdef0123456789abcdef01234567"));
        for text in ["0123abc", "main", "0123456789ABCDEF0123456789abcdef01234567"] {
            assert!(!is_commit(text), "{text}");
        }
    }

    #[test]
    fn a_file_has_no_directory() {
        assert!(is_plain_file("model-00001-of-00015.safetensors"));
        for name in ["", ".gitattributes", "..", "a/b.json", "a\\b", "a b"] {
            assert!(!is_plain_file(name), "{name}");
        }
    }
}
