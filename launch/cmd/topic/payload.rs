//! From a payload to what a person reads: its form, its JSON, its stamp.

use llmasos_msgs::{
    definition::Base,
    registry::{Registry, Type},
    sniff,
};
use llmasos_nodes::bus::{Arrival, PAYLOAD_BYTES_MAX};
use serde_json::Value;

use super::typing::Told;

/// Bytes of a payload that are shown where its type is unknown.
pub(super) const SHOWN_BYTES: usize = 256;

/// What a payload says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// A message, text or JSON.
    Value(Value),
    /// Bytes nobody can read, and why.
    Unreadable(String),
}

/// Reads a payload by its form and type.
pub(super) fn content(registry: &Registry, told: Option<&Told>, arrival: &Arrival) -> Content {
    if arrival.payload.len() > PAYLOAD_BYTES_MAX {
        return Content::Unreadable(format!(
            "expected at most {PAYLOAD_BYTES_MAX} bytes, found {}",
            arrival.payload.len()
        ));
    }
    let bytes = arrival.payload.to_bytes();
    match sniff::classify(&arrival.encoding, &bytes) {
        Err(error) => Content::Unreadable(error.to_string()),
        Ok(sniff::Form::Json(value)) => Content::Value(value),
        Ok(sniff::Form::Text(text)) => Content::Value(Value::String(text)),
        Ok(sniff::Form::Cdr) => match told {
            None => Content::Unreadable(
                "CDR of an unknown type; --type TYPE says it, --msg-path DIR adds definitions"
                    .to_owned(),
            ),
            Some(Told {
                id: None,
                name,
                doubt,
            }) => {
                let why = doubt
                    .clone()
                    .unwrap_or_else(|| format!("{name} is not known"));
                Content::Unreadable(why)
            }
            Some(Told { id: Some(id), .. }) => match registry.cdr_to_json(id, &bytes) {
                Ok(value) => Content::Value(value),
                Err(error) => Content::Unreadable(error.to_string()),
            },
        },
    }
}

/// Bytes as a person reads them: two digits each, the first of many.
pub(super) fn hex(bytes: &[u8]) -> String {
    let shown: Vec<String> = bytes
        .iter()
        .take(SHOWN_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let rest = bytes.len().saturating_sub(SHOWN_BYTES);
    match rest {
        0 => shown.join(" "),
        rest => format!("{} ... {rest} more", shown.join(" ")),
    }
}

/// Stamp of a message in its JSON form, in ns since the epoch.
pub(super) fn stamp_ns(data: &Value) -> Option<i64> {
    let stamp = data
        .get("header")
        .and_then(|header| header.get("stamp"))
        .or_else(|| data.get("stamp"))?;
    nanos(stamp.get("sec")?.as_i64()?, stamp.get("nanosec")?.as_i64()?)
}

/// Where a type carries its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StampAt {
    /// It is the first field, or that of the header that is the first field: bytes 4 to 12.
    First,
    /// Somewhere behind.
    Inside,
}

/// Where the stamp of a type stands; `None` for a type without one.
pub(super) fn stamp_at(found: &Type) -> Option<StampAt> {
    let is_stamp = |name: &str, base: &Base| match base {
        Base::Message(inner) => {
            (name == "header" && inner == "std_msgs/msg/Header")
                || (name == "stamp" && inner == "builtin_interfaces/msg/Time")
        }
        Base::Scalar(_) | Base::Text(_) => false,
    };
    let position = found
        .definition
        .fields
        .iter()
        .position(|field| is_stamp(&field.name, &field.kind.base))?;
    Some(match position {
        0 => StampAt::First,
        _ => StampAt::Inside,
    })
}

/// The stamp at the beginning of a CDR payload, without reading the rest.
pub(super) fn first_stamp_ns(cdr: &[u8]) -> Option<i64> {
    let word = |at: usize| -> Option<[u8; 4]> { cdr.get(at..at + 4)?.try_into().ok() };
    let (seconds, nanoseconds) = match cdr.get(..2)? {
        [0, 1] => (i32::from_le_bytes(word(4)?), u32::from_le_bytes(word(8)?)),
        [0, 0] => (i32::from_be_bytes(word(4)?), u32::from_be_bytes(word(8)?)),
        _ => return None,
    };
    nanos(seconds.into(), nanoseconds.into())
}

