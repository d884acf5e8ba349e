//! Reads the text of a `.msg` file, or of one part of a `.srv` file.
//!
//! Line by line, one declaration a line, as ROS 2 defines the format. A mistake is reported with file, line and
//! column (both from 1, columns in characters). `wstring` is refused: Fast-CDR writes four bytes a character and
//! Cyclone two, so no decoder can be right.

use thiserror::Error;

use super::{
    Base, Constant, Count, Definition, EMPTY_MEMBER, Field, Interface, Kind, Literal, Place,
    Scalar, Values,
};
use crate::limits::{
    MAX_CONSTANTS, MAX_DEFINITION_BYTES, MAX_FIELDS, MAX_MESSAGE_BYTES, MAX_NAME_CHARS,
};
use crate::names;

/// A `.msg` or `.srv` file that cannot be read.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{file}:{line}:{column}: {mistake}")]
pub struct DefinitionError {
    /// Which file, as `package/msg/Name.msg` or `package/srv/Name.srv`.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub mistake: Mistake,
}

/// What is wrong in a `.msg` or `.srv` file.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Mistake {
    /// More bytes than [`MAX_DEFINITION_BYTES`].
    #[error("{found} bytes, expected at most {MAX_DEFINITION_BYTES}")]
    TooLong {
        /// Bytes of the file.
        found: usize,
    },
    /// Bytes that are not text.
    #[error("expected UTF-8, found the byte {found:02x}")]
    Utf8 {
        /// The first wrong byte.
        found: u8,
    },
    /// Too many fields or constants.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Fields or constants.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// A name that ROS 2 does not allow.
    #[error("`{found}` is not a {what} name: expected {expected}")]
    Name {
        /// Package, message, field or constant.
        what: &'static str,
        /// The rule.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A type that cannot be read.
    #[error("`{found}` is not a type{hint}")]
    Type {
        /// What stands there.
        found: String,
        /// Empty, or `: ` and why.
        hint: String,
    },
    /// A type without a name after it.
    #[error("expected a name after the type `{after}`")]
    Nameless {
        /// The type.
        after: String,
    },
    /// A constant of an array or message type.
    #[error("a constant is a number, a truth value or a string, found type `{found}`")]
    ConstantType {
        /// The type.
        found: String,
    },
    /// A value that does not fit its type.
    #[error("expected a value of type `{expected}`, found `{found}`")]
    Value {
        /// Type of the field or constant.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The same name twice.
    #[error("`{name}` is declared twice, first on line {first_line}")]
    Twice {
        /// Field or constant.
        name: String,
        /// Where it stands first.
        first_line: usize,
    },
    /// A `.srv` file without a line `---`.
    #[error("expected a line `---` between request and response, found the end of the file")]
    Undivided,
    /// A `.srv` file with more than one.
    #[error("expected one line `---`, found a second one; the first is on line {first_line}")]
    DividedTwice {
        /// Where the first stands.
        first_line: usize,
    },
    /// `@enum` without `package/Name.field`.
    #[error("expected `@enum Name.field` or `@enum package/Name.field`, found `{found}`")]
    Annotation {
        /// What stands there.
        found: String,
    },
}

/// Reads the text of `folder/msg/name.msg`, where `folder` is the package with an optional `@variant`.
///
/// # Errors
/// A [`DefinitionError`] with line and column of the first mistake.
pub fn parse(folder: &str, name: &str, text: &str) -> Result<Definition, DefinitionError> {
    whole_file(folder, Interface::Message, name, text)
        .and_then(|()| {
            let place = Part {
                folder,
                interface: Interface::Message,
                name,
                first_line: 1,
            };
            read(&place, text)
        })
        .map_err(|failure| located(folder, Interface::Message, name, failure))
}

/// What is read: a whole `.msg` file, or the request or response of a `.srv` file.
pub(super) struct Part<'t> {
    /// Package with an optional `@variant`.
    pub(super) folder: &'t str,
    /// Kind of file.
    pub(super) interface: Interface,
    /// Message name, `Header` or `Trigger_Request`.
    pub(super) name: &'t str,
    /// Line of the file that the text starts at.
    pub(super) first_line: usize,
}

