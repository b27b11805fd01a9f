//! What the environment says of the hub: the variables that Hugging Face's own tools read.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::HubError;

/// The hub itself.
const ENDPOINT: &str = "https://huggingface.co";

/// Where models are looked for, and how the hub is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// The cache: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// The address of the hub, without a slash at its end: `HF_ENDPOINT`.
    pub endpoint: String,
    /// What shows the hub who asks: `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `token` in `HF_HOME`.
    pub token: Option<Token>,
    /// Whether the hub must not be asked at all: `HF_HUB_OFFLINE`.
    pub offline: bool,
}

/// A secret. It is shown to the hub and to nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// What the hub is sent in `Authorization`.
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

impl HubSettings {
    /// Reads the variables. `variable` gives the value of one; an empty one is as good as none.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().trim().to_owned());
        let home = variable("HOME").map(PathBuf::from);
        let path = |name: &str| {
            let path = PathBuf::from(variable(name)?);
            Some(match (path.strip_prefix("~"), &home) {
                (Ok(below), Some(home)) => home.join(below),
                _ => path,
            })
        };
        let hugging_face = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|caches| caches.join("huggingface")))
            .or_else(|| home.as_ref().map(|home| home.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| hugging_face.as_ref().map(|directory| directory.join("hub")))
            .ok_or(HubError::NoCache)?;
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(HubError::Endpoint { endpoint });
        }
        let token_file =
            path("HF_TOKEN_PATH").or_else(|| hugging_face.map(|directory| directory.join("token")));
        let from_file = || std::fs::read_to_string(token_file?).ok().map(|token| token.trim().to_owned());
        let token = text("HF_TOKEN").or_else(from_file).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.chars().all(|c| c.is_ascii_graphic())) {
            return Err(HubError::Token);
        }
        Ok(Self {
            cache,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.map(Token),
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| is_yes(&value)),
        })
    }
}

/// What counts as yes in the variables of the hub's tools.
fn is_yes(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<HubSettings, HubError> {
        HubSettings::from_environment(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    fn cache(variables: &[(&str, &str)]) -> PathBuf {
        settings(variables).unwrap().cache
    }

    #[test]
    fn the_cache_is_where_hugging_faces_tools_have_it() {
        let home = ("HOME", "/home/ada");
        assert_eq!(cache(&[home]), Path::new("/home/ada/.cache/huggingface/hub"));
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/xdg")]), Path::new("/xdg/huggingface/hub"));
        assert_eq!(cache(&[home, ("HF_HOME", "/big")]), Path::new("/big/hub"));
        assert_eq!(cache(&[home, ("HF_HOME", "~/big")]), Path::new("/home/ada/big/hub"));
        assert_eq!(cache(&[home, ("HF_HOME", "/big"), ("HF_HUB_CACHE", "/hub")]), Path::new("/hub"));
        assert_eq!(cache(&[home, ("HF_HOME", "")]), Path::new("/home/ada/.cache/huggingface/hub"));
        assert!(matches!(settings(&[]), Err(HubError::NoCache)));
    }

    #[test]
    fn the_endpoint_is_an_address() {
        let home = ("HOME", "/home/ada");
        assert_eq!(settings(&[home]).unwrap().endpoint, "https://huggingface.co");
        let mirror = settings(&[home, ("HF_ENDPOINT", "http://mirror:8080/hf/")]).unwrap();
        assert_eq!(mirror.endpoint, "http://mirror:8080/hf");
        let error = settings(&[home, ("HF_ENDPOINT", "mirror")]).unwrap_err();
        assert!(error.to_string().contains("HF_ENDPOINT \"mirror\""), "{error}");
    }

    #[test]
    fn offline_is_said_in_several_words() {
        let offline = |value| settings(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).unwrap().offline;
        assert!(offline("1") && offline("true") && offline("YES") && offline("on"));
        assert!(!offline("0") && !offline("") && !offline("false"));
    }

    #[test]
    fn a_token_comes_from_the_variable_or_from_a_file_and_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let home = ("HF_HOME", directory.path().to_str().unwrap());
        assert_eq!(settings(&[home]).unwrap().token, None);
        std::fs::write(directory.path().join("token"), "from-file\n").unwrap();
        let from_file = settings(&[home]).unwrap();
        assert_eq!(from_file.token, Some(Token("from-file".to_owned())));
        assert!(!format!("{from_file:?}").contains("from-file"));
        let both = settings(&[home, ("HF_TOKEN", "hf_secret")]).unwrap();
        assert_eq!(both.token.unwrap().authorization(), "Bearer hf_secret");
        let error = settings(&[home, ("HF_TOKEN", "two\nlines")]).unwrap_err();
        assert!(!error.to_string().contains("lines"), "{error}");
    }
}
