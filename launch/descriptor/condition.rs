//! Conditions on messages: the right-hand sides of `where:`, read against the type of the field and held against JSON.
//!
//! ```text
//! where: { verdict: [ACCEPTED, CLIPPED], max_speed: { below: 8 m/s }, command_id: { set: true } }
//! ```
//!
//! A path is dotted and goes through lists, where it means any element. Numbers compare in the unit of the message's definition,
//! times and durations in seconds, enums by the names the definition gives them.

use serde_json::Value as Json;

use super::findings::Findings;
use super::units;
use super::wire::{self, Leaf};
use super::yaml::{Entry, Node, Value};

/// Most alternatives of one condition.
const MAX_CONDITIONS: usize = 64;
/// Relative tolerance of "equals" between numbers: what is lost from `float64` to `float32` and back.
const TOLERANCE: f64 = 1e-6;

/// A condition on a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Dotted path in the JSON form; through a list it means any element.
    pub path: String,
    /// What must hold there.
    pub test: Test,
}

/// What must hold of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// It is this number; the name is the one the descriptor uses.
    Number(f64, Option<String>),
    /// It is this truth value.
    Bool(bool),
    /// It is this text.
    Text(String),
    /// It is smaller than this.
    Below(f64),
    /// It is greater than this.
    Above(f64),
    /// It is text that contains this.
    Contains(String),
    /// It is something (`true`) or nothing: zero, empty, the zero UUID, NaN.
    Set(bool),
    /// It is not this.
    Not(Box<Test>),
    /// One of these.
    Any(Vec<Test>),
    /// All of these.
    All(Vec<Test>),
}

impl Condition {
    /// Whether it holds of a message in JSON form.
    pub fn holds(&self, message: &Json) -> bool {
        let parts: Vec<&str> = self.path.split('.').collect();
        walk(message, &parts, &self.test)
    }
}

/// Follows a path; through a list any element will do.
fn walk(value: &Json, parts: &[&str], test: &Test) -> bool {
    match (value, parts) {
        (Json::Array(items), _)
            if !(parts.is_empty() && matches!(test, Test::Set(_) | Test::Not(_))) =>
        {
            items.iter().any(|item| walk(item, parts, test))
        }
        (_, []) => test.holds(value),
        (_, [first, rest @ ..]) => value
            .get(first)
            .is_some_and(|inner| walk(inner, rest, test)),
    }
}

impl Test {
    fn holds(&self, value: &Json) -> bool {
        match self {
            Test::Number(expected, _) => number(value)
                .is_some_and(|n| (n - expected).abs() <= TOLERANCE * expected.abs().max(1.0)),
            Test::Bool(expected) => value.as_bool() == Some(*expected),
            Test::Text(expected) => value.as_str() == Some(expected),
            Test::Below(bound) => number(value).is_some_and(|n| n < *bound),
            Test::Above(bound) => number(value).is_some_and(|n| n > *bound),
            Test::Contains(part) => value
                .as_str()
                .is_some_and(|text| text.contains(part.as_str())),
            Test::Set(expected) => is_set(value) == *expected,
            Test::Not(test) => !test.holds(value),
            Test::Any(tests) => tests.iter().any(|t| t.holds(value)),
            Test::All(tests) => tests.iter().all(|t| t.holds(value)),
        }
    }

    /// `is ACCEPTED`, `below 3`, `is A or is B`.
    pub fn describe(&self) -> String {
        let join = |tests: &[Test], word: &str| {
            tests
                .iter()
                .map(Test::describe)
                .collect::<Vec<_>>()
                .join(word)
        };
        match self {
            Test::Number(_, Some(name)) => format!("is {name}"),
            Test::Number(n, None) => format!("is {n}"),
            Test::Bool(b) => format!("is {b}"),
            Test::Text(t) => format!("is \"{t}\""),
            Test::Below(n) => format!("below {n}"),
            Test::Above(n) => format!("above {n}"),
            Test::Contains(t) => format!("contains \"{t}\""),
            Test::Set(true) => "is set".into(),
            Test::Set(false) => "is not set".into(),
            Test::Not(test) => format!("not ({})", test.describe()),
            Test::Any(tests) => join(tests, " or "),
            Test::All(tests) => join(tests, " and "),
        }
    }
}

/// The number in a value of the JSON form; a time or duration counts in seconds, `"NaN"` is no number.
fn number(value: &Json) -> Option<f64> {
    match value {
        Json::Object(time) => {
            let part = |key: &str| time.get(key).and_then(Json::as_f64);
            Some(part("sec")? + part("nanosec")? * 1e-9)
        }
        Json::String(text) if text == "Infinity" => Some(f64::INFINITY),
        Json::String(text) if text == "-Infinity" => Some(f64::NEG_INFINITY),
        _ => value.as_f64(),
    }
}