/// Reads the text of a part; [`whole_file`] comes first.
pub(super) fn read(part: &Part<'_>, text: &str) -> Result<Definition, Failure> {
    let mut parser = Parser::new(part, text);
    parser.run(text, part.first_line)?;
    Ok(parser.definition)
}

/// Checks size and names of a file.
pub(super) fn whole_file(
    folder: &str,
    interface: Interface,
    name: &str,
    text: &str,
) -> Result<(), Failure> {
    let at_start = |mistake| (1, 1, mistake);
    if text.len() > MAX_DEFINITION_BYTES {
        return Err(at_start(Mistake::TooLong { found: text.len() }));
    }
    check_package(folder.split('@').next().unwrap_or(folder)).map_err(at_start)?;
    let what = match interface {
        Interface::Message => "message",
        Interface::Service => "service",
    };
    let expected = "a capital, then letters and digits";
    check(names::is_message(name), what, expected, name).map_err(at_start)
}

/// Puts the file's name to a failure.
pub(super) fn located(
    folder: &str,
    interface: Interface,
    name: &str,
    (line, column, mistake): Failure,
) -> DefinitionError {
    let kind = interface.folder();
    DefinitionError {
        file: format!("{folder}/{kind}/{name}.{kind}"),
        line,
        column,
        mistake,
    }
}

/// The text of a file.
///
/// # Errors
/// A [`DefinitionError`] with line and column of the first byte that is not UTF-8.
pub(crate) fn text_of<'b>(
    folder: &str,
    interface: Interface,
    name: &str,
    bytes: &'b [u8],
) -> Result<&'b str, DefinitionError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let (before, after) = bytes.split_at(error.valid_up_to());
        let found = after.first().copied().unwrap_or(0);
        let before = String::from_utf8_lossy(before);
        let last = before.rsplit('\n').next().unwrap_or("");
        let line = before.matches('\n').count() + 1;
        let failure = (line, last.chars().count() + 1, Mistake::Utf8 { found });
        located(folder, interface, name, failure)
    })
}

/// Line, column, mistake.
pub(super) type Failure = (usize, usize, Mistake);

struct Parser {
    definition: Definition,
    /// Line of each name declared so far.
    lines: Vec<(String, usize)>,
    /// Index of the first constant after the last field.
    group_start: usize,
}

/// A piece of a line and the column it starts at.
#[derive(Clone, Copy)]
struct Piece<'t> {
    text: &'t str,
    column: usize,
}

impl<'t> Piece<'t> {
    /// The part after `bytes`, without leading blanks.
    fn after(self, bytes: usize) -> Self {
        let rest = &self.text[bytes..];
        let text = rest.trim_start();
        let skipped = self.text.len() - text.len();
        let column = self.column + self.text[..skipped].chars().count();
        Self { text, column }
    }

    /// The part up to the first character that `stop` accepts, and the rest.
    fn split(self, stop: impl Fn(char) -> bool) -> (Self, Self) {
        let end = self.text.find(stop).unwrap_or(self.text.len());
        let head = Self {
            text: &self.text[..end],
            column: self.column,
        };
        (head, self.after(end))
    }
}

impl Parser {
    fn new(part: &Part<'_>, text: &str) -> Self {
        let (package, variant) = match part.folder.split_once('@') {
            Some((package, variant)) => (package, Some(variant.to_owned())),
            None => (part.folder, None),
        };
        let definition = Definition {
            package: package.to_owned(),
            variant,
            interface: part.interface,
            name: part.name.to_owned(),
            fields: Vec::new(),
            constants: Vec::new(),
            comment: String::new(),
            text: text.to_owned(),
        };
        Self {
            definition,
            lines: Vec::new(),
            group_start: 0,
        }
    }

