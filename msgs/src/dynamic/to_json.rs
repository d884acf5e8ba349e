//! CDR to JSON along a definition.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::is_uuid;
use crate::definition::{Base, Count, Field, Scalar};
use crate::limits::MAX_JSON_VALUES;
use crate::reader::{Bounds, DecodeError, Fault, Problem, Reader};
use crate::registry::{Link, Registry, Type};
use crate::unique_identifier_msgs::UUID;
use crate::wire::Wire;

/// The JSON form, and how many bytes were left unread.
pub(super) fn read(
    registry: &Registry,
    found: &Type,
    cdr: &[u8],
    bounds: Bounds,
) -> Result<(Value, usize), Fault> {
    let reader = Reader::open(cdr)?.with_bounds(bounds);
    let mut walk = Walk {
        registry,
        reader,
        values: 0,
    };
    let value = walk.message(found)?;
    Ok((value, walk.reader.left()))
}

struct Walk<'a> {
    registry: &'a Registry,
    reader: Reader<'a>,
    /// Values made so far.
    values: usize,
}

impl Walk<'_> {
    fn count(&mut self) -> Result<(), Fault> {
        self.values += 1;
        if self.values > MAX_JSON_VALUES {
            let expected = MAX_JSON_VALUES;
            return Err(DecodeError::new(
                self.reader.offset(),
                Problem::TooManyValues { expected },
            ));
        }
        Ok(())
    }

    fn message(&mut self, found: &Type) -> Result<Value, Fault> {
        self.count()?;
        if is_uuid(found) {
            return UUID::read(&mut self.reader, None).map(|uuid| Value::String(uuid.to_string()));
        }
        if found.definition.is_empty() && self.reader.left() == 0 {
            // hiroz writes no byte at all: see `crate::wire::NoFields`.
            return Ok(Value::Object(Map::new()));
        }
        let mut object = Map::new();
        for (field, link) in found.definition.fields.iter().zip(&found.links) {
            let value = self
                .field(field, link)
                .map_err(|fault| fault.within(&field.name))?;
            if found.definition.is_empty() {
                continue;
            }
            let name = link
                .names
                .as_ref()
                .zip(value.as_i64())
                .and_then(|(names, number)| {
                    names
                        .iter()
                        .find(|known| known.1 == number)
                        .map(|known| known.0.clone())
                });
            object.insert(field.name.clone(), value);
            if let Some(name) = name {
                object.insert(format!("{}_name", field.name), Value::String(name));
            }
        }
        Ok(Value::Object(object))
    }

    fn field(&mut self, field: &Field, link: &Link) -> Result<Value, Fault> {
        let base = &field.kind.base;
        let bound = match field.kind.count {
            Count::One => return self.element(base, link),
            Count::Array(count) => return self.list(base, link, count),
            Count::Bounded(bound) => Some(bound),
            Count::Unbounded => None,
        };
        let least = match base {
            Base::Scalar(scalar) => scalar.bytes(),
            Base::Text(_) => 4,
            Base::Message(_) => link
                .message
                .map_or(1, |index| self.registry.at(index).min_bytes),
        };
        let count = self.reader.length(least, bound)?;
        self.list(base, link, count)
    }

    fn list(&mut self, base: &Base, link: &Link, count: usize) -> Result<Value, Fault> {
        self.count()?;
        if matches!(base, Base::Scalar(scalar) if scalar.is_octet()) {
            let bytes = self.reader.take(count)?;
            return Ok(Value::String(STANDARD.encode(bytes)));
        }
        if count > MAX_JSON_VALUES - self.values {
            let expected = MAX_JSON_VALUES;
            return Err(DecodeError::new(
                self.reader.offset(),
                Problem::TooManyValues { expected },
            ));
        }
        // Not more than the bytes can hold: the size of an array comes from the definition and was not checked.
        let mut list = Vec::with_capacity(count.min(self.reader.left()));
        for index in 0..count {
            list.push(
                self.element(base, link)
                    .map_err(|fault| fault.element(index))?,
            );
        }
        Ok(Value::Array(list))
    }

    fn element(&mut self, base: &Base, link: &Link) -> Result<Value, Fault> {
        if let Base::Message(_) = base
            && let Some(index) = link.message
        {
            let registry = self.registry;
            return self.message(registry.at(index));
        }
        self.count()?;
        let reader = &mut self.reader;
        match base {
            Base::Text(bound) => reader
                .text(*bound)
                .map(|text| Value::String(text.to_owned())),
            Base::Scalar(scalar) => self::scalar(*scalar, reader),
            // Linked definitions have an index for every message field.
            Base::Message(_) => Ok(Value::Null),
        }
    }
}

fn scalar(scalar: Scalar, reader: &mut Reader<'_>) -> Result<Value, Fault> {
    Ok(match scalar {
        Scalar::Bool => bool::read(reader, None)?.into(),
        Scalar::Byte | Scalar::Char | Scalar::Uint8 => u8::read(reader, None)?.into(),
        Scalar::Int8 => i8::read(reader, None)?.into(),
        Scalar::Int16 => i16::read(reader, None)?.into(),
        Scalar::Uint16 => u16::read(reader, None)?.into(),
        Scalar::Int32 => i32::read(reader, None)?.into(),
        Scalar::Uint32 => u32::read(reader, None)?.into(),
        Scalar::Int64 => i64::read(reader, None)?.into(),
        Scalar::Uint64 => u64::read(reader, None)?.into(),
        Scalar::Float32 => float32(f32::read(reader, None)?),
        Scalar::Float64 => float64(f64::read(reader, None)?),
    })
}

/// The shortest decimal that is this `float32`: 0.1 and not 0.10000000149011612.
fn float32(value: f32) -> Value {
    let short = value
        .to_string()
        .parse::<f64>()
        .unwrap_or_else(|_| value.into());
    // Rounding twice can miss in theory; the exact value never does.
    #[allow(clippy::cast_possible_truncation)] // That is the check.
    let exact = short as f32 == value;
    float64(if exact { short } else { value.into() })
}

fn float64(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}
