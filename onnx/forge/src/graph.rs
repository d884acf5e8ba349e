//! A small builder for ONNX graphs: nodes in order, constants by name, and a check that every value has exactly one origin.
//!
//! Constants are described first and computed later: a [`Payload`] is a closure that makes the bytes of one or more tensors when
//! the writer reaches them. So a model of any size is converted with about one tensor in memory, and a quantizer that makes
//! codes, scales and zero points in one pass over a matrix hands out all three at once.
//!
//! ```text
//!   GraphBuilder ── input / node / constant / payload / output ──► finish ──► Graph ──► writer
//!                                                                   │ every name defined once, and before it is used
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::error::ForgeError;
use crate::proto::onnx::{
    AttributeProto, AttributeType, DataType, DimensionProto, DimensionValue, NodeProto,
    TensorShapeProto, TensorTypeProto, TypeProto, TypeValue, ValueInfoProto,
};

/// Domain of ONNX Runtime's own operators.
pub const MICROSOFT: &str = "com.microsoft";

/// Domain of the project's own operators.
pub const LLMASOS: &str = "llmasos";

/// Most elements a tensor may have: 16 Gi, far above any model for a vehicle, far below an overflow.
pub const MAX_ELEMENTS: u64 = 1 << 34;

/// A graph that is not well formed, or a tensor whose bytes do not fit its shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A node reads a value that nothing before it makes.
    #[error("node {node} reads {value}, which nothing before it defines")]
    Undefined {
        /// The node.
        node: String,
        /// The value.
        value: String,
    },
    /// Two origins of one value.
    #[error("value {value} is defined twice")]
    Duplicate {
        /// The value.
        value: String,
    },
    /// A graph output that no node makes.
    #[error("output {value} is made by no node")]
    MissingOutput {
        /// The value.
        value: String,
    },
    /// A shape with a negative or absurd size.
    #[error(
        "tensor {tensor} has shape {dims:?}, expected positive sizes with a product up to {MAX_ELEMENTS}"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        dims: Vec<i64>,
    },
    /// A payload made another number of bytes than its shape says.
    #[error("tensor {tensor}: expected {expected} bytes, found {found}")]
    Length {
        /// The tensor.
        tensor: String,
        /// Bytes by shape and type.
        expected: u64,
        /// Bytes made.
        found: u64,
    },
    /// A payload made another number of tensors than announced.
    #[error("payload of {tensor}: expected {expected} tensors, found {found}")]
    Count {
        /// First tensor of the payload.
        tensor: String,
        /// Announced.
        expected: usize,
        /// Made.
        found: usize,
    },
}

/// A dimension of an input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim<'a> {
    /// Known now.
    Fixed(i64),
    /// Known at run time; equal names are equal sizes.
    Named(&'a str),
}

/// Name, type and shape of a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, unique in the graph.
    pub name: String,
    /// Element type.
    pub data_type: DataType,
    /// Shape; empty for a scalar.
    pub dims: Vec<i64>,
}

impl TensorSpec {
    /// A specification.
    pub fn new(name: impl Into<String>, data_type: DataType, dims: &[i64]) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            data_type,
            dims: dims.to_vec(),
        }
    }

    /// Size of the elements in bytes.
    ///
    /// # Errors
    /// [`GraphError::Shape`] if a size is negative or the product exceeds [`MAX_ELEMENTS`].
    pub fn bytes(&self) -> Result<u64, GraphError> {
        let shape_error = || GraphError::Shape {
            tensor: self.name.clone(),
            dims: self.dims.clone(),
        };
        let mut elements: u64 = 1;
        for &dim in &self.dims {
            let dim = u64::try_from(dim).map_err(|_| shape_error())?;
            elements = elements
                .checked_mul(dim)
                .filter(|&product| product <= MAX_ELEMENTS)
                .ok_or_else(shape_error)?;
        }
        let element_bytes = match self.data_type {
            DataType::Undefined => return Err(shape_error()),
            DataType::Uint8 | DataType::Int8 => 1,
            DataType::Float | DataType::Int32 => 4,
            DataType::Int64 => 8,
        };
        Ok(elements * element_bytes)
    }
}

/// Makes the bytes (little-endian, row-major) of the tensors it was registered with, in the same order.
pub type Make<'a> = Box<dyn FnOnce() -> Result<Vec<Vec<u8>>, ForgeError> + 'a>;

/// One or more constants that are computed together.
pub struct Payload<'a> {
    pub(crate) tensors: Vec<TensorSpec>,
    pub(crate) make: Make<'a>,
}

/// A checked graph, ready to be written.
pub struct Graph<'a> {
    pub(crate) name: String,
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) inputs: Vec<ValueInfoProto>,
    pub(crate) outputs: Vec<ValueInfoProto>,
    pub(crate) payloads: Vec<Payload<'a>>,
}

impl Graph<'_> {
    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Names of the inputs.
    pub(crate) fn input_names(&self) -> Vec<String> {
        self.inputs.iter().map(|input| input.name.clone()).collect()
    }
}

