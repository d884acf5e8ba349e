//! Writes a tree as YAML: the flat result of `llmasos expand`, with no include, profile, argument or condition left in it.
//!
//! The saying goes both ways: what is written here reads back to the same values, which a test holds for every kind of scalar.

use std::fmt::Write;

use super::findings::Files;
use super::shape::{Shape, Table};
use super::yaml::{Node, Value, plain};

/// Width up to which a mapping or list stays on one line.
const WIDTH: usize = 110;

/// The tree as block YAML; small mappings and lists stay on one line.
pub fn emit(root: &Node) -> String {
    let mut out = String::new();
    for entry in root.entries() {
        block(&scalar(&entry.key), &entry.node, 0, &mut out);
    }
    out
}

/// Makes every path of the tree absolute, so that the flat file means the same wherever it lies.
pub fn absolute_paths(node: &mut Node, shape: &Shape, files: &Files) {
    match (shape, &mut node.value) {
        (Shape::Path, Value::Text(text)) => {
            let path = files.folder(node.at).join(&*text);
            if let Ok(path) = std::path::absolute(path) {
                *text = path.to_string_lossy().into_owned();
            }
        }
        (Shape::List(item), Value::List(items)) => items
            .iter_mut()
            .for_each(|n| absolute_paths(n, item, files)),
        (Shape::Map(value), Value::Map(entries)) => entries
            .iter_mut()
            .for_each(|e| absolute_paths(&mut e.node, value, files)),
        (Shape::Fields(table), Value::Map(_)) => in_table(node, table, files),
        (Shape::Either(shapes), _) => {
            let fits = |s: &&Shape| {
                matches!(
                    (s, &node.value),
                    (Shape::Path, Value::Text(_)) | (Shape::Fields(_), Value::Map(_))
                )
            };
            if let Some(shape) = shapes.iter().find(fits) {
                absolute_paths(node, shape, files);
            }
        }
        _ => {} // nodes and ports hold no paths
    }
}

fn in_table(node: &mut Node, table: &Table, files: &Files) {
    let Value::Map(entries) = &mut node.value else {
        return;
    };
    for entry in entries {
        if let Some(key) = table.key(&entry.key) {
            absolute_paths(&mut entry.node, &key.shape, files);
        }
    }
}

fn block(key: &str, node: &Node, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    let flat = flow(node);
    let small = indent > 0 && pad.len() + key.len() + flat.len() + 2 <= WIDTH;
    match &node.value {
        Value::Map(entries) if !entries.is_empty() && !small => {
            line(out, &format!("{pad}{key}:"));
            entries
                .iter()
                .for_each(|e| block(&scalar(&e.key), &e.node, indent + 1, out));
        }
        Value::List(items) if !items.is_empty() && !small => {
            line(out, &format!("{pad}{key}:"));
            items.iter().for_each(|n| item(n, indent + 1, out));
        }
        _ => line(out, &format!("{pad}{key}: {flat}")),
    }
}

/// One item of a list; a mapping that is too wide for a line has its first key behind the dash and the others below it.
fn item(node: &Node, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    let flat = flow(node);
    if pad.len() + flat.len() + 2 <= WIDTH || node.entries().is_empty() {
        return line(out, &format!("{pad}- {flat}"));
    }
    let mut inner = String::new();
    node.entries()
        .iter()
        .for_each(|e| block(&scalar(&e.key), &e.node, indent + 1, &mut inner));
    out.push_str(&format!("{pad}- {}", inner.trim_start()));
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn flow(node: &Node) -> String {
    match &node.value {
        Value::Null => "~".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) if f.is_nan() => ".nan".into(),
        Value::Float(f) if f.is_infinite() => if *f > 0.0 { ".inf" } else { "-.inf" }.into(),
        Value::Float(f) => format!("{f:?}"), // keeps the fraction: 2.0 is not the integer 2
        Value::Text(text) => scalar(text),
        Value::List(items) => format!(
            "[{}]",
            items.iter().map(flow).collect::<Vec<_>>().join(", ")
        ),
        Value::Map(entries) => {
            let inner: Vec<String> = entries
                .iter()
                .map(|e| format!("{}: {}", scalar(&e.key), flow(&e.node)))
                .collect();
            if inner.is_empty() {
                "{}".into()
            } else {
                format!("{{ {} }}", inner.join(", "))
            }
        }
    }
}

/// A text, quoted where plain it would read as something else.
fn scalar(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_/.-+()^%".contains(c) || (c == ' ');
    let plain_ok = matches!(plain(text), Value::Text(_))
        && text.chars().all(safe)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '_')
        && !text.ends_with(' ');
    if plain_ok {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_control()
                || c == '\u{feff}'
                || c == '\u{2028}'
                || c == '\u{2029}'
                || c == '\u{85}' =>
            {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\U{:08X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::findings::Findings;
    use crate::descriptor::yaml::read;
    use proptest::prelude::*;

    fn values(node: &Node) -> Vec<String> {
        match &node.value {
            Value::List(items) => items.iter().flat_map(values).collect(),
            Value::Map(entries) => entries
                .iter()
                .flat_map(|e| std::iter::once(e.key.clone()).chain(values(&e.node)))
                .collect(),
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = "a: { b: [1, 2.0, 1e300, '3', 'true', ~, 'x: y', '', ' z ', \"t\\tn\", '- a', '#h', '50Hz'] }\nc: 13.9 m/s\nd: '*x'\n";
        let mut findings = Findings::default();
        let root = read(text, 0, &mut findings).unwrap();
        let back = read(&emit(&root), 0, &mut findings).unwrap();
        assert!(findings.is_empty());
        assert_eq!(values(&root), values(&back), "{}", emit(&root));
        let wide = format!(
            "l: [{{ a: {0}, b: {{ c: {0}, d: [1, {0}] }} }}, 2]\n",
            "x".repeat(60)
        );
        let root = read(&wide, 0, &mut findings).unwrap();
        assert!(
            emit(&root).lines().all(|l| l.len() <= WIDTH),
            "{}",
            emit(&root)
        );
        assert_eq!(
            values(&root),
            values(&read(&emit(&root), 0, &mut findings).unwrap())
        );
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in "\\PC{0,40}|[ -~\\n\\t\"'\\\\]{0,40}") {
            let node = read(&format!("a: {}\n", scalar(&text)), 0, &mut Findings::default()).unwrap();
            prop_assert_eq!(node.get("a").map(|n| n.value.clone()), Some(Value::Text(text)));
        }
    }
}
