//! Every type against bytes and hashes from elsewhere: rosbags, the real Fast-CDR, the real hash generator.
//!
//! ```text
//! data/cdr_vectors.json   every type, values and bytes by rosbags (padding zero)        vectors.py
//! data/fastcdr.json       109 of them by rclpy and Fast-CDR (padding and end garbage)   fastcdr.py
//! data/rihs01.json        every type's and service's hash by ROS 2's own generator      hashes.py
//! ```

#![allow(clippy::unwrap_used)] // Checks that all tests share are no test functions to clippy.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use llmasos_msgs::names::dds_type;
use llmasos_msgs::unique_identifier_msgs::UUID;
use llmasos_msgs::{
    Message, Registry, Service, cdr_to_json, hash, json_to_cdr, llmasos_msgs as own, std_srvs,
};
use serde_json::Value;

mod types;
use types::every_type;

static VECTORS: LazyLock<Value> = LazyLock::new(|| parse(include_str!("data/cdr_vectors.json")));
static FAST_CDR: LazyLock<BTreeMap<String, String>> =
    LazyLock::new(|| serde_json::from_str(include_str!("data/fastcdr.json")).unwrap());
static HASHES: LazyLock<BTreeMap<String, String>> =
    LazyLock::new(|| serde_json::from_str(include_str!("data/rihs01.json")).unwrap());

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn vector(id: &str) -> (&'static Value, Vec<u8>) {
    let vector = &VECTORS[id];
    (
        &vector["value"],
        unhex(
            vector["cdr"]
                .as_str()
                .unwrap_or_else(|| panic!("no vector of {id}")),
        ),
    )
}

/// Compares plain values with the JSON form: bytes are base64 there, UUIDs text, and enums have names beside them.
fn same(plain: &Value, json: &Value) -> bool {
    match (plain, json) {
        (Value::Object(plain), Value::Object(json)) => {
            let names = json.keys().filter(|k| !plain.contains_key(*k));
            plain
                .iter()
                .all(|(name, value)| json.get(name).is_some_and(|j| same(value, j)))
                && names.into_iter().all(|k| k.ends_with("_name"))
        }
        (Value::Object(uuid), Value::String(text)) => {
            let uuid: [u8; 16] = serde_json::from_value(uuid["uuid"].clone()).unwrap();
            text.parse() == Ok(UUID { uuid })
        }
        (Value::Array(plain), Value::Array(json)) => {
            plain.len() == json.len() && plain.iter().zip(json).all(|(p, j)| same(p, j))
        }
        (Value::Array(bytes), Value::String(text)) => {
            let bytes: Vec<u8> = bytes
                .iter()
                .map(|b| u8::try_from(b.as_u64().unwrap()).unwrap())
                .collect();
            STANDARD.decode(text) == Ok(bytes)
        }
        (Value::Number(plain), Value::Number(json)) => plain.as_f64() == json.as_f64(),
        _ => plain == json,
    }
}

fn check_vector<M: Message>() {
    let id = M::DEFINITION;
    let (plain, cdr) = vector(id);
    let message = M::decode(&cdr).unwrap_or_else(|error| panic!("{error}"));
    let json = message.to_json();
    assert!(same(plain, &json), "{id}: {plain} {json}");
    assert_eq!(message.encode().unwrap(), cdr, "{id}");
    assert_eq!(
        cdr::serialize::<_, _, cdr::CdrLe>(&message, cdr::Infinite).unwrap(),
        cdr,
        "{id}: the crate cdr"
    );
    assert_eq!(
        M::from_json(plain).unwrap(),
        message,
        "{id}: the values of the vector are JSON, too"
    );
    assert_eq!(M::from_json(&json).unwrap(), message, "{id}");
    assert_eq!(cdr_to_json(id, &cdr).unwrap(), json, "{id}");
    assert_eq!(json_to_cdr(id, &json).unwrap(), cdr, "{id}");
}

#[test]
fn every_type_reads_and_writes_what_rosbags_does() {
    every_type!(check_vector);
}

