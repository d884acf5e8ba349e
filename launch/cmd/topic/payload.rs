//! From a payload to what a person reads and back: which type a key carries, its JSON form, one field of it, and stamps that are missing.
//!
//! The type of a key comes from the user, a descriptor, the payload's own encoding, the key of rmw_zenoh, or the names this project and
//! ROS 2 fix. A type that is only guessed from a name can be wrong; then decoding says so and the listening goes on.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, anyhow};
use llmasos_msgs::{canonical_type, cdr_to_json, json_to_cdr, registry::Registry, sniff};
use llmasos_nodes::bus::{Arrival, PAYLOAD_BYTES_MAX, key_of};
use serde_json::{Map, Value, json};

use super::super::{check::environment, usage::wrong};
use crate::descriptor::{self, arguments::Overrides, check::Facts, findings::nearest};

/// Topics whose names fix their types, by the end of the key.
const KNOWN: &[(&str, &str)] = &[
    ("llmasos/speech/text", "std_msgs/msg/String"),
    ("llmasos/speech/command", "llmasos_msgs/msg/SpeechCommand"),
    (
        "llmasos/perception/summary",
        "llmasos_msgs/msg/PerceptionSummary",
    ),
    ("llmasos/advice/raw", "llmasos_msgs/msg/PlannerAdvice"),
    ("llmasos/gate/verdict", "llmasos_msgs/msg/GateVerdict"),
    ("diagnostics", "diagnostic_msgs/msg/DiagnosticArray"),
    ("clock", "rosgraph_msgs/msg/Clock"),
    ("tf", "tf2_msgs/msg/TFMessage"),
    ("tf_static", "tf2_msgs/msg/TFMessage"),
];
/// Longest text of one value in a person's view, in characters; JSON shows everything.
const SHOWN_CHARS: usize = 200;
/// Most items of a list in a person's view.
const SHOWN_ITEMS: usize = 64;

/// Types by key, as a descriptor names them.
#[derive(Debug, Default)]
pub(super) struct Types {
    by_key: BTreeMap<String, String>,
}

impl Types {
    /// The types of a descriptor's topics, under its namespace.
    ///
    /// # Errors
    /// Wrong usage when the descriptor has errors.
    pub(super) fn of_descriptor(path: &Path) -> Result<Types> {
        let overrides = Overrides::parse(&[], &[]).map_err(wrong)?;
        let facts = Facts {
            catalogue: None,
            tokens_per_s: descriptor::check::DEFAULT_TOKENS_PER_S,
            exists: &|_| true,
        };
        let graph = descriptor::load(path, &overrides, &environment, &facts)
            .map_err(|rejected| wrong(rejected.findings.lines(&rejected.files).join("\n")))?
            .graph;
        let by_key = graph
            .topics
            .iter()
            .map(|topic| {
                (
                    key_of(&graph.namespace, &topic.topic),
                    topic.type_name.clone(),
                )
            })
            .collect();
        Ok(Types { by_key })
    }

    /// The type of a message, if anything says it.
    pub(super) fn of(&self, key: &str, encoding: &str) -> Option<String> {
        let said = || {
            encoding
                .split_once(';')
                .and_then(|(_, schema)| canonical_type(schema.trim()))
        };
        let in_key = || {
            key.split('/')
                .filter(|chunk| chunk.contains("::"))
                .find_map(canonical_type)
        };
        let by_name = || {
            KNOWN
                .iter()
                .find(|(name, _)| ends_with(key, name))
                .map(|(_, type_name)| *type_name)
        };
        self.by_key
            .get(key)
            .cloned()
            .or_else(|| said().or_else(in_key).or_else(by_name).map(str::to_owned))
    }
}

/// Whether a key is `name` or ends with it as whole parts.
fn ends_with(key: &str, name: &str) -> bool {
    key.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// The name on the wire of a type a person wrote.
///
/// # Errors
/// Wrong usage, with the nearest known type.
pub(super) fn type_named(name: &str) -> Result<&'static str> {
    canonical_type(name).ok_or_else(|| {
        let known: Vec<&str> = Registry::builtin()
            .types()
            .map(|known| known.name.as_str())
            .collect();
        // `pkg/Name` is what people write; compared without `msg/` it is nearer to what they meant.
        let full = if name.contains("/msg/") {
            name.to_owned()
        } else {
            name.replacen('/', "/msg/", 1)
        };
        match nearest(&full, known.iter().copied()) {
            Some(near) => wrong(format!("type {name} is not known; did you mean {near}?")),
            None => wrong(format!(
                "type {name} is not known; expected one such as std_msgs/String"
            )),
        }
    })
}

