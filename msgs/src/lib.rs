//! What is said on the bus: ROS 2 messages in CDR, their names, keys, hashes and JSON form.
//!
//! Everything follows from the definitions in `msg/`: the structs below (one module a ROS package, generated and
//! committed), the type hashes, and the dynamic path that needs only a type's name. Bytes that arrive are somebody
//! else's, so they are read by a decoder of our own with a bound on every length; bytes that leave are one allocation of
//! the right size. A picture is one copy each way, or none when it is read in place ([`InPlace`]). There is no Zenoh, no
//! clock and no model in here.
//!
//! ```text
//!             ┌─ codegen ─► generated structs ── Message::{decode, encode, from_json, to_json}, InPlace::view
//! *.msg, *.srv ┤
//!             └─ parse ─► Registry ── cdr_to_json, json_to_cdr, hash, enum names   (+ a user's folder at run time)
//! payload ── sniff::classify ─► CDR | JSON | text
//! ```

pub mod codegen;
pub mod definition;
pub mod dynamic;
#[allow(
    rustdoc::broken_intra_doc_links,
    reason = "comments of .msg files write ranges as [0,1]"
)]
mod generated;
pub mod hash;
pub mod limits;
mod message;
pub mod names;
pub mod reader;
pub mod registry;
pub mod rmw_zenoh;
pub mod ros2dds;
pub mod sniff;
mod time;
pub mod view;
pub mod wire;
pub mod writer;

use serde_json::Value;

pub use dynamic::{JsonError, JsonProblem};
pub use generated::*;
pub use message::{EncodeError, Excess, Message, Service};
pub use reader::{DecodeError, Problem};
pub use registry::{Registry, RegistryError};
pub use time::UuidError;
pub use view::InPlace;

/// The name on the wire of a built-in type, however it is written: `std_msgs/String`, `std_msgs/msg/String`,
/// `std_msgs::msg::dds_::String_`.
#[must_use]
pub fn canonical_type(name: &str) -> Option<&'static str> {
    Registry::builtin()
        .find(name)
        .map(|found| found.name.as_str())
}

/// The JSON form of a CDR payload of a built-in type: [`Registry::cdr_to_json`].
///
/// # Errors
/// A [`DecodeError`] that says which field, at which byte, what was expected and what was found.
pub fn cdr_to_json(type_name: &str, cdr: &[u8]) -> Result<Value, DecodeError> {
    Registry::builtin().cdr_to_json(type_name, cdr)
}

/// The CDR payload of a built-in type's JSON form: [`Registry::json_to_cdr`].
///
/// # Errors
/// A [`JsonError`] that says which field.
pub fn json_to_cdr(type_name: &str, value: &Value) -> Result<Vec<u8>, JsonError> {
    Registry::builtin().json_to_cdr(type_name, value)
}

/// The value of an enum field's name: `("llmasos_msgs/msg/GateVerdict", "verdict", "ACCEPTED")` is 1.
#[must_use]
pub fn enum_value(type_name: &str, field: &str, name: &str) -> Option<i64> {
    Registry::builtin().enum_value(type_name, field, name)
}

/// The name of an enum field's value, if it has one.
#[must_use]
pub fn enum_name(type_name: &str, field: &str, value: i64) -> Option<&'static str> {
    Registry::builtin().enum_name(type_name, field, value)
}
