//! Brings graphs of other tools into the form the planner looks for: weights as constants, batch norms inside convolutions.
//!
//! Exporters leave weights in `Constant` nodes, and those of training frameworks leave batch norms behind convolutions. A runtime folds
//! both while weights are floats; behind codes it no longer can, so they are folded here.
//!
//! ```text
//!   Constant ─ w ─┐                                   w′ = w · γ/√(σ² + ε)        per output channel
//!            x ─ Conv ─ BatchNormalization ─ y   →    b′ = (b − μ) · γ/√(σ² + ε) + β
//! ```

use super::scratch::Scratch;
use super::wires::{Wires, float, int, is_standard};
use crate::error::ForgeError;
use crate::graph::{Graph, Payload, TensorSpec, float_bytes};
use crate::onnx_file;
use crate::proto::onnx::{DataType, NodeProto};

/// ε of BatchNormalization where a node does not say.
const EPSILON: f32 = 1e-5;

/// Turns `Constant` nodes with a tensor into constants of the graph.
///
/// # Errors
/// [`ForgeError::OnnxFile`] for a tensor whose elements do not fit its shape.
pub(super) fn constants(mut graph: Graph<'_>) -> Result<Graph<'_>, ForgeError> {
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    for node in graph.nodes {
        let attribute = node.attribute.iter().find(|it| it.name == "value");
        let tensor = attribute.and_then(|attribute| attribute.t.clone());
        let (Some(mut tensor), "Constant", [name], true) = (
            tensor,
            node.op_type.as_str(),
            node.output.as_slice(),
            is_standard(&node),
        ) else {
            nodes.push(node);
            continue;
        };
        if tensor.data_type == i32::from(DataType::String) {
            nodes.push(node);
            continue;
        }
        tensor.name = name.clone();
        let (spec, bytes) = onnx_file::constant(tensor)?;
        graph.payloads.push(Payload {
            tensors: vec![spec],
            make: Box::new(move || Ok(vec![bytes.get()?.to_vec()])),
        });
    }
    graph.nodes = nodes;
    Ok(graph)
}

/// Folds every batch norm that alone reads a convolution into it; gives back the nodes without them.
///
/// # Errors
/// [`ForgeError::Io`] of the scratch folder.
pub(super) fn batch_norms(
    nodes: Vec<NodeProto>,
    wires: &Wires,
    scratch: &mut Scratch,
) -> Result<Vec<NodeProto>, ForgeError> {
    let mut out = nodes.clone();
    let mut folded = vec![false; nodes.len()];
    for (index, convolution) in nodes.iter().enumerate() {
        let Some((norm, tensors)) = norm_behind(&nodes, wires, index) else {
            continue;
        };
        let [gamma, beta, mean, variance] = tensors;
        let epsilon = float(&nodes[norm], "epsilon").unwrap_or(EPSILON);
        let (gamma, variance) = (scratch.floats(gamma)?, scratch.floats(variance)?);
        let (beta, mean) = (scratch.floats(beta)?, scratch.floats(mean)?);
        let factors: Vec<f64> = gamma
            .iter()
            .zip(&variance)
            .map(|(gamma, variance)| {
                f64::from(*gamma) / (f64::from(*variance) + f64::from(epsilon)).sqrt()
            })
            .collect();
        let mut weights = scratch.floats(&convolution.input[1])?;
        let channel = weights.len() / factors.len().max(1);
        for (row, factor) in weights.chunks_mut(channel.max(1)).zip(&factors) {
            row.iter_mut()
                .for_each(|weight| *weight = (f64::from(*weight) * factor) as f32);
        }
        let bias = match convolution.input.get(2).filter(|name| !name.is_empty()) {
            Some(bias) => scratch.floats(bias)?,
            None => vec![0.0; factors.len()],
        };
        let shifted: Vec<f32> = (0..factors.len())
            .map(|at| {
                let moved = f64::from(bias[at]) - f64::from(mean[at]);
                (moved * factors[at] + f64::from(beta[at])) as f32
            })
            .collect();
        // The names of the norm's output are free: nothing else made weights of it.
        let output = nodes[norm].output[0].clone();
        let (weight_name, bias_name) = (format!("{output}/weights"), format!("{output}/bias"));
        if [&weight_name, &bias_name]
            .iter()
            .any(|name| is_taken(wires, name))
        {
            continue;
        }
        let dims = scratch
            .spec(&convolution.input[1])
            .map(|spec| spec.dims.clone());
        let spec = TensorSpec::new(&weight_name, DataType::Float, &dims.unwrap_or_default());
        scratch.add(spec, float_bytes(&weights))?;
        let spec = TensorSpec::new(&bias_name, DataType::Float, &[factors.len() as i64]);
        scratch.add(spec, float_bytes(&shifted))?;
        let node = &mut out[index];
        node.input = vec![convolution.input[0].clone(), weight_name, bias_name];
        node.output = vec![output];
        folded[norm] = true;
    }
    let mut is_folded = folded.into_iter();
    out.retain(|_| !is_folded.next().unwrap_or(false));
    Ok(out)
}

fn is_taken(wires: &Wires, name: &str) -> bool {
    wires.constants.contains_key(name)
        || wires.makers.contains_key(name)
        || wires.readers.contains_key(name)
}

/// The batch norm that alone reads convolution `index`, and its four constants, if all fit.
fn norm_behind<'a>(
    nodes: &'a [NodeProto],
    wires: &Wires,
    index: usize,
) -> Option<(usize, [&'a str; 4])> {
    let convolution = &nodes[index];
    if convolution.op_type != "Conv" || !is_standard(convolution) {
        return None;
    }
    let channels = *wires.floats(convolution.input.get(1)?)?.first()?;
    let has_good_bias = convolution
        .input
        .get(2)
        .filter(|name| !name.is_empty())
        .is_none_or(|bias| wires.floats(bias) == Some(&[channels]));
    let output = convolution.output.first()?;
    let reader = wires.only_reader(output)?;
    let norm = &nodes[reader];
    let [input, gamma, beta, mean, variance] = norm.input.as_slice() else {
        return None;
    };
    let tensors = [gamma, beta, mean, variance].map(String::as_str);
    let fits = norm.op_type == "BatchNormalization"
        && is_standard(norm)
        && has_good_bias
        && input == output
        && norm.output.len() == 1
        && int(norm, "training_mode").unwrap_or(0) == 0
        && channels > 0
        && tensors
            .iter()
            .all(|it| wires.floats(it) == Some(&[channels]));
    fits.then_some((reader, tensors))
}
