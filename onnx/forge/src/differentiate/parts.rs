//! A differentiated graph in two parts: one that computes, one that later computes the gradients from what the first kept.
//!
//! A model of many layers runs layer by layer in both directions. What a layer's first part keeps decides between memory and
//! repeated work (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"): values that are dear to compute are kept,
//! the others are computed anew in the second part, which needs no decision beyond naming the kept ones.
//!
//! ```text
//!   x ─► MatMul ─► q ─► Softmax ─► p ─► MatMul ─► y        first part: x ─► y, q
//!                  └─ kept                                 second part: x, q, d.y ─► Softmax again ─► d.x
//! ```

use std::collections::BTreeSet;

use crate::graph::{Dim, Graph, value_info};
use crate::proto::onnx::{DataType, NodeProto};

/// Turns the values `given` (f32, with their sizes) into inputs, and keeps only the nodes that `graph`'s outputs need then, and
/// only the inputs and constants that those nodes read.
pub fn second_part(graph: &mut Graph<'_>, given: &[(&str, &[Dim<'_>])]) {
    for (name, dims) in given {
        graph.inputs.push(value_info(name, DataType::Float, dims));
    }
    let given: BTreeSet<&str> = given.iter().map(|(name, _)| *name).collect();
    let mut needed: BTreeSet<String> = graph.outputs.iter().map(|o| o.name.clone()).collect();
    let mut kept: Vec<NodeProto> = Vec::new();
    for node in graph.nodes.drain(..).rev() {
        let makes = |output: &String| needed.contains(output) && !given.contains(output.as_str());
        if node.output.iter().any(makes) {
            needed.extend(node.input.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.nodes = kept;
    graph.inputs.retain(|input| needed.contains(&input.name));
    graph.payloads.retain(|payload| {
        let mut tensors = payload.tensors.iter();
        tensors.any(|tensor| needed.contains(&tensor.name))
    });
}

/// The values among `candidates` that the nodes after the first `forward` ones read, directly or through nodes that have to be
/// computed anew: what a first part has to keep for a second.
pub fn needed_between(graph: &Graph<'_>, forward: usize, candidates: &[&str]) -> Vec<String> {
    let candidates: BTreeSet<&str> = candidates.iter().copied().collect();
    let mut needed: BTreeSet<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        let is_made = node
            .output
            .iter()
            .any(|output| needed.contains(output.as_str()));
        let is_given = index < forward
            && node
                .output
                .iter()
                .all(|output| candidates.contains(output.as_str()));
        if is_made && !is_given {
            needed.extend(node.input.iter().map(String::as_str));
        }
    }
    let found = candidates.into_iter().filter(|name| needed.contains(name));
    found.map(str::to_string).collect()
}
