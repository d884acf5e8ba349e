//! A message for the eye: YAML as `ros2 topic echo` prints it, on one line, or as values between commas.
//!
//! Long texts and lists are cut first, by one rule for all forms; what JSON shows is never cut.

use anyhow::{Result, anyhow};
use llmasos_msgs::{
    definition::{Base, Count, Field},
    registry::{Registry, Type},
};
use serde_json::{Map, Value};

use super::super::usage::wrong;
use crate::descriptor::findings::nearest;

/// What ros2 cuts texts and lists to.
pub(super) const LENGTH_USUAL: usize = 128;

/// How much of a message is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Most characters of a text and items of a list; `None` shows all.
    pub(super) length: Option<usize>,
    /// Lists are told by their type and size.
    pub(super) without_arrays: bool,
    /// Texts are told by their size.
    pub(super) without_strings: bool,
}

/// What stands where something was cut.
const CUT: &str = "...";

/// Cuts what is long. The definition, where there is one, tells bytes from text.
pub(super) fn cut(registry: &Registry, found: Option<&Type>, value: &Value, style: Style) -> Value {
    let Value::Object(object) = value else {
        return cut_element(registry, None, value, style);
    };
    let field = |name: &str| {
        found.and_then(|found| {
            found
                .definition
                .fields
                .iter()
                .find(|field| field.name == name)
        })
    };
    let shown = object
        .iter()
        .map(|(name, value)| (name.clone(), cut_field(registry, field(name), value, style)));
    Value::Object(shown.collect::<Map<_, _>>())
}

fn cut_field(registry: &Registry, field: Option<&Field>, value: &Value, style: Style) -> Value {
    let is_many = field.is_some_and(|field| field.kind.count != Count::One);
    match value {
        Value::Array(items) => {
            if style.without_arrays {
                let of = field.map_or_else(|| "?".to_owned(), |field| field.kind.base.to_string());
                return Value::String(format!("<array type: {of}[{}]>", items.len()));
            }
            let shown = items.iter().take(style.length.unwrap_or(usize::MAX));
            let mut shown: Vec<Value> = shown
                .map(|item| cut_element(registry, field, item, style))
                .collect();
            if shown.len() < items.len() {
                shown.push(Value::String(CUT.to_owned()));
            }
            Value::Array(shown)
        }
        Value::String(text) if is_many && style.without_arrays => {
            let of = field.map_or_else(String::new, |field| field.kind.base.to_string());
            Value::String(format!("<array type: {of}[{}]>", bytes_of_base64(text)))
        }
        other => cut_element(registry, field, other, style),
    }
}

fn cut_element(registry: &Registry, field: Option<&Field>, value: &Value, style: Style) -> Value {
    match value {
        Value::Object(_) => {
            let inner = field.and_then(|field| match &field.kind.base {
                Base::Message(name) => registry.find(name),
                Base::Scalar(_) | Base::Text(_) => None,
            });
            cut(registry, inner, value, style)
        }
        Value::Array(_) => cut_field(registry, None, value, style),
        Value::String(text) if style.without_strings => {
            Value::String(format!("<string length: <{}>>", text.chars().count()))
        }
        Value::String(text) => match style
            .length
            .filter(|length| text.chars().nth(*length).is_some())
        {
            Some(length) => Value::String(text.chars().take(length).chain(CUT.chars()).collect()),
            None => value.clone(),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// How many bytes a base64 text stands for.
fn bytes_of_base64(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// YAML over several lines.
pub(super) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(object) if !object.is_empty() => write_object(object, 0, false, &mut out),
        Value::Array(items) if is_block(items) => write_items(items, 0, &mut out),
        // A text alone is shown as it is.
        Value::String(text) => out.push_str(text),
        other => write_flow(other, &mut out),
    }
    out.trim_end().to_owned()
}

/// YAML on one line.
pub(super) fn flow(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::String(text) => out.push_str(text),
        other => write_flow(other, &mut out),
    }
    out
}

fn is_block(items: &[Value]) -> bool {
    items.iter().any(|item| item.is_object() || item.is_array())
}

/// The fields of a mapping; `dashed` when the first stands behind a dash already.
fn write_object(object: &Map<String, Value>, depth: usize, dashed: bool, out: &mut String) {
    for (index, (name, value)) in object.iter().enumerate() {
        if index > 0 || !dashed {
            out.push_str(&"  ".repeat(depth));
        }
        out.push_str(name);
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                write_object(inner, depth + 1, false, out);
            }
            Value::Array(items) if is_block(items) => {
                out.push('\n');
                write_items(items, depth, out);
            }
            other => {
                out.push(' ');
                write_flow(other, out);
                out.push('\n');
            }
        }
    }
}

