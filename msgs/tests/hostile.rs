//! Bytes and JSON from an enemy: no panic, no agreement between decoders broken, errors that say where.

#![allow(clippy::unwrap_used)] // Checks that all tests share are no test functions to clippy.

use std::sync::LazyLock;

use llmasos_msgs::std_msgs;
use llmasos_msgs::{Message, Problem, Registry, cdr_to_json, json_to_cdr};
use proptest::prelude::*;
use serde_json::Value;

mod arbitrary;
mod types;
use arbitrary::Random;
use types::every_type;

static VECTORS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("data/cdr_vectors.json")).unwrap());

fn cdr_of(id: &str) -> Vec<u8> {
    let hex = VECTORS[id]["cdr"].as_str().unwrap();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn check_truncation<M: Message>() {
    let cdr = cdr_of(M::DEFINITION);
    for length in 0..cdr.len() {
        let cut = &cdr[..length];
        let error = match M::decode(cut) {
            Err(error) => error,
            // The one byte of a message without fields may be missing: nothing is lost with it.
            Ok(message) => {
                assert_eq!(
                    message.encode().unwrap(),
                    cdr,
                    "{}: cut at {length}",
                    M::TYPE
                );
                assert!(length >= 4 && cdr[length..] == [0], "{}", M::TYPE);
                assert_eq!(
                    cdr_to_json(M::DEFINITION, cut).as_ref(),
                    Ok(&message.to_json())
                );
                continue;
            }
        };
        assert_eq!(error.type_name, M::TYPE);
        assert!(error.offset <= length, "{error}");
        match error.problem {
            Problem::NoHeader { found } => assert_eq!((found, length < 4), (length, true)),
            Problem::Truncated { expected, found } => {
                assert!(expected > found && !error.path.is_empty(), "{error}")
            }
            Problem::Length {
                expected, found, ..
            } => assert!(found > expected && !error.path.is_empty(), "{error}"),
            other => panic!("{}: cut at {length}: {other}", M::TYPE),
        }
        if Registry::builtin().variants(M::DEFINITION).count() == 1 {
            // Lists of numbers and bytes are read at once by one and one by one by the other.
            let dynamic = cdr_to_json(M::DEFINITION, cut).unwrap_err();
            let (a, b) = (&dynamic.path, &error.path);
            assert!(
                a.starts_with(b.as_str()) || b.starts_with(a.as_str()),
                "{dynamic} {error}"
            );
        }
    }
    let mut longer = cdr.clone();
    longer.extend([0xAB; 7]);
    assert_eq!(
        M::decode(&longer),
        M::decode(&cdr),
        "bytes after the end are ignored"
    );
}

#[test]
fn every_message_cut_at_every_byte() {
    every_type!(check_truncation);
}

#[test]
fn errors_say_where_and_both_numbers() {
    const CASES: &[(&str, &[u8], &str)] = &[
        (
            "std_msgs/String",
            b"\0\x01\0\0\xff\xff\xff\xffabc",
            "std_msgs/msg/String.data at byte 4: length 4294967295, expected at most 3 in the 3 bytes that are left",
        ),
        (
            "sensor_msgs/CompressedImage",
            b"\0\x01\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\x10",
            "sensor_msgs/msg/CompressedImage.data at byte 28: length 268435456, expected at most 0 in the 0 bytes that are left",
        ),
        ("std_msgs/Bool", b"\0\x01\0", "std_msgs/msg/Bool at byte 0: expected a CDR header of 4 bytes, found 3"),
        ("std_msgs/Bool", b"\0\x07\0\0\x01", "std_msgs/msg/Bool at byte 0: expected the CDR header 00 00 or 00 01, found 00 07"),
        ("std_msgs/Bool", b"{\"data\":1}", "std_msgs/msg/Bool at byte 0: expected the CDR header 00 00 or 00 01, found 7b 22"),
        ("std_msgs/Bool", b"\0\x01\0\0", "std_msgs/msg/Bool.data at byte 4: expected 1 more bytes, found 0"),
        (
            "nav_msgs/Path",
            b"\0\x01\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x05\0\0\0abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij",
            "nav_msgs/msg/Path.poses[0].pose.orientation.w at byte 92: expected 8 more bytes, found 4",
        ),
        (
            "std_msgs/String",
            b"\0\x01\0\0\x04\0\0\0a\xff\xfe\0",
            "std_msgs/msg/String.data at byte 9: expected UTF-8, found the byte ff",
        ),
        ("std_msgs/Strin", b"\0\x01\0\0", "std_msgs/Strin at byte 0: unknown type: did you mean `std_msgs/msg/String`?"),
    ];
    for (type_name, cdr, expected) in CASES {
        assert_eq!(
            cdr_to_json(type_name, cdr).unwrap_err().to_string(),
            *expected
        );
    }
    let large = vec![0; llmasos_msgs::limits::MAX_MESSAGE_BYTES + 1];
    let error = std_msgs::String::decode(&large).unwrap_err();
    assert_eq!(
        error.to_string(),
        "std_msgs/msg/String at byte 0: message of 67108865 bytes, expected at most 67108864"
    );
}

#[test]
fn what_real_writers_do_is_accepted() {
    const CASES: &[(&str, &[u8], &str, &str)] = &[
        (
            "string of length 0",
            b"\0\x01\0\0\0\0\0\0",
            "std_msgs/String",
            r#"{"data":""}"#,
        ),
        (
            "string without NUL",
            b"\0\x01\0\0\x05\0\0\0hello",
            "std_msgs/String",
            r#"{"data":"hello"}"#,
        ),
        (
            "big-endian",
            b"\0\0\0\0\0\0\0\x06hello\0",
            "std_msgs/String",
            r#"{"data":"hello"}"#,
        ),
        (
            "padding in the options",
            b"\0\x01\x02\x06\x06\0\0\0hello\0\0\0",
            "std_msgs/String",
            r#"{"data":"hello"}"#,
        ),
        (
            "bytes after the end",
            b"\0\x01\0\0\x06\0\0\0hello\0\xde\xad",
            "std_msgs/String",
            r#"{"data":"hello"}"#,
        ),
        (
            "bool 2",
            b"\0\x01\0\0\x02",
            "std_msgs/Bool",
            r#"{"data":true}"#,
        ),
        (
            "estimated size",
            b"\0\x01\0\0\x07\x56\0\0",
            "std_msgs/UInt8",
            r#"{"data":7}"#,
        ),
        ("empty message", b"\0\x01\0\0\0", "std_msgs/Empty", "{}"),
        ("DDS pads it", b"\0\x01\0\0\0\0\0\0", "std_msgs/Empty", "{}"),
        (
            "garbage before a float64, which is at 8 after the header",
            b"\0\x01\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\xde\xad\xbe\xef\0\0\0\0\0\0\xf0\x3f",
            "std_msgs/Float64MultiArray",
            r#"{"layout":{"dim":[],"data_offset":0},"data":[1.0]}"#,
        ),
    ];
    for (why, cdr, type_name, json) in CASES {
        let value = cdr_to_json(type_name, cdr).unwrap_or_else(|error| panic!("{why}: {error}"));
        assert_eq!(value.to_string(), *json, "{why}");
    }
}

#[test]
fn bounds_of_the_definition_hold_on_both_ways() {
    use llmasos_msgs::llmasos_msgs::{PerceptionSummary, SceneObject};
    let mut summary = PerceptionSummary {
        sentence: "x".repeat(512),
        objects: vec![SceneObject::default(); 32],
        ..Default::default()
    };
    let cdr = summary.encode().unwrap();
    assert_eq!(PerceptionSummary::decode(&cdr).as_ref(), Ok(&summary));
    summary.sentence.push('x');
    let error = summary.encode().unwrap_err().to_string();
    assert_eq!(
        error,
        "llmasos_msgs/msg/PerceptionSummary.sentence: length 513, expected at most 512"
    );
    let unbounded = cdr::serialize::<_, _, cdr::CdrLe>(&summary, cdr::Infinite).unwrap();
    let error = PerceptionSummary::decode(&unbounded).unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.problem),
        (
            "sentence",
            Problem::Bound {
                expected: 512,
                found: 513
            }
        )
    );
    assert_eq!(
        summary.to_json()["sentence"],
        summary.sentence,
        "logging an invalid message still works"
    );
    summary.sentence.clear();
    summary.objects.push(SceneObject::default());
    let error = summary.encode().unwrap_err().to_string();
    assert_eq!(
        error,
        "llmasos_msgs/msg/PerceptionSummary.objects: length 33, expected at most 32"
    );
    let unbounded = cdr::serialize::<_, _, cdr::CdrLe>(&summary, cdr::Infinite).unwrap();
    let error = PerceptionSummary::decode(&unbounded).unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.problem),
        (
            "objects",
            Problem::Bound {
                expected: 32,
                found: 33
            }
        )
    );
}