/// A node under construction; see [`GraphBuilder::node`].
#[derive(Debug, Clone, PartialEq)]
pub struct Node(pub(crate) NodeProto);

impl Node {
    /// A node of the standard operator set, named after its first output.
    pub fn new(op: &str, inputs: &[&str], outputs: &[&str]) -> Node {
        Node(NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs.iter().map(ToString::to_string).collect(),
            name: format!("{}/{op}", outputs.first().copied().unwrap_or_default()),
            op_type: op.to_string(),
            attribute: Vec::new(),
            domain: String::new(),
        })
    }

    /// A node of ONNX Runtime's own operator set.
    pub fn microsoft(op: &str, inputs: &[&str], outputs: &[&str]) -> Node {
        let mut node = Node::new(op, inputs, outputs);
        node.0.domain = MICROSOFT.to_string();
        node
    }

    /// A node of the project's own operator set.
    pub fn llmasos(op: &str, inputs: &[&str], outputs: &[&str]) -> Node {
        let mut node = Node::new(op, inputs, outputs);
        node.0.domain = LLMASOS.to_string();
        node
    }

    /// Adds an integer attribute.
    pub fn int(mut self, name: &str, value: i64) -> Node {
        self.0.attribute.push(AttributeProto {
            i: Some(value),
            ..attribute(name, AttributeType::Int)
        });
        self
    }

    /// Adds a float attribute.
    pub fn float(mut self, name: &str, value: f32) -> Node {
        self.0.attribute.push(AttributeProto {
            f: Some(value),
            ..attribute(name, AttributeType::Float)
        });
        self
    }

    /// Adds a text attribute.
    pub fn text(mut self, name: &str, value: &str) -> Node {
        self.0.attribute.push(AttributeProto {
            s: Some(value.as_bytes().to_vec()),
            ..attribute(name, AttributeType::String)
        });
        self
    }

    /// Adds a list of integers.
    pub fn ints(mut self, name: &str, values: &[i64]) -> Node {
        self.0.attribute.push(AttributeProto {
            ints: values.to_vec(),
            ..attribute(name, AttributeType::Ints)
        });
        self
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: name.to_string(),
        kind: kind.into(),
        ..AttributeProto::default()
    }
}

/// Collects a graph in topological order.
pub struct GraphBuilder<'a> {
    graph: Graph<'a>,
    defined: BTreeSet<String>,
    /// Constants of integers with their values: shapes, axes and cuts, which whoever transforms the graph has to know.
    integers: BTreeMap<String, Vec<i64>>,
    error: Option<GraphError>,
}

impl<'a> GraphBuilder<'a> {
    /// An empty graph.
    pub fn new(name: &str) -> GraphBuilder<'a> {
        let graph = Graph {
            name: name.to_string(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            payloads: Vec::new(),
        };
        GraphBuilder {
            graph,
            defined: BTreeSet::new(),
            integers: BTreeMap::new(),
            error: None,
        }
    }

    /// What has been built so far.
    pub(crate) fn so_far(&self) -> &Graph<'a> {
        &self.graph
    }

    /// Values of a constant made by [`GraphBuilder::integers`].
    pub(crate) fn integers_of(&self, name: &str) -> Option<&[i64]> {
        self.integers.get(name).map(Vec::as_slice)
    }

    /// Whether there is a value of this name.
    pub(crate) fn is_defined(&self, value: &str) -> bool {
        self.defined.contains(value)
    }

    /// Adds an input.
    pub fn input(&mut self, name: &str, data_type: DataType, dims: &[Dim<'_>]) {
        self.define(name);
        self.graph.inputs.push(value_info(name, data_type, dims));
    }

    /// Announces an output; a node must make it.
    pub fn output(&mut self, name: &str, data_type: DataType, dims: &[Dim<'_>]) {
        self.graph.outputs.push(value_info(name, data_type, dims));
    }

    /// Announces an output whose sizes the runtime infers.
    pub(crate) fn output_of_any_shape(&mut self, name: &str, data_type: DataType) {
        let tensor = TensorTypeProto {
            elem_type: data_type.into(),
            shape: None,
        };
        self.graph.outputs.push(ValueInfoProto {
            name: name.to_string(),
            r#type: Some(TypeProto {
                value: Some(TypeValue::Tensor(tensor)),
            }),
        });
    }

    /// Adds a node. Nodes must come after what they read from.
    pub fn node(&mut self, node: Node) {
        for value in node.0.input.iter().filter(|value| !value.is_empty()) {
            if !self.defined.contains(value) {
                self.fail(GraphError::Undefined {
                    node: node.0.name.clone(),
                    value: value.clone(),
                });
            }
        }
        for value in node.0.output.iter().filter(|value| !value.is_empty()) {
            self.define(value);
        }
        self.graph.nodes.push(node.0);
    }

    /// Adds constants that `make` computes when they are written.
    pub fn payload(
        &mut self,
        tensors: Vec<TensorSpec>,
        make: impl FnOnce() -> Result<Vec<Vec<u8>>, ForgeError> + 'a,
    ) {
        for tensor in &tensors {
            self.define(&tensor.name);
            if let Err(error) = tensor.bytes() {
                self.fail(error);
            }
        }
        self.graph.payloads.push(Payload {
            tensors,
            make: Box::new(make),
        });
    }

    /// Adds a constant of 64-bit integers.
    pub fn integers(&mut self, name: &str, dims: &[i64], values: &[i64]) {
        self.integers.insert(name.to_string(), values.to_vec());
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.payload(
            vec![TensorSpec::new(name, DataType::Int64, dims)],
            move || Ok(vec![bytes]),
        );
    }

    /// Adds a constant of 32-bit floats.
    pub fn floats(&mut self, name: &str, dims: &[i64], values: &[f32]) {
        let bytes = float_bytes(values);
        self.payload(
            vec![TensorSpec::new(name, DataType::Float, dims)],
            move || Ok(vec![bytes]),
        );
    }

    /// Checks the graph as a whole.
    ///
    /// # Errors
    /// The first [`GraphError`] met while building, or an output that no node makes.
    pub fn finish(self) -> Result<Graph<'a>, GraphError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let made: BTreeSet<&String> = self
            .graph
            .nodes
            .iter()
            .flat_map(|node| &node.output)
            .collect();
        for output in &self.graph.outputs {
            if !made.contains(&output.name) {
                return Err(GraphError::MissingOutput {
                    value: output.name.clone(),
                });
            }
        }
        Ok(self.graph)
    }

    fn define(&mut self, value: &str) {
        if !self.defined.insert(value.to_string()) {
            self.fail(GraphError::Duplicate {
                value: value.to_string(),
            });
        }
    }

    /// Keeps the first error: the later ones follow from it.
    fn fail(&mut self, error: GraphError) {
        self.error.get_or_insert(error);
    }
}

