//! Shapes: what a value of a descriptor may look like, as data.
//!
//! The tables of [`super::tables`] are the one description of the format. [`validate`] holds a file against them, the builder may
//! only ask for keys that stand in them, and [`super::schema`] turns them into the JSON Schema of editors; so the three cannot
//! disagree.

use super::findings::{At, Findings, nearest, shorten};
use super::units::{self, Dimension};
use super::yaml::{Node, Value};

/// Longest name of a node, model, topic or rule.
pub const MAX_NAME_BYTES: usize = 128;
/// Most entries of one list or mapping.
pub const MAX_ENTRIES: usize = 1000;
/// Deepest queue: what waits longer than this is not a queue but a leak.
pub const MAX_QUEUE: usize = 1000;

/// What a value may look like.
#[derive(Debug)]
pub enum Shape {
    /// Any text up to a length in bytes.
    Text(usize),
    /// A name: letters, digits, `_` and `-`.
    Name,
    /// A topic: ROS name tokens joined by `/`, absolute with a leading one.
    Topic,
    /// A ROS type, `package/Name` or `package/msg/Name`.
    Type,
    /// A path, relative to the file it stands in.
    Path,
    /// `true` or `false`.
    Bool,
    /// A whole number in a range, both ends included.
    Int(i64, i64),
    /// A number in a range, both ends included.
    Number(f64, f64),
    /// A quantity with its unit.
    Quantity(Dimension),
    /// A span of time, `6s..9s`.
    Span,
    /// One of some words; the text says what kind of word.
    Word(&'static str, &'static [&'static str]),
    /// `latest` or `fifo(N)`.
    Queue,
    /// A text, number or truth value.
    Scalar,
    /// A condition of an expectation; the builder reads it against the message's type.
    Condition,
    /// A list.
    List(&'static Shape),
    /// A mapping from names to values of one shape.
    Map(&'static Shape),
    /// A mapping with known keys.
    Fields(&'static Table),
    /// A mapping whose known keys depend on the word under `kind`.
    Kinds(&'static [(&'static str, &'static Table)]),
    /// One of several shapes of different YAML kinds.
    Either(&'static [Shape]),
    /// An input port: a topic, or a mapping that says more; it takes messages of these types.
    Input(&'static [&'static str], &'static Table),
    /// An output port: a topic that carries messages of this type.
    Output(&'static str),
    /// The name of a model whose catalogue entry has this role.
    Role(&'static str),
}

/// A mapping with known keys.
#[derive(Debug)]
pub struct Table {
    /// What it describes, with its article: `a topic`.
    pub what: &'static str,
    /// What its keys are called: `field`, `port`, `role`.
    pub noun: &'static str,
    /// Its keys, in groups so that tables can share some.
    pub keys: &'static [&'static [Key]],
    /// Keys of which exactly one must be there.
    pub one_of: &'static [&'static str],
}

/// A key of a [`Table`].
#[derive(Debug)]
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// Whether it must be there.
    pub required: bool,
    /// What it means; shown by editors.
    pub help: &'static str,
}

impl Table {
    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.keys.iter().flat_map(|group| group.iter())
    }

    /// A key by name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|k| k.name == name)
    }
}

/// Types of arguments, as written in `args: { x: { type: … } }`.
pub const ARG_TYPES: &[&str] = &[
    "string", "bool", "int", "number", "duration", "speed", "bytes", "rate", "path",
];

/// The shape that values of an argument type have.
pub fn argument_shape(kind: &str) -> Option<&'static Shape> {
    Some(match kind {
        "string" | "path" => &Shape::Text(4096),
        "bool" => &Shape::Bool,
        "int" => &Shape::Int(i64::MIN, i64::MAX),
        "number" => &Shape::Number(f64::MIN, f64::MAX),
        "duration" => &Shape::Quantity(Dimension::Duration),
        "speed" => &Shape::Quantity(Dimension::Speed),
        "bytes" => &Shape::Quantity(Dimension::Bytes),
        "rate" => &Shape::Quantity(Dimension::Rate),
        _ => return None,
    })
}

/// Holds a value against a shape and says everything that is wrong with it.
pub fn validate(node: &Node, shape: &Shape, findings: &mut Findings) {
    match shape {
        Shape::Text(most) => match node.text() {
            Some(t) if t.len() > *most => {
                findings.error(
                    node.at,
                    format!("a text of {} bytes, at most {most} are taken", t.len()),
                );
            }
            Some(_) => {}
            None => expected(node, shape, findings),
        },
        Shape::Name | Shape::Role(_) => named(node, shape, is_name, findings),
        Shape::Topic | Shape::Output(_) => named(node, shape, is_topic, findings),
        Shape::Type => named(node, shape, is_type, findings),
        Shape::Path => named(
            node,
            shape,
            |p| !p.is_empty() && !p.contains('\0'),
            findings,
        ),
        Shape::Bool if node.truth().is_none() => expected(node, shape, findings),
        Shape::Scalar if matches!(node.value, Value::Null | Value::List(_) | Value::Map(_)) => {
            expected(node, shape, findings)
        }
        Shape::Int(low, high) => match node.value {
            Value::Int(i) if i < *low || i > *high => {
                findings.error(
                    node.at,
                    format!("{i} is out of range, expected {low} to {high}"),
                );
            }
            Value::Int(_) => {}
            _ => expected(node, shape, findings),
        },
        Shape::Number(low, high) => match node.number() {
            Some(n) if !(*low..=*high).contains(&n) => {
                findings.error(
                    node.at,
                    format!("{n} is out of range, expected {low} to {high}"),
                );
            }
            Some(_) => {}
            None => expected(node, shape, findings),
        },
        Shape::Quantity(dimension) => {
            refused(node, units::quantity(node, *dimension).err(), findings)
        }
        Shape::Span => refused(node, units::span(node).err(), findings),
        Shape::Word(noun, words) => match node.text() {
            Some(word) if words.contains(&word) => {}
            Some(word) => findings.unknown(node.at, noun, word, words.iter().copied()),
            None => expected(node, shape, findings),
        },
        Shape::Queue => queue(node, findings),
        Shape::Bool | Shape::Scalar | Shape::Condition => {}
        Shape::List(item) => list(node, shape, item, findings),
        Shape::Map(value) => map(node, shape, value, findings),
        Shape::Fields(table) => fields(node, table, findings),
        Shape::Kinds(kinds) => kind(node, kinds, findings),
        Shape::Either(shapes) => match shapes.iter().find(|s| s.suits(&node.value)) {
            Some(shape) => validate(node, shape, findings),
            None => expected(node, shape, findings),
        },
        Shape::Input(_, table) if matches!(node.value, Value::Map(_)) => {
            fields(node, table, findings)
        }
        Shape::Input(..) => named(node, shape, is_topic, findings),
    }
}

impl Shape {
    /// What goes behind "expected".
    pub fn describe(&self) -> String {
        match self {
            Shape::Text(_) => "a text".into(),
            Shape::Name => "a name of letters, digits, _ and -".into(),
            Shape::Topic | Shape::Output(_) => {
                "a topic such as llmasos/speech/text or /vehicle/odometry".into()
            }
            Shape::Type => "a message type such as std_msgs/String".into(),
            Shape::Path => "a path".into(),
            Shape::Bool => "true or false".into(),
            Shape::Int(..) => "a whole number".into(),
            Shape::Number(..) => "a number".into(),
            Shape::Quantity(dimension) => dimension.name().into(),
            Shape::Span => "a span of time such as 6s..9s".into(),
            Shape::Word(noun, words) => format!("a {noun}, one of {}", words.join(", ")),
            Shape::Queue => "latest or fifo(N)".into(),
            Shape::Scalar => "a text, a number, true or false".into(),
            Shape::Condition => "a condition".into(),
            Shape::List(_) => "a list".into(),
            Shape::Map(_) | Shape::Kinds(_) => "a mapping".into(),
            Shape::Fields(table) => format!("a mapping ({})", table.what),
            Shape::Either(shapes) => shapes
                .iter()
                .map(Shape::describe)
                .collect::<Vec<_>>()
                .join(" or "),
            Shape::Input(..) => "a topic, or { topic: … }".into(),
            Shape::Role(role) => format!("the name of a model with the role {role}"),
        }
    }

    /// Whether a value is of the YAML kind this shape has; decides between the shapes of [`Shape::Either`].
    fn suits(&self, value: &Value) -> bool {
        match self {
            Shape::List(_) => matches!(value, Value::List(_)),
            Shape::Map(_) | Shape::Fields(_) | Shape::Kinds(_) => matches!(value, Value::Map(_)),
            Shape::Int(..) => matches!(value, Value::Int(_)),
            Shape::Bool => matches!(value, Value::Bool(_)),
            Shape::Condition | Shape::Input(..) => true,
            Shape::Either(shapes) => shapes.iter().any(|s| s.suits(value)),
            _ => !matches!(value, Value::List(_) | Value::Map(_) | Value::Null),
        }
    }
}

fn expected(node: &Node, shape: &Shape, findings: &mut Findings) {
    findings.error(
        node.at,
        format!("expected {}, found {}", shape.describe(), node.describe()),
    );
}

fn refused(node: &Node, refused: Option<units::Refused>, findings: &mut Findings) {
    match refused {
        Some(units::Refused {
            message,
            hint: Some(hint),
        }) => findings.error_with(node.at, message, hint),
        Some(units::Refused {
            message,
            hint: None,
        }) => findings.error(node.at, message),
        None => {}
    }
}

fn named(node: &Node, shape: &Shape, fits: impl Fn(&str) -> bool, findings: &mut Findings) {
    match node.text() {
        Some(t) if fits(t) => {}
        _ => expected(node, shape, findings),
    }
}

fn list(node: &Node, shape: &Shape, item: &Shape, findings: &mut Findings) {
    let Value::List(items) = &node.value else {
        return expected(node, shape, findings);
    };
    if items.len() > MAX_ENTRIES {
        return findings.error(
            node.at,
            format!(
                "a list of {} entries, at most {MAX_ENTRIES} are taken",
                items.len()
            ),
        );
    }
    items.iter().for_each(|n| validate(n, item, findings));
}

fn map(node: &Node, shape: &Shape, value: &Shape, findings: &mut Findings) {
    let Value::Map(entries) = &node.value else {
        return expected(node, shape, findings);
    };
    if entries.len() > MAX_ENTRIES {
        return findings.error(
            node.at,
            format!(
                "a mapping of {} entries, at most {MAX_ENTRIES} are taken",
                entries.len()
            ),
        );
    }
    for entry in entries {
        // Keys are names of nodes, models and rules, topics, or dotted paths into a message.
        if !is_topic(&entry.key) && !is_name(&entry.key) && !entry.key.split('.').all(is_name) {
            findings.error(
                entry.key_at,
                format!("\"{}\" is not a name", shorten(&entry.key)),
            );
        }
        validate(&entry.node, value, findings);
    }
}

fn fields(node: &Node, table: &Table, findings: &mut Findings) {
    let Value::Map(entries) = &node.value else {
        return findings.error(
            node.at,
            format!(
                "expected a mapping ({}), found {}",
                table.what,
                node.describe()
            ),
        );
    };
    for entry in entries {
        match table.key(&entry.key) {
            Some(key) => validate(&entry.node, &key.shape, findings),
            None => findings.unknown(
                entry.key_at,
                table.noun,
                &entry.key,
                table.keys().map(|k| k.name),
            ),
        }
    }
    let known = |name: &str| table.key(name).is_some();
    for key in table.keys().filter(|k| k.required) {
        // A misspelt key has been reported as such; that the right one is missing says nothing new.
        let misspelt = |name: &str| {
            !known(name) && nearest(name, table.keys().map(|k| k.name)) == Some(key.name)
        };
        if !entries
            .iter()
            .any(|e| e.key == key.name || misspelt(&e.key))
        {
            let message = format!("{} needs the {} \"{}\"", table.what, table.noun, key.name);
            findings.error_with(node.at, message, key.help);
        }
    }
    let present: Vec<&str> = entries
        .iter()
        .map(|e| e.key.as_str())
        .filter(|k| table.one_of.contains(k))
        .collect();
    if !table.one_of.is_empty() && present.len() != 1 {
        let found = if present.is_empty() {
            "none of them".to_owned()
        } else {
            present.join(" and ")
        };
        findings.error(
            node.at,
            format!(
                "{} has exactly one of {}, found {found}",
                table.what,
                table.one_of.join(", ")
            ),
        );
    }
}

fn kind(node: &Node, kinds: &[(&str, &'static Table)], findings: &mut Findings) {
    let Value::Map(_) = node.value else {
        return findings.error(
            node.at,
            format!("expected a mapping, found {}", node.describe()),
        );
    };
    let Some(kind) = node.get("kind") else {
        let known: Vec<&str> = kinds.iter().map(|(w, _)| *w).collect();
        return findings.error_with(
            node.at,
            "a node needs the field \"kind\"",
            format!("known: {}", known.join(", ")),
        );
    };
    match kind
        .text()
        .and_then(|word| kinds.iter().find(|(w, _)| *w == word))
    {
        Some((_, table)) => fields(node, table, findings),
        None => findings.unknown(
            kind.at,
            "kind",
            kind.text().unwrap_or_default(),
            kinds.iter().map(|(w, _)| *w),
        ),
    }
}

fn queue(node: &Node, findings: &mut Findings) {
    match node.text() {
        Some("latest") => {}
        Some(text) => match fifo_depth(text) {
            Some(depth) if (1..=MAX_QUEUE).contains(&depth) => {}
            Some(depth) => findings.error(
                node.at,
                format!("a queue of {depth}, expected 1 to {MAX_QUEUE}"),
            ),
            None if text == "fifo" => {
                findings.error_with(node.at, "a fifo needs its depth", "write fifo(10)")
            }
            None => expected(node, &Shape::Queue, findings),
        },
        None => expected(node, &Shape::Queue, findings),
    }
}

/// The depth in `fifo(10)`.
pub fn fifo_depth(text: &str) -> Option<usize> {
    text.strip_prefix("fifo(")?
        .strip_suffix(')')?
        .trim()
        .parse()
        .ok()
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// ROS 2 topic names (design.ros2.org, "Topic and Service name mapping"): tokens of letters, digits and `_` that do not begin
/// with a digit. A Zenoh key made of them can hold no wildcard.
pub fn is_topic(text: &str) -> bool {
    let token = |t: &str| {
        t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && t.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    text.len() <= MAX_NAME_BYTES && text.strip_prefix('/').unwrap_or(text).split('/').all(token)
}

fn is_type(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    (2..=3).contains(&parts.len())
        && parts.iter().all(|p| is_name(p))
        && (parts.len() == 2 || parts[1] == "msg")
}

/// A mapping that was held against its table: the builder's way to ask for keys.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    node: &'a Node,
    table: &'static Table,
}

impl<'a> Fields<'a> {
    /// The fields of a node that [`validate`] has accepted as this table.
    pub fn of(node: &'a Node, table: &'static Table) -> Fields<'a> {
        Fields { node, table }
    }

    /// The place of the mapping.
    pub fn at(&self) -> At {
        self.node.at
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'a Node> {
        debug_assert!(
            self.table.key(key).is_some(),
            "{key} is read but stands in no table: {}",
            self.table.what
        );
        self.node.get(key)
    }

    /// The value of a key that holds another table.
    pub fn fields(&self, key: &str, table: &'static Table) -> Option<Fields<'a>> {
        self.get(key).map(|n| Fields::of(n, table))
    }

    /// The entries of a mapping under a key.
    pub fn entries(&self, key: &str) -> &'a [super::yaml::Entry] {
        self.get(key).map_or(&[], Node::entries)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<String> {
        self.get(key).and_then(Node::text).map(str::to_owned)
    }

    /// A truth value.
    pub fn truth(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Node::truth)
    }

    /// A whole number that fits `T`.
    pub fn int<T: TryFrom<i64>>(&self, key: &str) -> Option<T> {
        match self.get(key)?.value {
            Value::Int(i) => T::try_from(i).ok(),
            _ => None,
        }
    }

    /// A number.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(Node::number)
    }

    /// A duration.
    pub fn duration(&self, key: &str) -> Option<std::time::Duration> {
        units::duration(self.get(key)?).ok()
    }

    /// A quantity in the unit used inside.
    pub fn quantity(&self, key: &str, dimension: Dimension) -> Option<f64> {
        units::quantity(self.get(key)?, dimension).ok()
    }

    /// A list of texts; a single text counts as a list of one.
    pub fn texts(&self, key: &str) -> Vec<String> {
        self.get(key)
            .map_or(&[][..], Node::items)
            .iter()
            .filter_map(|n| n.text().map(str::to_owned))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_follow_ros_names() {
        for good in ["a", "/a", "llmasos/speech/text", "/sensing/camera_0/image"] {
            assert!(is_topic(good), "{good}");
        }
        for bad in [
            "", "/", "a/", "a//b", "0a", "a b", "a/*", "**", "a/$*", "~/x", "ä",
        ] {
            assert!(!is_topic(bad), "{bad}");
        }
    }

    #[test]
    fn types_have_a_package_and_a_name() {
        for (text, good) in [
            ("std_msgs/String", true),
            ("std_msgs/msg/String", true),
            ("String", false),
            ("a/srv/B", false),
            ("a/", false),
        ] {
            assert_eq!(is_type(text), good, "{text}");
        }
    }
}
