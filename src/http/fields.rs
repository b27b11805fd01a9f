//! Reading a JSON object field by field, so that every complaint names the path of the field.
//!
//! `null` is the same as absent everywhere, as clients send it for what they did not set.

use serde_json::{Map, Value};

use crate::config::spelling::nearest;
use crate::http::errors::ApiError;

/// A JSON object and where it stands in the body.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    /// Where the object stands, empty for the body itself; prefixes the names in errors.
    path: String,
    /// The object.
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Takes `value` as an object; `path` is where it stands.
    pub fn new(value: &'a Value, path: impl Into<String>) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            other => {
                let param = if path.is_empty() { "body".to_owned() } else { path };
                Err(ApiError::WrongType { param, expected: "an object", found: kind_of(other) })
            }
        }
    }

    /// The path of a field of this object.
    pub fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The names of all fields that are not null.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.map.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }

    /// `true` or `false`.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.get(name)
            .map(|value| value.as_bool().ok_or_else(|| self.wrong_type(name, "true or false", value)))
            .transpose()
    }

    /// A number.
    pub fn number(&self, name: &str) -> Result<Option<f64>, ApiError> {
        self.get(name)
            .map(|value| value.as_f64().ok_or_else(|| self.wrong_type(name, "a number", value)))
            .transpose()
    }

    /// A whole number of 64 bits; `3.0` is one, too.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match as_integer(value) {
            Some(integer) => Ok(Some(integer)),
            None if value.is_u64() => Err(self.invalid(name, format!("must be at most {}", i64::MAX))),
            None => Err(self.wrong_type(name, "a whole number", value)),
        }
    }

    /// A whole number from `least` to `most`.
    pub fn integer_within(&self, name: &str, least: i64, most: i64) -> Result<Option<i64>, ApiError> {
        match self.integer(name)? {
            Some(value) if value < least || value > most => {
                Err(self.invalid(name, format!("must be from {least} to {most}, not {value}")))
            }
            value => Ok(value),
        }
    }

    /// A string.
    pub fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.get(name)
            .map(|value| value.as_str().ok_or_else(|| self.wrong_type(name, "a string", value)))
            .transpose()
    }

    /// A list.
    pub fn list(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        self.get(name)
            .map(|value| {
                value.as_array().map(Vec::as_slice).ok_or_else(|| self.wrong_type(name, "a list", value))
            })
            .transpose()
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ApiError> {
        self.get(name).map(|value| Fields::new(value, self.path_of(name))).transpose()
    }

    /// The object itself.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// Complains about the first field that is in none of the `known` lists.
    pub fn only(&self, known: &[&[&'static str]]) -> Result<(), ApiError> {
        self.only_or(known, |_| false)
    }

    /// Complains about the first field that is in none of the `known` lists and not `tolerated` either. A tolerated
    /// name is never suggested.
    pub fn only_or(
        &self,
        known: &[&[&'static str]],
        tolerated: impl Fn(&str) -> bool,
    ) -> Result<(), ApiError> {
        for name in self.names() {
            let all = known.iter().flat_map(|names| names.iter().copied());
            if !all.clone().any(|other| other == name) && !tolerated(name) {
                return Err(ApiError::UnknownField {
                    param: self.path_of(name),
                    nearest: nearest(name, all),
                });
            }
        }
        Ok(())
    }

    /// The field is required.
    pub fn missing(&self, name: &str) -> ApiError {
        ApiError::MissingField { param: self.path_of(name) }
    }

    /// The field has a value of another kind.
    pub fn wrong_type(&self, name: &str, expected: &'static str, found: &Value) -> ApiError {
        ApiError::WrongType { param: self.path_of(name), expected, found: kind_of(found) }
    }

    /// The field has a value that is not possible.
    pub fn invalid(&self, name: &str, message: impl Into<String>) -> ApiError {
        ApiError::InvalidValue { param: self.path_of(name), message: message.into() }
    }

    /// The field is not implemented, or not with this value.
    pub fn unsupported(&self, name: &str, message: impl Into<String>) -> ApiError {
        ApiError::Unsupported { param: self.path_of(name), message: message.into() }
    }

    /// The field contradicts another one.
    pub fn contradiction(&self, name: &str, message: impl Into<String>) -> ApiError {
        ApiError::Contradiction { param: self.path_of(name), message: message.into() }
    }
}

/// A whole number that fits into 64 bits, also when it is written as a float.
pub fn as_integer(value: &Value) -> Option<i64> {
    /// Floats are whole numbers without gaps up to here.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
    })
}

/// What kind of value this is, for people.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "a whole number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn null_is_absent() {
        let value = json!({"seed": null});
        let fields = Fields::new(&value, "").unwrap();
        assert_eq!(fields.integer("seed").unwrap(), None);
        assert_eq!(fields.names().count(), 0);
        assert!(fields.only(&[]).is_ok());
    }

    #[test]
    fn a_wrong_type_names_the_whole_path() {
        let value = json!({"stream_options": {"include_usage": "yes"}});
        let fields = Fields::new(&value, "").unwrap();
        let error = fields.object("stream_options").unwrap().unwrap().boolean("include_usage").unwrap_err();
        assert_eq!(
            error,
            ApiError::WrongType {
                param: "stream_options.include_usage".into(),
                expected: "true or false",
                found: "a string"
            }
        );
    }

    #[test]
    fn whole_floats_are_integers_and_others_are_not() {
        assert_eq!(as_integer(&json!(3.0)), Some(3));
        assert_eq!(as_integer(&json!(3.5)), None);
        assert_eq!(as_integer(&json!(1e300)), None);
        assert_eq!(as_integer(&json!(u64::MAX)), None);
    }

    #[test]
    fn a_whole_number_beyond_64_bits_is_too_large_not_of_the_wrong_kind() {
        let value = json!({"seed": u64::MAX});
        let error = Fields::new(&value, "").unwrap().integer("seed").unwrap_err();
        assert!(matches!(error, ApiError::InvalidValue { param, .. } if param == "seed"));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let value = json!({"max_token": 3});
        let error = Fields::new(&value, "").unwrap().only(&[&["max_tokens", "n"]]).unwrap_err();
        assert_eq!(error, ApiError::UnknownField { param: "max_token".into(), nearest: Some("max_tokens") });
    }
}
