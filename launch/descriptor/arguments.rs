//! Arguments and expressions: `args:`, `${arg.x}`, `${env.X:-default}`, `if:` and `name:=value` of the command line.
//!
//! There is no scripting: an expression names a value and nothing more. When it is the whole of a scalar the value keeps its type
//! (`threads: ${arg.threads}` stays a number, quoted or not, because in `{ }` YAML needs the quotes); inside a longer text it is
//! spelt out. Arguments have a type and a default, so a misspelt one on the command line is found before anything starts.

use std::collections::BTreeMap;

use super::findings::{At, Findings, shorten};
use super::shape::{ARG_TYPES, argument_shape, validate};
use super::yaml::{Entry, MAX_TEXT_BYTES, Node, Value, plain};

/// What came with the command line, besides the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `name:=value`, in order; the last one of a name counts.
    pub arguments: Vec<(String, String)>,
    /// `__ns:=x`: the namespace, whatever the file says.
    pub namespace: Option<String>,
    /// `--profile x`, in order.
    pub profiles: Vec<String>,
}

impl Overrides {
    /// Reads the words behind the file name: `name:=value` and `__ns:=value`.
    ///
    /// # Errors
    /// A message that shows the form when a word is neither.
    pub fn parse(words: &[String], profiles: &[String]) -> Result<Overrides, String> {
        let mut overrides = Overrides {
            profiles: profiles.to_vec(),
            ..Overrides::default()
        };
        for word in words {
            match word.split_once(":=") {
                Some(("__ns", value)) => overrides.namespace = Some(value.to_owned()),
                Some((name, _)) if name.starts_with("__") => {
                    return Err(format!(
                        "unknown remapping \"{}\"; the one there is: __ns:=NAMESPACE",
                        shorten(name)
                    ));
                }
                Some((name, value)) if !name.is_empty() => {
                    overrides
                        .arguments
                        .push((name.to_owned(), value.to_owned()));
                }
                _ => return Err(format!("expected name:=value, found \"{}\"", shorten(word))),
            }
        }
        Ok(overrides)
    }

    /// The same as words, to hand to a child process that reads the same descriptor.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = self
            .arguments
            .iter()
            .map(|(n, v)| format!("{n}:={v}"))
            .collect();
        words.extend(self.namespace.iter().map(|n| format!("__ns:={n}")));
        words
    }
}

/// Where `${env.X}` looks: the environment in the program, a table in tests.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Takes `args:` out of the tree and replaces every expression by its value; nodes whose `if:` is false are gone afterwards.
pub fn resolve(
    root: &mut Node,
    overrides: &Overrides,
    environment: Environment<'_>,
    findings: &mut Findings,
) {
    let declared = root.take("args");
    let mut scope = Scope {
        values: BTreeMap::new(),
        environment,
        findings,
    };
    scope.declare(declared.as_ref(), overrides);
    scope.substitute(root);
    scope.conditions(root);
    if let (Some(namespace), Value::Map(entries)) = (&overrides.namespace, &mut root.value) {
        let at = outside(root.at);
        entries.retain(|e| e.key != "namespace");
        let node = Node::new(at, Value::Text(namespace.clone()));
        entries.push(Entry {
            key: "namespace".into(),
            key_at: at,
            node,
        });
    }
}

struct Scope<'a> {
    values: BTreeMap<String, Value>,
    environment: Environment<'a>,
    findings: &'a mut Findings,
}

