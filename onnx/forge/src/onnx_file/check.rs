//! The promise that later steps rely on: every value has one origin, which stands before all that read it.
//!
//! Inner graphs (the branches of an `If`, the body of a `Loop`) may read values of the graph around them; they are checked with what
//! is known at their node.

use std::collections::BTreeSet;

use super::{MAX_NAME_BYTES, OnnxFileError, inner_graphs};
use crate::proto::onnx::{GraphProto, NodeProto};

/// Checks a graph and those inside it.
///
/// # Errors
/// [`OnnxFileError::Duplicate`], [`OnnxFileError::Undefined`], [`OnnxFileError::Circle`], [`OnnxFileError::MissingOutput`],
/// [`OnnxFileError::NoName`], [`OnnxFileError::Limit`] for a name, [`OnnxFileError::Unsupported`].
pub(super) fn graph(graph: &GraphProto) -> Result<(), OnnxFileError> {
    checked(graph, &Scope::default(), true)
}

/// The names a graph can read: its own, and those around it.
#[derive(Default)]
struct Scope<'a> {
    own: BTreeSet<&'a str>,
    outer: Option<&'a Scope<'a>>,
}

impl<'a> Scope<'a> {
    fn knows(&self, name: &str) -> bool {
        self.own.contains(name) || self.outer.is_some_and(|outer| outer.knows(name))
    }

    fn define(&mut self, name: &'a str) -> Result<(), OnnxFileError> {
        check_name(name)?;
        if !self.own.insert(name) {
            return Err(OnnxFileError::Duplicate {
                value: format!("value {name}"),
            });
        }
        Ok(())
    }
}

fn checked<'a>(
    graph: &'a GraphProto,
    outer: &'a Scope<'a>,
    is_outermost: bool,
) -> Result<(), OnnxFileError> {
    let mut scope = Scope {
        own: BTreeSet::new(),
        outer: Some(outer),
    };
    if !graph.sparse_initializer.is_empty() {
        return Err(OnnxFileError::Unsupported {
            what: "a sparse constant".into(),
        });
    }
    for input in &graph.input {
        named(&input.name, "an input")?;
        scope.define(&input.name)?;
    }
    let inputs = scope.own.clone();
    let mut constants = BTreeSet::new();
    for tensor in &graph.initializer {
        named(&tensor.name, "a constant")?;
        if !constants.insert(tensor.name.as_str()) {
            return Err(OnnxFileError::Duplicate {
                value: format!("value {}", tensor.name),
            });
        }
        // A constant with the name of an input is its default.
        if !inputs.contains(tensor.name.as_str()) {
            scope.define(&tensor.name)?;
        }
        if !is_outermost && !tensor.external_data.is_empty() {
            return Err(OnnxFileError::Unsupported {
                what: format!("constant {} of an inner graph in another file", tensor.name),
            });
        }
    }
    let made: BTreeSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| node.output.iter().map(String::as_str))
        .collect();
    for node in &graph.node {
        check_node(node, &scope, &made)?;
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            scope.define(output)?;
        }
    }
    for output in &graph.output {
        named(&output.name, "an output")?;
        if !scope.knows(&output.name) {
            return Err(OnnxFileError::MissingOutput {
                value: output.name.clone(),
            });
        }
    }
    Ok(())
}

fn check_node(
    node: &NodeProto,
    scope: &Scope<'_>,
    made: &BTreeSet<&str>,
) -> Result<(), OnnxFileError> {
    check_name(&node.name)?;
    check_name(&node.domain)?;
    named(&node.op_type, "an operator")?;
    check_name(&node.op_type)?;
    for value in node.input.iter().filter(|name| !name.is_empty()) {
        if scope.knows(value) {
            continue;
        }
        let (node, op, value) = (node.name.clone(), node.op_type.clone(), value.clone());
        return Err(if made.contains(value.as_str()) {
            OnnxFileError::Circle { node, op, value }
        } else {
            OnnxFileError::Undefined { node, op, value }
        });
    }
    let tensors = node
        .attribute
        .iter()
        .flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors));
    for tensor in tensors {
        if !tensor.external_data.is_empty() {
            return Err(OnnxFileError::Unsupported {
                what: format!("an attribute of node {} in another file", node.name),
            });
        }
    }
    inner_graphs(node).try_for_each(|inner| checked(inner, scope, false))
}

fn named(name: &str, what: &str) -> Result<(), OnnxFileError> {
    if name.is_empty() {
        return Err(OnnxFileError::NoName {
            what: what.to_string(),
        });
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), OnnxFileError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(OnnxFileError::Limit {
            what: "bytes of a name".into(),
            limit: MAX_NAME_BYTES as u64,
            found: name.len() as u64,
        });
    }
    Ok(())
}
