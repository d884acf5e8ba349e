//! Settings of a model by key, from GGUF metadata or from `config.json`, checked before anything is computed from them.
//!
//! A setting has two names, one per form: `("attention.head_count", "num_attention_heads")`. GGUF's carry the architecture in
//! front. An empty name says that the form has no such setting. JSON's `null` is absent.

use serde_json::{Map, Value as Json};

use super::ArchitectureError;
use crate::error::ForgeError;
use crate::gguf::{Gguf, Value};

/// Names of a setting: in GGUF (without the architecture), in `config.json`.
pub(super) type Key = (&'static str, &'static str);

/// Settings by key.
#[derive(Clone)]
pub(super) enum Keys<'a> {
    /// Metadata of a GGUF file of this architecture.
    Gguf(&'a Gguf<'a>, &'static str),
    /// An object of `config.json`, and its path in there (empty, or ending in a dot).
    Json(&'a Map<String, Json>, String),
}

/// A value of either form.
#[derive(Debug, Clone, PartialEq)]
enum Found<'a> {
    Integer(u64),
    Float(f64),
    Flag(bool),
    Text(&'a str),
    Other(String),
}

impl Found<'_> {
    fn describe(&self) -> String {
        match self {
            Found::Integer(value) => value.to_string(),
            Found::Float(value) => value.to_string(),
            Found::Flag(value) => value.to_string(),
            Found::Text(value) => format!("{value:?}"),
            Found::Other(what) => what.clone(),
        }
    }
}

impl<'a> Keys<'a> {
    /// A positive size of at most `limit`.
    pub(super) fn size(&self, key: Key, limit: u64) -> Result<usize, ForgeError> {
        match self.optional_size(key, limit)? {
            Some(size) => Ok(size),
            None => Err(self.wrong(key, format!("1 to {limit}"), "nothing")),
        }
    }

    /// A positive size of at most `limit`, if it is there.
    pub(super) fn optional_size(&self, key: Key, limit: u64) -> Result<Option<usize>, ForgeError> {
        match self.find(key) {
            None => Ok(None),
            Some(Found::Integer(size)) if size > 0 && size <= limit => Ok(Some(size as usize)),
            Some(other) => Err(self.wrong(key, format!("1 to {limit}"), &other.describe())),
        }
    }

    /// A finite number above 0.
    pub(super) fn positive(&self, key: Key) -> Result<f64, ForgeError> {
        match self.optional_positive(key)? {
            Some(number) => Ok(number),
            None => Err(self.wrong(key, "a finite positive number", "nothing")),
        }
    }

    /// A finite number above 0, if it is there.
    pub(super) fn optional_positive(&self, key: Key) -> Result<Option<f64>, ForgeError> {
        let number = match self.find(key) {
            None => return Ok(None),
            Some(Found::Float(number)) => number,
            Some(Found::Integer(number)) => number as f64,
            Some(other) => {
                return Err(self.wrong(key, "a finite positive number", &other.describe()));
            }
        };
        if number.is_finite() && number > 0.0 {
            return Ok(Some(number));
        }
        Err(self.wrong(key, "a finite positive number", &number.to_string()))
    }