impl Scope<'_> {
    /// Gives every declared argument its value: the command line's if there is one, else the default.
    fn declare(&mut self, declared: Option<&Entry>, overrides: &Overrides) {
        let entries = declared.map_or(&[][..], |d| d.node.entries());
        for entry in entries {
            let given = overrides
                .arguments
                .iter()
                .rev()
                .find(|(name, _)| *name == entry.key);
            if let Some(value) = self.value(entry, given.map(|(_, text)| text.as_str())) {
                self.values.insert(entry.key.clone(), value);
            }
        }
        for (name, _) in &overrides.arguments {
            if !entries.iter().any(|e| e.key == *name) {
                let at = outside(declared.map(|d| d.key_at).unwrap_or_default());
                self.findings
                    .unknown(at, "argument", name, entries.iter().map(|e| e.key.as_str()));
            }
        }
    }

    /// The value of one declared argument, held against its type and choices; `None` after a finding that leaves it without one.
    fn value(&mut self, entry: &Entry, given: Option<&str>) -> Option<Value> {
        let name = shorten(&entry.key);
        let kind = entry
            .node
            .get("type")
            .and_then(Node::text)
            .unwrap_or("string");
        let mut node = match (given, entry.node.get("default")) {
            (Some(text), _) if kind == "string" => {
                Node::new(outside(entry.key_at), Value::Text(text.to_owned()))
            }
            (Some(text), _) => Node::new(outside(entry.key_at), plain(text)),
            (None, Some(default)) => default.clone(),
            (None, None) => {
                let message = format!("argument \"{name}\" has no value");
                self.findings.error_with(
                    entry.key_at,
                    message,
                    format!("give it with {name}:=VALUE"),
                );
                return None;
            }
        };
        self.substitute_environment_only(&mut node);
        let Some(shape) = argument_shape(kind) else {
            self.findings.unknown(
                entry.key_at,
                "argument type",
                kind,
                ARG_TYPES.iter().copied(),
            );
            return None;
        };
        let mut found = Findings::default();
        validate(&node, shape, &mut found);
        for finding in found.iter() {
            self.findings.error(
                finding.at,
                format!("argument \"{name}\": {}", finding.message),
            );
        }
        self.choices(entry, &node);
        Some(node.value)
    }

    /// `choices: [a, b]` closes the set of values.
    fn choices(&mut self, entry: &Entry, node: &Node) {
        let Some(choices) = entry.node.get("choices") else {
            return;
        };
        if !choices.items().iter().any(|c| c.value == node.value) {
            let known: Vec<String> = choices.items().iter().map(|c| spell(&c.value)).collect();
            let message = format!(
                "argument \"{}\" is {}, expected one of {}",
                shorten(&entry.key),
                node.describe(),
                known.join(", ")
            );
            self.findings.error(node.at, message);
        }
    }

    /// Defaults may look at the environment but not at other arguments: no order to think about, no cycles.
    fn substitute_environment_only(&mut self, node: &mut Node) {
        let values = std::mem::take(&mut self.values);
        self.substitute(node);
        self.values = values;
    }

    fn substitute(&mut self, node: &mut Node) {
        match &mut node.value {
            Value::Text(text) if text.contains("${") => {
                let text = std::mem::take(text);
                node.value = self.evaluate(&text, node.at);
            }
            Value::List(items) => items.iter_mut().for_each(|n| self.substitute(n)),
            Value::Map(entries) => {
                for entry in entries {
                    if entry.key.contains("${") {
                        self.findings
                            .error(entry.key_at, "an expression cannot stand in a key");
                    }
                    self.substitute(&mut entry.node);
                }
            }
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
        }
    }

    /// Replaces the expressions of one text.
    fn evaluate(&mut self, text: &str, at: At) -> Value {
        if let Some(inner) = text.strip_prefix("${").and_then(|t| t.strip_suffix('}'))
            && !inner.contains("${")
        {
            return self.lookup(inner, at).unwrap_or(Value::Null);
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            let Some(length) = rest[start..].find('}') else {
                self.findings.error(
                    at,
                    format!("\"{}\" has no closing }}", shorten(&rest[start..])),
                );
                return Value::Text(text.to_owned());
            };
            if let Some(value) = self.lookup(&rest[start + 2..start + length], at) {
                out.push_str(&spell(&value));
            }
            if out.len() > MAX_TEXT_BYTES {
                self.findings
                    .error(at, format!("the text grows over {MAX_TEXT_BYTES} bytes"));
                return Value::Text(String::new());
            }
            rest = &rest[start + length + 1..];
        }
        out.push_str(rest);
        Value::Text(out)
    }

    /// The value of `arg.x`, `env.X` or `env.X:-default`; a finding and `None` when there is none.
    fn lookup(&mut self, expression: &str, at: At) -> Option<Value> {
        if let Some(name) = expression.strip_prefix("arg.") {
            let found = self.values.get(name).cloned();
            if found.is_none() {
                self.findings
                    .unknown(at, "argument", name, self.values.keys().map(String::as_str));
            }
            return found;
        }
        if let Some(rest) = expression.strip_prefix("env.") {
            let (name, default) = rest
                .split_once(":-")
                .map_or((rest, None), |(n, d)| (n, Some(d)));
            let set =
                (self.environment)(name).filter(|v| !v.is_empty() && v.len() <= MAX_TEXT_BYTES);
            let found = set.as_deref().or(default).map(plain);
            if found.is_none() {
                let (message, form) = (
                    format!("environment variable {} is not set", shorten(name)),
                    format!("${{env.{name}:-default}}"),
                );
                self.findings
                    .error_with(at, message, format!("give a default: {form}"));
            }
            return found;
        }
        let message = format!("\"${{{}}}\" is not an expression", shorten(expression));
        self.findings.error_with(
            at,
            message,
            "there are ${arg.NAME}, ${env.NAME} and ${env.NAME:-default}",
        );
        None
    }

    /// Drops what has `if: false`, and `if:` itself: entries of mappings and items of lists, at any depth.
    fn conditions(&mut self, node: &mut Node) {
        match &mut node.value {
            Value::List(items) => {
                items.retain_mut(|n| self.wanted(n));
                items.iter_mut().for_each(|n| self.conditions(n));
            }
            Value::Map(entries) => {
                entries.retain_mut(|e| self.wanted(&mut e.node));
                entries
                    .iter_mut()
                    .for_each(|e| self.conditions(&mut e.node));
            }
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
        }
    }

    fn wanted(&mut self, node: &mut Node) -> bool {
        let Some(entry) = node.take("if") else {
            return true;
        };
        match entry.node.truth() {
            Some(wanted) => wanted,
            None => {
                let message = format!("expected true or false, found {}", entry.node.describe());
                self.findings.error(entry.node.at, message);
                true
            }
        }
    }
}

