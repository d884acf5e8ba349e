//! JSON to CDR along a definition.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{JsonError, JsonProblem, is_uuid};
use crate::definition::{Base, Count, Field, Literal, Scalar};
use crate::names;
use crate::registry::{Link, Registry, Type};
use crate::unique_identifier_msgs::UUID;
use crate::writer::{Full, Limited};

/// Characters of a wrong value that an error repeats.
const SHOWN_CHARS: usize = 40;

type Outcome = Result<(), Box<JsonError>>;

/// The CDR payload.
pub(super) fn write(
    registry: &Registry,
    wanted: &Type,
    value: &Value,
) -> Result<Vec<u8>, Box<JsonError>> {
    let mut walk = Walk {
        registry,
        writer: Limited::new(),
    };
    walk.message(wanted, value)?;
    Ok(walk.writer.finish())
}

struct Walk<'r> {
    registry: &'r Registry,
    writer: Limited,
}

impl From<Full> for Box<JsonError> {
    fn from(Full: Full) -> Self {
        JsonError::new(JsonProblem::TooLarge)
    }
}

fn kind(expected: impl std::fmt::Display, found: &Value) -> Box<JsonError> {
    let text = match found {
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    };
    let mut found: String = text.chars().take(SHOWN_CHARS).collect();
    if found.len() < text.len() {
        found.push('…');
    }
    JsonError::new(JsonProblem::Kind {
        expected: expected.to_string(),
        found,
    })
}