#[test]
fn nobody_is_sent_what_nobody_reads() {
    let data = vec![0; llmasos_msgs::limits::MAX_MESSAGE_BYTES - 16];
    let mut message = std_msgs::UInt8MultiArray {
        data,
        ..Default::default()
    };
    let cdr = message.encode().unwrap();
    assert_eq!(cdr.len(), llmasos_msgs::limits::MAX_MESSAGE_BYTES);
    assert!(std_msgs::UInt8MultiArray::decode(&cdr).is_ok());
    message.data.push(0);
    let error = message.encode().unwrap_err().to_string();
    assert_eq!(
        error,
        "std_msgs/msg/UInt8MultiArray: 67108865 bytes, expected at most 67108864"
    );
}

/// Random bytes: typed and dynamic decoder agree, and what was read can be written and read again.
fn check_bytes<M: Message>(cdr: &[u8]) {
    let typed = M::decode(cdr);
    let ambiguous = Registry::builtin().variants(M::DEFINITION).count() > 1;
    let dynamic = cdr_to_json(M::DEFINITION, cdr);
    let Ok(message) = typed else {
        assert!(ambiguous || dynamic.is_err(), "{}", M::TYPE);
        return;
    };
    let json = message.to_json();
    assert!(
        ambiguous || dynamic.as_ref() == Ok(&json),
        "{}: {dynamic:?} {json}",
        M::TYPE
    );
    let written = message.encode().unwrap();
    let reference = cdr::serialize::<_, _, cdr::CdrLe>(&message, cdr::Infinite).unwrap();
    assert_eq!(written, reference, "{}: not as the crate cdr", M::TYPE);
    assert_eq!(
        M::decode(&written).unwrap().encode().unwrap(),
        written,
        "{}",
        M::TYPE
    );
    if !ambiguous {
        assert_eq!(M::from_json(&json).unwrap().to_json(), json, "{}", M::TYPE);
    }
}