fn is_set(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(b) => *b,
        Json::Number(n) => n.as_f64() != Some(0.0),
        Json::String(text) => !text.chars().all(|c| c == '0' || c == '-') && text != "NaN",
        Json::Array(items) => !items.is_empty(),
        Json::Object(_) => number(value).is_none_or(|n| n != 0.0),
    }
}

/// Reads one entry of `where:` for messages of a type; `None` after a finding.
pub(super) fn read(entry: &Entry, type_name: &str, findings: &mut Findings) -> Option<Condition> {
    match wire::leaf(type_name, &entry.key) {
        Ok(leaf) => test(&entry.node, &leaf, findings).map(|test| Condition {
            path: entry.key.clone(),
            test,
        }),
        Err(e) => {
            let noun = format!("field of {}", e.of);
            findings.unknown(
                entry.key_at,
                &noun,
                &e.name,
                e.known.iter().map(String::as_str),
            );
            None
        }
    }
}

/// Reads a condition on a field of a kind.
fn test(node: &Node, leaf: &Leaf, findings: &mut Findings) -> Option<Test> {
    match &node.value {
        Value::List(items) if items.is_empty() || items.len() > MAX_CONDITIONS => {
            findings.error(
                node.at,
                format!(
                    "expected 1 to {MAX_CONDITIONS} alternatives, found {}",
                    items.len()
                ),
            );
            None
        }
        Value::List(items) => {
            let tests: Vec<Test> = items
                .iter()
                .filter_map(|n| test(n, leaf, findings))
                .collect();
            (tests.len() == items.len()).then_some(Test::Any(tests))
        }
        Value::Map(entries) => {
            let tests: Vec<Test> = entries
                .iter()
                .filter_map(|e| operator(e, leaf, findings))
                .collect();
            if tests.len() != entries.len() {
                return None;
            }
            match <[Test; 1]>::try_from(tests) {
                Ok([only]) => Some(only),
                Err(tests) => Some(Test::All(tests)),
            }
        }
        _ => equals(node, leaf, findings),
    }
}

const OPERATORS: &[&str] = &["below", "above", "equals", "contains", "not", "set"];

fn operator(entry: &Entry, leaf: &Leaf, findings: &mut Findings) -> Option<Test> {
    let node = &entry.node;
    match entry.key.as_str() {
        "equals" => equals(node, leaf, findings),
        "not" => Some(Test::Not(Box::new(test(node, leaf, findings)?))),
        "below" => bound(node, leaf, findings).map(Test::Below),
        "above" => bound(node, leaf, findings).map(Test::Above),
        "contains" => match (leaf, node.text()) {
            (Leaf::Text, Some(text)) => Some(Test::Contains(text.to_owned())),
            _ => mismatch(
                node,
                leaf,
                "contains needs a text field and a text",
                findings,
            ),
        },
        "set" => match node.truth() {
            Some(set) => Some(Test::Set(set)),
            None => mismatch(node, leaf, "set is true or false", findings),
        },
        other => {
            findings.unknown(entry.key_at, "condition", other, OPERATORS.iter().copied());
            None
        }
    }
}

fn equals(node: &Node, leaf: &Leaf, findings: &mut Findings) -> Option<Test> {
    match (leaf, &node.value) {
        (Leaf::Enum(names), Value::Text(word)) => match names.iter().find(|(name, _)| name == word)
        {
            Some((name, value)) => Some(Test::Number(*value as f64, Some(name.clone()))),
            None => {
                findings.unknown(
                    node.at,
                    "value",
                    word,
                    names.iter().map(|(n, _)| n.as_str()),
                );
                None
            }
        },
        (Leaf::Number | Leaf::Enum(_) | Leaf::Time, _) => {
            bound(node, leaf, findings).map(|n| Test::Number(n, None))
        }
        (Leaf::Bool, Value::Bool(b)) => Some(Test::Bool(*b)),
        (Leaf::Text | Leaf::Uuid, Value::Text(text)) => Some(Test::Text(text.clone())),
        _ => mismatch(node, leaf, "", findings),
    }
}

/// A number, bare (in the unit of the message) or with its unit.
fn bound(node: &Node, leaf: &Leaf, findings: &mut Findings) -> Option<f64> {
    if !matches!(leaf, Leaf::Number | Leaf::Enum(_) | Leaf::Time) {
        return mismatch(node, leaf, "", findings);
    }
    let number = match &node.value {
        Value::Text(text) => units::any_quantity(text),
        _ => node.number(),
    };
    match number.filter(|n| n.is_finite()) {
        Some(n) => Some(n),
        None => mismatch(node, leaf, "", findings),
    }
}