/// The place of what came from the command line: the file it is for, no line.
fn outside(at: At) -> At {
    At {
        line: 0,
        column: 0,
        ..at
    }
}

/// A value as it reads inside a longer text.
fn spell(value: &Value) -> String {
    match value {
        Value::Null | Value::List(_) | Value::Map(_) => String::new(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) => f.to_string(),
        Value::Text(t) => t.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::findings::Files;
    use crate::descriptor::yaml::read;

    const ARGS: &str = "args:\n  vehicle: { type: string, default: ego }\n  n: { type: int, default: 2 }\n  on: { type: bool, default: true }\n";

    fn resolved(body: &str, words: &[&str]) -> (Node, Vec<String>) {
        let mut files = Files::default();
        let file = files.add(std::path::Path::new("f")).unwrap();
        let mut findings = Findings::default();
        let mut root = read(&format!("{ARGS}{body}"), file, &mut findings).unwrap();
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        let overrides = Overrides::parse(&words, &[]).unwrap();
        resolve(
            &mut root,
            &overrides,
            &|name| (name == "HOSTED").then(|| "7".to_owned()),
            &mut findings,
        );
        (root, findings.lines(&files))
    }

    /// Body, words of the command line, value of key `a`.
    fn values() -> Vec<(&'static str, &'static [&'static str], Value)> {
        vec![
            ("a: ${arg.vehicle}", &[], Value::Text("ego".into())),
            ("a: ${arg.n}", &[], Value::Int(2)),
            ("a: \"${arg.n}\"", &[], Value::Int(2)),
            ("a: x${arg.n}y${arg.on}", &[], Value::Text("x2ytrue".into())),
            ("a: ${arg.n}", &["n:=5"], Value::Int(5)),
            (
                "a: ${arg.vehicle}",
                &["vehicle:=7"],
                Value::Text("7".into()),
            ),
            ("a: ${env.HOSTED}", &[], Value::Int(7)),
            ("a: ${env.NONE:-800ms}", &[], Value::Text("800ms".into())),
            ("a: ${env.NONE:-}", &[], Value::Null),
            ("a: $5 and {b}", &[], Value::Text("$5 and {b}".into())),
        ]
    }

    #[test]
    fn expressions_keep_types() {
        for (body, words, value) in values() {
            let (root, lines) = resolved(body, words);
            assert_eq!(
                (root.get("a").map(|n| &n.value), lines),
                (Some(&value), vec![]),
                "{body}"
            );
        }
    }

    /// Body, words, finding.
    const REFUSED: &[(&str, &[&str], &str)] = &[
        (
            "a: ${arg.vehicel}",
            &[],
            "f:5:4: error: unknown argument \"vehicel\" (did you mean \"vehicle\"?)",
        ),
        (
            "a: 1",
            &["m:=5"],
            "f: error: unknown argument \"m\" (known: vehicle, n, on)",
        ),
        (
            "a: 1",
            &["n:=five"],
            "f: error: argument \"n\": expected a whole number, found \"five\"",
        ),
        (
            "a: ${env.NONE}",
            &[],
            "f:5:4: error: environment variable NONE is not set (give a default: ${env.NONE:-default})",
        ),
        (
            "a: ${arg.n",
            &[],
            "f:5:4: error: \"${arg.n\" has no closing }",
        ),
        (
            "a: ${1 + 1}",
            &[],
            "f:5:4: error: \"${1 + 1}\" is not an expression (there are ${arg.NAME}, ${env.NAME} and ${env.NAME:-default})",
        ),
        (
            "a: { if: 3 }",
            &[],
            "f:5:10: error: expected true or false, found the number 3",
        ),
    ];

    #[test]
    fn wrong_expressions_are_refused() {
        for (body, words, line) in REFUSED {
            let (_, lines) = resolved(body, words);
            assert_eq!(lines.first().map(String::as_str), Some(*line), "{body}");
        }
    }

    #[test]
    fn what_is_switched_off_is_gone() {
        let (root, lines) = resolved(
            "a:\n  b: { if: \"${arg.on}\", c: 1 }\n  d: 2\nl:\n  - { if: \"${arg.on}\", x: 1 }\n",
            &["on:=false"],
        );
        assert_eq!(lines, Vec::<String>::new());
        assert!(
            root.get("a").unwrap().get("b").is_none() && root.get("l").unwrap().items().is_empty()
        );
        let (root, _) = resolved("a:\n  b: { if: true, c: 1 }\n", &[]);
        assert_eq!(root.get("a").unwrap().get("b").unwrap().entries().len(), 1);
    }

    #[test]
    fn the_namespace_of_the_command_line_wins() {
        let (root, _) = resolved("namespace: a", &["__ns:=b"]);
        assert_eq!(root.get("namespace").and_then(Node::text), Some("b"));
        assert!(Overrides::parse(&["__name:=x".into()], &[]).is_err());
        assert!(
            Overrides::parse(&["x".into()], &[])
                .unwrap_err()
                .contains("name:=value")
        );
    }
}