/// What a payload says.
///
/// # Errors
/// A sentence about what cannot be read.
pub(super) fn content(type_name: Option<&str>, arrival: &Arrival) -> Result<Value, String> {
    if arrival.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(format!(
            "expected at most {PAYLOAD_BYTES_MAX} bytes, found {}",
            arrival.payload.len()
        ));
    }
    match sniff::classify(&arrival.encoding, &arrival.payload.to_bytes())
        .map_err(|error| error.to_string())?
    {
        sniff::Form::Cdr => match type_name {
            Some(type_name) => cdr_to_json(type_name, &arrival.payload.to_bytes())
                .map_err(|error| error.to_string()),
            None => Err("CDR of an unknown type; add --type TYPE or --launch FILE".to_owned()),
        },
        sniff::Form::Json(value) => Ok(value),
        sniff::Form::Text(text) => Ok(Value::String(text)),
    }
}

/// Bytes of a message a person wrote: JSON of the type, or words for `std_msgs/String`.
///
/// # Errors
/// Wrong usage that says which field is wrong.
pub(super) fn encode(type_name: &str, text: &str, now_ns: i64) -> Result<Vec<u8>> {
    let mut value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| wrong(format!("not JSON: {error}")))?
    } else if type_name == "std_msgs/msg/String" {
        json!({ "data": text })
    } else {
        return Err(wrong(format!(
            "expected {type_name} as JSON, such as '{{}}', found {text}"
        )));
    };
    stamp_if_missing(type_name, &mut value, now_ns);
    json_to_cdr(type_name, &value).map_err(|error| wrong(error.to_string()))
}

/// Sets `header.stamp`, or `stamp` of a type without a header, where nothing stands there.
pub(in crate::cmd) fn stamp_if_missing(type_name: &str, value: &mut Value, now_ns: i64) {
    // The JSON form of the empty message says which fields the type has.
    let empty = json_to_cdr(type_name, &json!({}))
        .ok()
        .and_then(|cdr| cdr_to_json(type_name, &cdr).ok());
    let (Some(empty), Some(object)) = (empty, value.as_object_mut()) else {
        return;
    };
    let is_time = |time: Option<&Value>| time.is_some_and(|time| time.get("nanosec").is_some());
    let stamp = json!({ "sec": now_ns.div_euclid(1_000_000_000), "nanosec": now_ns.rem_euclid(1_000_000_000) });
    if is_time(empty.get("header").and_then(|header| header.get("stamp"))) {
        let header = object
            .entry("header")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(header) = header.as_object_mut() {
            header.entry("stamp").or_insert(stamp);
        }
    } else if is_time(empty.get("stamp")) {
        object.entry("stamp").or_insert(stamp);
    }
}

/// Stamp of a message in its JSON form, in ns since the epoch.
pub(super) fn stamp_ns(data: &Value) -> Option<i64> {
    let stamp = data
        .get("header")
        .and_then(|header| header.get("stamp"))
        .or_else(|| data.get("stamp"))?;
    stamp
        .get("sec")?
        .as_i64()?
        .checked_mul(1_000_000_000)?
        .checked_add(stamp.get("nanosec")?.as_i64()?)
}

/// One field, `a.b.0.c`: names of fields and indices of lists.
///
/// # Errors
/// Wrong usage with the nearest field that is there.
pub(super) fn field<'a>(data: &'a Value, path: &str) -> Result<&'a Value> {
    let mut at = data;
    for part in path.split('.') {
        let next = match at {
            Value::Object(object) => object.get(part),
            Value::Array(items) => part
                .parse::<usize>()
                .ok()
                .and_then(|index| items.get(index)),
            _ => None,
        };
        at = next.ok_or_else(|| no_field(at, part, path))?;
    }
    Ok(at)
}

fn no_field(at: &Value, part: &str, path: &str) -> anyhow::Error {
    match at {
        Value::Object(object) => match nearest(part, object.keys().map(String::as_str)) {
            Some(near) => wrong(format!(
                "field {path}: there is no {part}; did you mean {near}?"
            )),
            None => wrong(format!(
                "field {path}: there is no {part}; it has {}",
                object.keys().cloned().collect::<Vec<_>>().join(", ")
            )),
        },
        // Whether a list is long enough differs from message to message.
        Value::Array(items) => anyhow!(
            "field {path}: expected an index below {}, found {part}",
            items.len()
        ),
        _ => wrong(format!("field {path}: {part} stands below a plain value")),
    }
}

/// A person's view of a message: one field a line, in the form `ros2 topic echo` made usual. Long texts and lists are cut.
pub(super) fn view(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out.trim_start_matches(['\n', ' ']).trim_end().to_owned()
}