    fn run(&mut self, text: &str, first_line: usize) -> Result<(), Failure> {
        for (index, line) in text.lines().enumerate() {
            self.line(first_line + index, line.trim_end_matches('\r'))?;
        }
        if self.definition.fields.is_empty() {
            self.definition.fields.push(Field {
                name: EMPTY_MEMBER.to_owned(),
                kind: Kind {
                    base: Base::Scalar(Scalar::Uint8),
                    count: Count::One,
                },
                default: None,
                comment: String::new(),
                values: Values::Unnamed,
                place: Place::START,
            });
        }
        Ok(())
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), Failure> {
        let (code, comment) = split_comment(line);
        let whole = Piece {
            text: code,
            column: 1,
        }
        .after(0);
        if whole.text.trim_end().is_empty() {
            if self.lines.is_empty() && !comment.is_empty() {
                let so_far = &mut self.definition.comment;
                if !so_far.is_empty() {
                    so_far.push('\n');
                }
                so_far.push_str(comment);
            }
            return Ok(());
        }
        let (kind_text, rest) = whole.split(char::is_whitespace);
        let at = |piece: Piece<'_>, mistake| (number, piece.column, mistake);
        let kind = self.kind(kind_text.text).map_err(|m| at(kind_text, m))?;
        let (name, rest) = rest.split(|c: char| c.is_whitespace() || c == '=');
        if name.text.is_empty() {
            let after = kind_text.text.to_owned();
            return Err(at(rest, Mistake::Nameless { after }));
        }
        if let Some(first) = self.lines.iter().find(|(known, _)| known == name.text) {
            let (name_text, first_line) = first.clone();
            let mistake = Mistake::Twice {
                name: name_text,
                first_line,
            };
            return Err(at(name, mistake));
        }
        self.lines.push((name.text.to_owned(), number));
        if rest.text.starts_with('=') {
            let value = rest.after(1);
            check_constant(name.text).map_err(|m| at(name, m))?;
            self.constant(kind, name.text, value.text.trim_end())
                .map_err(|(on_value, m)| at(if on_value { value } else { kind_text }, m))
        } else {
            check_field(name.text).map_err(|m| at(name, m))?;
            let place = Place {
                line: number,
                column: kind_text.column,
            };
            self.field(kind, name.text, rest.text.trim_end(), comment, place)
                .map_err(|m| at(rest, m))
        }
    }

    /// Adds a constant; on failure says whether the value (or else the type) is wrong.
    fn constant(&mut self, kind: Kind, name: &str, value: &str) -> Result<(), (bool, Mistake)> {
        if self.definition.constants.len() >= MAX_CONSTANTS {
            let mistake = Mistake::TooMany {
                what: "constants",
                limit: MAX_CONSTANTS,
            };
            return Err((false, mistake));
        }
        if kind.count != Count::One || matches!(kind.base, Base::Message(_)) {
            let found = kind.to_string();
            return Err((false, Mistake::ConstantType { found }));
        }
        let value = literal(&kind, value).map_err(|m| (true, m))?;
        self.definition.constants.push(Constant {
            name: name.to_owned(),
            base: kind.base,
            value,
        });
        Ok(())
    }

    fn field(
        &mut self,
        kind: Kind,
        name: &str,
        default: &str,
        comment: &str,
        place: Place,
    ) -> Result<(), Mistake> {
        if self.definition.fields.len() >= MAX_FIELDS {
            return Err(Mistake::TooMany {
                what: "fields",
                limit: MAX_FIELDS,
            });
        }
        let default = match default {
            "" => None,
            text => Some(literal(&kind, text)?),
        };
        let values = self.values(&kind, comment)?;
        self.group_start = self.definition.constants.len();
        self.definition.fields.push(Field {
            name: name.to_owned(),
            kind,
            default,
            comment: comment.to_owned(),
            values,
            place,
        });
        Ok(())
    }

