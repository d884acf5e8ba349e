//! TensorFlow's GraphDef as prost structs: the fields a frozen inference graph needs, with the numbers of `graph.proto`,
//! `node_def.proto`, `attr_value.proto`, `tensor.proto`, `tensor_shape.proto` and `types.proto` (TensorFlow 1.15, unchanged since).
//!
//! GraphDef itself is not here: [`crate::tensorflow`] walks it node by node, so that the number of nodes is checked before they
//! are allocated.

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};

/// One operation.
#[derive(Clone, PartialEq, Message)]
pub struct NodeDef {
    /// Unique name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Operation, as "Conv2D".
    #[prost(string, tag = "2")]
    pub op: String,
    /// Inputs: "node", "node:1", or "^node" for order only.
    #[prost(string, repeated, tag = "3")]
    pub input: Vec<String>,
    /// Attributes by name.
    #[prost(btree_map = "string, message", tag = "5")]
    pub attr: BTreeMap<String, AttrValue>,
}

/// An attribute's value.
#[derive(Clone, PartialEq, Message)]
pub struct AttrValue {
    /// Which value.
    #[prost(oneof = "AttrKind", tags = "1, 2, 3, 4, 5, 6, 8")]
    pub value: Option<AttrKind>,
}

/// The kinds of attribute that are read.
#[derive(Clone, PartialEq, Oneof)]
pub enum AttrKind {
    /// A list.
    #[prost(message, tag = "1")]
    List(ListValue),
    /// A string.
    #[prost(bytes = "vec", tag = "2")]
    Bytes(Vec<u8>),
    /// An integer.
    #[prost(int64, tag = "3")]
    Int(i64),
    /// A float.
    #[prost(float, tag = "4")]
    Float(f32),
    /// A truth value.
    #[prost(bool, tag = "5")]
    Bool(bool),
    /// A [`DataType`].
    #[prost(enumeration = "DataType", tag = "6")]
    Type(i32),
    /// A constant.
    #[prost(message, tag = "8")]
    Tensor(TensorProto),
}

/// A list attribute; only lists of integers are read (strides, axes).
#[derive(Clone, PartialEq, Message)]
pub struct ListValue {
    /// Integers.
    #[prost(int64, repeated, tag = "3")]
    pub i: Vec<i64>,
}

/// A constant: `tensor_content` (little-endian, row-major), or the typed lists, where a short list repeats its last element.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Element type.
    #[prost(enumeration = "DataType", tag = "1")]
    pub dtype: i32,
    /// Shape.
    #[prost(message, optional, tag = "2")]
    pub tensor_shape: Option<TensorShapeProto>,
    /// All elements as bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub tensor_content: Vec<u8>,
    /// Elements of f32.
    #[prost(float, repeated, tag = "5")]
    pub float_val: Vec<f32>,
    /// Elements of i32 and smaller.
    #[prost(int32, repeated, tag = "7")]
    pub int_val: Vec<i32>,
    /// Elements of i64.
    #[prost(int64, repeated, tag = "10")]
    pub int64_val: Vec<i64>,
}

/// A shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Dimensions.
    #[prost(message, repeated, tag = "2")]
    pub dim: Vec<Dim>,
}

/// One dimension.
#[derive(Clone, PartialEq, Message)]
pub struct Dim {
    /// Size; −1 if unknown.
    #[prost(int64, tag = "1")]
    pub size: i64,
}

/// Element types read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum DataType {
    /// Not given.
    Invalid = 0,
    /// f32.
    Float = 1,
    /// i32.
    Int32 = 3,
    /// u8.
    Uint8 = 4,
    /// i64.
    Int64 = 9,
    /// bool.
    Bool = 10,
}
