//! Arbitrary bytes into everything that reads them: no panic, no disagreement, no memory beyond a multiple of the input.
//!
//! The first byte says what the rest is: CDR of a type, JSON of a type, a payload of unknown form, the text of a `.msg` or
//! `.srv` file, a name, key, token or attachment. What decodes is encoded again, compared with the crate `cdr`, with the dynamic decoder, with the
//! message read in place and with the message read from parts. The limit on memory is libFuzzer's (2 GB), the limit on time its `-timeout`.
//!
//! ```text
//! cargo install cargo-fuzz
//! python msgs/fuzz/seeds.py
//! cd msgs && cargo +nightly fuzz run decode -- -max_total_time=600 -timeout=10
//! ```
//!
//! Ran clean on 2026-11-24, ten minutes each on one core of a busy machine: 218 058 inputs with AddressSanitizer, then without it
//! 430 184, and 231 168 after messages could be read from parts.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use llmasos_msgs::definition::{Base, parse, parse_service};
use llmasos_msgs::rmw_zenoh::{Attachment, DataKey, Entity, data_key};
use llmasos_msgs::{InPlace, Message, Registry, cdr_to_json, json_to_cdr, names, ros2dds, sniff};
use serde_json::{Value, json};

#[path = "../../tests/types/mod.rs"]
mod types;
use types::{every_type, every_type_in_place};

/// One check for each generated type.
type Check = fn(&[u8]);

static TYPED: LazyLock<Vec<(&str, Check)>> = LazyLock::new(|| {
    fn push<M: Message>(checks: &mut Vec<(&str, Check)>) {
        checks.push((M::DEFINITION, typed::<M>));
    }
    let mut checks = Vec::new();
    every_type!(push, &mut checks);
    checks
});

static IN_PLACE: LazyLock<Vec<Check>> = LazyLock::new(|| {
    fn push<M: InPlace>(checks: &mut Vec<Check>) {
        checks.push(in_place::<M>);
    }
    let mut checks = Vec::new();
    every_type_in_place!(push, &mut checks);
    checks
});

/// Ids of all types, those without a struct included.
static IDS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    Registry::builtin()
        .types()
        .map(|found| found.id.as_str())
        .collect()
});

/// A few definitions to refer to: linking all of them again takes most of the time.
static SMALL: LazyLock<Registry> = LazyLock::new(|| {
    const NAMES: [&str; 4] = [
        "std_msgs/msg/Header",
        "std_msgs/msg/String",
        "builtin_interfaces/msg/Time",
        "unique_identifier_msgs/msg/UUID",
    ];
    let mut registry = Registry::default();
    let wanted = NAMES
        .iter()
        .filter_map(|name| Registry::builtin().find(name));
    let definitions: Vec<_> = wanted.map(|found| (*found.definition).clone()).collect();
    registry.add(definitions).expect("complete");
    registry
});

fn typed<M: Message>(cdr: &[u8]) {
    let ambiguous = Registry::builtin().variants(M::DEFINITION).count() > 1;
    let dynamic = cdr_to_json(M::DEFINITION, cdr);
    let size = 1 + cdr.len() % 9;
    let parts: Vec<&[u8]> = cdr.chunks(size).collect();
    let start = cdr.len().min(4);
    let mut header_first = vec![&cdr[..start]];
    header_first.extend(cdr[start..].chunks(size));
    for parts in [parts, header_first] {
        match (M::decode_parts(&parts), M::decode(cdr)) {
            (Ok(parts), Ok(whole)) => assert_eq!(parts.encode(), whole.encode(), "{}", M::TYPE),
            (Err(parts), Err(whole)) => assert_eq!(parts, whole),
            (parts, whole) => panic!("{}: {} {}", M::TYPE, parts.is_ok(), whole.is_ok()),
        }
    }
    let Ok(message) = M::decode(cdr) else {
        assert!(ambiguous || dynamic.is_err(), "{}", M::TYPE);
        return;
    };
    let json = message.to_json();
    assert!(ambiguous || dynamic.as_ref() == Ok(&json), "{}", M::TYPE);
    let written = message.encode().expect("what was read keeps its bounds");
    let reference = cdr::serialize::<_, _, cdr::CdrLe>(&message, cdr::Infinite).expect("no bound");
    assert_eq!(written, reference, "{}", M::TYPE);
    let again = M::decode(&written).expect("our own bytes");
    assert_eq!(again.encode().as_ref(), Ok(&written), "{}", M::TYPE);
    if !ambiguous {
        let again = M::from_json(&json).expect("our own JSON");
        assert_eq!(again.to_json(), json, "{}", M::TYPE);
    }
}

fn in_place<M: InPlace>(cdr: &[u8]) {
    match (M::view(cdr), M::decode(cdr)) {
        (Ok(view), Ok(copied)) => {
            let owned: M = view.into();
            assert_eq!(owned.encode(), copied.encode(), "{}", M::TYPE);
        }
        (Err(view), Err(copied)) => assert_eq!(view, copied),
        (view, copied) => panic!("{}: {} {}", M::TYPE, view.is_ok(), copied.is_ok()),
    }
}

