//! 8-bit products whose inputs are measured while they run: no samples needed, a little slower than with fixed ranges.
//!
//! For encoders that see texts of any kind. Each run finds the range of each product's input anew, so that nothing is ever cut off; the
//! price is one more pass over the input. Convolutions stay in float: their dynamic form is slower than float.
//!
//! ```text
//!   x ─ MatMul(w) ─ Add(b)    →    x ─ DynamicQuantizeMatMul(codes, scale per column, b)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::codes::{pair_scales, per_channel};
use super::plan::{Choice, Kind, Plan, Weighted};
use super::wires::{Wires, label};
use super::{LeftReport, NodeReport, StaticError, check_operator_set, prepare};
use crate::error::ForgeError;
use crate::graph::{Graph, Node, Payload, TensorSpec, float_bytes};
use crate::matrix::transpose;
use crate::onnx_file::operator;
use crate::proto::onnx::DataType;

/// What became of a graph.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DynamicReport {
    /// Products that compute on codes.
    pub nodes: Vec<NodeReport>,
    /// Nodes left in float that could have been quantized, and those whose operator is not known.
    pub left: Vec<LeftReport>,
}

/// Turns every product with a constant matrix into an 8-bit one, but for the nodes named in `keep_float`. Matrices are converted when
/// the graph is written.
///
/// # Errors
/// [`StaticError::NoSuchNode`], [`StaticError::NothingToDo`], [`StaticError::OperatorSet`].
pub fn dynamic_int8<'a>(
    graph: Graph<'a>,
    keep_float: &[String],
) -> Result<(Graph<'a>, DynamicReport), ForgeError> {
    check_operator_set(&graph)?;
    let mut graph = prepare::constants(graph)?;
    let wires = Wires::new(&graph);
    let mut excluded = BTreeSet::new();
    for name in keep_float {
        let node = graph.nodes.iter().position(|node| label(node) == name);
        excluded.insert(node.ok_or_else(|| StaticError::NoSuchNode { node: name.clone() })?);
    }
    let choice = Choice {
        excluded,
        lookups: false,
        merges_bias: true,
    };
    let plan = Plan::new(&graph.nodes, &wires, &choice);
    let products: BTreeMap<usize, &Weighted> = plan
        .weighted
        .iter()
        .filter(|(_, weighted)| weighted.kind != Kind::Convolution)
        .filter(|(_, weighted)| wires.readers.get(&weighted.weight).map(Vec::len) == Some(1))
        .map(|(index, weighted)| (*index, weighted))
        .collect();
    if products.is_empty() {
        return Err(StaticError::NothingToDo.into());
    }
    let report = report(&graph, &plan, &products);
    let matrices: BTreeMap<String, Kind> = products
        .values()
        .map(|weighted| (weighted.weight.clone(), weighted.kind))
        .collect();
    graph.payloads = std::mem::take(&mut graph.payloads)
        .into_iter()
        .map(|payload| coded(payload, &matrices))
        .collect();
    let additions: BTreeSet<usize> = products.values().filter_map(|it| it.addition).collect();
    let nodes = std::mem::take(&mut graph.nodes).into_iter().enumerate();
    for (index, node) in nodes.filter(|(index, _)| !additions.contains(index)) {
        let node = match products.get(&index) {
            Some(weighted) => product(weighted).into(),
            None => node,
        };
        graph.nodes.push(node);
    }
    Ok((graph, report))
}

fn product(weighted: &Weighted) -> Node {
    let (codes, scales) = names(&weighted.weight);
    let mut inputs = vec![weighted.input.as_str(), &codes, &scales];
    if let Some(bias) = &weighted.bias {
        // Zero points of the matrix come before it; there are none.
        inputs.extend(["", bias]);
    }
    Node::microsoft("DynamicQuantizeMatMul", &inputs, &[&weighted.output])
}

fn names(matrix: &str) -> (String, String) {
    (format!("{matrix}.codes"), format!("{matrix}.scales"))
}

/// The payload with codes and scales in place of each matrix.
fn coded<'a>(payload: Payload<'a>, matrices: &BTreeMap<String, Kind>) -> Payload<'a> {
    let found: Vec<Option<Kind>> = payload
        .tensors
        .iter()
        .map(|tensor| matrices.get(&tensor.name).copied())
        .collect();
    if found.iter().all(Option::is_none) {
        return payload;
    }
    let (specs, make) = (payload.tensors, payload.make);
    let mut tensors = Vec::new();
    for (spec, kind) in specs.iter().zip(&found) {
        let Some(kind) = kind else {
            tensors.push(spec.clone());
            continue;
        };
        let (codes, scales) = names(&spec.name);
        let mut dims = spec.dims.clone();
        if *kind == Kind::TransposedProduct {
            dims.reverse();
        }
        let columns = dims.last().copied().unwrap_or_default();
        tensors.push(TensorSpec::new(codes, DataType::Int8, &dims));
        tensors.push(TensorSpec::new(scales, DataType::Float, &[columns]));
    }
    let make = move || {
        let mut contents = Vec::new();
        for ((spec, kind), bytes) in specs.iter().zip(found).zip(make()?) {
            match kind {
                None => contents.push(bytes),
                Some(kind) => contents.extend(code(spec, kind, &bytes)?),
            }
        }
        Ok(contents)
    };
    Payload {
        tensors,
        make: Box::new(make),
    }
}

/// Codes `[in, out]` and a scale for each output, the same sums on every computer: see [`pair_scales`].
fn code(spec: &TensorSpec, kind: Kind, bytes: &[u8]) -> Result<[Vec<u8>; 2], StaticError> {
    let (chunks, _) = bytes.as_chunks::<4>();
    let mut weights: Vec<f32> = chunks.iter().map(|it| f32::from_le_bytes(*it)).collect();
    let mut columns = spec.dims[1] as usize;
    if kind == Kind::TransposedProduct {
        weights = transpose(&weights, columns);
        columns = spec.dims[0] as usize;
    }
    let channel = |at: usize| at % columns;
    let least = pair_scales(&weights, columns, channel);
    let coded = per_channel(&spec.name, &weights, columns, channel, &least)?;
    let codes = coded
        .codes
        .iter()
        .map(|code| code.cast_unsigned())
        .collect();
    Ok([codes, float_bytes(&coded.scales)])
}

fn report(graph: &Graph<'_>, plan: &Plan, products: &BTreeMap<usize, &Weighted>) -> DynamicReport {
    let node = |index: &usize| NodeReport {
        node: label(&graph.nodes[*index]).to_string(),
        op: operator(&graph.nodes[*index]),
        signal_to_noise_db: None,
        error_alone: None,
    };
    let left = |(index, reason): (usize, String)| LeftReport {
        node: label(&graph.nodes[index]).to_string(),
        op: operator(&graph.nodes[index]),
        reason,
        error_alone: None,
    };
    let others = plan
        .weighted
        .iter()
        .filter(|(index, _)| !products.contains_key(index));
    let others = others.map(|(index, weighted)| {
        let reason = if weighted.kind == Kind::Convolution {
            "a dynamic convolution is slower than one in float"
        } else {
            "others read its matrix too"
        };
        (*index, reason.to_string())
    });
    let unable = plan.left.iter().map(|it| (it.node, it.reason.clone()));
    DynamicReport {
        nodes: products.keys().map(node).collect(),
        left: others.chain(unable).map(left).collect(),
    }
}
