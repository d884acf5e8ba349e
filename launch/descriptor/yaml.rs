//! YAML with the place of every value: a tree in which each node knows its file, line and column.
//!
//! It stands directly on the parser's events instead of a ready-made tree, because the limits have to hold while the tree grows
//! (an alias repeated ten times in ten levels is ten thousand million values) and because both places of a duplicate key are
//! wanted. YAML 1.2 core schema; tags, complex keys and merge keys (`<<`) are refused: a descriptor has `include:` and
//! `profiles:` for that, which keep places.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::findings::{At, Findings, shorten};

/// Largest descriptor file in bytes; the demo is 8 kB.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// Most values in one file, aliases expanded.
pub const MAX_NODES: usize = 20_000;
/// Deepest nesting of lists and mappings.
pub const MAX_DEPTH: usize = 32;
/// Longest single text in bytes.
pub const MAX_TEXT_BYTES: usize = 16 << 10;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it was written.
    pub at: At,
    /// What it is.
    pub value: Value,
}

/// What a YAML value is, by the core schema.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text; quantities such as `800ms` are still text here.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order it was written; keys are unique.
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_at: At,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// A node with a value.
    pub fn new(at: At, value: Value) -> Node {
        Node { at, value }
    }

    /// The value of a key, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries()
            .iter()
            .find(|e| e.key == key)
            .map(|e| &e.node)
    }

    /// The entries of a mapping; none for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; a single value counts as a list of one, `null` as none.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => std::slice::from_ref(self),
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, whole or not.
    pub fn number(&self) -> Option<f64> {
        match self.value {
            Value::Int(i) => Some(i as f64),
            Value::Float(f) => Some(f),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn truth(&self) -> Option<bool> {
        match self.value {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// Removes a key from a mapping and returns its entry.
    pub fn take(&mut self, key: &str) -> Option<Entry> {
        let Value::Map(entries) = &mut self.value else {
            return None;
        };
        let index = entries.iter().position(|e| e.key == key)?;
        Some(entries.remove(index))
    }

    /// What this is, for messages: `the number 800`, `the text "x"`, `a list`.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Bool(b) => format!("{b}"),
            Value::Int(i) => format!("the number {i}"),
            Value::Float(f) => format!("the number {f}"),
            Value::Text(t) => format!("\"{}\"", shorten(t)),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        }
    }

    /// How many values this one holds, itself included.
    pub fn size(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Node::size).sum::<usize>(),
            Value::Map(entries) => entries.iter().map(|e| e.node.size()).sum(),
            _ => 0,
        }
    }

    /// How many levels of lists and mappings it has.
    fn depth(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Value::Map(entries) => 1 + entries.iter().map(|e| e.node.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }
}

/// Reads one document. Faults that leave a usable tree (duplicate keys, tags) are added to `findings` and reading goes on; a
/// fault after which nothing can be trusted (syntax, a limit) ends it with `None`.
pub fn read(text: &str, file: u16, findings: &mut Findings) -> Option<Node> {
    let start = At {
        file,
        line: 1,
        column: 1,
    };
    if text.len() > MAX_FILE_BYTES {
        findings.error(
            start,
            format!(
                "the file has {} bytes, at most {MAX_FILE_BYTES} are read",
                text.len()
            ),
        );
        return None;
    }
    let mut tree = Tree {
        file,
        findings,
        stack: Vec::new(),
        anchors: BTreeMap::new(),
        root: None,
        nodes: 0,
    };
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => tree.event(event, &span.start)?,
            Err(e) => {
                let at = tree.at(e.marker());
                tree.syntax(at, e.info(), text);
                return None;
            }
        }
    }
    let root = tree.root.take();
    if root.is_none() {
        findings.error(start, "the file is empty, a mapping was expected");
    }
    root
}

/// The value that plain (unquoted) text stands for, by the core schema. Also how environment variables and command-line
/// arguments without a declared type get theirs.
pub fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | "+.inf" => return Value::Float(f64::INFINITY),
        "-.inf" => return Value::Float(f64::NEG_INFINITY),
        ".nan" => return Value::Float(f64::NAN),
        _ => {}
    }
    let hex = text
        .strip_prefix("0x")
        .and_then(|h| i64::from_str_radix(h, 16).ok());
    let octal = text
        .strip_prefix("0o")
        .and_then(|o| i64::from_str_radix(o, 8).ok());
    if let Some(i) = hex.or(octal).or_else(|| text.parse().ok()) {
        return Value::Int(i);
    }
    // Rust also reads "inf" and "nan" as numbers; YAML does not, so a number has to start like one.
    let numeric = text
        .trim_start_matches(['+', '-'])
        .starts_with(|c: char| c.is_ascii_digit() || c == '.');
    match text.parse::<f64>() {
        Ok(f) if numeric => Value::Float(f),
        _ => Value::Text(text.to_owned()),
    }
}

