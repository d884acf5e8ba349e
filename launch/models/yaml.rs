//! Strict reading of YAML: every value knows its line and column, every unknown field is an error with the nearest valid name.
//!
//! A typing mistake in a catalogue must not fetch the wrong file, so nothing is ignored and nothing is guessed: a version written
//! without quotes that YAML reads as a number is refused rather than printed back differently.

use std::collections::BTreeMap;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::error::ModelError;

/// Deepest nesting accepted; a catalogue needs six levels.
const MAX_DEPTH: usize = 32;

/// A value and where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    file: &'a str,
    yaml: &'a MarkedYaml<'a>,
}

/// The fields of a mapping whose names have been checked.
pub(crate) struct Fields<'a> {
    parent: Node<'a>,
    by_name: BTreeMap<&'a str, Node<'a>>,
}

/// Reads one document and hands its root to `read`.
///
/// # Errors
/// `ModelError::Catalogue` with line and column for malformed YAML, more or less than one document, or what `read` finds.
pub(crate) fn read_document<T>(
    file: &str,
    text: &str,
    read: impl FnOnce(Node<'_>) -> Result<T, ModelError>,
) -> Result<T, ModelError> {
    let at = |line, column, message: String| ModelError::Catalogue {
        file: file.to_owned(),
        line,
        column,
        message,
    };
    if let Some((line, column)) = too_deep(text) {
        return Err(at(
            line,
            column,
            format!("nested deeper than {MAX_DEPTH} levels"),
        ));
    }
    let documents = MarkedYaml::load_from_str(text).map_err(|e| {
        at(
            e.marker().line(),
            e.marker().col() + 1,
            format!("not valid YAML: {}", e.info()),
        )
    })?;
    match documents.as_slice() {
        [root] => read(Node { file, yaml: root }),
        other => Err(at(
            1,
            1,
            format!("expected one YAML document, found {}", other.len()),
        )),
    }
}

/// First place where brackets or indentation could nest deeper than [`MAX_DEPTH`]: the parser's tree is dropped recursively, so the
/// bound is checked on the text, before there is a tree.
fn too_deep(text: &str) -> Option<(usize, usize)> {
    let mut brackets = 0usize;
    for (line_index, line) in text.lines().enumerate() {
        let leading = line.len() - line.trim_start_matches([' ', '-', '?', ':']).len();
        if leading > 4 * MAX_DEPTH {
            return Some((line_index + 1, leading + 1));
        }
        for (column_index, character) in line.chars().enumerate() {
            match character {
                '[' | '{' => brackets += 1,
                ']' | '}' => brackets = brackets.saturating_sub(1),
                _ => {}
            }
            if brackets > MAX_DEPTH {
                return Some((line_index + 1, column_index + 1));
            }
        }
    }
    None
}

impl<'a> Node<'a> {
    /// An error at this place.
    pub(crate) fn error(&self, message: impl Into<String>) -> ModelError {
        let start = self.yaml.span.start;
        ModelError::Catalogue {
            file: self.file.to_owned(),
            line: start.line().max(1),
            column: start.col() + 1,
            message: message.into(),
        }
    }

    fn kind(&self) -> String {
        match &self.yaml.data {
            YamlData::Value(Scalar::Null) => "nothing".into(),
            YamlData::Value(Scalar::Boolean(value)) => format!("the boolean {value}"),
            YamlData::Value(Scalar::Integer(value)) => format!("the number {value}"),
            YamlData::Value(Scalar::FloatingPoint(value)) => format!("the number {value}"),
            YamlData::Value(Scalar::String(value)) => format!("the text '{}'", shorten(value)),
            YamlData::Sequence(_) => "a list".into(),
            YamlData::Mapping(_) => "a mapping".into(),
            YamlData::Tagged(..) => "a tag".into(),
            YamlData::Alias(_) => "an alias".into(),
            YamlData::Representation(text, ..) => format!("'{}'", shorten(text)),
            YamlData::BadValue => "a value that contradicts its tag".into(),
        }
    }

    fn expected(&self, what: &str) -> ModelError {
        self.error(format!("expected {what}, found {}", self.kind()))
    }

    /// The entries of a mapping in file order, whatever their names.
    pub(crate) fn entries(&self) -> Result<Vec<(&'a str, Node<'a>, Node<'a>)>, ModelError> {
        let YamlData::Mapping(mapping) = &self.yaml.data else {
            return Err(self.expected("a mapping"));
        };
        mapping
            .iter()
            .map(|(key, value)| {
                let key = Node {
                    file: self.file,
                    yaml: key,
                };
                Ok((
                    key.text()?,
                    key,
                    Node {
                        file: self.file,
                        yaml: value,
                    },
                ))
            })
            .collect()
    }

    /// A mapping whose fields are all in `known`.
    pub(crate) fn fields(&self, known: &[&str]) -> Result<Fields<'a>, ModelError> {
        let mut by_name = BTreeMap::new();
        for (name, key, value) in self.entries()? {
            if !known.contains(&name) {
                return Err(key.error(format!(
                    "unknown field '{}'{}",
                    shorten(name),
                    did_you_mean(name, known.iter().copied())
                )));
            }
            by_name.insert(name, value);
        }
        Ok(Fields {
            parent: *self,
            by_name,
        })
    }

    /// A non-empty string.
    pub(crate) fn text(&self) -> Result<&'a str, ModelError> {
        match &self.yaml.data {
            YamlData::Value(Scalar::String(text)) if !text.is_empty() => Ok(text),
            YamlData::Value(Scalar::Integer(_) | Scalar::FloatingPoint(_) | Scalar::Boolean(_)) => {
                Err(self.error(format!(
                    "expected text, found {}: put it in quotes",
                    self.kind()
                )))
            }
            _ => Err(self.expected("text")),
        }
    }

    /// One of a fixed set of words.
    pub(crate) fn word<T: Copy>(&self, known: &[(&str, T)]) -> Result<T, ModelError> {
        let text = self.text()?;
        known
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| {
                let names = known.iter().map(|(name, _)| *name);
                let list = names.clone().collect::<Vec<_>>().join(", ");
                self.error(format!(
                    "'{}' is not one of {list}{}",
                    shorten(text),
                    did_you_mean(text, names)
                ))
            })
    }

    /// A whole number of at least 1.
    pub(crate) fn count(&self) -> Result<u64, ModelError> {
        match &self.yaml.data {
            YamlData::Value(Scalar::Integer(value)) => u64::try_from(*value)
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| self.expected("a number of at least 1")),
            _ => Err(self.expected("a whole number")),
        }
    }

    /// The items of a list that is not empty.
    pub(crate) fn items(&self) -> Result<Vec<Node<'a>>, ModelError> {
        match &self.yaml.data {
            YamlData::Sequence(items) if !items.is_empty() => Ok(items
                .iter()
                .map(|yaml| Node {
                    file: self.file,
                    yaml,
                })
                .collect()),
            _ => Err(self.expected("a list with at least one item")),
        }
    }

    /// The value as JSON, for parts whose shape somebody else defines (recipes, configurations).
    pub(crate) fn json(&self) -> Result<serde_json::Value, ModelError> {
        use serde_json::Value;
        Ok(match &self.yaml.data {
            YamlData::Value(Scalar::Null) => Value::Null,
            YamlData::Value(Scalar::Boolean(value)) => Value::Bool(*value),
            YamlData::Value(Scalar::Integer(value)) => Value::from(*value),
            YamlData::Value(Scalar::FloatingPoint(value)) => {
                serde_json::Number::from_f64(value.into_inner())
                    .map(Value::Number)
                    .ok_or_else(|| self.expected("a finite number"))?
            }
            YamlData::Value(Scalar::String(value)) => Value::String(value.to_string()),
            YamlData::Sequence(items) => {
                let items = items.iter().map(|yaml| {
                    Node {
                        file: self.file,
                        yaml,
                    }
                    .json()
                });
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            YamlData::Mapping(_) => {
                let entries = self
                    .entries()?
                    .into_iter()
                    .map(|(name, _, value)| Ok((name.to_owned(), value.json()?)));
                Value::Object(entries.collect::<Result<_, ModelError>>()?)
            }
            _ => return Err(self.expected("a plain value")),
        })
    }
}

impl<'a> Fields<'a> {
    /// The field, which must be there.
    pub(crate) fn required(&self, name: &str) -> Result<Node<'a>, ModelError> {
        self.optional(name)
            .ok_or_else(|| self.parent.error(format!("the field '{name}' is missing")))
    }

    /// The field, if it is there.
    pub(crate) fn optional(&self, name: &str) -> Option<Node<'a>> {
        self.by_name.get(name).copied()
    }
}

/// `"; did you mean 'x'?"` for the nearest of `known`, or nothing when none is near.
pub(crate) fn did_you_mean<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> String {
    // One typing mistake in three letters is the limit: beyond that a guess misleads.
    let limit = (word.chars().count() / 3).max(1);
    let near = |name: &&str| strsim::damerau_levenshtein(word, name);
    let begins = |name: &str| word.len() >= 3 && name.starts_with(word);
    let candidates: Vec<&str> = known.take(1000).collect();
    candidates
        .iter()
        .copied()
        .filter(|name| near(name) <= limit || begins(name))
        .min_by_key(near)
        .map_or_else(String::new, |name| format!("; did you mean '{name}'?"))
}

/// At most 60 characters of a text from outside, on one line.
fn shorten(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(60)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}
