//! ONNX model files as prost structs: the fields the forge writes and those it must not lose when it reads a file of somebody else,
//! with the numbers of `onnx.proto3` (ONNX 1.16, IR version 10).
//!
//! Messages that are only passed on (functions, sparse tensors, types other than tensors) are kept as their bytes: on the wire a
//! message and a byte string are the same.
//!
//! Scalars that may be zero and still mean something (an attribute's `i = 0`) are `optional`, because readers built from the
//! proto2 form of the file ask whether the field is there at all.
//!
//! ```text
//!   ModelProto ── GraphProto ─┬─ NodeProto ── AttributeProto
//!                             ├─ TensorProto (initializer; inline, or location + offset + length in an external file)
//!                             └─ ValueInfoProto (input, output) ── TypeProto ── TensorShapeProto
//! ```

use prost::{Enumeration, Message, Oneof};

/// A whole model file.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the file format (IR).
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// Program that wrote the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets the nodes refer to.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Free key-value pairs.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
    /// Operators described by graphs, as bytes.
    #[prost(bytes = "vec", repeated, tag = "25")]
    pub functions: Vec<Vec<u8>>,
}

/// An operator set: domain (empty for ai.onnx) and version.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Domain.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// Nodes in topological order, their constants, inputs and outputs.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// Nodes, each after those it reads from.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Name of the graph.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Constants.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// What the caller gives.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// What the caller gets.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// Types of values in between.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
    /// Sparse constants, as bytes.
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub sparse_initializer: Vec<Vec<u8>>,
}

/// One operator call.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of values read; an empty name leaves an optional input out.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of values written; an empty name drops an optional output.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Name of the node, unique in the graph.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Its attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Operator set; empty for ai.onnx.
    #[prost(string, tag = "7")]
    pub domain: String,
    /// Which of several functions of one name is meant.
    #[prost(string, tag = "8")]
    pub overload: String,
}

/// A named constant parameter of a node; `kind` says which of the value fields is meant.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value of a `Float`.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// Value of an `Int`.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// Value of a `String`.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    /// Value of a `Tensor`.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// Value of a `Graph`: a body that may read values of the graph around it.
    #[prost(message, optional, tag = "6")]
    pub g: Option<GraphProto>,
    /// Value of `Floats`.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// Value of `Ints`.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// Value of `Strings`.
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub strings: Vec<Vec<u8>>,
    /// Value of `Tensors`.
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<TensorProto>,
    /// Value of `Graphs`.
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<GraphProto>,
    /// Value of a `TypeProto`, as bytes.
    #[prost(bytes = "vec", optional, tag = "14")]
    pub tp: Option<Vec<u8>>,
    /// Value of `TypeProtos`, as bytes.
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub type_protos: Vec<Vec<u8>>,
    /// Which value is meant.
    #[prost(enumeration = "AttributeType", tag = "20")]
    pub kind: i32,
    /// Inside a function: the attribute of the call that is meant.
    #[prost(string, tag = "21")]
    pub ref_attr_name: String,
    /// Value of a `SparseTensor`, as bytes.
    #[prost(bytes = "vec", optional, tag = "22")]
    pub sparse_tensor: Option<Vec<u8>>,
    /// Value of `SparseTensors`, as bytes.
    #[prost(bytes = "vec", repeated, tag = "23")]
    pub sparse_tensors: Vec<Vec<u8>>,
}

/// Kind of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AttributeType {
    /// Not given.
    Undefined = 0,
    /// One float.
    Float = 1,
    /// One integer.
    Int = 2,
    /// Bytes.
    String = 3,
    /// A constant tensor.
    Tensor = 4,
    /// A graph.
    Graph = 5,
    /// List of floats.
    Floats = 6,
    /// List of integers.
    Ints = 7,
    /// List of byte strings.
    Strings = 8,
    /// List of tensors.
    Tensors = 9,
    /// List of graphs.
    Graphs = 10,
    /// A sparse tensor.
    SparseTensor = 11,
    /// List of sparse tensors.
    SparseTensors = 12,
    /// A type.
    TypeProto = 13,
    /// List of types.
    TypeProtos = 14,
}

/// A constant tensor: inline in `raw_data` (little-endian, row-major), in one of the typed lists, or in an external file. The forge
/// writes `raw_data` or external ones.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Shape.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// Element type, a [`DataType`].
    #[prost(enumeration = "DataType", tag = "2")]
    pub data_type: i32,
    /// Elements of f32 and complex64.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Elements of i32 and all smaller types; two 4-bit values in each.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// Elements that are strings.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub string_data: Vec<Vec<u8>>,
    /// Elements of i64.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Elements of f64 and complex128.
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// Elements of u32 and u64.
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    /// Elements, if inline.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
    /// `location`, `offset`, `length`, if external.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// Inline or external.
    #[prost(enumeration = "DataLocation", optional, tag = "14")]
    pub data_location: Option<i32>,
}

