//! A frozen TensorFlow graph: nodes by name, with their constants.
//!
//! The file is one protobuf message, GraphDef, whose field 1 is a node. It is walked here node by node instead of decoded at
//! once, so that the number of nodes and the size of each are known before anything is allocated for them. A constant's shape is
//! checked against its bytes when it is asked for.

use std::collections::BTreeMap;

use prost::Message;

use crate::proto::tensorflow::{AttrKind, DataType, NodeDef, TensorProto};

/// Largest file accepted.
pub const MAX_FILE_BYTES: usize = 1 << 30;
/// Most nodes; a detector with its post-processing has about 8,000.
pub const MAX_NODES: usize = 65_536;
/// Most elements of a constant.
pub const MAX_ELEMENTS: usize = 1 << 28;
/// Most dimensions of a constant.
pub const MAX_RANK: usize = 8;

/// Field number of a node in GraphDef.
const NODE_FIELD: u64 = 1;

/// What is wrong with a GraphDef, and where.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GraphDefError {
    /// The file, or the number of its nodes, is beyond its limit.
    #[error("{what}: expected at most {limit}, found {found}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// The value.
        found: usize,
    },
    /// Not a protobuf message.
    #[error("byte {offset}: {what}")]
    Wire {
        /// Where.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// A node that does not decode.
    #[error("node {index}: {message}")]
    Node {
        /// Its number in the file.
        index: usize,
        /// The decoder's words.
        message: String,
    },
    /// Two nodes of one name.
    #[error("node {name} occurs twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A node that is named and not there.
    #[error("node {name} is missing")]
    Missing {
        /// The name.
        name: String,
    },
    /// An attribute that is absent or of another type.
    #[error("node {node}: attribute {attribute} is not {expected}")]
    Attribute {
        /// The node.
        node: String,
        /// The attribute.
        attribute: &'static str,
        /// What is needed.
        expected: &'static str,
    },
    /// A constant of another type, or whose elements do not fit its shape.
    #[error("constant {node}: expected {expected}, found {found}")]
    Constant {
        /// The node.
        node: String,
        /// What is needed.
        expected: String,
        /// What there is.
        found: String,
    },
}

/// A checked graph.
#[derive(Debug)]
pub struct GraphDef {
    nodes: BTreeMap<String, NodeDef>,
}

impl GraphDef {
    /// Reads all nodes.
    ///
    /// # Errors
    /// [`GraphDefError`] names the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<GraphDef, GraphDefError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(GraphDefError::Limit {
                what: "file bytes",
                limit: MAX_FILE_BYTES,
                found: bytes.len(),
            });
        }
        let mut nodes = BTreeMap::new();
        let mut wire = Wire { bytes, offset: 0 };
        let mut index = 0;
        while wire.offset < bytes.len() {
            let Some(node) = wire.field()? else { continue };
            if index == MAX_NODES {
                return Err(GraphDefError::Limit {
                    what: "nodes",
                    limit: MAX_NODES,
                    found: index + 1,
                });
            }
            let node = NodeDef::decode(node).map_err(|error| GraphDefError::Node {
                index,
                message: error.to_string(),
            })?;
            if let Some(old) = nodes.insert(node.name.clone(), node) {
                return Err(GraphDefError::Duplicate { name: old.name });
            }
            index += 1;
        }
        Ok(GraphDef { nodes })
    }

    /// A node by name.
    ///
    /// # Errors
    /// [`GraphDefError::Missing`].
    pub fn node(&self, name: &str) -> Result<&NodeDef, GraphDefError> {
        self.nodes.get(name).ok_or_else(|| GraphDefError::Missing {
            name: name.to_string(),
        })
    }
}

/// Protobuf's outermost layer: keys and lengths.
struct Wire<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Wire<'a> {
    /// The next field: a node's bytes, or `None` for a field that is skipped.
    fn field(&mut self) -> Result<Option<&'a [u8]>, GraphDefError> {
        let key = self.varint()?;
        match key & 7 {
            0 => self.varint().map(|_| None),
            1 => self.take(8).map(|_| None),
            2 => {
                let length = self.varint()?;
                let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
                Ok((key >> 3 == NODE_FIELD).then_some(bytes))
            }
            5 => self.take(4).map(|_| None),
            _ => Err(GraphDefError::Wire {
                offset: self.offset,
                what: "unknown wire type",
            }),
        }
    }

    fn varint(&mut self) -> Result<u64, GraphDefError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(GraphDefError::Wire {
            offset: self.offset,
            what: "integer of more than ten bytes",
        })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], GraphDefError> {
        let end = self
            .offset
            .checked_add(count)
            .filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            return Err(GraphDefError::Wire {
                offset: self.offset,
                what: "field longer than the file",
            });
        };
        let taken = &self.bytes[self.offset..end];
        self.offset = end;
        Ok(taken)
    }
}