    /// The names of a field's values: an annotation, or the constants of its type right before it.
    fn values(&self, kind: &Kind, comment: &str) -> Result<Values, Mistake> {
        let Base::Scalar(scalar) = kind.base else {
            return Ok(Values::Unnamed);
        };
        if kind.count != Count::One || scalar.range().is_none() {
            return Ok(Values::Unnamed);
        }
        if let Some((_, annotation)) = comment.split_once("@enum ") {
            let found = annotation.split_whitespace().next().unwrap_or("");
            let Some((type_name, field)) = found.split_once('.') else {
                let found = found.to_owned();
                return Err(Mistake::Annotation { found });
            };
            return Ok(Values::Of {
                type_name: self.full_name(type_name),
                field: field.to_owned(),
            });
        }
        let constants = &self.definition.constants;
        let group = &constants[self.group_start..];
        let same = group
            .iter()
            .rev()
            .take_while(|c| c.base == kind.base)
            .count();
        Ok(match same {
            0 => Values::Unnamed,
            _ => Values::Here(constants.len() - same..constants.len()),
        })
    }

    /// `Name`, `package/Name` or `package/msg/Name` as `package/msg/Name`.
    fn full_name(&self, name: &str) -> String {
        match name.rsplit_once('/') {
            None => format!("{}/msg/{name}", self.definition.package),
            Some((package, name)) => {
                format!(
                    "{}/msg/{name}",
                    package.strip_suffix("/msg").unwrap_or(package)
                )
            }
        }
    }

    fn kind(&self, text: &str) -> Result<Kind, Mistake> {
        let wrong = |hint: &str| Mistake::Type {
            found: text.to_owned(),
            hint: if hint.is_empty() {
                String::new()
            } else {
                format!(": {hint}")
            },
        };
        let (element, count) = match text.split_once('[') {
            None => (text, Count::One),
            Some((element, inside)) => {
                let inside = inside
                    .strip_suffix(']')
                    .ok_or_else(|| wrong("missing `]`"))?;
                (
                    element,
                    count(inside).ok_or_else(|| wrong("the size is a number from 1"))?,
                )
            }
        };
        let base = if let Some(scalar) = Scalar::named(element) {
            Base::Scalar(scalar)
        } else if element == "string" {
            Base::Text(None)
        } else if let Some(bound) = element.strip_prefix("string<=") {
            let bound = size(bound).ok_or_else(|| wrong("the bound is a number from 1"))?;
            Base::Text(Some(bound))
        } else if element.starts_with("wstring") {
            return Err(wrong(
                "ROS 2 implementations disagree about the bytes of a wstring",
            ));
        } else {
            let full = self.full_name(element);
            let mut parts = full.split('/');
            let (package, _, name) = (parts.next(), parts.next(), parts.next());
            let valid = package.is_some_and(names::is_package)
                && name.is_some_and(names::is_message)
                && parts.next().is_none();
            if !valid {
                return Err(wrong(&names::did_you_mean(element, TYPE_NAMES)));
            }
            Base::Message(full)
        };
        Ok(Kind { base, count })
    }
}

/// What an unknown lower-case type is compared with.
const TYPE_NAMES: [&str; 14] = [
    "bool", "byte", "char", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
    "uint64", "float32", "float64", "string",
];

fn count(inside: &str) -> Option<Count> {
    if inside.is_empty() {
        return Some(Count::Unbounded);
    }
    match inside.strip_prefix("<=") {
        Some(bound) => size(bound).map(Count::Bounded),
        None => size(inside).map(Count::Array),
    }
}

fn size(text: &str) -> Option<usize> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|&n| digits && (1..=MAX_MESSAGE_BYTES).contains(&n))
}

/// Code and comment of a line; `#` within quotes is code.
fn split_comment(line: &str) -> (&str, &str) {
    let mut quote = None;
    let mut escaped = false;
    for (index, c) in line.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '#') => return (&line[..index], line[index + 1..].trim()),
            (None, _) => {}
        }
    }
    // An apostrophe in a comment after an unquoted string constant would hide the `#`: without a closing quote, the
    // first `#` starts the comment.
    match line.find('#') {
        Some(index) if quote.is_some() => (&line[..index], line[index + 1..].trim()),
        _ => (line, ""),
    }
}