impl Walk<'_> {
    fn message(&mut self, wanted: &Type, value: &Value) -> Outcome {
        if is_uuid(wanted)
            && let Value::String(text) = value
        {
            let uuid: UUID = text
                .parse()
                .map_err(|_| kind("a UUID such as 67e55044-10b1-426f-9247-bb680e5fe0c8", value))?;
            return Ok(self.writer.bytes(&uuid.uuid)?);
        }
        let Value::Object(object) = value else {
            return Err(kind(format!("an object ({})", wanted.name), value));
        };
        check_fields(wanted, object)?;
        for (field, link) in wanted.definition.fields.iter().zip(&wanted.links) {
            self.field(field, link, object)
                .map_err(|error| error.within(&field.name))?;
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, link: &Link, object: &Map<String, Value>) -> Outcome {
        let given = object.get(&field.name);
        if let Some(names) = &link.names
            && let Some(name) = object.get(&format!("{}_name", field.name))
            && !name.is_null()
        {
            let number = named_value(names, name)?;
            if let Some(other) = given
                .and_then(Value::as_i64)
                .filter(|&other| other != number)
            {
                let name = name.as_str().unwrap_or_default().to_owned();
                return Err(JsonError::new(JsonProblem::Contradiction {
                    number: other,
                    name,
                    named: number,
                }));
            }
            if given.is_none() {
                return self.element(&field.kind.base, link, &number.into());
            }
        }
        match given {
            Some(value) => self.value(field, link, value),
            None => self.default(field, link),
        }
    }

    /// A field that was not given: its default value, or zero.
    fn default(&mut self, field: &Field, link: &Link) -> Outcome {
        let kind = &field.kind;
        if let Some(literal) = &field.default {
            return self.value(field, link, &literal_value(literal));
        }
        let count = match kind.count {
            Count::One => 1,
            Count::Array(count) => count,
            Count::Bounded(_) | Count::Unbounded => return Ok(self.writer.length(0)?),
        };
        let empty = Value::Object(Map::new());
        for _ in 0..count {
            match &kind.base {
                Base::Scalar(Scalar::Bool) => {
                    self.element(&kind.base, link, &Value::Bool(false))?
                }
                Base::Scalar(_) => self.element(&kind.base, link, &Value::from(0))?,
                Base::Text(_) => self.writer.text("")?,
                Base::Message(_) => self.element(&kind.base, link, &empty)?,
            }
        }
        Ok(())
    }

    fn value(&mut self, field: &Field, link: &Link, value: &Value) -> Outcome {
        let kind_of_field = &field.kind;
        let base = &kind_of_field.base;
        if kind_of_field.count == Count::One {
            return self.element(base, link, value);
        }
        let octets = matches!(base, Base::Scalar(scalar) if scalar.is_octet());
        if octets && let Value::String(text) = value {
            let expected = format!("base64 or a list ({kind_of_field})");
            let bytes = STANDARD.decode(text).map_err(|_| kind(expected, value))?;
            self.count(kind_of_field.count, bytes.len())?;
            return Ok(self.writer.bytes(&bytes)?);
        }
        let Value::Array(list) = value else {
            let or = if octets { "base64 or " } else { "" };
            return Err(kind(format!("{or}a list ({kind_of_field})"), value));
        };
        self.count(kind_of_field.count, list.len())?;
        for (index, element) in list.iter().enumerate() {
            self.element(base, link, element)
                .map_err(|error| error.within(&format!("[{index}]")))?;
        }
        Ok(())
    }

    /// Checks how many elements there are, and writes their number if it stands on the wire.
    fn count(&mut self, count: Count, found: usize) -> Outcome {
        match count {
            Count::One => return Ok(()),
            Count::Array(expected) if expected == found => return Ok(()),
            Count::Array(expected) => {
                return Err(JsonError::new(JsonProblem::Count { expected, found }));
            }
            Count::Bounded(expected) if found > expected => {
                return Err(JsonError::new(JsonProblem::Bound { expected, found }));
            }
            Count::Bounded(_) | Count::Unbounded => {}
        }
        Ok(self.writer.length(found)?)
    }

    fn element(&mut self, base: &Base, link: &Link, value: &Value) -> Outcome {
        match base {
            Base::Scalar(scalar) => self.scalar(*scalar, value),
            Base::Text(bound) => {
                let Value::String(text) = value else {
                    return Err(kind(base, value));
                };
                if let Some(expected) = bound.filter(|&b| text.len() > b) {
                    let found = text.len();
                    return Err(JsonError::new(JsonProblem::Bound { expected, found }));
                }
                Ok(self.writer.text(text)?)
            }
            Base::Message(_) => match link.message {
                Some(index) => {
                    let registry = self.registry;
                    self.message(registry.at(index), value)
                }
                // Linked definitions have an index for every message field.
                None => Err(kind(base, value)),
            },
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // The range was checked.
    fn scalar(&mut self, scalar: Scalar, value: &Value) -> Outcome {
        let wrong = || kind(scalar.name(), value);
        let writer = &mut self.writer;
        if let Some((low, high)) = scalar.range() {
            let number = integer(value)
                .filter(|n| (low..=high).contains(n))
                .ok_or_else(wrong)?;
            return Ok(match scalar.bytes() {
                1 => writer.scalar((number as u8).to_le_bytes()),
                2 => writer.scalar((number as u16).to_le_bytes()),
                4 => writer.scalar((number as u32).to_le_bytes()),
                _ => writer.scalar((number as u64).to_le_bytes()),
            }?);
        }
        Ok(match scalar {
            Scalar::Bool => writer.scalar([u8::from(value.as_bool().ok_or_else(wrong)?)]),
            Scalar::Float32 => {
                writer.scalar((float(value).ok_or_else(wrong)? as f32).to_le_bytes())
            }
            _ => writer.scalar(float(value).ok_or_else(wrong)?.to_le_bytes()),
        }?)
    }
}

/// Refuses fields that the type does not have.
fn check_fields(wanted: &Type, object: &Map<String, Value>) -> Outcome {
    let fields = &wanted.definition.fields;
    for name in object.keys() {
        let known = fields.iter().zip(&wanted.links).any(|(field, link)| {
            field.name == *name
                || (link.names.is_some() && name.strip_suffix("_name") == Some(field.name.as_str()))
        });
        if known && !wanted.definition.is_empty() {
            continue;
        }
        let hint = match names::closest(name, fields.iter().map(|f| f.name.as_str())) {
            _ if wanted.definition.is_empty() => ": the message has no fields".to_owned(),
            Some(close) => format!(": did you mean `{close}`?"),
            None => {
                let list: Vec<&str> = fields.iter().map(|f| f.name.as_str()).collect();
                format!(": there are {}", list.join(", "))
            }
        };
        let field = name.chars().take(SHOWN_CHARS).collect();
        return Err(JsonError::new(JsonProblem::UnknownField { field, hint }));
    }
    Ok(())
}

fn named_value(names: &[(String, i64)], name: &Value) -> Result<i64, Box<JsonError>> {
    let Value::String(text) = name else {
        return Err(kind("the name of a value", name));
    };
    if let Some(known) = names.iter().find(|known| known.0 == *text) {
        return Ok(known.1);
    }
    let hint = names::closest(text, names.iter().map(|known| known.0.as_str()))
        .map(|close| format!(": did you mean `{close}`?"))
        .unwrap_or_default();
    let found = text.chars().take(SHOWN_CHARS).collect();
    Err(JsonError::new(JsonProblem::ValueName { found, hint }))
}

/// An integer, also one written `3.0`.
fn integer(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    if let Some(integer) = number.as_i128() {
        return Some(integer);
    }
    let float = number
        .as_f64()
        .filter(|f| f.fract() == 0.0 && f.abs() < 2f64.powi(53))?;
    #[allow(clippy::cast_possible_truncation)] // Whole and below 2^53.
    Some(float as i128)
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// The JSON form of a default value.
fn literal_value(literal: &Literal) -> Value {
    match literal {
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Integer(value) => match i64::try_from(*value) {
            Ok(value) => value.into(),
            Err(_) => u64::try_from(*value).map_or(Value::Null, Value::from),
        },
        Literal::Float(value) if value.is_nan() => "NaN".into(),
        Literal::Float(value) if value.is_infinite() => if *value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .into(),
        Literal::Float(value) => (*value).into(),
        Literal::Text(text) => text.as_str().into(),
        Literal::List(list) => list.iter().map(literal_value).collect(),
    }
}