/// Little-endian bytes of floats.
pub(crate) fn float_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 4);
    for value in values {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Name and type of an input or output.
pub(crate) fn value_info(name: &str, data_type: DataType, dims: &[Dim<'_>]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => DimensionValue::Size(*size),
            Dim::Named(name) => DimensionValue::Symbol(name.to_string()),
        })
        .map(|value| DimensionProto { value: Some(value) })
        .collect();
    let tensor = TensorTypeProto {
        elem_type: data_type.into(),
        shape: Some(TensorShapeProto { dim }),
    };
    ValueInfoProto {
        name: name.to_string(),
        r#type: Some(TypeProto {
            value: Some(TypeValue::Tensor(tensor)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder<'a>() -> GraphBuilder<'a> {
        let mut graph = GraphBuilder::new("g");
        graph.input("x", DataType::Float, &[Dim::Fixed(1), Dim::Named("n")]);
        graph
    }

    #[test]
    fn refuses_a_value_before_its_origin() {
        let mut graph = builder();
        graph.node(Node::new("Add", &["x", "y"], &["z"]));
        assert_eq!(
            graph.finish().err(),
            Some(GraphError::Undefined {
                node: "z/Add".into(),
                value: "y".into()
            })
        );
    }

    #[test]
    fn refuses_two_origins() {
        let mut graph = builder();
        graph.floats("x", &[1], &[0.0]);
        assert_eq!(
            graph.finish().err(),
            Some(GraphError::Duplicate { value: "x".into() })
        );
    }

    #[test]
    fn refuses_an_output_nobody_makes() {
        let mut graph = builder();
        graph.output("x", DataType::Float, &[]);
        assert_eq!(
            graph.finish().err(),
            Some(GraphError::MissingOutput { value: "x".into() })
        );
    }

    #[test]
    fn refuses_absurd_shapes() {
        for dims in [vec![-1], vec![i64::MAX, 2], vec![1 << 20, 1 << 20]] {
            let spec = TensorSpec::new("t", DataType::Float, &dims);
            assert!(
                matches!(spec.bytes(), Err(GraphError::Shape { .. })),
                "{dims:?}"
            );
        }
        assert_eq!(
            TensorSpec::new("t", DataType::Int64, &[]).bytes(),
            Ok(8),
            "a scalar has one element"
        );
        assert_eq!(
            TensorSpec::new("t", DataType::Float, &[3, 0]).bytes(),
            Ok(0)
        );
    }

    #[test]
    fn empty_names_leave_optional_values_out() {
        let mut graph = builder();
        graph.node(
            Node::microsoft("Norm", &["x", ""], &["y", "", "s"])
                .int("axis", 0)
                .float("epsilon", 1e-5)
                .ints("pads", &[1, 2]),
        );
        graph.output("s", DataType::Float, &[]);
        let graph = graph.finish().unwrap();
        assert_eq!(
            graph.nodes[0].attribute[0].i,
            Some(0),
            "zero is written, not left out"
        );
        assert_eq!(graph.nodes[0].domain, MICROSOFT);
    }
}