    /// A truth value, if it is there.
    pub(super) fn flag(&self, key: Key) -> Result<Option<bool>, ForgeError> {
        match self.find(key) {
            None => Ok(None),
            Some(Found::Flag(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(key, "true or false", &other.describe())),
        }
    }

    /// A text, if it is there.
    pub(super) fn text(&self, key: Key) -> Result<Option<&'a str>, ForgeError> {
        match self.find(key) {
            None => Ok(None),
            Some(Found::Text(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(key, "a text", &other.describe())),
        }
    }

    /// One of `choices`, or the first of them if there is nothing.
    pub(super) fn choice<T: Copy>(
        &self,
        key: Key,
        choices: &[(&'static str, T)],
    ) -> Result<T, ForgeError> {
        let expected = || {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            names.join(" or ")
        };
        let found = self.text(key)?;
        let chosen = match found {
            None => choices.first(),
            Some(text) => choices.iter().find(|(name, _)| *name == text),
        };
        match chosen {
            Some((_, value)) => Ok(*value),
            None => Err(self.wrong(key, expected(), found.unwrap_or("nothing"))),
        }
    }

    /// Refuses a model that has this setting at all, unless it is off.
    pub(super) fn absent(&self, key: Key) -> Result<(), ForgeError> {
        match self.find(key) {
            None | Some(Found::Flag(false)) => Ok(()),
            Some(Found::Float(0.0)) => Ok(()),
            Some(found) => Err(self.wrong(key, "nothing", &found.describe())),
        }
    }

    /// Refuses `found` unless it is as it has to be.
    pub(super) fn rule(
        &self,
        holds: bool,
        key: Key,
        expected: &str,
        found: impl ToString,
    ) -> Result<(), ForgeError> {
        if holds {
            return Ok(());
        }
        Err(self.wrong(key, expected, &found.to_string()))
    }

    /// An object of `config.json`; GGUF has none.
    pub(super) fn object(&self, name: &str) -> Option<Keys<'a>> {
        match self {
            Keys::Gguf(..) => None,
            Keys::Json(map, path) => match map.get(name)? {
                Json::Object(inner) => Some(Keys::Json(inner, format!("{path}{name}."))),
                _ => None,
            },
        }
    }

    /// A list of texts of `config.json`; GGUF has none.
    pub(super) fn texts(&self, name: &str) -> Option<Vec<&'a str>> {
        match self {
            Keys::Gguf(..) => None,
            Keys::Json(map, _) => map
                .get(name)?
                .as_array()?
                .iter()
                .map(Json::as_str)
                .collect(),
        }
    }

    /// A value of `config.json` as it is; GGUF has none.
    pub(super) fn json(&self, name: &str) -> Option<&'a Json> {
        match self {
            Keys::Gguf(..) => None,
            Keys::Json(map, _) => map.get(name),
        }
    }

    /// A list of truth values of a GGUF file.
    pub(super) fn flags(&self, name: &str) -> Option<Vec<bool>> {
        let Keys::Gguf(gguf, architecture) = self else {
            return None;
        };
        let Value::Array(items) = gguf.metadata().get(&format!("{architecture}.{name}"))? else {
            return None;
        };
        let flag = |item: &Value| match item {
            Value::Bool(value) => Some(*value),
            Value::Unsigned(value) => Some(*value != 0),
            Value::Signed(value) => Some(*value != 0),
            _ => None,
        };
        items.iter().map(flag).collect()
    }

    /// The error of a setting.
    pub(super) fn wrong(&self, key: Key, expected: impl Into<String>, found: &str) -> ForgeError {
        let key = match self {
            Keys::Gguf(_, architecture) => format!("metadata {architecture}.{}", key.0),
            Keys::Json(_, path) => format!("config.json {path}{}", key.1),
        };
        ArchitectureError::Config {
            key,
            expected: expected.into(),
            found: found.to_string(),
        }
        .into()
    }

    fn find(&self, key: Key) -> Option<Found<'a>> {
        match self {
            Keys::Gguf(_, _) if key.0.is_empty() => None,
            Keys::Json(_, _) if key.1.is_empty() => None,
            Keys::Gguf(gguf, architecture) => {
                let value = gguf.metadata().get(&format!("{architecture}.{}", key.0))?;
                Some(match value {
                    Value::Unsigned(value) => Found::Integer(*value),
                    Value::Signed(value) => match u64::try_from(*value) {
                        Ok(value) => Found::Integer(value),
                        Err(_) => Found::Other(value.to_string()),
                    },
                    Value::Float(value) => Found::Float(*value),
                    Value::Bool(value) => Found::Flag(*value),
                    Value::String(value) => Found::Text(value),
                    Value::Array(items) => Found::Other(format!("an array of {}", items.len())),
                })
            }
            Keys::Json(map, _) => Some(match map.get(key.1)? {
                Json::Null => return None,
                Json::Bool(value) => Found::Flag(*value),
                Json::String(value) => Found::Text(value),
                Json::Number(number) => match (number.as_u64(), number.as_f64()) {
                    (Some(value), _) => Found::Integer(value),
                    (None, Some(value)) => Found::Float(value),
                    (None, None) => Found::Other(number.to_string()),
                },
                Json::Array(items) => Found::Other(format!("a list of {}", items.len())),
                Json::Object(_) => Found::Other("an object".into()),
            }),
        }
    }
}
