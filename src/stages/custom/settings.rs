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

/// Reads settings; without any, null, they are an empty object. A key that is not read is an error.
pub(super) fn read<S: DeserializeOwned>(settings: &Value) -> Result<S, SettingsError> {
    let nothing = Value::Object(Map::new());
    let settings = if settings.is_null() { &nothing } else { settings };
    let mut unknown = None;
    let mut note = |path: serde_ignored::Path<'_>| {
        unknown.get_or_insert_with(|| path_of(&path));
    };
    let noted = serde_ignored::Deserializer::new(settings, &mut note);
    let read = serde_path_to_error::deserialize(noted).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => "settings".to_owned(),
            path if path.starts_with('[') => format!("settings{path}"),
            path => format!("settings.{path}"),
        };
        SettingsError::Invalid { path, problem: error.into_inner().to_string() }
    })?;
    unknown.map_or(Ok(read), |path| Err(SettingsError::Unknown { path }))
}

/// The whole path of a key.
fn path_of(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => "settings".to_owned(),
        Path::Seq { parent, index } => format!("{}[{index}]", path_of(parent)),
        Path::Map { parent, key } => format!("{}.{key}", path_of(parent)),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            path_of(parent)
        }
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
        assert_eq!(complaint(json!([1, 2])), "settings[1]: invalid type: integer `2`, expected struct Band");
    }

    #[test]
    fn a_key_that_nobody_reads_is_an_error() {
        assert_eq!(complaint(json!({"gain": 1, "gian": 2})), "settings.gian: the stage has no such setting");
        assert_eq!(
            complaint(json!({"gain": 1, "band": {"low": 1, "hihg": 2}})),
            "settings.band.hihg: the stage has no such setting"
        );
        assert!(read::<NoSettings>(&json!({"gain": 1})).is_err());
        assert_eq!(read::<NoSettings>(&Value::Null), Ok(NoSettings {}));
    }
}
