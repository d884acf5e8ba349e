//! Who makes and who reads each value of a graph.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::Graph;
use crate::onnx_file::inner_graphs;
use crate::proto::onnx::{DataType, GraphProto, NodeProto};

/// Type and shape of a constant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConstantShape {
    pub(crate) data_type: DataType,
    pub(crate) dims: Vec<i64>,
}

/// The connections of a graph, by name and by position of the node.
#[derive(Debug)]
pub(crate) struct Wires {
    /// Which node makes a value.
    pub(crate) makers: BTreeMap<String, usize>,
    /// Which nodes read a value, once for each time.
    pub(crate) readers: BTreeMap<String, Vec<usize>>,
    /// Values that graphs inside nodes read.
    pub(crate) captured: BTreeSet<String>,
    /// What the graph gives back.
    pub(crate) outputs: BTreeSet<String>,
    /// Constants; not those that a caller can replace through an input.
    pub(crate) constants: BTreeMap<String, ConstantShape>,
}

impl Wires {
    pub(crate) fn new(graph: &Graph<'_>) -> Wires {
        let inputs: BTreeSet<&str> = graph.inputs.iter().map(|it| it.name.as_str()).collect();
        let constants = graph
            .payloads
            .iter()
            .flat_map(|payload| &payload.tensors)
            .filter(|tensor| !inputs.contains(tensor.name.as_str()))
            .map(|tensor| {
                let shape = ConstantShape {
                    data_type: tensor.data_type,
                    dims: tensor.dims.clone(),
                };
                (tensor.name.clone(), shape)
            });
        let mut wires = Wires {
            makers: BTreeMap::new(),
            readers: BTreeMap::new(),
            captured: BTreeSet::new(),
            outputs: graph.outputs.iter().map(|it| it.name.clone()).collect(),
            constants: constants.collect(),
        };
        for (index, node) in graph.nodes.iter().enumerate() {
            for value in node.input.iter().filter(|value| !value.is_empty()) {
                wires.readers.entry(value.clone()).or_default().push(index);
            }
            for value in node.output.iter().filter(|value| !value.is_empty()) {
                wires.makers.insert(value.clone(), index);
            }
            inner_graphs(node).for_each(|inner| capture(inner, &mut wires.captured));
        }
        wires
    }

    /// The node that alone reads a value, if there is one.
    pub(crate) fn only_reader(&self, value: &str) -> Option<usize> {
        if self.captured.contains(value) || self.outputs.contains(value) {
            return None;
        }
        match self.readers.get(value).map(Vec::as_slice) {
            Some([only]) => Some(*only),
            _ => None,
        }
    }

    /// The shape of a constant of 32-bit floats.
    pub(crate) fn floats(&self, name: &str) -> Option<&[i64]> {
        self.constants
            .get(name)
            .filter(|constant| constant.data_type == DataType::Float)
            .map(|constant| constant.dims.as_slice())
    }

    pub(crate) fn is_constant(&self, name: &str) -> bool {
        self.constants.contains_key(name)
    }
}

/// Names that a graph inside a node may take from outside: all it reads, which errs on the safe side.
fn capture(graph: &GraphProto, names: &mut BTreeSet<String>) {
    names.extend(graph.output.iter().map(|output| output.name.clone()));
    for node in &graph.node {
        names.extend(node.input.iter().cloned());
        inner_graphs(node).for_each(|inner| capture(inner, names));
    }
}

/// What a node is called in options and reports: its name, or its first output if it has none.
pub(crate) fn label(node: &NodeProto) -> &str {
    if node.name.is_empty() {
        node.output.first().map_or("", String::as_str)
    } else {
        &node.name
    }
}

/// Whether the node is of the standard operator set.
pub(crate) fn is_standard(node: &NodeProto) -> bool {
    node.domain.is_empty() || node.domain == "ai.onnx"
}

/// An attribute that is an integer.
pub(crate) fn int(node: &NodeProto, name: &str) -> Option<i64> {
    let attribute = node.attribute.iter().find(|it| it.name == name)?;
    attribute.i
}

/// An attribute that is a float.
pub(crate) fn float(node: &NodeProto, name: &str) -> Option<f32> {
    let attribute = node.attribute.iter().find(|it| it.name == name)?;
    attribute.f
}