/// A list or mapping that is still open.
enum Open {
    List(Vec<Node>),
    Map(Vec<Entry>, Option<(String, At)>),
}

struct Tree<'a> {
    file: u16,
    findings: &'a mut Findings,
    stack: Vec<(Open, At, usize)>,
    anchors: BTreeMap<usize, Node>,
    root: Option<Node>,
    nodes: usize,
}

impl Tree<'_> {
    fn at(&self, mark: &Marker) -> At {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        At {
            file: self.file,
            line: number(mark.line()),
            column: number(mark.col().saturating_add(1)),
        }
    }

    /// A parser's complaint, with the one cause people meet in descriptors spelt out.
    fn syntax(&mut self, at: At, info: &str, text: &str) {
        let index = usize::try_from(at.line).unwrap_or(1).saturating_sub(1);
        let near = text
            .lines()
            .skip(index.saturating_sub(1))
            .take(2)
            .any(|line| line.contains("${"));
        let message = format!("this is not YAML: {info}");
        if near {
            self.findings.error_with(
                at,
                message,
                "inside [ ] or { } an expression needs quotes: \"${arg.name}\"",
            );
        } else {
            self.findings.error(at, message);
        }
    }

    /// Takes one event; `None` ends the reading.
    fn event(&mut self, event: Event<'_>, mark: &Marker) -> Option<()> {
        let at = self.at(mark);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Some(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                self.findings
                    .error(at, "a second document starts here, one was expected");
                None
            }
            Event::DocumentStart(_) => Some(()),
            Event::Alias(anchor) => {
                let Some(copy) = self.anchors.get(&anchor).cloned() else {
                    self.findings
                        .error(at, "this alias stands inside the value it names");
                    return None;
                };
                self.deep(at, self.stack.len().saturating_add(copy.depth()))?;
                self.count(at, copy.size())?;
                self.place(copy, at)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.tag(at, tag.is_some());
                self.count(at, 1)?;
                self.scalar(&text, style, anchor, at)
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(Open::List(Vec::new()), at, anchor, tag.is_some())
            }
            Event::MappingStart(anchor, tag) => {
                self.open(Open::Map(Vec::new(), None), at, anchor, tag.is_some())
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, at: At) -> Option<()> {
        if text.len() > MAX_TEXT_BYTES {
            self.findings.error(
                at,
                format!(
                    "a text of {} bytes, at most {MAX_TEXT_BYTES} are read",
                    text.len()
                ),
            );
            return None;
        }
        if let Some((Open::Map(_, key @ None), _, _)) = self.stack.last_mut() {
            if text == "<<" {
                self.findings.error_with(
                    at,
                    "merge keys are not read",
                    "use include: or profiles:",
                );
            }
            *key = Some((text.to_owned(), at));
            return Some(());
        }
        let value = if style == ScalarStyle::Plain {
            plain(text)
        } else {
            Value::Text(text.to_owned())
        };
        let node = Node::new(at, value);
        self.remember(anchor, &node);
        self.place(node, at)
    }

    fn open(&mut self, open: Open, at: At, anchor: usize, tagged: bool) -> Option<()> {
        self.tag(at, tagged);
        self.count(at, 1)?;
        self.deep(at, self.stack.len().saturating_add(1))?;
        self.stack.push((open, at, anchor));
        Some(())
    }

    fn close(&mut self) -> Option<()> {
        let (open, at, anchor) = self.stack.pop()?;
        let value = match open {
            Open::List(items) => Value::List(items),
            Open::Map(entries, _) => Value::Map(entries),
        };
        let node = Node::new(at, value);
        self.remember(anchor, &node);
        self.place(node, at)
    }

    /// Puts a finished node where it belongs: under its key, into its list, or at the root.
    fn place(&mut self, node: Node, at: At) -> Option<()> {
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some((Open::List(items), _, _)) => items.push(node),
            Some((Open::Map(entries, key), _, _)) => match key.take() {
                None => {
                    self.findings
                        .error(at, format!("a key must be text, found {}", node.describe()));
                    return None;
                }
                Some((key, key_at)) => match entries.iter().find(|e| e.key == key) {
                    Some(first) => {
                        let (line, column) = (first.key_at.line, first.key_at.column);
                        let message = format!(
                            "duplicate key \"{}\", first at {line}:{column}",
                            shorten(&key)
                        );
                        self.findings.error(key_at, message);
                    }
                    None => entries.push(Entry { key, key_at, node }),
                },
            },
        }
        Some(())
    }

    fn remember(&mut self, anchor: usize, node: &Node) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
    }

    fn tag(&mut self, at: At, tagged: bool) {
        if tagged {
            self.findings.error_with(
                at,
                "tags are not read",
                "quote a text that looks like a number",
            );
        }
    }

    fn count(&mut self, at: At, more: usize) -> Option<()> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            self.findings.error(
                at,
                format!("more than {MAX_NODES} values, aliases expanded"),
            );
            return None;
        }
        Some(())
    }

    fn deep(&mut self, at: At, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            self.findings.error(
                at,
                format!("nested {depth} levels deep, at most {MAX_DEPTH} are read"),
            );
            return None;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::findings::Files;
    use std::fmt::Write;

    fn complaints(text: &str) -> Vec<String> {
        let mut files = Files::default();
        let file = files.add(std::path::Path::new("f")).unwrap();
        let mut findings = Findings::default();
        let _ = read(text, file, &mut findings);
        findings.lines(&files)
    }

    fn tree(text: &str) -> Node {
        read(text, 0, &mut Findings::default()).unwrap()
    }

    #[test]
    fn every_value_knows_its_place() {
        let root = tree("a: 1\nb:\n  - x\n  - { c: 2.5 }\n");
        let c = root.get("b").unwrap().items()[1].get("c").unwrap();
        assert_eq!(
            (c.at.line, c.at.column, &c.value),
            (4, 10, &Value::Float(2.5))
        );
        assert_eq!(root.get("a").unwrap().value, Value::Int(1));
    }

    #[test]
    fn only_what_yaml_calls_a_number_is_one() {
        for (text, value) in [
            ("1e3", Value::Float(1e3)),
            ("0x10", Value::Int(16)),
            ("inf", Value::Text("inf".into())),
            ("nan", Value::Text("nan".into())),
            ("infinity", Value::Text("infinity".into())),
            ("NO", Value::Text("NO".into())),
            ("800ms", Value::Text("800ms".into())),
            ("-.inf", Value::Float(f64::NEG_INFINITY)),
        ] {
            assert_eq!(plain(text), value, "{text}");
        }
    }

    #[test]
    fn quoted_text_stays_text() {
        assert_eq!(
            tree("a: '1'").get("a").unwrap().value,
            Value::Text("1".into())
        );
    }

    /// What is refused, where, and how it is said.
    const REFUSED: &[(&str, &str)] = &[
        (
            "a: 1\nb: 2\na: 3",
            "f:3:1: error: duplicate key \"a\", first at 1:1",
        ),
        (
            "a: !!str 1",
            "f:1:4: error: tags are not read (quote a text that looks like a number)",
        ),
        (
            "a: &x {b: 1}\nc: {<<: *x}",
            "f:2:5: error: merge keys are not read (use include: or profiles:)",
        ),
        (
            "? [a]\n: 1",
            "f:1:3: error: a key must be text, found a list",
        ),
        (
            "a: 1\n---\nb: 2",
            "f:2:1: error: a second document starts here, one was expected",
        ),
        (
            "",
            "f:1:1: error: the file is empty, a mapping was expected",
        ),
        (
            "a: &x [*x]",
            "f:1:8: error: this alias stands inside the value it names",
        ),
    ];

    #[test]
    fn what_is_not_wanted_is_refused_with_its_place() {
        for (text, expected) in REFUSED {
            assert_eq!(
                complaints(text).first().map(String::as_str),
                Some(*expected),
                "{text:?}"
            );
        }
    }

    #[test]
    fn an_expression_without_quotes_in_a_flow_gets_a_hint() {
        let lines = complaints("a: { if: ${arg.x}, b: 1 }");
        assert!(lines[0].contains("an expression needs quotes"), "{lines:?}");
    }

    #[test]
    fn repeated_aliases_do_not_grow_without_end() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..10 {
            let previous = format!("*a{}", i - 1);
            writeln!(text, "a{i}: &a{i} [{}]", [previous.as_str(); 10].join(", ")).unwrap();
        }
        assert!(complaints(&text)[0].contains("more than 20000 values"));
    }

    #[test]
    fn deep_nesting_and_large_files_are_refused() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(
            complaints(&deep)[0].contains("at most 32"),
            "{:?}",
            complaints(&deep)
        );
        let block: String = (0..100).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        assert!(complaints(&block)[0].contains("at most 32"));
        assert!(complaints(&" ".repeat(MAX_FILE_BYTES + 1))[0].contains("at most 1048576"));
        assert!(
            complaints(&format!("a: {}", "x".repeat(MAX_TEXT_BYTES + 1)))[0]
                .contains("at most 16384")
        );
    }
}
