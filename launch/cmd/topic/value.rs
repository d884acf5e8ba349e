//! A message as a person writes it: JSON, YAML as ros2 takes it, or words for a text; with stamps filled in.

use anyhow::Result;
use llmasos_msgs::{
    definition::{Base, Definition},
    registry::{Registry, Type},
};
use serde_json::{Map, Value, json};

use super::super::usage::wrong;
use crate::descriptor::{
    findings::Findings,
    yaml::{self, Node},
};

/// Reads what a person wrote as a value of a type.
///
/// # Errors
/// Wrong usage that says what is wrong.
pub(super) fn read(found: &Type, text: &str) -> Result<Value> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let is_text = found.name == "std_msgs/msg/String";
    let looks_like_object = trimmed.starts_with('{');
    if looks_like_object && let Ok(value) = serde_json::from_str(trimmed) {
        return Ok(value);
    }
    let mut findings = Findings::default();
    let read = yaml::read(trimmed, 0, &mut findings);
    let fields = |node: &Node| {
        !node.entries().is_empty()
            && node
                .entries()
                .iter()
                .all(|entry| has_field(&found.definition, &entry.key))
    };
    match read {
        Some(node) if looks_like_object || fields(&node) => Ok(value(&node)),
        // Words may hold a colon; they are fields only where the type has such fields.
        _ if is_text && !looks_like_object => Ok(json!({ "data": text })),
        Some(node) if !node.entries().is_empty() => Ok(value(&node)),
        _ => {
            let shown = crate::descriptor::findings::shorten(text);
            Err(wrong(format!(
                "expected {} as JSON or YAML, such as '{{}}', found {shown}",
                found.name
            )))
        }
    }
}

/// Bytes of a value.
///
/// # Errors
/// Wrong usage that says which field is wrong.
pub(super) fn encode(
    registry: &Registry,
    found: &Type,
    value: &Value,
    now_ns: i64,
) -> Result<Vec<u8>> {
    let mut value = value.clone();
    stamp_if_missing(&found.definition, &mut value, now_ns);
    registry
        .json_to_cdr(&found.id, &value)
        .map_err(|error| wrong(error.to_string()))
}

fn has_field(definition: &Definition, name: &str) -> bool {
    definition.fields.iter().any(|field| field.name == name)
}

/// A YAML value as JSON.
fn value(node: &Node) -> Value {
    match &node.value {
        yaml::Value::Null => Value::Null,
        yaml::Value::Bool(truth) => json!(truth),
        yaml::Value::Int(number) => json!(number),
        yaml::Value::Float(number) => serde_json::Number::from_f64(*number).map_or_else(
            || Value::String(not_finite(*number).to_owned()),
            Value::Number,
        ),
        yaml::Value::Text(text) => json!(text),
        yaml::Value::List(items) => items.iter().map(value).collect(),
        yaml::Value::Map(entries) => {
            let pairs = entries
                .iter()
                .map(|entry| (entry.key.clone(), value(&entry.node)));
            Value::Object(pairs.collect())
        }
    }
}

fn not_finite(number: f64) -> &'static str {
    if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// Sets `header.stamp`, or `stamp` of a type without a header, where nothing stands there, or `auto` and `now` as ros2 knows them.
pub(in crate::cmd) fn stamp_if_missing(definition: &Definition, value: &mut Value, now_ns: i64) {
    let Some(object) = value.as_object_mut() else {
        return;
    };
    let has = |name: &str, type_name: &str| {
        definition.fields.iter().any(|field| {
            field.name == name
                && matches!(&field.kind.base, Base::Message(inner) if inner == type_name)
        })
    };
    let stamp = json!({ "sec": now_ns.div_euclid(1_000_000_000), "nanosec": now_ns.rem_euclid(1_000_000_000) });
    if has("header", "std_msgs/msg/Header") {
        let header = object
            .entry("header")
            .or_insert_with(|| Value::Object(Map::new()));
        if header == "auto" {
            *header = Value::Object(Map::new());
        }
        if let Some(header) = header.as_object_mut() {
            set(header, stamp);
        }
    } else if has("stamp", "builtin_interfaces/msg/Time") {
        set(object, stamp);
    }
}

fn set(object: &mut Map<String, Value>, stamp: Value) {
    if object.get("stamp").is_none_or(|written| written == "now") {
        object.insert("stamp".to_owned(), stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::stamp_ns;
    use super::*;

    const NOW: i64 = 7_000_000_009;

    fn round(type_name: &str, text: &str) -> Result<Value> {
        let registry = Registry::builtin();
        let found = registry.find(type_name).unwrap();
        let cdr = encode(registry, found, &read(found, text)?, NOW)?;
        Ok(registry.cdr_to_json(&found.id, &cdr).unwrap())
    }

    #[test]
    fn texts_are_written_in_many_ways() {
        for (text, data, why) in [
            ("pull over", "pull over", "words"),
            (r#"{"data":"x"}"#, "x", "JSON"),
            ("data: pull over", "pull over", "YAML"),
            (
                "{data: pull over}",
                "pull over",
                "YAML as ros2's manual writes it",
            ),
            ("note: stop here", "note: stop here", "words with a colon"),
            ("- a", "- a", "words with a dash"),
            ("", "", "nothing: the default"),
            ("7", "7", "a number is words too"),
        ] {
            assert_eq!(
                round("std_msgs/String", text).unwrap()["data"],
                data,
                "{why}"
            );
        }
    }

    #[test]
    fn stamps_are_now_where_nothing_else_is_written() {
        const ODOMETRY: &str = "nav_msgs/Odometry";
        for (type_name, text, stamp, why) in [
            (ODOMETRY, r#"{"header":{"frame_id":"map"}}"#, NOW, "missing"),
            (ODOMETRY, "{}", NOW, "no header"),
            (ODOMETRY, "header: auto", NOW, "ros2's auto"),
            (
                ODOMETRY,
                "{header: {stamp: now, frame_id: map}}",
                NOW,
                "ros2's now",
            ),
            (
                ODOMETRY,
                r#"{"header":{"stamp":{"sec":0,"nanosec":0}}}"#,
                0,
                "written",
            ),
            (
                "autoware_perception_msgs/TrafficLightGroupArray",
                "{}",
                NOW,
                "a type without a header",
            ),
        ] {
            assert_eq!(
                stamp_ns(&round(type_name, text).unwrap()),
                Some(stamp),
                "{why}"
            );
        }
        let speed = round(ODOMETRY, "{twist: {twist: {linear: {x: 8.5}}}}").unwrap();
        assert_eq!(speed["twist"]["twist"]["linear"]["x"], 8.5);
        let nan = round("std_msgs/Float64", "data: .nan").unwrap();
        assert_eq!(nan["data"], "NaN");
    }

    #[test]
    fn mistakes_are_named() {
        for (type_name, text, part) in [
            ("nav_msgs/Odometry", "fast", "as JSON or YAML"),
            ("nav_msgs/Odometry", "{\"speed\":1}", "speed"),
            ("nav_msgs/Odometry", "speed: 1", "speed"),
            ("nav_msgs/Odometry", "{\"speed\"", "as JSON or YAML"),
            ("std_msgs/String", "{\"dta\":1}", "did you mean `data`?"),
            ("std_msgs/UInt8", "{data: 256}", "data"),
        ] {
            let error = round(type_name, text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
