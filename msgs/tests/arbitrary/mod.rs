//! Random messages along a definition, for round trips through every type.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use llmasos_msgs::Registry;
use llmasos_msgs::definition::{Base, Count, Scalar};
use llmasos_msgs::registry::Type;
use serde_json::{Map, Value, json};

/// xorshift64*: the seed comes from the property test, so that a failure can be repeated.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end
    }

    /// A message in its JSON form, as `to_json` would write it but without names of values.
    pub(crate) fn message(&mut self, wanted: &Type) -> Value {
        if wanted.name == "unique_identifier_msgs/msg/UUID" {
            let uuid = std::array::from_fn(|_| self.next() as u8);
            return llmasos_msgs::unique_identifier_msgs::UUID { uuid }
                .to_string()
                .into();
        }
        let mut object = Map::new();
        for field in &wanted.definition.fields {
            if wanted.definition.is_empty() {
                break;
            }
            let base = &field.kind.base;
            let value = match field.kind.count {
                Count::One => self.element(wanted, base),
                Count::Array(count) => self.list(wanted, base, count),
                Count::Bounded(bound) => {
                    let count = self.below(bound.min(3) + 1);
                    self.list(wanted, base, count)
                }
                Count::Unbounded => {
                    let count = self.below(4);
                    self.list(wanted, base, count)
                }
            };
            object.insert(field.name.clone(), value);
        }
        Value::Object(object)
    }

    fn list(&mut self, within: &Type, base: &Base, count: usize) -> Value {
        match base {
            Base::Scalar(Scalar::Byte | Scalar::Char | Scalar::Uint8) => {
                let bytes: Vec<u8> = (0..count).map(|_| self.next() as u8).collect();
                STANDARD.encode(bytes).into()
            }
            _ => (0..count).map(|_| self.element(within, base)).collect(),
        }
    }

    fn element(&mut self, within: &Type, base: &Base) -> Value {
        match base {
            Base::Scalar(scalar) => self.scalar(*scalar),
            Base::Text(bound) => {
                let text = ["", "a", "base_link", "← ä", "\"\\\n", "camera/front"][self.below(6)];
                let end = bound.unwrap_or(usize::MAX).min(text.len());
                text.get(..end).unwrap_or("").into()
            }
            Base::Message(name) => {
                let variant = within.definition.variant.as_deref().unwrap_or("");
                let own = name.replacen('/', &format!("@{variant}/"), 1);
                let registry = Registry::builtin();
                let inner = registry
                    .types()
                    .find(|t| t.id == own)
                    .or_else(|| registry.find(name));
                self.message(inner.unwrap())
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar) -> Value {
        let bits = self.next();
        match scalar {
            Scalar::Bool => (bits & 1 == 1).into(),
            Scalar::Byte | Scalar::Char | Scalar::Uint8 => (bits as u8).into(),
            Scalar::Int8 => (bits as i8).into(),
            Scalar::Int16 => (bits as i16).into(),
            Scalar::Uint16 => (bits as u16).into(),
            Scalar::Int32 => (bits as i32).into(),
            Scalar::Uint32 => (bits as u32).into(),
            Scalar::Int64 => (bits as i64).into(),
            Scalar::Uint64 => bits.into(),
            Scalar::Float32 => float(f32::from_bits(bits as u32).into()),
            Scalar::Float64 => float(f64::from_bits(bits)),
        }
    }
}

fn float(value: f64) -> Value {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.into()
    } else {
        json!(value)
    }
}
