//! In which form a message came, and what is made of it: CDR from whichever lane, JSON and text from people where the contract takes them.
//!
//! What came in fragments is looked at by its first one. CDR is decoded from the fragments as they are; JSON and text are joined.

use llmasos_msgs::{
    Registry, builtin_interfaces::Time, hash::NOT_SUPPORTED, rmw_zenoh::DataKey, sniff,
};
use serde_json::{Map, Value, json};

use super::FromBus;
use crate::{
    bus::Arrival,
    contract::{Accept, TopicContract},
    ros2::Subject,
};

/// Decodes a sample of rmw_zenoh's key: CDR and nothing else, by the type that the hash in its key names.
pub(super) fn decode_ros<M: FromBus>(
    contract: &TopicContract,
    subject: &Subject,
    arrival: &Arrival,
    parts: &[&[u8]],
) -> Result<M, String> {
    if let Some(Err(error)) = &arrival.attachment {
        return Err(error.to_string());
    }
    // CDR shows in its first bytes.
    let first = parts.first().copied().unwrap_or_default();
    match sniff::classify(&arrival.encoding, first).map_err(|error| error.to_string())? {
        sniff::Form::Cdr => {}
        sniff::Form::Json(_) => return Err("expected CDR on a ROS 2 key, found JSON".to_owned()),
        sniff::Form::Text(_) => return Err("expected CDR on a ROS 2 key, found text".to_owned()),
    }
    let hash = DataKey::parse(&arrival.key).map_or_else(|| "*".to_owned(), |key| key.hash);
    let same = hash == subject.hash || hash == "*" || hash == NOT_SUPPORTED;
    if same || subject.hash == NOT_SUPPORTED {
        return M::from_cdr_parts(&contract.type_name, parts);
    }
    // Two packages may share a name; the hash tells which one this is.
    match Registry::builtin().with_hash(&subject.type_name, &hash) {
        Some(found) => M::from_cdr_parts(&found.id, parts),
        None => Err(format!(
            "expected {} of hash {}, found hash {hash}: another version of the message",
            subject.type_name, subject.hash
        )),
    }
}

/// Decodes a payload that may stand in fragments: CDR from there, so that a picture is copied once; anything else joined.
pub(super) fn decode_plain<M: FromBus>(
    contract: &TopicContract,
    encoding: &str,
    parts: &[&[u8]],
    now_ns: i64,
) -> Result<M, String> {
    match parts {
        [whole] => decode(contract, encoding, whole, now_ns),
        [first, ..]
            if contract.accept.contains(&Accept::Cdr)
                && matches!(sniff::classify(encoding, first), Ok(sniff::Form::Cdr)) =>
        {
            M::from_cdr_parts(&contract.type_name, parts)
        }
        parts => decode(contract, encoding, &parts.concat(), now_ns),
    }
}

/// Decodes a payload by its form, as far as the contract accepts that form. JSON without a stamp is stamped `now_ns`: people cannot know it.
///
/// # Errors
/// A sentence that says what was expected and what was found.
pub fn decode<M: FromBus>(
    contract: &TopicContract,
    encoding: &str,
    payload: &[u8],
    now_ns: i64,
) -> Result<M, String> {
    let form = sniff::classify(encoding, payload).map_err(|error| error.to_string())?;
    let (kind, name) = match &form {
        sniff::Form::Cdr => (Accept::Cdr, "CDR"),
        sniff::Form::Json(_) => (Accept::Json, "JSON"),
        sniff::Form::Text(_) => (Accept::Text, "text"),
    };
    if !contract.accept.contains(&kind) {
        return Err(format!(
            "expected {}, found {name}",
            accepted_forms(contract)
        ));
    }
    match form {
        sniff::Form::Cdr => M::from_cdr(&contract.type_name, payload),
        sniff::Form::Json(value) => M::from_json(
            &contract.type_name,
            &stamped_now(&contract.type_name, value, now_ns),
        ),
        sniff::Form::Text(text) => M::from_json(&contract.type_name, &json!({ "data": text })),
    }
}

fn accepted_forms(contract: &TopicContract) -> String {
    let names: Vec<&str> = contract
        .accept
        .iter()
        .map(|accept| match accept {
            Accept::Cdr => "CDR",
            Accept::Json => "JSON",
            Accept::Text => "text",
        })
        .collect();
    names.join(" or ")
}

