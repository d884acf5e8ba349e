//! A message definition: what a `.msg` file, or one part of a `.srv` file, says, as data.
//!
//! Everything the crate knows about a type follows from its definition: the generated Rust structs, the type hash,
//! the dynamic decoder and the JSON form. [`parse`] reads a `.msg` text, [`parse_service`] a `.srv` text, which makes three
//! messages; [`crate::registry::Registry`] resolves the types that fields refer to.
//!
//! ```text
//! # comment                            full line, or after a field: documents it
//! uint8 STOP=1                         constant; integer constants right before a field of the same type name its values
//! uint8 intent
//! uint8 action  # @enum PlannerAdvice.action     or the values are those of a field elsewhere
//! float64 w 1                          default value
//! string<=256 destination              bounded string
//! SceneObject[<=32] objects            bounded sequence; [] unbounded; [36] fixed array
//! ```

use std::fmt;

mod parse;
mod service;

pub(crate) use parse::text_of;
pub use parse::{DefinitionError, Mistake, parse};
pub use service::{ServiceDefinition, parse_service};

/// Where a message is defined, which is part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// In a file of its own, `msg/Name.msg`.
    Message,
    /// As the request, the response or the event of `srv/Name.srv`.
    Service,
}

impl Interface {
    /// The folder of such files, which is also the middle of the type name, and their extension: `msg` or `srv`.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Message => "msg",
            Self::Service => "srv",
        }
    }
}

/// What a `.msg` file says, or one part of a `.srv` file.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// ROS package, `std_msgs`.
    pub package: String,
    /// Which of several packages with the same name; `None` for the usual one.
    pub variant: Option<String>,
    /// Where it is defined.
    pub interface: Interface,
    /// Message name, `Header` or `Trigger_Request`.
    pub name: String,
    /// Fields in wire order. Never empty: see [`Definition::is_empty`].
    pub fields: Vec<Field>,
    /// Constants in file order.
    pub constants: Vec<Constant>,
    /// Comment lines before the first field or constant.
    pub comment: String,
    /// The text it was parsed from.
    pub text: String,
}

/// Name of the one byte that stands in a message without fields.
pub const EMPTY_MEMBER: &str = "structure_needs_at_least_one_member";

impl Definition {
    /// Name on the wire, `std_msgs/msg/Header` or `std_srvs/srv/Trigger_Request`.
    #[must_use]
    pub fn type_name(&self) -> String {
        format!("{}/{}/{}", self.package, self.interface.folder(), self.name)
    }

    /// Name in a registry: the type name, with `@variant` after the package where there is one.
    #[must_use]
    pub fn id(&self) -> String {
        format!(
            "{}/{}/{}",
            self.folder(),
            self.interface.folder(),
            self.name
        )
    }

    /// The file it stands in, `std_msgs/msg/Header.msg` or `std_srvs/srv/Trigger.srv`.
    #[must_use]
    pub fn file(&self) -> String {
        let kind = self.interface.folder();
        let name = match self.interface {
            Interface::Message => self.name.as_str(),
            Interface::Service => self.name.split('_').next().unwrap_or(""),
        };
        format!("{}/{kind}/{name}.{kind}", self.folder())
    }

    /// True for the event of a service, which no file declares and for which there is no Rust struct.
    #[must_use]
    pub fn is_event(&self) -> bool {
        self.interface == Interface::Service && self.name.ends_with("_Event")
    }

    /// Folder of the package, `std_msgs` or `audio_common_msgs@ros-drivers`.
    #[must_use]
    pub fn folder(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{}@{variant}", self.package),
            None => self.package.clone(),
        }
    }

    /// True if the file has no fields. The wire then carries one byte, and so does the type hash.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.fields.as_slice(), [only] if only.name == EMPTY_MEMBER)
    }
}

/// One field.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Name, `frame_id`.
    pub name: String,
    /// Element type and how many.
    pub kind: Kind,
    /// Value when nobody sets one.
    pub default: Option<Literal>,
    /// Comment after the field.
    pub comment: String,
    /// Names of its values.
    pub values: Values,
    /// Where it stands in the file; 1:1 for a field that no file declares.
    pub place: Place,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Place {
    /// The beginning of the file.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Where the names of an integer field's values stand.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Plain numbers.
    Unnamed,
    /// The constants of this message with these indices.
    Here(std::ops::Range<usize>),
    /// Those of another message's field: `@enum package/Name.field`.
    Of {
        /// Type name on the wire.
        type_name: String,
        /// Field of that type.
        field: String,
    },
}