/// The bytes in parts of every small size, with an empty one between, and cut short: as if they were joined.
fn check_parts<M: Message>() {
    let (_, cdr) = vector(M::DEFINITION);
    let big = cdr::serialize::<_, _, cdr::CdrBe>(&M::decode(&cdr).unwrap(), cdr::Infinite).unwrap();
    for bytes in [
        cdr.as_slice(),
        &big,
        &cdr[..cdr.len() / 2],
        &cdr[..cdr.len() - 1],
    ] {
        for size in [1, 2, 3, 4, 5, 7, 8, 13, 64] {
            let mut parts: Vec<&[u8]> = bytes.chunks(size).collect();
            parts.insert(parts.len() / 2, &[]);
            parts.push(&[]);
            assert_eq!(
                M::decode_parts(&parts),
                M::decode(bytes),
                "{} by {size}",
                M::TYPE
            );
            let (first, rest) = bytes.split_at(bytes.len().min(4));
            let mut parts = vec![first];
            parts.extend(rest.chunks(size));
            assert_eq!(
                M::decode_parts(&parts),
                M::decode(bytes),
                "{} by {size}",
                M::TYPE
            );
        }
    }
}

#[test]
fn every_type_is_read_from_parts() {
    every_type!(check_parts);
    assert!(UUID::decode_parts(&[]).is_err() && UUID::decode_parts(&[&[], &[]]).is_err());
}

fn check_fast_cdr<M: Message>(count: &mut usize) {
    if let Some(bytes) = FAST_CDR.get(M::DEFINITION) {
        let expected = M::decode(&vector(M::DEFINITION).1).unwrap();
        assert_eq!(M::decode(&unhex(bytes)).unwrap(), expected, "{}", M::TYPE);
        *count += 1;
    }
}

#[test]
fn real_fast_cdr_bytes_with_garbage_in_padding_and_at_the_end() {
    let mut count = 0;
    every_type!(check_fast_cdr, &mut count);
    assert_eq!(count, FAST_CDR.len());
    let garbage = FAST_CDR
        .iter()
        .filter(|(id, bytes)| unhex(bytes) != vector(id).1)
        .count();
    assert!(garbage > 50, "the data shows garbage in {garbage} messages");
}

fn check_big_endian<M: Message>() {
    let message = M::decode(&vector(M::DEFINITION).1).unwrap();
    let cdr = cdr::serialize::<_, _, cdr::CdrBe>(&message, cdr::Infinite).unwrap();
    assert_eq!(M::decode(&cdr).as_ref(), Ok(&message), "{}", M::TYPE);
    assert_eq!(cdr_to_json(M::DEFINITION, &cdr).unwrap(), message.to_json());
}

#[test]
fn every_type_reads_big_endian() {
    every_type!(check_big_endian);
}

fn check_hash<M: Message>() {
    assert_eq!(
        Some(&hash::of::<M>()),
        HASHES.get(M::DEFINITION),
        "{}",
        M::DEFINITION
    );
    let found = Registry::builtin()
        .with_hash(M::TYPE, &HASHES[M::DEFINITION])
        .unwrap();
    assert_eq!(
        found.id,
        M::DEFINITION,
        "name and hash tell packages of the same name apart"
    );
}

#[test]
fn every_hash_is_that_of_the_real_generator() {
    every_type!(check_hash);
    let registry = Registry::builtin();
    for found in registry.types() {
        let expected = HASHES.get(&found.id);
        assert_eq!(
            Some(&registry.hash_of(found)),
            expected,
            "{}: events of services have no struct",
            found.id
        );
    }
    for service in registry.services() {
        let expected = HASHES.get(&service.id).cloned();
        assert_eq!(
            registry.service_hash(&service.id),
            expected,
            "{}",
            service.id
        );
    }
    assert_eq!(
        HASHES.len(),
        registry.types().count() + registry.services().count()
    );
    assert_eq!(
        registry
            .with_hash("std_msgs/msg/String", "RIHS01_00")
            .map(|t| &t.id),
        None
    );
}

