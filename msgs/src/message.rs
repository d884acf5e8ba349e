//! A message type, and a service type: the traits that nodes work with, and the macros of the generated modules.
//!
//! The generated files list names, types, bounds and constants; this macro turns each entry into a struct with its
//! constants, its bounded decoder and its [`Message`] implementation. So the generated text stays close to the
//! definition it comes from, and what all messages do is written here once.

use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use crate::builtin_interfaces::Time;
use crate::dynamic::JsonError;
use crate::limits::MAX_MESSAGE_BYTES;
use crate::reader::{Bounds, DecodeError, HEADER_BYTES, Reader};
use crate::registry::Registry;
use crate::wire::Wire;
use crate::writer::Writer;

/// A message of a type known when the program was built.
pub trait Message:
    Wire + Clone + std::fmt::Debug + Default + PartialEq + Serialize + Send + Sync + 'static
{
    /// Name on the wire, `llmasos_msgs/msg/SpeechCommand`.
    const TYPE: &'static str;
    /// Name in the registry: [`Message::TYPE`], with `@variant` after the package where two packages share a name.
    const DEFINITION: &'static str = Self::TYPE;

    /// Reads CDR, header included. Bytes after the end are ignored: DDS pads to four.
    ///
    /// # Errors
    /// A [`DecodeError`] that says which field, at which byte, what was expected and what was found.
    fn decode(cdr: &[u8]) -> Result<Self, DecodeError> {
        Reader::open(cdr)
            .and_then(|mut reader| Self::read(&mut reader, None))
            .map_err(|fault| fault.of(Self::TYPE))
    }

    /// Reads CDR that stands in several parts, as Zenoh hands over what came in fragments. Accepts and refuses exactly what
    /// [`Message::decode`] does with the parts joined, and saves the joining.
    ///
    /// # Errors
    /// As [`Message::decode`].
    fn decode_parts(parts: &[&[u8]]) -> Result<Self, DecodeError> {
        match parts {
            [] => Self::decode(&[]),
            [whole] => Self::decode(whole),
            [first, ..] if first.len() < HEADER_BYTES => Self::decode(&parts.concat()),
            parts => Reader::open_parts(parts)
                .and_then(|mut reader| Self::read(&mut reader, None))
                .map_err(|fault| fault.of(Self::TYPE)),
        }
    }

    /// Writes CDR, little-endian, header `00 01 00 00`: one allocation of the right size.
    ///
    /// # Errors
    /// [`EncodeError::Excess`] if a string or list is longer than its definition allows, [`EncodeError::TooLarge`] if
    /// nobody would read the message.
    fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        self.check(None).map_err(|excess| EncodeError::Excess {
            type_name: Self::TYPE,
            excess,
        })?;
        write(self)
    }

    /// Reads the JSON form: omitted fields keep their defaults, unknown ones are errors.
    ///
    /// # Errors
    /// A [`JsonError`] that says which field.
    fn from_json(value: &Value) -> Result<Self, JsonError> {
        let cdr = Registry::builtin().json_to_cdr(Self::DEFINITION, value)?;
        Ok(Self::decode(&cdr)?)
    }

    /// The JSON form: enums as numbers with a sibling `<field>_name`, bytes as base64, UUIDs as text, and the strings
    /// `"NaN"`, `"Infinity"`, `"-Infinity"`. A message beyond the limits of [`crate::limits`] becomes
    /// `{"error": "..."}`: logging must not fail.
    fn to_json(&self) -> Value {
        let json = write(self)
            .map_err(|error| error.to_string())
            .and_then(|cdr| {
                Registry::builtin()
                    .to_json(Self::DEFINITION, &cdr, Bounds::Ignored)
                    .map_err(|error| error.to_string())
            });
        json.unwrap_or_else(|error| serde_json::json!({ "error": error }))
    }

    /// The stamp of the header, or of the message itself.
    fn stamp(&self) -> Option<Time> {
        None
    }
}

/// A service type known when the program was built. The implementing type has no values: it stands for the service.
pub trait Service: Send + Sync + 'static {
    /// Name on the wire, `std_srvs/srv/Trigger`.
    const TYPE: &'static str;
    /// Name in the registry: [`Service::TYPE`], with `@variant` after the package where two packages share a name.
    const DEFINITION: &'static str = Self::TYPE;
    /// What a client sends.
    type Request: Message;
    /// What a server answers.
    type Response: Message;
}

fn write<M: Message>(message: &M) -> Result<Vec<u8>, EncodeError> {
    let body_bytes = message.end(0);
    let found = HEADER_BYTES + body_bytes;
    if found > MAX_MESSAGE_BYTES {
        let type_name = M::TYPE;
        return Err(EncodeError::TooLarge { type_name, found });
    }
    let mut writer = Writer::with_capacity(body_bytes);
    message.write(&mut writer);
    Ok(writer.finish())
}