/// One constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Name, `STOP`.
    pub name: String,
    /// Its type: never a message.
    pub base: Base,
    /// Its value, checked against the type.
    pub value: Literal,
}

/// The type of a field: an element, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Element.
    pub base: Base,
    /// How many.
    pub count: Count,
}

/// The type of one element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// A number or truth value.
    Scalar(Scalar),
    /// Text, with the most bytes it may have.
    Text(Option<usize>),
    /// Another message, by its name on the wire.
    Message(String),
}

/// How many elements a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// One.
    One,
    /// Exactly so many, no length on the wire.
    Array(usize),
    /// At most so many, length on the wire.
    Bounded(usize),
    /// Any number, length on the wire.
    Unbounded,
}

/// The scalar types of ROS 2. `byte` and `char` are unsigned bytes on the wire; only the type hash tells `byte` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// `bool`: one byte, not 0 is true.
    Bool,
    /// `byte`.
    Byte,
    /// `char`.
    Char,
    /// `int8`.
    Int8,
    /// `uint8`.
    Uint8,
    /// `int16`.
    Int16,
    /// `uint16`.
    Uint16,
    /// `int32`.
    Int32,
    /// `uint32`.
    Uint32,
    /// `int64`.
    Int64,
    /// `uint64`.
    Uint64,
    /// `float32`.
    Float32,
    /// `float64`.
    Float64,
}

/// ROS name of every scalar.
const SCALARS: [(Scalar, &str); 13] = [
    (Scalar::Bool, "bool"),
    (Scalar::Byte, "byte"),
    (Scalar::Char, "char"),
    (Scalar::Int8, "int8"),
    (Scalar::Uint8, "uint8"),
    (Scalar::Int16, "int16"),
    (Scalar::Uint16, "uint16"),
    (Scalar::Int32, "int32"),
    (Scalar::Uint32, "uint32"),
    (Scalar::Int64, "int64"),
    (Scalar::Uint64, "uint64"),
    (Scalar::Float32, "float32"),
    (Scalar::Float64, "float64"),
];

impl Scalar {
    /// The scalar of that ROS name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        SCALARS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// ROS name.
    #[must_use]
    pub fn name(self) -> &'static str {
        SCALARS
            .iter()
            .find(|row| row.0 == self)
            .map_or("", |row| row.1)
    }

    /// Bytes on the wire, which is also the alignment.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Bool | Self::Byte | Self::Char | Self::Int8 | Self::Uint8 => 1,
            Self::Int16 | Self::Uint16 => 2,
            Self::Int32 | Self::Uint32 | Self::Float32 => 4,
            Self::Int64 | Self::Uint64 | Self::Float64 => 8,
        }
    }

    /// True for the three types that are an unsigned byte.
    #[must_use]
    pub fn is_octet(self) -> bool {
        matches!(self, Self::Byte | Self::Char | Self::Uint8)
    }

    /// Smallest and largest value of an integer type.
    #[must_use]
    pub fn range(self) -> Option<(i128, i128)> {
        Some(match self {
            Self::Byte | Self::Char | Self::Uint8 => (0, u8::MAX.into()),
            Self::Int8 => (i8::MIN.into(), i8::MAX.into()),
            Self::Int16 => (i16::MIN.into(), i16::MAX.into()),
            Self::Uint16 => (0, u16::MAX.into()),
            Self::Int32 => (i32::MIN.into(), i32::MAX.into()),
            Self::Uint32 => (0, u32::MAX.into()),
            Self::Int64 => (i64::MIN.into(), i64::MAX.into()),
            Self::Uint64 => (0, u64::MAX.into()),
            Self::Bool | Self::Float32 | Self::Float64 => return None,
        })
    }
}

/// A value written in a definition.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `true`, `false`, `1`, `0` for a `bool`.
    Bool(bool),
    /// For an integer type, in its range.
    Integer(i128),
    /// For a float type.
    Float(f64),
    /// For a string.
    Text(String),
    /// For an array or sequence.
    List(Vec<Literal>),
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(scalar) => f.write_str(scalar.name()),
            Self::Text(None) => f.write_str("string"),
            Self::Text(Some(bound)) => write!(f, "string<={bound}"),
            Self::Message(name) => f.write_str(&name.replacen("/msg/", "/", 1)),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.base.fmt(f)?;
        match self.count {
            Count::One => Ok(()),
            Count::Array(count) => write!(f, "[{count}]"),
            Count::Bounded(bound) => write!(f, "[<={bound}]"),
            Count::Unbounded => f.write_str("[]"),
        }
    }
}