/// A random message: JSON to CDR to struct and back without a difference.
fn check_round_trip<M: Message>(seed: u64) {
    let registry = Registry::builtin();
    let wanted = registry.types().find(|t| t.id == M::DEFINITION).unwrap();
    let json = Random(seed | 1).message(wanted);
    let cdr = json_to_cdr(M::DEFINITION, &json).unwrap_or_else(|error| panic!("{error}: {json}"));
    let message = M::decode(&cdr).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert_eq!(message.encode().unwrap(), cdr, "{json}");
    let reference = cdr::serialize::<_, _, cdr::CdrLe>(&message, cdr::Infinite).unwrap();
    assert_eq!(cdr, reference, "not as the crate cdr: {json}");
    let again = message.to_json();
    assert_eq!(
        M::from_json(&again).unwrap().encode().unwrap(),
        cdr,
        "{again}"
    );
    assert_eq!(cdr_to_json(M::DEFINITION, &cdr).unwrap(), again);
}

/// Bytes in which zeros and small numbers are frequent, so that lengths are often possible.
fn likely_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![6 => Just(0_u8), 2 => 1..5_u8, 2 => any::<u8>()];
    (0..2_u8, proptest::collection::vec(byte, 0..400)).prop_map(|(order, body)| {
        let mut cdr = vec![0, order, 0, 0];
        cdr.extend(body);
        cdr
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_bytes_never_panic(cdr in likely_bytes()) {
        every_type!(check_bytes, &cdr);
    }

    #[test]
    fn random_messages_survive_every_way(seed in any::<u64>()) {
        every_type!(check_round_trip, seed);
    }

    #[test]
    fn random_payloads_are_classified(encoding in ".{0,40}", payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = llmasos_msgs::sniff::classify("zenoh/bytes", &payload);
        let _ = llmasos_msgs::sniff::classify(&encoding, &payload);
    }

    #[test]
    fn random_definitions_never_panic(text in "(([a-z]{1,6}(8|16|32|64)?|string|[A-Z][a-z]{0,3}|pkg/Name)(<=[0-9]{1,3})?(\\[(<=)?[0-9]{0,3}\\])? [a-zA-Z_]{1,6}( ?=? ?[-0-9\"'a-z\\[\\],.]{0,6})? ?(#.{0,6})?\n?){0,6}") {
        if let Err(error) = llmasos_msgs::definition::parse("pkg", "Name", &text) {
            prop_assert!(error.line >= 1 && error.column >= 1);
        }
        let _ = llmasos_msgs::definition::parse("pkg", "Name", &text.replace('\n', "é"));
        if let Err(error) = llmasos_msgs::definition::parse_service("pkg", "Name", &text.replacen('\n', "\n---\n", 1)) {
            prop_assert!(error.line >= 1 && error.column >= 1);
        }
    }

    #[test]
    fn random_names_never_panic(name in ".{0,40}") {
        let _ = llmasos_msgs::names::ros_type(&name);
        let _ = llmasos_msgs::names::ros_service(&name);
        let _ = llmasos_msgs::names::check_topic(&name);
        let _ = llmasos_msgs::names::check_key_expression(&name);
        let _ = llmasos_msgs::names::topic_to_key(&name, &name);
        let _ = llmasos_msgs::canonical_type(&name);
    }
}