/// CDR by name alone: what is read can be written and read again.
fn dynamic(id: &str, cdr: &[u8]) {
    if let Ok(value) = cdr_to_json(id, cdr) {
        json_in(id, &value);
    }
}

fn json_in(id: &str, value: &Value) {
    if let Ok(cdr) = json_to_cdr(id, value) {
        let first = cdr_to_json(id, &cdr).expect("our own bytes");
        let cdr = json_to_cdr(id, &first).expect("our own JSON");
        assert_eq!(cdr_to_json(id, &cdr).as_ref(), Ok(&first), "{id}");
    }
}

fn payload(bytes: &[u8]) {
    const ENCODINGS: [&str; 5] = [
        "zenoh/bytes",
        "application/cdr",
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
    ];
    for encoding in ENCODINGS {
        if let Ok(sniff::Form::Json(value)) = sniff::classify(encoding, bytes) {
            json_in("std_msgs/msg/String", &value);
        }
    }
    let (encoding, rest) = bytes.split_at(bytes.len().min(16));
    if let Ok(encoding) = std::str::from_utf8(encoding) {
        let _ = sniff::classify(encoding, rest);
    }
}

/// Definitions by somebody else: what parses links or is refused, and what links carries a message of defaults.
fn definition(text: &str) {
    if let Err(error) = parse_service("pkg", "Name", text) {
        assert!(error.line >= 1 && error.column >= 1, "{error}");
    }
    let definition = match parse("pkg", "Name", text) {
        Ok(definition) => definition,
        Err(error) => return assert!(error.line >= 1 && error.column >= 1, "{error}"),
    };
    assert_eq!(
        parse("pkg", "Name", &definition.text).as_ref(),
        Ok(&definition)
    );
    let itself = |base: &Base| matches!(base, Base::Message(name) if name == "pkg/msg/Name");
    let circle = definition
        .fields
        .iter()
        .any(|field| itself(&field.kind.base));
    let mut registry = SMALL.clone();
    if registry.add([definition]).is_err() {
        return;
    }
    assert!(!circle, "a message within itself");
    assert!(registry.hash("pkg/Name").is_some() && registry.schema("pkg/Name").is_some());
    if let Ok(cdr) = registry.json_to_cdr("pkg/Name", &json!({}))
        && let Ok(value) = registry.cdr_to_json("pkg/Name", &cdr)
    {
        assert_eq!(registry.json_to_cdr("pkg/Name", &value).as_ref(), Ok(&cdr));
    }
}

fn name(text: &str) {
    if let Some(found) = names::ros_type(text) {
        assert_eq!(names::ros_type(&found).as_ref(), Some(&found));
        if !found.contains('@') {
            let dds = names::dds_type(&found).expect("a type has a DDS name");
            assert_eq!(names::ros_type(&dds), Some(found));
        }
    }
    if let Some(found) = names::ros_service(text) {
        assert_eq!(names::ros_service(&found).as_ref(), Some(&found));
    }
    if let Ok(key) = names::topic_to_key("ns", text) {
        assert!(names::check_key_expression(&key).is_ok() && names::key_to_topic(&key).is_ok());
    }
    let _ = names::check_namespace(text);
    let _ = names::check_key_expression(text);
    let _ = cdr_to_json(text, &[0, 1, 0, 0]);
    let _ = Registry::builtin().find_service(text);
}

/// What others put into keys, liveliness tokens and attachments.
fn graph(bytes: &[u8]) {
    if let Ok(attachment) = Attachment::decode(bytes) {
        assert_eq!(attachment.encode(), bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(entity) = Entity::parse(text) {
        let token = entity.to_string();
        assert_eq!(Entity::parse(&token).as_ref(), Ok(&entity), "{token}");
    }
    if let Some(key) = DataKey::parse(text)
        && let (Some(domain), Some(type_name)) = (key.domain, &key.type_name)
        && names::check_topic(&key.topic).is_ok()
    {
        let again =
            data_key(domain, &key.topic, type_name, &key.hash).expect("a type has a DDS name");
        assert_eq!(DataKey::parse(&again).as_ref(), Some(&key), "{again}");
    }
    let _ = ros2dds::bridge(text);
    if let Some(bridged) = ros2dds::parse(text) {
        let _ = bridged.to_string();
    }
}

fuzz_target!(|data: &[u8]| {
    let [what, low, high, rest @ ..] = data else {
        return;
    };
    let choice = usize::from(u16::from_le_bytes([*low, *high]));
    match what % 8 {
        0..=2 => TYPED[choice % TYPED.len()].1(rest),
        3 => IN_PLACE[choice % IN_PLACE.len()](rest),
        4 => dynamic(IDS[choice % IDS.len()], rest),
        5 => {
            if let Ok(value) = serde_json::from_slice(rest) {
                json_in(TYPED[choice % TYPED.len()].0, &value);
            }
            payload(rest);
        }
        6 => {
            if let Ok(text) = std::str::from_utf8(rest) {
                definition(text);
            }
        }
        _ => {
            graph(rest);
            if let Ok(text) = std::str::from_utf8(rest) {
                name(text);
            }
        }
    }
});