impl NodeDef {
    /// Names of the nodes whose values are read, without output number (only first outputs are supported) and without those
    /// that are there for order only.
    pub fn data_inputs(&self) -> impl Iterator<Item = &str> {
        let data = self.input.iter().filter(|input| !input.starts_with('^'));
        data.map(|input| input.strip_suffix(":0").unwrap_or(input))
    }

    /// A string attribute.
    ///
    /// # Errors
    /// [`GraphDefError::Attribute`].
    pub fn text(&self, attribute: &'static str) -> Result<&str, GraphDefError> {
        match self
            .attr
            .get(attribute)
            .and_then(|value| value.value.as_ref())
        {
            Some(AttrKind::Bytes(bytes)) => {
                std::str::from_utf8(bytes).map_err(|_| self.wrong(attribute, "UTF-8 text"))
            }
            _ => Err(self.wrong(attribute, "text")),
        }
    }

    /// A list of integers, empty if the attribute is absent.
    ///
    /// # Errors
    /// [`GraphDefError::Attribute`] if it is there and not a list.
    pub fn list(&self, attribute: &'static str) -> Result<&[i64], GraphDefError> {
        match self
            .attr
            .get(attribute)
            .and_then(|value| value.value.as_ref())
        {
            None => Ok(&[]),
            Some(AttrKind::List(list)) => Ok(&list.i),
            _ => Err(self.wrong(attribute, "a list of integers")),
        }
    }

    /// An integer, 0 if the attribute is absent.
    ///
    /// # Errors
    /// [`GraphDefError::Attribute`] if it is there and not an integer.
    pub fn integer(&self, attribute: &'static str) -> Result<i64, GraphDefError> {
        match self
            .attr
            .get(attribute)
            .and_then(|value| value.value.as_ref())
        {
            None => Ok(0),
            Some(AttrKind::Int(value)) => Ok(*value),
            _ => Err(self.wrong(attribute, "an integer")),
        }
    }

    /// A float.
    ///
    /// # Errors
    /// [`GraphDefError::Attribute`].
    pub fn float(&self, attribute: &'static str) -> Result<f32, GraphDefError> {
        match self
            .attr
            .get(attribute)
            .and_then(|value| value.value.as_ref())
        {
            Some(AttrKind::Float(value)) => Ok(*value),
            _ => Err(self.wrong(attribute, "a float")),
        }
    }

    /// A truth value, `default` if the attribute is absent.
    ///
    /// # Errors
    /// [`GraphDefError::Attribute`] if it is there and not a truth value.
    pub fn flag(&self, attribute: &'static str, default: bool) -> Result<bool, GraphDefError> {
        match self
            .attr
            .get(attribute)
            .and_then(|value| value.value.as_ref())
        {
            None => Ok(default),
            Some(AttrKind::Bool(value)) => Ok(*value),
            _ => Err(self.wrong(attribute, "a truth value")),
        }
    }

    /// The tensor of a Const node.
    ///
    /// # Errors
    /// [`GraphDefError::Attribute`].
    pub fn constant(&self) -> Result<Constant<'_>, GraphDefError> {
        match self
            .attr
            .get("value")
            .and_then(|value| value.value.as_ref())
        {
            Some(AttrKind::Tensor(tensor)) => Constant::check(&self.name, tensor),
            _ => Err(self.wrong("value", "a tensor")),
        }
    }

    fn wrong(&self, attribute: &'static str, expected: &'static str) -> GraphDefError {
        GraphDefError::Attribute {
            node: self.name.clone(),
            attribute,
            expected,
        }
    }
}

