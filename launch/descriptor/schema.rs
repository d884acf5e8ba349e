//! The JSON Schema of descriptors for editors, made from the same tables that the reader uses.
//!
//! It is a little wider than the reader where JSON Schema has no word for something (a span's end comes after its start) and never
//! narrower: `if:` may stand in every mapping and an expression in place of every scalar.

use serde_json::{Map, Value, json};

use super::shape::{Key, MAX_NAME_BYTES, Shape, Table};
use super::tables::{FORMAT, ROOT};

/// Deepest nesting of tables followed; the format has six levels, recursion would be a fault of the tables.
const MAX_DEPTH: usize = 16;

/// The schema, draft 2020-12.
pub fn schema() -> Value {
    let mut root = table(&ROOT, None, 0);
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!(format!("LLMasOS launch descriptor ({FORMAT})"));
    root["$defs"] = json!({ "expression": { "type": "string", "pattern": "\\$\\{(arg|env)\\." } });
    root
}

fn table(table: &Table, kind: Option<&str>, depth: usize) -> Value {
    let mut properties = Map::new();
    if depth > 0 {
        properties.insert("if".into(), with_expression(json!({ "type": "boolean" })));
    }
    for key in table.keys() {
        let mut value = match (key.name, kind) {
            ("kind", Some(kind)) => json!({ "const": kind }),
            _ => property(key, depth),
        };
        value["description"] = json!(key.help);
        properties.insert(key.name.into(), value);
    }
    let required: Vec<&str> = table
        .keys()
        .filter(|k| k.required)
        .map(|k| k.name)
        .collect();
    let mut object =
        json!({ "type": "object", "additionalProperties": false, "properties": properties });
    // What a descriptor needs may come from a file it includes.
    if depth > 0 && !required.is_empty() {
        object["required"] = json!(required);
    } else if depth == 0 {
        object["required"] = json!(["llmasos"]);
    }
    if !table.one_of.is_empty() {
        object["oneOf"] = table
            .one_of
            .iter()
            .map(|key| json!({ "required": [key] }))
            .collect();
    }
    object
}

fn property(key: &Key, depth: usize) -> Value {
    shape(&key.shape, depth.saturating_add(1))
}

fn shape(shape_: &Shape, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return json!({});
    }
    match shape_ {
        Shape::Text(most) => json!({ "type": "string", "maxLength": most }),
        Shape::Name | Shape::Role(_) => with_expression(json!({
            "type": "string", "pattern": "^[A-Za-z0-9_-]+$", "maxLength": MAX_NAME_BYTES })),
        Shape::Topic | Shape::Output(_) => with_expression(topic()),
        Shape::Type => with_expression(json!({
            "type": "string", "pattern": "^[A-Za-z0-9_]+/(msg/)?[A-Za-z0-9_]+$" })),
        Shape::Path => json!({ "type": "string", "minLength": 1 }),
        Shape::Bool => with_expression(json!({ "type": "boolean" })),
        Shape::Int(low, high) => {
            with_expression(json!({ "type": "integer", "minimum": low, "maximum": high }))
        }
        Shape::Number(low, high) => {
            with_expression(json!({ "type": "number", "minimum": low, "maximum": high }))
        }
        Shape::Quantity(dimension) => {
            let mut forms = vec![json!({ "type": "string", "pattern": dimension.pattern() })];
            match dimension {
                super::units::Dimension::Ratio => {
                    forms.push(json!({ "type": "number", "minimum": 0, "maximum": 1 }))
                }
                super::units::Dimension::Duration => forms.push(json!({ "const": 0 })),
                _ => {}
            }
            forms.push(json!({ "$ref": "#/$defs/expression" }));
            json!({ "anyOf": forms })
        }
        Shape::Span => with_expression(json!({ "type": "string", "pattern": "\\.\\." })),
        Shape::Word(_, words) => with_expression(json!({ "enum": words })),
        Shape::Queue => with_expression(
            json!({ "type": "string", "pattern": "^(latest|fifo\\( *[0-9]+ *\\))$" }),
        ),
        Shape::Scalar => json!({ "type": ["string", "number", "boolean"] }),
        Shape::Condition => json!({}),
        Shape::List(item) => {
            json!({ "type": "array", "items": shape(item, depth.saturating_add(1)) })
        }
        Shape::Map(value) => {
            json!({ "type": "object", "additionalProperties": shape(value, depth.saturating_add(1)) })
        }
        Shape::Fields(fields) => table(fields, None, depth),
        Shape::Kinds(kinds) => {
            let kinds: Vec<Value> = kinds
                .iter()
                .map(|(kind, fields)| table(fields, Some(kind), depth))
                .collect();
            json!({ "oneOf": kinds })
        }
        Shape::Either(shapes) => {
            let shapes: Vec<Value> = shapes.iter().map(|s| shape(s, depth)).collect();
            json!({ "anyOf": shapes })
        }
        Shape::Input(_, fields) => {
            json!({ "anyOf": [with_expression(topic()), table(fields, None, depth)] })
        }
    }
}

fn topic() -> Value {
    json!({ "type": "string", "pattern": "^/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$" })
}

fn with_expression(value: Value) -> Value {
    json!({ "anyOf": [value, { "$ref": "#/$defs/expression" }] })
}
