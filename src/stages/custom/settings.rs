//! The settings of a custom stage: `settings` of its entry in the deploy file.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;

/// What a stage takes that has no settings: nothing, and every key is an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct NoSettings {}

/// Why settings are not what the stage takes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// A value is missing or of the wrong kind.
    #[error("{path}: {problem}")]
    Invalid {
        /// The key, such as `settings.gain`.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The stage has no such setting.
    #[error("{path}: the stage has no such setting")]
    Unknown {
        /// The key.
        path: String,
    },
}

impl SettingsError {
    /// The key within `settings`, such as `gain`; empty for all of them.
    pub fn key(&self) -> &str {
        let (Self::Invalid { path, .. } | Self::Unknown { path }) = self;
        path.strip_prefix("settings").unwrap_or(path).trim_start_matches('.')
    }
}

/// Reads settings; without any, null, they are an empty object. A key that is not read is an error.
pub(super) fn read<S: DeserializeOwned>(settings: &Value) -> Result<S, SettingsError> {
    let nothing = Value::Object(Map::new());
    let settings = if settings.is_null() { &nothing } else { settings };
    let mut unknown = None;
    let mut note = |path: serde_ignored::Path<'_>| {
        unknown.get_or_insert_with(|| path.to_string());
    };
    let noted = serde_ignored::Deserializer::new(settings, &mut note);
    let read = serde_path_to_error::deserialize(noted).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { "settings".to_owned() } else { format!("settings.{path}") };
        SettingsError::Invalid { path, problem: error.into_inner().to_string() }
    })?;
    match unknown {
        Some(key) => Err(SettingsError::Unknown { path: format!("settings.{key}") }),
        None => Ok(read),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Settings {
        gain: f32,
        #[serde(default)]
        band: Option<Band>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Band {
        low: u32,
    }

    fn complaint(settings: Value) -> String {
        read::<Settings>(&settings).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        assert_eq!(read(&json!({"gain": 0.5})), Ok(Settings { gain: 0.5, band: None }));
        assert_eq!(
            complaint(json!({"gain": "loud"})),
            "settings.gain: invalid type: string \"loud\", expected f32"
        );
        assert_eq!(
            complaint(json!({"gain": 1, "band": {"low": -1}})),
            "settings.band.low: invalid value: integer `-1`, expected u32"
        );
        assert_eq!(complaint(Value::Null), "settings: missing field `gain`");
        assert_eq!(
            complaint(json!([1, 2, 3])),
            "settings: invalid length 3, expected fewer elements in array"
        );
    }

    #[test]
    fn a_key_that_nobody_reads_is_an_error() {
        assert_eq!(complaint(json!({"gain": 1, "gian": 2})), "settings.gian: the stage has no such setting");
        let error = read::<Settings>(&json!({"gain": 1, "band": {"low": 1, "hihg": 2}})).unwrap_err();
        assert_eq!(error.key(), "band.hihg");
        assert!(read::<NoSettings>(&json!({"gain": 1})).is_err());
        assert_eq!(read::<NoSettings>(&Value::Null), Ok(NoSettings {}));
    }
}