/// A constant whose shape is known to be sound; the elements are decoded on request.
#[derive(Debug, Clone)]
pub struct Constant<'a> {
    node: &'a str,
    tensor: &'a TensorProto,
    /// Sizes, slowest first; none for a scalar.
    pub dims: Vec<usize>,
}

impl<'a> Constant<'a> {
    fn check(node: &'a str, tensor: &'a TensorProto) -> Result<Constant<'a>, GraphDefError> {
        let sizes: Vec<i64> = tensor
            .tensor_shape
            .iter()
            .flat_map(|shape| &shape.dim)
            .map(|dim| dim.size)
            .collect();
        let dims: Option<Vec<usize>> = sizes
            .iter()
            .map(|&size| usize::try_from(size).ok())
            .collect();
        let is_sound = |dims: &Vec<usize>| {
            let elements = dims
                .iter()
                .try_fold(1_usize, |product, &size| product.checked_mul(size));
            dims.len() <= MAX_RANK && elements.is_some_and(|elements| elements <= MAX_ELEMENTS)
        };
        match dims.filter(is_sound) {
            Some(dims) => Ok(Constant { node, tensor, dims }),
            None => Err(GraphDefError::Constant {
                node: node.to_string(),
                expected: format!("at most {MAX_RANK} sizes with a product up to {MAX_ELEMENTS}"),
                found: format!("{sizes:?}"),
            }),
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Elements of an f32 constant, row-major.
    ///
    /// # Errors
    /// [`GraphDefError::Constant`] if it has another type, the wrong number of elements, or one that is not finite.
    pub fn floats(&self) -> Result<Vec<f32>, GraphDefError> {
        self.expect_type(DataType::Float, "f32 elements")?;
        let values = if self.tensor.tensor_content.is_empty() {
            self.repeat_last(&self.tensor.float_val)?
        } else {
            self.content()?
                .into_iter()
                .map(f32::from_le_bytes)
                .collect()
        };
        match values.iter().find(|value| !value.is_finite()) {
            None => Ok(values),
            Some(value) => Err(self.wrong("finite elements".into(), value.to_string())),
        }
    }

    /// Elements of an i32 constant, row-major.
    ///
    /// # Errors
    /// [`GraphDefError::Constant`] if it has another type or the wrong number of elements.
    pub fn integers(&self) -> Result<Vec<i64>, GraphDefError> {
        self.expect_type(DataType::Int32, "i32 elements")?;
        if self.tensor.tensor_content.is_empty() {
            return Ok(self
                .repeat_last(&self.tensor.int_val)?
                .into_iter()
                .map(i64::from)
                .collect());
        }
        Ok(self
            .content()?
            .into_iter()
            .map(|bytes| i32::from_le_bytes(bytes).into())
            .collect())
    }

    /// True for i32.
    pub fn is_integer(&self) -> bool {
        self.tensor.dtype() == DataType::Int32
    }

    fn expect_type(&self, expected: DataType, words: &str) -> Result<(), GraphDefError> {
        if self.tensor.dtype() == expected {
            Ok(())
        } else {
            Err(self.wrong(words.into(), format!("type {}", self.tensor.dtype)))
        }
    }

    /// The elements of 4 bytes each.
    fn content(&self) -> Result<Vec<[u8; 4]>, GraphDefError> {
        let bytes = &self.tensor.tensor_content;
        if bytes.len() != self.elements() * 4 {
            return Err(self.wrong(
                format!("{} bytes for shape {:?}", self.elements() * 4, self.dims),
                bytes.len().to_string(),
            ));
        }
        Ok(bytes.as_chunks::<4>().0.to_vec())
    }

    /// TensorFlow writes a constant of equal elements as one element.
    fn repeat_last<T: Copy>(&self, values: &[T]) -> Result<Vec<T>, GraphDefError> {
        let elements = self.elements();
        let mut out = values.to_vec();
        match values.last() {
            _ if values.len() == elements => {}
            Some(last) if values.len() < elements => out.resize(elements, *last),
            _ => {
                return Err(self.wrong(
                    format!("{elements} elements for shape {:?}", self.dims),
                    values.len().to_string(),
                ));
            }
        }
        Ok(out)
    }

    fn wrong(&self, expected: String, found: String) -> GraphDefError {
        GraphDefError::Constant {
            node: self.node.to_string(),
            expected,
            found,
        }
    }
}