/// Reads a default or constant of type `kind`.
fn literal(kind: &Kind, text: &str) -> Result<Literal, Mistake> {
    let wrong = || Mistake::Value {
        expected: kind.to_string(),
        found: text.to_owned(),
    };
    if kind.count == Count::One {
        return element(&kind.base, text).ok_or_else(wrong);
    }
    let inside = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .ok_or_else(wrong)?;
    let mut list = Vec::new();
    for item in split_list(inside) {
        list.push(element(&kind.base, item).ok_or_else(wrong)?);
    }
    let fits = match kind.count {
        Count::Array(count) => list.len() == count,
        Count::Bounded(bound) => list.len() <= bound,
        Count::One | Count::Unbounded => true,
    };
    if fits {
        Ok(Literal::List(list))
    } else {
        Err(wrong())
    }
}

/// The items of a list, split at commas outside quotes.
fn split_list(inside: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let (mut start, mut quote) = (0, None);
    for (index, c) in inside.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, ',') => {
                items.push(inside[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
    }
    let last = inside[start..].trim();
    if !last.is_empty() {
        items.push(last);
    }
    items
}

fn element(base: &Base, text: &str) -> Option<Literal> {
    match base {
        Base::Message(_) => None,
        Base::Text(bound) => {
            let value = unquote(text)?;
            bound
                .is_none_or(|b| value.len() <= b)
                .then_some(Literal::Text(value))
        }
        Base::Scalar(Scalar::Bool) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(Literal::Bool(true)),
            "false" | "0" => Some(Literal::Bool(false)),
            _ => None,
        },
        Base::Scalar(scalar) => match scalar.range() {
            Some((low, high)) => {
                let value = integer(text)?;
                (low..=high)
                    .contains(&value)
                    .then_some(Literal::Integer(value))
            }
            None => text.parse::<f64>().ok().map(Literal::Float),
        },
    }
}

/// Decimal, or `0x`, `0o`, `0b` as in ROS 2's own generator.
fn integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let parsed = match digits.get(..2) {
        Some("0x" | "0X") => i128::from_str_radix(&digits[2..], 16),
        Some("0o" | "0O") => i128::from_str_radix(&digits[2..], 8),
        Some("0b" | "0B") => i128::from_str_radix(&digits[2..], 2),
        _ => digits.parse(),
    };
    parsed.ok().and_then(|value| value.checked_mul(sign))
}

/// A string with or without quotes.
fn unquote(text: &str) -> Option<String> {
    for quote in ['"', '\''] {
        let Some(rest) = text.strip_prefix(quote) else {
            continue;
        };
        let inside = rest.strip_suffix(quote)?;
        return Some(inside.replace(&format!("\\{quote}"), &quote.to_string()));
    }
    Some(text.to_owned())
}

fn check(
    valid: bool,
    what: &'static str,
    expected: &'static str,
    found: &str,
) -> Result<(), Mistake> {
    if valid && found.len() <= MAX_NAME_CHARS {
        return Ok(());
    }
    let found = found.chars().take(MAX_NAME_CHARS).collect();
    Err(Mistake::Name {
        what,
        expected,
        found,
    })
}

fn check_package(name: &str) -> Result<(), Mistake> {
    let expected = "lower case letters, digits and single underscores";
    check(names::is_package(name), "package", expected, name)
}

fn check_field(name: &str) -> Result<(), Mistake> {
    let expected = "lower case letters, digits and single underscores";
    check(names::is_field(name), "field", expected, name)
}

fn check_constant(name: &str) -> Result<(), Mistake> {
    let expected = "upper case letters, digits and single underscores";
    check(names::is_constant(name), "constant", expected, name)
}
