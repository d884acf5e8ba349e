//! Weights stored in half precision, computed with in single.
//!
//! This halves a file, and nothing else: ONNX Runtime turns the weights back into 32-bit floats when it opens the graph, so that memory
//! and speed are those of the original. (On most CPUs half-precision arithmetic is emulated, and far slower.)
//!
//! ```text
//!   w f32 ─ MatMul    →    w.half f16 ─ Cast ─ w f32 ─ MatMul
//! ```

use half::f16;

use super::{StaticError, check_operator_set};
use crate::error::ForgeError;
use crate::graph::{Graph, Node, Payload, TensorSpec};
use crate::proto::onnx::DataType;

/// Elements below which a tensor stays as it is: norms and biases are small, and constants such as masks can be huge numbers.
const LEAST_ELEMENTS: u64 = 1024;

/// Stores every large constant of 32-bit floats in half precision. Numbers are rounded to the nearest; constants are converted when the
/// graph is written, which fails with [`StaticError::NotHalf`] for one that half precision does not reach.
///
/// # Errors
/// [`StaticError::OperatorSet`].
pub fn half_storage(mut graph: Graph<'_>) -> Result<Graph<'_>, ForgeError> {
    check_operator_set(&graph)?;
    let given: Vec<String> = graph.inputs.iter().map(|it| it.name.clone()).collect();
    let mut casts = Vec::new();
    let payloads = std::mem::take(&mut graph.payloads);
    for mut payload in payloads {
        let mut halved = Vec::new();
        for tensor in &mut payload.tensors {
            let is_large = tensor.bytes()? >= LEAST_ELEMENTS * 4;
            let halves =
                tensor.data_type == DataType::Float && is_large && !given.contains(&tensor.name);
            halved.push(halves.then(|| tensor.name.clone()));
            if halves {
                let name = format!("{}.half", tensor.name);
                let cast = Node::new("Cast", &[&name], &[&tensor.name]);
                casts.push(cast.int("to", i64::from(i32::from(DataType::Float))).into());
                *tensor = TensorSpec::new(name, DataType::Float16, &tensor.dims);
            }
        }
        let make = payload.make;
        graph.payloads.push(Payload {
            tensors: payload.tensors,
            make: Box::new(move || {
                let mut contents = make()?;
                for (bytes, name) in contents.iter_mut().zip(&halved) {
                    if let Some(name) = name {
                        *bytes = halve(name, bytes)?;
                    }
                }
                Ok(contents)
            }),
        });
    }
    graph.nodes.splice(0..0, casts);
    Ok(graph)
}

fn halve(tensor: &str, bytes: &[u8]) -> Result<Vec<u8>, StaticError> {
    let (values, _) = bytes.as_chunks::<4>();
    halves(
        tensor,
        values.iter().map(|value| f32::from_le_bytes(*value)),
    )
}

/// Numbers in half precision, little-endian.
///
/// # Errors
/// [`StaticError::NotHalf`] names the first that half precision does not reach.
pub(crate) fn halves(
    tensor: &str,
    values: impl ExactSizeIterator<Item = f32>,
) -> Result<Vec<u8>, StaticError> {
    let mut out = Vec::with_capacity(values.len() * 2);
    for (at, value) in values.enumerate() {
        let half = f16::from_f32(value);
        if !half.is_finite() {
            return Err(StaticError::NotHalf {
                tensor: tensor.to_string(),
                found: value,
                at,
            });
        }
        out.extend_from_slice(&half.to_le_bytes());
    }
    Ok(out)
}