fn check_service<S: Service>(name: &str) {
    assert_eq!(S::TYPE, name);
    assert_eq!(Some(&hash::of_service::<S>()), HASHES.get(name), "{name}");
    assert_eq!(S::Request::TYPE, format!("{name}_Request"));
    assert_eq!(S::Response::TYPE, format!("{name}_Response"));
    let registry = Registry::builtin();
    let dds = dds_type(name).unwrap();
    let found = registry
        .service_with_hash(&dds, &HASHES[name])
        .unwrap_or_else(|| panic!("{dds}"));
    assert_eq!(found.id, name);
    let names =
        [registry.request(found), registry.response(found)].map(|t| t.unwrap().name.clone());
    assert_eq!(names, [S::Request::TYPE, S::Response::TYPE]);
    assert!(registry.service_with_hash(name, "RIHS01_00").is_none());
}

#[test]
fn a_service_is_found_by_type_name_and_hash() {
    check_service::<std_srvs::Empty>("std_srvs/srv/Empty");
    check_service::<std_srvs::SetBool>("std_srvs/srv/SetBool");
    check_service::<std_srvs::Trigger>("std_srvs/srv/Trigger");
    check_service::<own::Ask>("llmasos_msgs/srv/Ask");
    check_service::<own::Say>("llmasos_msgs/srv/Say");
    assert_eq!(Registry::builtin().services().count(), 5);
    let event = serde_json::json!({
        "info": {"event_type_name": "RESPONSE_SENT", "sequence_number": 7},
        "response": [{"success": true, "message": "armed"}],
    });
    let cdr = json_to_cdr("std_srvs/srv/Trigger_Event", &event).unwrap();
    let json = cdr_to_json("std_srvs::srv::dds_::Trigger_Event_", &cdr).unwrap();
    assert_eq!(json["info"]["event_type_name"], "RESPONSE_SENT");
    assert_eq!(json["request"], serde_json::json!([]));
    assert_eq!(json["response"], event["response"]);
}

/// The crate `cdr` as a reader of its own: a copy of the struct with serde's derive.
mod reference {
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub(crate) struct Header {
        pub(crate) sec: i32,
        pub(crate) nanosec: u32,
        pub(crate) frame_id: String,
    }

    #[derive(Deserialize)]
    pub(crate) struct GateVerdict {
        pub(crate) header: Header,
        pub(crate) sequence: u64,
        pub(crate) advice_id: [u8; 16],
        pub(crate) command_id: [u8; 16],
        pub(crate) valid_until: (i32, u32),
        pub(crate) verdict: u8,
        pub(crate) action: u8,
        pub(crate) max_speed: f32,
        pub(crate) rule_id: u16,
        pub(crate) rule: String,
        pub(crate) advice_age: (i32, u32),
        pub(crate) state_age: (i32, u32),
        pub(crate) policy_sha256: [u8; 32],
    }
}

#[test]
fn the_crate_cdr_reads_a_verdict_as_we_do() {
    let (_, cdr) = vector("llmasos_msgs/msg/GateVerdict");
    let ours = llmasos_msgs::llmasos_msgs::GateVerdict::decode(&cdr).unwrap();
    let theirs: reference::GateVerdict = cdr::deserialize(&cdr).unwrap();
    assert_eq!(
        (theirs.header.sec, theirs.header.nanosec),
        (ours.header.stamp.sec, ours.header.stamp.nanosec)
    );
    assert_eq!(
        (&theirs.header.frame_id, &theirs.rule),
        (&ours.header.frame_id, &ours.rule)
    );
    assert_eq!(
        (theirs.sequence, theirs.rule_id),
        (ours.sequence, ours.rule_id)
    );
    assert_eq!(
        (theirs.advice_id, theirs.command_id),
        (ours.advice_id.uuid, ours.command_id.uuid)
    );
    assert_eq!(
        theirs.valid_until,
        (ours.valid_until.sec, ours.valid_until.nanosec)
    );
    assert_eq!((theirs.verdict, theirs.action), (ours.verdict, ours.action));
    assert_eq!(theirs.max_speed, ours.max_speed);
    assert_eq!(
        theirs.advice_age,
        (ours.advice_age.sec, ours.advice_age.nanosec)
    );
    assert_eq!(
        theirs.state_age,
        (ours.state_age.sec, ours.state_age.nanosec)
    );
    assert_eq!(theirs.policy_sha256, ours.policy_sha256);
    assert_eq!(ours.stamp(), Some(ours.header.stamp));
}