/// Element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum DataType {
    /// Not given.
    Undefined = 0,
    /// f32.
    Float = 1,
    /// u8.
    Uint8 = 2,
    /// i8.
    Int8 = 3,
    /// u16.
    Uint16 = 4,
    /// i16.
    Int16 = 5,
    /// i32.
    Int32 = 6,
    /// i64.
    Int64 = 7,
    /// Text.
    String = 8,
    /// A byte that is 0 or 1.
    Bool = 9,
    /// IEEE half precision.
    Float16 = 10,
    /// f64.
    Double = 11,
    /// u32.
    Uint32 = 12,
    /// u64.
    Uint64 = 13,
    /// Two f32.
    Complex64 = 14,
    /// Two f64.
    Complex128 = 15,
    /// The upper half of an f32.
    Bfloat16 = 16,
    /// 8 bits, 4 of exponent, no infinity.
    Float8E4M3Fn = 17,
    /// The same without a negative zero.
    Float8E4M3FnUz = 18,
    /// 8 bits, 5 of exponent.
    Float8E5M2 = 19,
    /// The same without a negative zero.
    Float8E5M2FnUz = 20,
    /// 4 bits, two in a byte, lower half first.
    Uint4 = 21,
    /// 4 bits, two in a byte, lower half first.
    Int4 = 22,
    /// 4 bits, 2 of exponent, two in a byte.
    Float4E2M1 = 23,
    /// 8 bits of exponent.
    Float8E8M0 = 24,
}

impl DataType {
    /// Bits of an element; `None` for text, which has no fixed size, and for a type that is not given.
    #[must_use]
    pub fn bits(self) -> Option<u64> {
        match self {
            DataType::Undefined | DataType::String => None,
            DataType::Uint4 | DataType::Int4 | DataType::Float4E2M1 => Some(4),
            DataType::Uint8
            | DataType::Int8
            | DataType::Bool
            | DataType::Float8E4M3Fn
            | DataType::Float8E4M3FnUz
            | DataType::Float8E5M2
            | DataType::Float8E5M2FnUz
            | DataType::Float8E8M0 => Some(8),
            DataType::Uint16 | DataType::Int16 | DataType::Float16 | DataType::Bfloat16 => Some(16),
            DataType::Float | DataType::Int32 | DataType::Uint32 => Some(32),
            DataType::Double | DataType::Int64 | DataType::Uint64 | DataType::Complex64 => Some(64),
            DataType::Complex128 => Some(128),
        }
    }
}

/// Where a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum DataLocation {
    /// In the tensor itself.
    Inline = 0,
    /// In another file of the same folder.
    External = 1,
}

/// A key and its value.
#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Name and type of a graph's input or output.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// A type; those that are not dense tensors are only passed on.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// Which type.
    #[prost(oneof = "TypeValue", tags = "1, 4, 5, 8, 9")]
    pub value: Option<TypeValue>,
    /// What the value means, such as `IMAGE`.
    #[prost(string, tag = "6")]
    pub denotation: String,
}

/// The kinds of type used.
#[derive(Clone, PartialEq, Oneof)]
pub enum TypeValue {
    /// A dense tensor.
    #[prost(message, tag = "1")]
    Tensor(TensorTypeProto),
    /// A sequence, as bytes.
    #[prost(bytes = "vec", tag = "4")]
    Sequence(Vec<u8>),
    /// A map, as bytes.
    #[prost(bytes = "vec", tag = "5")]
    Map(Vec<u8>),
    /// A sparse tensor, as bytes.
    #[prost(bytes = "vec", tag = "8")]
    SparseTensor(Vec<u8>),
    /// Something or nothing, as bytes.
    #[prost(bytes = "vec", tag = "9")]
    Optional(Vec<u8>),
}

/// Element type and shape of a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// Element type, a [`DataType`].
    #[prost(enumeration = "DataType", tag = "1")]
    pub elem_type: i32,
    /// Shape; absent if not even the rank is known.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Dimensions; none for a scalar.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// One dimension.
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// Size or name.
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub value: Option<DimensionValue>,
    /// What the dimension means, such as `DATA_BATCH`.
    #[prost(string, tag = "3")]
    pub denotation: String,
}

/// A dimension's size, or a name for a size known at run time.
#[derive(Clone, PartialEq, Oneof)]
pub enum DimensionValue {
    /// Fixed size.
    #[prost(int64, tag = "1")]
    Size(i64),
    /// Name of a size.
    #[prost(string, tag = "2")]
    Symbol(String),
}