fn nanos(seconds: i64, nanoseconds: i64) -> Option<i64> {
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::SystemTime;

    fn arrival(encoding: &str, payload: &[u8]) -> Arrival {
        Arrival {
            key: "k".to_owned(),
            payload: payload.to_vec().into(),
            encoding: encoding.to_owned(),
            received: SystemTime::now(),
            sent: None,
            publisher: None,
            attachment: None,
        }
    }

    fn told(id: Option<&str>) -> Told {
        Told {
            name: "std_msgs/msg/String".to_owned(),
            id: id.map(str::to_owned),
            doubt: None,
        }
    }

    #[test]
    fn payloads_are_read_by_form_and_type() {
        const HI: &[u8] = b"\0\x01\0\0\x03\0\0\0hi\0";
        let string = Some(told(Some("std_msgs/msg/String")));
        for (type_, encoding, payload, expected, why) in [
            (
                &string,
                "zenoh/bytes",
                HI,
                Ok(json!({ "data": "hi" })),
                "CDR",
            ),
            (
                &None,
                "zenoh/bytes",
                b"pull over",
                Ok(json!("pull over")),
                "text needs no type",
            ),
            (
                &None,
                "application/json",
                b"{\"a\":1}",
                Ok(json!({ "a": 1 })),
                "JSON",
            ),
            (
                &None,
                "zenoh/bytes",
                HI,
                Err("--type"),
                "nobody says what it is",
            ),
            (
                &Some(told(None)),
                "",
                HI,
                Err("is not known"),
                "no definition",
            ),
            (
                &string,
                "",
                b"\0\x01\0\0\xff\xff\xff\x7f",
                Err("at byte 4"),
                "cut off",
            ),
            (
                &string,
                "",
                b"\xff\xfe",
                Err("found the byte ff"),
                "neither",
            ),
            (
                &string,
                "image/png",
                b"x",
                Err("image/png"),
                "something else",
            ),
        ] {
            let found = content(
                Registry::builtin(),
                type_.as_ref(),
                &arrival(encoding, payload),
            );
            match (found, expected) {
                (Content::Value(found), Ok(expected)) => assert_eq!(found, expected, "{why}"),
                (Content::Unreadable(found), Err(part)) => {
                    assert!(found.contains(part), "{why}: {found}")
                }
                (found, _) => panic!("{why}: {found:?}"),
            }
        }
    }

    #[test]
    fn stamps_are_found_where_the_type_has_them() {
        let registry = Registry::builtin();
        for (name, at) in [
            ("nav_msgs/Odometry", Some(StampAt::First)),
            (
                "autoware_perception_msgs/TrafficLightGroupArray",
                Some(StampAt::First),
            ),
            ("std_msgs/String", None),
        ] {
            assert_eq!(stamp_at(registry.find(name).unwrap()), at, "{name}");
        }
        let little = b"\0\x01\0\0\x02\0\0\0\x07\0\0\0rest";
        let big = b"\0\0\0\0\0\0\0\x02\0\0\0\x07rest";
        assert_eq!(first_stamp_ns(little), Some(2_000_000_007));
        assert_eq!(first_stamp_ns(big), Some(2_000_000_007));
        for short in [&b""[..], b"\0\x01\0\0\x02\0\0", b"text, not CDR at all"] {
            assert_eq!(first_stamp_ns(short), None);
        }
        let data = json!({ "header": { "stamp": { "sec": 2, "nanosec": 7 } } });
        assert_eq!(stamp_ns(&data), Some(2_000_000_007));
    }

    #[test]
    fn many_bytes_are_cut() {
        assert_eq!(hex(&[0, 255]), "00 ff");
        assert!(hex(&[0; SHOWN_BYTES + 3]).ends_with("00 ... 3 more"));
    }
}