fn write_items(items: &[Value], depth: usize, out: &mut String) {
    for item in items {
        out.push_str(&"  ".repeat(depth));
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => write_object(inner, depth + 1, true, out),
            other => {
                write_flow(other, out);
                out.push('\n');
            }
        }
    }
}

fn write_flow(value: &Value, out: &mut String) {
    match value {
        Value::Object(object) => {
            out.push('{');
            for (index, (name, value)) in object.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                out.push_str(name);
                out.push_str(": ");
                write_flow(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_flow(item, out);
            }
            out.push(']');
        }
        Value::String(text) if is_plain(text) => out.push_str(text),
        other => out.push_str(&other.to_string()),
    }
}

/// Whether a text needs no quotes in YAML.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_')
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || " _-./+()'!".contains(c))
        && !text.ends_with(' ')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

/// Values between commas, in the order of the definition; names of enum values are left out.
pub(super) fn csv(value: &Value) -> String {
    let mut cells = Vec::new();
    flatten(value, &mut cells);
    cells.join(",")
}

fn flatten(value: &Value, cells: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, inner) in object {
                let of = name
                    .strip_suffix("_name")
                    .and_then(|field| object.get(field));
                if !(inner.is_string() && of.is_some_and(Value::is_number)) {
                    flatten(inner, cells);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| flatten(item, cells)),
        Value::String(text) if text.contains([',', '"', '\n', '\r']) => {
            cells.push(format!("\"{}\"", text.replace('"', "\"\"")));
        }
        Value::String(text) => cells.push(text.clone()),
        other => cells.push(other.to_string()),
    }
}

/// One field, `a.b[0].c` or `a.b.0.c`: names of fields and indices of lists.
///
/// # Errors
/// Wrong usage with the nearest field that is there.
pub(super) fn field<'a>(data: &'a Value, path: &str) -> Result<&'a Value> {
    let mut at = data;
    for part in path.split(['.', '[']) {
        let part = part.trim_end_matches(']');
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ALL: Style = Style {
        length: None,
        without_arrays: false,
        without_strings: false,
    };

    #[test]
    fn yaml_has_one_field_a_line() {
        let data = json!({
            "header": { "frame_id": "map", "stamp": { "sec": 1 } },
            "list": [{ "x": 1, "y": { "z": 2 } }, { "x": 3 }],
            "plain": [1, 2], "none": [], "empty": "", "text": "it: is", "yes": "yes", "nested": [[1], []],
        });
        let expected = "header:\n  frame_id: map\n  stamp:\n    sec: 1\nlist:\n- x: 1\n  y:\n    z: 2\n- x: 3\n\
            plain: [1, 2]\nnone: []\nempty: \"\"\ntext: \"it: is\"\nyes: \"yes\"\nnested:\n- [1]\n- []";
        assert_eq!(yaml(&data), expected);
        assert_eq!(yaml(&json!(7.5)), "7.5", "a single value stands alone");
        assert_eq!(
            yaml(&json!("pull over: now")),
            "pull over: now",
            "text stands alone"
        );
        assert_eq!(
            flow(&json!({ "a": { "b": [1, "x y"] } })),
            "{a: {b: [1, x y]}}"
        );
    }

    #[test]
    fn what_is_long_is_cut() {
        let registry = Registry::builtin();
        let image = registry.find("sensor_msgs/Image");
        let data = json!({ "encoding": "abcdef", "data": "AAECAwQ=", "odd": [1, 2, 3, 4], "header": { "frame_id": "abcdef" } });
        let short = Style {
            length: Some(3),
            ..ALL
        };
        assert_eq!(
            cut(registry, image, &data, short),
            json!({ "encoding": "abc...", "data": "AAE...", "odd": [1, 2, 3, "..."], "header": { "frame_id": "abc..." } })
        );
        let bare = Style {
            without_arrays: true,
            without_strings: true,
            ..ALL
        };
        assert_eq!(
            cut(registry, image, &data, bare),
            json!({
                "encoding": "<string length: <6>>", "data": "<array type: uint8[5]>", "odd": "<array type: ?[4]>",
                "header": { "frame_id": "<string length: <6>>" },
            })
        );
        assert_eq!(cut(registry, image, &data, ALL), data);
    }

    #[test]
    fn values_stand_between_commas() {
        let data = json!({ "a": 1, "a_name": "STOP", "host_name": "x,\"y\"", "list": [1.5, { "b": true }] });
        assert_eq!(csv(&data), "1,\"x,\"\"y\"\"\",1.5,true");
    }

    #[test]
    fn fields_are_found_or_the_nearest_is_named() {
        let data = json!({ "a": { "b": [10, 20] }, "verdict_name": "KEEP" });
        assert_eq!(field(&data, "a.b.1").unwrap(), &json!(20));
        assert_eq!(field(&data, "a.b[1]").unwrap(), &json!(20));
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
}
