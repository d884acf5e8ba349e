//! Messages by type name: CDR to JSON and back, for every type with a definition.
//!
//! This is the one implementation of the JSON form, for people and logs; typed messages use it too, through their CDR.
//! Field names are those of the definition. Enum fields are numbers with a sibling `<field>_name`; arrays and sequences
//! of `uint8`, `byte` and `char` are base64 strings; a UUID is its usual text; NaN and the infinities are strings. On
//! the way in, omitted fields keep their defaults, unknown fields are errors, `<field>_name` alone is enough, and bytes
//! may also be a list of numbers.

use serde_json::Value;
use thiserror::Error;

use crate::limits::MAX_MESSAGE_BYTES;
use crate::reader::{Bounds, DecodeError, Problem};
use crate::registry::{Registry, Type};

mod from_json;
mod to_json;

/// JSON that is not a message of the expected type.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{type_name}{dot}{path}: {problem}", dot = if path.is_empty() { "" } else { "." })]
pub struct JsonError {
    /// Type that was expected.
    pub type_name: String,
    /// Field, such as `objects[3].label`; empty for the message itself.
    pub path: String,
    /// What is wrong there.
    pub problem: JsonProblem,
}

/// What is wrong with the JSON.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum JsonProblem {
    /// Nobody knows this type.
    #[error("unknown type{hint}")]
    UnknownType {
        /// Empty, or `: did you mean ...?`.
        hint: String,
    },
    /// A field that the type does not have.
    #[error("unknown field `{field}`{hint}")]
    UnknownField {
        /// The name.
        field: String,
        /// Empty, or `: did you mean ...?`, or the fields there are.
        hint: String,
    },
    /// A value of another kind.
    #[error("expected {expected}, found {found}")]
    Kind {
        /// Type of the field.
        expected: String,
        /// Beginning of the value.
        found: String,
    },
    /// A string or list over its bound.
    #[error("length {found}, expected at most {expected}")]
    Bound {
        /// Bound of the definition.
        expected: usize,
        /// Bytes of the string or elements of the list.
        found: usize,
    },
    /// An array of another size.
    #[error("expected {expected} elements, found {found}")]
    Count {
        /// Size of the array.
        expected: usize,
        /// Elements of the list.
        found: usize,
    },
    /// A name that is none of the enum's.
    #[error("`{found}` is not a value of the field{hint}")]
    ValueName {
        /// The name.
        found: String,
        /// Empty, or `: did you mean ...?`.
        hint: String,
    },
    /// Number and name of an enum field disagree.
    #[error("{number}, but the name beside it says {name} ({named})")]
    Contradiction {
        /// The number.
        number: i64,
        /// The name.
        name: String,
        /// The number of that name.
        named: i64,
    },
    /// The message would be too large.
    #[error("message over {MAX_MESSAGE_BYTES} bytes")]
    TooLarge,
    /// The bytes made from the JSON cannot be read back.
    #[error(transparent)]
    Decode(Box<DecodeError>),
}

impl JsonError {
    pub(crate) fn new(problem: JsonProblem) -> Box<Self> {
        Box::new(Self {
            type_name: String::new(),
            path: String::new(),
            problem,
        })
    }

    pub(crate) fn within(mut self: Box<Self>, field: &str) -> Box<Self> {
        let dot = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{field}{dot}{}", self.path);
        self
    }
}

impl From<DecodeError> for JsonError {
    fn from(error: DecodeError) -> Self {
        Self {
            type_name: error.type_name.clone(),
            path: error.path.clone(),
            problem: JsonProblem::Decode(Box::new(error)),
        }
    }
}

impl Registry {
    /// The JSON form of a CDR payload.
    ///
    /// Where packages share the type's name, the definition that explains the bytes best is taken: the one that leaves
    /// the fewest unread, and the usual one among equals.
    ///
    /// # Errors
    /// A [`DecodeError`] that says which field, at which byte, what was expected and what was found.
    pub fn cdr_to_json(&self, type_name: &str, cdr: &[u8]) -> Result<Value, DecodeError> {
        self.to_json(type_name, cdr, Bounds::Enforced)
    }

    pub(crate) fn to_json(
        &self,
        type_name: &str,
        cdr: &[u8],
        bounds: Bounds,
    ) -> Result<Value, DecodeError> {
        let mut best: Option<(usize, Value)> = None;
        let mut first_error = None;
        for candidate in self.variants(type_name) {
            match to_json::read(self, candidate, cdr, bounds) {
                Ok((value, left)) => {
                    if best.as_ref().is_none_or(|(least, _)| left < *least) {
                        best = Some((left, value));
                    }
                }
                Err(fault) => {
                    first_error.get_or_insert(fault.of(&candidate.name));
                }
            }
        }
        match (best, first_error) {
            (Some((_, value)), _) => Ok(value),
            (None, Some(error)) => Err(error),
            (None, None) => {
                let hint = self.suggestion(type_name);
                Err(DecodeError::new(0, Problem::UnknownType { hint }).of(type_name))
            }
        }
    }

    /// The CDR payload of a JSON form, little-endian, header included.
    ///
    /// Where packages share the type's name, the first definition that fits is taken, the usual one before others.
    ///
    /// # Errors
    /// A [`JsonError`] that says which field.
    pub fn json_to_cdr(&self, type_name: &str, value: &Value) -> Result<Vec<u8>, JsonError> {
        let mut first_error = None;
        for candidate in self.variants(type_name) {
            match from_json::write(self, candidate, value) {
                Ok(cdr) => return Ok(cdr),
                Err(mut error) => {
                    error.type_name.clone_from(&candidate.name);
                    first_error.get_or_insert(*error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| {
            let hint = self.suggestion(type_name);
            let mut error = JsonError::new(JsonProblem::UnknownType { hint });
            type_name.clone_into(&mut error.type_name);
            *error
        }))
    }

    /// The value of an enum field's name: `("llmasos_msgs/msg/GateVerdict", "verdict", "ACCEPTED")` is 1.
    #[must_use]
    pub fn enum_value(&self, type_name: &str, field: &str, name: &str) -> Option<i64> {
        let names = self.value_names(type_name, field)?;
        names
            .iter()
            .find(|known| known.0 == name)
            .map(|known| known.1)
    }

    /// The name of an enum field's value.
    #[must_use]
    pub fn enum_name(&self, type_name: &str, field: &str, value: i64) -> Option<&str> {
        let names = self.value_names(type_name, field)?;
        names
            .iter()
            .find(|known| known.1 == value)
            .map(|known| known.0.as_str())
    }

    /// Names and values of an enum field, in the order of the definition.
    #[must_use]
    pub fn value_names(&self, type_name: &str, field: &str) -> Option<&[(String, i64)]> {
        let found = self.find(type_name)?;
        let position = found
            .definition
            .fields
            .iter()
            .position(|f| f.name == field)?;
        found.links[position]
            .names
            .as_ref()
            .map(|names| names.as_slice())
    }
}

/// True for the type whose JSON form is the usual text of a UUID.
fn is_uuid(found: &Type) -> bool {
    found.name == "unique_identifier_msgs/msg/UUID"
        && found.min_bytes == 16
        && found.definition.fields.len() == 1
}
