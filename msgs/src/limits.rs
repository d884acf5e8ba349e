//! The limits of everything that comes from outside, in one place.
//!
//! Bytes, definitions and JSON arrive from people and from other computers. Each limit is far above what a vehicle
//! sends and far below what would hurt; a value over a limit is refused with both numbers in the message.

/// Bytes of one CDR message, header included. A 4K RGB picture is 25 MB.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Numbers, strings, lists and objects in the JSON form of one message: a JSON value takes some 70 bytes of memory,
/// an `int8` one byte on the wire.
pub const MAX_JSON_VALUES: usize = 1 << 20;
/// Bytes of a JSON payload that a person or a tool put on the bus.
pub const MAX_JSON_BYTES: usize = 4 << 20;
/// Bytes of a text payload that a person put on the bus.
pub const MAX_TEXT_BYTES: usize = 64 << 10;
/// Bytes of one `.msg` file.
pub const MAX_DEFINITION_BYTES: usize = 256 << 10;
/// Fields of one message; the largest real one has some forty.
pub const MAX_FIELDS: usize = 512;
/// Constants of one message.
pub const MAX_CONSTANTS: usize = 2048;
/// Characters of a package, type, field or constant name.
pub const MAX_NAME_CHARS: usize = 255;
/// Definitions in one registry.
pub const MAX_DEFINITIONS: usize = 20_000;
/// Messages within messages. ROS 2 messages cannot refer to themselves; the deepest real one has eight levels.
pub const MAX_DEPTH: usize = 32;
/// Characters of a topic name or key.
pub const MAX_TOPIC_CHARS: usize = 1024;
