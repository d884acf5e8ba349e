//! Derivatives of operators that look along an axis: softmax, sums, means.

use super::shape::{Size, axis, reduced_axes};
use super::tape::{Call, Gradients, Rule, Tape};

/// The rule of an operator of this file.
pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Softmax" => softmax,
        "LogSoftmax" => log_softmax,
        "ReduceSum" | "ReduceMean" => reduce,
        _ => return None,
    })
}

/// d(y = softmax x): y·(g − Σ g·y).
fn softmax(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let y = call.output();
    let weighted = tape.op("Mul", &[g, y])?;
    let sum = sum_along(tape, call, &weighted)?;
    let centred = tape.op("Sub", &[g, &sum])?;
    Ok(call.only(tape.op("Mul", &[y, &centred])?))
}

/// d(y = log softmax x): g − eʸ·Σ g.
fn log_softmax(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let g = &tape.full(g, call.output())?;
    let sum = sum_along(tape, call, g)?;
    let probabilities = tape.op("Exp", &[call.output()])?;
    let spread = tape.op("Mul", &[&probabilities, &sum])?;
    Ok(call.only(tape.op("Sub", &[g, &spread])?))
}

/// The sum along the axis of a softmax.
fn sum_along(
    tape: &mut Tape<'_, '_>,
    call: &Call<'_>,
    value: &str,
) -> Result<String, super::DifferentiateError> {
    let rank = tape.shape(call.output())?.len();
    let given = call.int("axis").unwrap_or(-1);
    let Some(at) = axis(given, rank) else {
        return Err(call.unsupported(format!("an axis of {rank}"), given.to_string()));
    };
    let axes = tape.list(&[at as i64]);
    tape.op_with("ReduceSum", &[value, &axes], |node| node.int("keepdims", 1))
}

/// d(Σ x): g everywhere. d(mean x): g/count everywhere. The gradient stays as narrow as it came.
fn reduce(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let (x, y) = (call.input(0), call.output());
    let shape = tape.shape(x)?;
    let given = tape.integers_of(call.input(1));
    let Some(axes) = reduced_axes(call.node, shape.len(), given) else {
        return Err(call.unsupported("axes that are constant", call.input(1)));
    };
    let mut gradient = tape.full(g, y)?;
    if call.int("keepdims").unwrap_or(1) == 0 && !axes.is_empty() {
        let axes: Vec<i64> = axes.iter().map(|at| *at as i64).collect();
        let axes = tape.list(&axes);
        gradient = tape.op("Unsqueeze", &[&gradient, &axes])?;
    }
    if call.node.op_type == "ReduceMean" {
        let sizes: Option<Vec<i64>> = axes
            .iter()
            .map(|at| match &shape[*at] {
                Size::Fixed(size) => Some(*size),
                Size::Named(_) => None,
            })
            .collect();
        gradient = match sizes {
            Some(sizes) => {
                let share = tape.scalar(1.0 / sizes.iter().product::<i64>().max(1) as f32);
                tape.op("Mul", &[&gradient, &share])?
            }
            None => {
                let (whole, part) = (count(tape, x)?, count(tape, y)?);
                let share = tape.op("Div", &[&part, &whole])?;
                tape.op("Mul", &[&gradient, &share])?
            }
        };
    }
    Ok(call.only(gradient))
}

/// Number of elements, as a float.
fn count(tape: &mut Tape<'_, '_>, value: &str) -> Result<String, super::DifferentiateError> {
    const FLOAT: i64 = crate::proto::onnx::DataType::Float as i64;
    let size = tape.op("Size", &[value])?;
    tape.op_with("Cast", &[&size], |node| node.int("to", FLOAT))
}