fn mismatch<T>(node: &Node, leaf: &Leaf, hint: &str, findings: &mut Findings) -> Option<T> {
    let what = match leaf {
        Leaf::Number => "a number",
        Leaf::Enum(_) => "one of its named values",
        Leaf::Bool => "true or false",
        Leaf::Text => "a text",
        Leaf::Time => "a duration such as 800ms",
        Leaf::Uuid => "a UUID, or { set: true }",
        Leaf::Message => "a field of this message (name.of.field)",
    };
    let message = format!("expected {what}, found {}", node.describe());
    if hint.is_empty() {
        findings.error(node.at, message)
    } else {
        findings.error_with(node.at, message, hint)
    }
    None
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::findings::Files;
    use serde_json::json;

    fn read_where(text: &str) -> (Vec<Condition>, Vec<String>) {
        let mut findings = Findings::default();
        let text = format!("at: 1s..2s\ntopic: t\nwhere:\n  {text}\n");
        let node = crate::descriptor::yaml::read(&text, 0, &mut findings).unwrap();
        let entries = node.get("where").unwrap().entries();
        let conditions = entries
            .iter()
            .filter_map(|e| read(e, "llmasos_msgs/GateVerdict", &mut findings))
            .collect();
        let mut files = Files::default();
        files.add(std::path::Path::new("f"));
        (conditions, findings.lines(&files))
    }

    /// A condition, a message, whether it holds.
    #[test]
    fn conditions_hold_or_do_not() {
        let cases = [
            (
                "verdict: ACCEPTED",
                json!({"verdict": 1, "verdict_name": "ACCEPTED"}),
                true,
            ),
            ("verdict: ACCEPTED", json!({"verdict": 3}), false),
            ("verdict: [ACCEPTED, CLIPPED]", json!({"verdict": 2}), true),
            ("verdict: { not: REFUSED }", json!({"verdict": 3}), false),
            (
                "max_speed: { below: 36 km/h }",
                json!({"max_speed": 9.9}),
                true,
            ),
            (
                "max_speed: { below: 10 }",
                json!({"max_speed": "NaN"}),
                false,
            ),
            (
                "max_speed: 0.1",
                json!({"max_speed": f64::from(0.1_f32)}),
                true,
            ),
            (
                "advice_age: { below: 800ms, above: 0s }",
                json!({"advice_age": {"sec": 0, "nanosec": 700_000_000}}),
                true,
            ),
            (
                "advice_age: { below: 800ms }",
                json!({"advice_age": {"sec": 1, "nanosec": 0}}),
                false,
            ),
            ("rule: red_light", json!({"rule": "red_light"}), true),
            (
                "rule: { contains: light }",
                json!({"rule": "red_light"}),
                true,
            ),
            (
                "command_id: { set: true }",
                json!({"command_id": "00000000-0000-0000-0000-000000000000"}),
                false,
            ),
            (
                "command_id: { set: true }",
                json!({"command_id": "7d444840-9dc0-11d1-b245-5ffdce74fad2"}),
                true,
            ),
            ("verdict: ACCEPTED", json!({}), false),
            ("verdict: ACCEPTED", json!([]), false),
        ];
        for (text, message, expected) in cases {
            let (conditions, lines) = read_where(text);
            assert_eq!(lines, Vec::<String>::new(), "{text}");
            assert_eq!(
                conditions.iter().all(|c| c.holds(&message)),
                expected,
                "{text} of {message}"
            );
        }
    }

    #[test]
    fn a_path_through_a_list_means_any_element() {
        let condition = Condition {
            path: "objects.zone".into(),
            test: Test::Number(1.0, None),
        };
        assert!(condition.holds(&json!({"objects": [{"zone": 2}, {"zone": 1}]})));
        assert!(!condition.holds(&json!({"objects": []})));
    }

    /// What is refused below `where:`, and how.
    const REFUSED: &[(&str, &str)] = &[
        (
            "verdict: ACCEPTD",
            "f:4:12: error: unknown value \"ACCEPTD\" (did you mean \"ACCEPTED\"?)",
        ),
        (
            "verdit: ACCEPTED",
            "f:4:3: error: unknown field of llmasos_msgs/msg/GateVerdict \"verdit\" (did you mean \"verdict\"?)",
        ),
        (
            "max_speed: fast",
            "f:4:14: error: expected a number, found \"fast\"",
        ),
        (
            "rule: 3",
            "f:4:9: error: expected a text, found the number 3",
        ),
        (
            "command_id: true",
            "f:4:15: error: expected a UUID, or { set: true }, found true",
        ),
        (
            "verdict: { bellow: 3 }",
            "f:4:14: error: unknown condition \"bellow\" (did you mean \"below\"?)",
        ),
        (
            "header: 3",
            "f:4:11: error: expected a field of this message (name.of.field), found the number 3",
        ),
    ];

    #[test]
    fn wrong_conditions_are_found_before_the_start() {
        for (text, line) in REFUSED {
            let (_, lines) = read_where(text);
            assert_eq!(lines, [*line], "{text}");
        }
    }
}
