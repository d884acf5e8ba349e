//! RIHS01, the type hash of ROS 2: which version of a message somebody speaks.
//!
//! SHA-256 of a JSON text that describes the type and all messages in it: field names, types, order and bounds count;
//! constants, defaults and comments do not. rmw_zenoh puts it into every key. Source: REP-2011 and
//! `rosidl_generator_type_description`; the tests compare with what the real generator printed.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::definition::{Base, Count, Kind, Scalar};
use crate::message::{Message, Service};
use crate::registry::{Registry, Type};

/// What rmw_zenoh writes for ROS 2 Humble, which has no hashes.
pub const NOT_SUPPORTED: &str = "TypeHashNotSupported";

/// The hash of a generated type, `RIHS01_` and 64 hexadecimal digits.
#[must_use]
pub fn of<M: Message>() -> String {
    Registry::builtin().hash(M::DEFINITION).unwrap_or_default()
}

/// The hash of a generated service, `RIHS01_` and 64 hexadecimal digits.
#[must_use]
pub fn of_service<S: Service>() -> String {
    Registry::builtin()
        .service_hash(S::DEFINITION)
        .unwrap_or_default()
}

impl Registry {
    /// The hash of a type by name, `RIHS01_` and 64 hexadecimal digits.
    #[must_use]
    pub fn hash(&self, name: &str) -> Option<String> {
        self.find(name).map(|found| self.hash_of(found))
    }

    /// The type with that name and hash: tells apart packages that share a name.
    #[must_use]
    pub fn with_hash(&self, name: &str, hash: &str) -> Option<&Type> {
        self.variants(name)
            .find(|candidate| self.hash_of(candidate) == hash)
    }

    /// The hash of a type.
    #[must_use]
    pub fn hash_of(&self, found: &Type) -> String {
        let mut text = String::from("RIHS01_");
        for byte in Sha256::digest(self.description(found)) {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// The type description, as the JSON text that is hashed. All names are ASCII, so nothing needs escaping.
    #[must_use]
    pub fn description(&self, found: &Type) -> String {
        let mut text = String::from("{\"type_description\": ");
        describe(found, &mut text);
        text.push_str(", \"referenced_type_descriptions\": [");
        for (index, referenced) in self.referenced(found).into_iter().enumerate() {
            if index > 0 {
                text.push_str(", ");
            }
            describe(referenced, &mut text);
        }
        text.push_str("]}");
        text
    }
}

fn describe(found: &Type, text: &mut String) {
    let _ = write!(text, "{{\"type_name\": \"{}\", \"fields\": [", found.name);
    for (index, field) in found.definition.fields.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        let Kind { base, count } = &field.kind;
        let (element, string_capacity, nested) = match base {
            Base::Scalar(scalar) => (scalar_id(*scalar), 0, ""),
            Base::Text(None) => (17, 0, ""),
            Base::Text(Some(bound)) => (21, *bound, ""),
            Base::Message(name) => (1, 0, name.as_str()),
        };
        let (many, capacity) = match count {
            Count::One => (0, 0),
            Count::Array(size) => (48, *size),
            Count::Bounded(bound) => (96, *bound),
            Count::Unbounded => (144, 0),
        };
        let id = element + many;
        let _ = write!(
            text,
            "{comma}{{\"name\": \"{}\", \"type\": {{\"type_id\": {id}, \"capacity\": {capacity}, \
             \"string_capacity\": {string_capacity}, \"nested_type_name\": \"{nested}\"}}}}",
            field.name
        );
    }
    text.push_str("]}");
}

/// Numbers of `type_description_interfaces/msg/FieldType`. `char` of a `.msg` is `uint8` there.
fn scalar_id(scalar: Scalar) -> u32 {
    match scalar {
        Scalar::Int8 => 2,
        Scalar::Uint8 | Scalar::Char => 3,
        Scalar::Int16 => 4,
        Scalar::Uint16 => 5,
        Scalar::Int32 => 6,
        Scalar::Uint32 => 7,
        Scalar::Int64 => 8,
        Scalar::Uint64 => 9,
        Scalar::Float32 => 10,
        Scalar::Float64 => 11,
        Scalar::Bool => 15,
        Scalar::Byte => 16,
    }
}