fn write(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                out.push_str(&format!("\n{indent}{name}:"));
                write(value, depth + 1, out);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (index, item) in items.iter().take(SHOWN_ITEMS).enumerate() {
                out.push_str(&format!("\n{indent}- # {index}"));
                write(item, depth + 1, out);
            }
            if items.len() > SHOWN_ITEMS {
                out.push_str(&format!(
                    "\n{indent}# and {} more",
                    items.len() - SHOWN_ITEMS
                ));
            }
        }
        Value::Array(items) if items.len() > SHOWN_ITEMS => {
            let first: Vec<String> = items
                .iter()
                .take(SHOWN_ITEMS)
                .map(Value::to_string)
                .collect();
            out.push_str(&format!(
                " [{}] # and {} more",
                first.join(", "),
                items.len() - SHOWN_ITEMS
            ));
        }
        Value::String(text) if text.chars().count() > SHOWN_CHARS => {
            let cut: String = text.chars().take(SHOWN_CHARS).collect();
            out.push_str(&format!(
                " {} # of {} characters",
                Value::String(cut),
                text.chars().count()
            ));
        }
        other => out.push_str(&format!(" {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_type_where_something_fixes_it() {
        let types = Types {
            by_key: BTreeMap::from([(
                "ego/odometry".to_owned(),
                "nav_msgs/msg/Odometry".to_owned(),
            )]),
        };
        for (key, encoding, found, why) in [
            (
                "ego/odometry",
                "zenoh/bytes",
                Some("nav_msgs/msg/Odometry"),
                "the descriptor",
            ),
            (
                "ego/llmasos/gate/verdict",
                "zenoh/bytes",
                Some("llmasos_msgs/msg/GateVerdict"),
                "a name of this project",
            ),
            (
                "llmasos/gate/verdict",
                "",
                Some("llmasos_msgs/msg/GateVerdict"),
                "without a namespace",
            ),
            (
                "diagnostics",
                "",
                Some("diagnostic_msgs/msg/DiagnosticArray"),
                "a name of ROS 2",
            ),
            ("my_diagnostics", "", None, "only whole parts count"),
            (
                "x",
                "application/cdr;std_msgs/msg/String",
                Some("std_msgs/msg/String"),
                "the encoding says it",
            ),
            (
                "0/chatter/std_msgs::msg::dds_::String_/RIHS01_ab",
                "",
                Some("std_msgs/msg/String"),
                "a key of rmw_zenoh",
            ),
            ("ego/mystery", "zenoh/bytes", None, "nothing says it"),
        ] {
            assert_eq!(types.of(key, encoding).as_deref(), found, "{why}");
        }
    }

    #[test]
    fn values_become_messages_with_a_stamp() {
        let now = 7_000_000_009;
        let round = |type_name, text| {
            cdr_to_json(type_name, &encode(type_name, text, now).unwrap()).unwrap()
        };
        assert_eq!(
            round("std_msgs/msg/String", "pull over")["data"],
            "pull over"
        );
        assert_eq!(round("std_msgs/msg/String", r#"{"data":"x"}"#)["data"], "x");
        let odometry = "nav_msgs/msg/Odometry";
        assert_eq!(
            stamp_ns(&round(odometry, r#"{"header":{"frame_id":"map"}}"#)),
            Some(now),
            "missing: now"
        );
        assert_eq!(
            round(odometry, r#"{"header":{"frame_id":"map"}}"#)["header"]["frame_id"],
            "map"
        );
        assert_eq!(
            stamp_ns(&round(
                odometry,
                r#"{"header":{"stamp":{"sec":0,"nanosec":0}}}"#
            )),
            Some(0),
            "written: kept"
        );
        assert_eq!(
            stamp_ns(&round(
                "autoware_perception_msgs/msg/TrafficLightGroupArray",
                "{}"
            )),
            Some(now),
            "a type without a header"
        );
        for (type_name, text, part) in [
            (odometry, "fast", "as JSON"),
            (odometry, "{\"speed\":1}", "speed"),
            (odometry, "{\"speed\"", "not JSON"),
        ] {
            let error = encode(type_name, text, now).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn types_and_fields_are_found_or_the_nearest_is_named() {
        assert_eq!(
            type_named("std_msgs/String").unwrap(),
            "std_msgs/msg/String"
        );
        assert!(
            type_named("std_msgs/Strng")
                .unwrap_err()
                .to_string()
                .contains("std_msgs/msg/String")
        );
        let data = json!({ "a": { "b": [10, 20] }, "verdict_name": "KEEP" });
        assert_eq!(field(&data, "a.b.1").unwrap(), &json!(20));
        for (path, part) in [
            ("verdict_nme", "verdict_name"),
            ("a.b.2", "below 2"),
            ("a.b.1.c", "plain value"),
            ("q", "a, verdict_name"),
        ] {
            let error = field(&data, path).unwrap_err().to_string();
            assert!(error.contains(part), "{path}: {error}");
        }
    }

    #[test]
    fn a_view_has_one_field_a_line_and_cuts_what_is_long() {
        let data = json!({ "header": { "frame_id": "map" }, "list": [{ "x": 1 }], "plain": [1, 2], "none": [], "long": "a".repeat(300) });
        let text = view(&data);
        let expected = "header:\n  frame_id: \"map\"\nlist:\n  - # 0\n    x: 1\nplain: [1,2]\nnone: []\nlong: \"";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("# of 300 characters"), "{text}");
        assert_eq!(view(&json!(7.5)), "7.5", "a single value stands alone");
    }
}