/// A message that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A string or list over its bound.
    #[error("{type_name}.{excess}")]
    Excess {
        /// Type of the message.
        type_name: &'static str,
        /// Which field, and both lengths.
        excess: Excess,
    },
    /// Larger than [`MAX_MESSAGE_BYTES`].
    #[error("{type_name}: {found} bytes, expected at most {MAX_MESSAGE_BYTES}")]
    TooLarge {
        /// Type of the message.
        type_name: &'static str,
        /// Bytes it would have, header included.
        found: usize,
    },
}

/// A string or list over its bound.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path}: length {found}, expected at most {expected}")]
pub struct Excess {
    /// Field, such as `objects[3].name`.
    pub path: String,
    /// Bound of the definition.
    pub expected: usize,
    /// Bytes of the string or elements of the list.
    pub found: usize,
}

impl Excess {
    pub(crate) fn check(found: usize, bound: Option<usize>) -> Result<(), Self> {
        match bound {
            Some(expected) if found > expected => Err(Self {
                path: String::new(),
                expected,
                found,
            }),
            _ => Ok(()),
        }
    }

    /// Puts a field name before the path; `r#type` is called `type` on the wire.
    pub(crate) fn within(mut self, field: &str) -> Self {
        let field = field.trim_start_matches("r#");
        let dot = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{field}{dot}{}", self.path);
        self
    }

    pub(crate) fn element(self, index: usize) -> Self {
        self.within(&format!("[{index}]"))
    }
}

/// Structs of one ROS package: see the generated files for what it reads.
macro_rules! messages {
    ($(
        $(#[$meta:meta])*
        $name:ident: $type:literal $(as $definition:literal)? $(, stamp $($stamp:ident).+)? {
            $($(#[$field_meta:meta])* $ros:literal $field:ident: $rust:ty $(, at most $bound:literal)? $(, initially $initial:expr)?;)*
            $(const $constant:ident: $constant_type:ty = $value:expr;)*
        }
    )*) => {$(
        #[doc = concat!("`", $type, "`")]
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub struct $name {
            $(
                #[doc = $ros]
                $(#[$field_meta])*
                pub $field: $rust,
            )*
        }

        impl $name {
            $(
                #[doc = concat!("`", stringify!($value), "`")]
                pub const $constant: $constant_type = $value;
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                <Self as $crate::wire::Wire>::initial()
            }
        }

        impl $crate::wire::Wire for $name {
            const MIN_BYTES: usize = 0 $(+ <$rust as $crate::wire::Wire>::MIN_BYTES)*;
            const BOUNDED: bool = false $(|| <$rust as $crate::wire::Wire>::BOUNDED $(|| $bound > 0)?)*;

            fn initial() -> Self {
                #[allow(unused_mut)] // Only messages with default values assign to it.
                let mut message = Self {
                    $($field: <$rust as $crate::wire::Wire>::initial(),)*
                };
                $($(message.$field = $initial;)?)*
                message
            }

            fn read_into(
                &mut self,
                reader: &mut $crate::reader::Reader<'_>,
                _bound: Option<usize>,
            ) -> Result<(), $crate::reader::Fault> {
                $(
                    let bound = None $(.or(Some($bound)))?;
                    reader.field(stringify!($field), |reader| {
                        $crate::wire::Wire::read_into(&mut self.$field, reader, bound)
                    })?;
                )*
                Ok(())
            }

            fn end(&self, at: usize) -> usize {
                $(let at = $crate::wire::Wire::end(&self.$field, at);)*
                at
            }

            fn write(&self, writer: &mut $crate::writer::Writer) {
                $($crate::wire::Wire::write(&self.$field, writer);)*
            }

            fn check(&self, _bound: Option<usize>) -> Result<(), $crate::message::Excess> {
                $(
                    let bound: Option<usize> = None $(.or(Some($bound)))?;
                    if bound.is_some() || <$rust as $crate::wire::Wire>::BOUNDED {
                        $crate::wire::Wire::check(&self.$field, bound)
                            .map_err(|excess| excess.within(stringify!($field)))?;
                    }
                )*
                Ok(())
            }
        }

        impl $crate::message::Message for $name {
            const TYPE: &'static str = $type;
            $(const DEFINITION: &'static str = $definition;)?
            $(
                fn stamp(&self) -> Option<$crate::builtin_interfaces::Time> {
                    Some(self.$($stamp).+)
                }
            )?
        }
    )*};
}

/// Services of one ROS package.
macro_rules! services {
    ($($name:ident: $type:literal $(as $definition:literal)?, $request:ident, $response:ident;)*) => {$(
        #[doc = concat!("Service `", $type, "`")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {}

        impl $crate::message::Service for $name {
            const TYPE: &'static str = $type;
            $(const DEFINITION: &'static str = $definition;)?
            type Request = $request;
            type Response = $response;
        }
    )*};
}

pub(crate) use {messages, services};