/// Puts the time where a type keeps its stamp, unless it is given: in a header, or (Autoware's status messages) beside the data.
fn stamped_now(type_name: &str, mut value: Value, now_ns: i64) -> Value {
    let now = Time::from_nanos(now_ns);
    let stamp = json!({ "sec": now.sec, "nanosec": now.nanosec });
    let known = Registry::builtin().find(type_name);
    let first = known.and_then(|known| known.definition.fields.first());
    let (Some(object), Some(first)) = (value.as_object_mut(), first) else {
        return value;
    };
    let holder = match first.name.as_str() {
        "stamp" => Some(object),
        "header" => object
            .entry("header")
            .or_insert_with(|| Value::Object(Map::new()))
            .as_object_mut(),
        _ => None,
    };
    if let Some(holder) = holder {
        holder.entry("stamp").or_insert(stamp);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::QueuePolicy;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn json_from_people_is_stamped_but_theirs_is_kept() {
        let theirs = json!({ "header": { "stamp": { "sec": 5, "nanosec": 0 } } });
        for (type_name, value, holder, sec, why) in [
            (
                "llmasos_msgs/msg/SpeechCommand",
                theirs,
                "/header/stamp/sec",
                Some(5),
                "their own stamp is kept",
            ),
            (
                "llmasos_msgs/msg/SpeechCommand",
                json!({ "intent": 1 }),
                "/header/stamp/sec",
                Some(9),
                "a header is made",
            ),
            (
                "sensor_msgs/msg/Image",
                json!({ "data": "" }),
                "/header/stamp/sec",
                Some(9),
                "data of its own beside the header",
            ),
            (
                "nav_msgs/msg/Odometry",
                json!({ "header": { "frame_id": "map" } }),
                "/header/stamp/sec",
                Some(9),
                "a header without a stamp",
            ),
            (
                "autoware_vehicle_msgs/msg/ControlModeReport",
                json!({ "mode": 1 }),
                "/stamp/sec",
                Some(9),
                "a stamp without a header",
            ),
            (
                "autoware_vehicle_msgs/msg/ControlModeReport",
                json!({ "mode": 1 }),
                "/header",
                None,
                "and no header",
            ),
            (
                "std_msgs/msg/String",
                json!({ "data": "hello" }),
                "/header",
                None,
                "a type without time",
            ),
            (
                "std_msgs/msg/String",
                json!({ "data": "hello" }),
                "/stamp",
                None,
                "a type without time",
            ),
        ] {
            let stamped = stamped_now(type_name, value, 9 * SECOND);
            assert_eq!(
                stamped.pointer(holder).and_then(Value::as_i64),
                sec,
                "{type_name}: {why}"
            );
        }
        assert_eq!(
            stamped_now("std_msgs/msg/Header", json!([1]), 9),
            json!([1]),
            "no object, no place"
        );
    }

    #[test]
    fn fragments_are_read_as_if_joined() {
        let hello = |accept: Vec<Accept>| TopicContract {
            topic: "speech".to_owned(),
            type_name: "std_msgs/msg/String".to_owned(),
            rate_hz: None,
            event: true,
            max_age: None,
            lifespan: None,
            accept,
            queue: QueuePolicy::Latest,
            qos: llmasos_msgs::rmw_zenoh::QosProfile::default(),
        };
        let all = vec![Accept::Cdr, Accept::Json, Accept::Text];
        const CDR: &[u8] = b"\0\x01\0\0\x06\0\0\0hello\0";
        const CASES: &[(&str, &[u8], bool, bool)] = &[
            ("CDR", CDR, true, true),
            ("JSON", br#"{"data": "hello"}"#, true, false),
            ("text", b"hello", true, false),
            ("CDR that is cut", b"\0\x01\0\0\x06\0\0\0h", false, false),
            ("no text", b"hell\xff", false, false),
        ];
        for (what, payload, accepted, by_cdr_only) in CASES {
            for size in [1, 3, 4, 5, 64] {
                let parts: Vec<&[u8]> = payload.chunks(size).collect();
                let read = |contract: &TopicContract| {
                    decode_plain::<llmasos_msgs::std_msgs::String>(contract, "", &parts, 1)
                };
                let found = read(&hello(all.clone()));
                assert_eq!(found.is_ok(), *accepted, "{what} by {size}: {found:?}");
                if let Ok(message) = found {
                    assert_eq!(message.data, "hello", "{what} by {size}");
                }
                let strict = read(&hello(vec![Accept::Cdr]));
                assert_eq!(
                    strict.is_ok(),
                    *by_cdr_only,
                    "{what} by {size} where only CDR is taken"
                );
            }
        }
    }
}
