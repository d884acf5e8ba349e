//! Derivatives of operators that only move elements: the gradient moves back, and what was left behind gets zeros.

use super::shape::{Size, axis, cut, cut_length};
use super::tape::{Call, Gradients, Rule, Tape, int, ints};
use super::{DifferentiateError, tape::fixed};
use crate::proto::onnx::{DataType, NodeProto};

/// The rule of an operator of this file; Split, which has several outputs, is [`split`].
pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Reshape" | "Unsqueeze" | "Squeeze" => reshape,
        "Transpose" => transpose,
        "Concat" => concat,
        "Slice" => slice,
        "Gather" => gather,
        "Expand" => expand,
        "Cast" => cast,
        _ => return None,
    })
}

/// Whether a Cast gives floats, the one kind of value with gradients.
pub(super) fn casts_to_float(node: &NodeProto) -> bool {
    int(node, "to") == Some(DataType::Float as i64)
}

fn reshape(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let g = tape.full(g, call.output())?;
    let shape = tape.shape_value(call.input(0))?;
    let gradient = tape.op("Reshape", &[&g, &shape])?;
    tape.assume_like(&gradient, call.input(0))?;
    Ok(call.only(gradient))
}

fn transpose(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let rank = tape.shape(call.input(0))?.len();
    let backwards: Vec<i64> = (0..rank as i64).rev().collect();
    let order = ints(call.node, "perm").unwrap_or(&backwards);
    let mut inverse = vec![0; rank];
    for (to, from) in order.iter().enumerate() {
        match usize::try_from(*from).ok().filter(|from| *from < rank) {
            Some(from) => inverse[from] = to as i64,
            None => return Err(call.unsupported(format!("axes below {rank}"), from.to_string())),
        }
    }
    let g = tape.full(g, call.output())?;
    let gradient = tape.op_with("Transpose", &[&g], |node| node.ints("perm", &inverse))?;
    Ok(call.only(gradient))
}

/// Each input gets its part.
fn concat(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let rank = tape.shape(call.output())?.len();
    let at = axis_of(call, rank)?;
    let g = tape.full(g, call.output())?;
    let count = call.node.input.len();
    let mut sizes = Vec::with_capacity(count);
    for input in &call.node.input {
        sizes.push(tape.shape(input)?[at].clone());
    }
    let sizes = match fixed(&sizes) {
        Some(sizes) => tape.list(&sizes),
        None => run_time_sizes(tape, call, at)?,
    };
    let parts = tape.op_many("Split", &[&g, &sizes], count, |node| {
        node.int("axis", at as i64)
    })?;
    for (part, input) in parts.iter().zip(&call.node.input) {
        tape.assume_like(part, input)?;
    }
    let wanted = parts.into_iter().zip(call.wanted);
    Ok(wanted
        .map(|(part, wanted)| wanted.then_some(part))
        .collect())
}

/// The sizes of all inputs along an axis, as a list made at run time.
fn run_time_sizes(
    tape: &mut Tape<'_, '_>,
    call: &Call<'_>,
    at: usize,
) -> Result<String, DifferentiateError> {
    let (from, to) = (tape.list(&[at as i64]), tape.list(&[at as i64 + 1]));
    let mut sizes = Vec::new();
    for input in &call.node.input {
        let shape = tape.op("Shape", &[input])?;
        sizes.push(tape.op("Slice", &[&shape, &from, &to])?);
    }
    let sizes: Vec<&str> = sizes.iter().map(String::as_str).collect();
    tape.op_with("Concat", &sizes, |node| node.int("axis", 0))
}

/// The parts' gradients side by side; zeros for a part nobody uses.
pub(super) fn split(
    tape: &mut Tape<'_, '_>,
    call: &Call<'_>,
    arriving: &[Option<String>],
) -> Gradients {
    let rank = tape.shape(call.input(0))?.len();
    let at = axis(call.int("axis").unwrap_or(0), rank)
        .ok_or_else(|| call.unsupported(format!("an axis of {rank}"), "another"))?;
    let mut parts = Vec::with_capacity(arriving.len());
    for (gradient, output) in arriving.iter().zip(&call.node.output) {
        parts.push(match gradient {
            Some(gradient) => tape.full(gradient, output)?,
            None => tape.zeros_like(output)?,
        });
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let gradient = tape.op_with("Concat", &parts, |node| node.int("axis", at as i64))?;
    tape.assume_like(&gradient, call.input(0))?;
    Ok(call.only(gradient))
}

/// Zeros around the gradient; between its elements too, where the slice had steps.
fn slice(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let cuts = cuts(tape, call)?;
    let rank = tape.shape(call.input(0))?.len();
    let mut g = tape.full(g, call.output())?;
    if cuts.iter().all(|cut| cut.step == 1) {
        let mut pads = vec![0; 2 * rank];
        for cut in &cuts {
            pads[cut.axis] = cut.start;
            pads[cut.axis + rank] = cut.size - cut.start - cut.length;
        }
        let (pads, zero) = (tape.list(&pads), tape.scalar(0.0));
        let gradient = tape.op("Pad", &[&g, &pads, &zero])?;
        return Ok(call.only(gradient));
    }
    // One axis after the other: each step puts the elements where they came from.
    let mut shape = tape.shape(&g)?;
    for cut in &cuts {
        shape[cut.axis] = Size::Fixed(cut.size);
        let sizes = fixed(&shape)
            .ok_or_else(|| call.unsupported("known sizes of a slice with steps", "a named one"))?;
        let from: Vec<i64> = (0..cut.length)
            .map(|at| cut.start + at * cut.step)
            .collect();
        g = scatter(tape, &g, (&from, cut.axis), &sizes)?;
    }
    Ok(call.only(g))
}

/// One axis of a slice.
struct Cut {
    axis: usize,
    start: i64,
    step: i64,
    length: i64,
    /// Size of the axis before.
    size: i64,
}

fn cuts(tape: &Tape<'_, '_>, call: &Call<'_>) -> Result<Vec<Cut>, DifferentiateError> {
    let shape = tape.shape(call.input(0))?;
    let list = |index: usize| match call.input(index) {
        "" => Ok(None),
        name => match tape.integers_of(name) {
            Some(list) => Ok(Some(list)),
            None => Err(call.unsupported("a slice by constants", name)),
        },
    };
    let starts = list(1)?.unwrap_or_default();
    let ends = list(2)?.unwrap_or_default();
    let axes = list(3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    let lengths = [starts.len(), ends.len(), axes.len(), steps.len()];
    if lengths.iter().any(|length| *length != starts.len()) || steps.contains(&0) {
        let found = format!("{lengths:?} and steps {steps:?}");
        return Err(call.unsupported("lists of one length and no step of 0", found));
    }
    let cut_of = |index: usize| {
        let at = axis(axes[index], shape.len())
            .ok_or_else(|| call.unsupported("an axis of the value", axes[index].to_string()))?;
        let Size::Fixed(size) = shape[at] else {
            return Err(call.unsupported("an axis of known size", format!("axis {at}")));
        };
        let range = cut(starts[index], ends[index], steps[index], size);
        Ok(Cut {
            axis: at,
            start: range.0,
            step: steps[index],
            length: cut_length(range, steps[index]),
            size,
        })
    };
    (0..starts.len()).map(cut_of).collect()
}

/// Zeros of shape `sizes` with `value` at `places` of an axis.
fn scatter(
    tape: &mut Tape<'_, '_>,
    value: &str,
    (places, axis): (&[i64], usize),
    sizes: &[i64],
) -> Result<String, DifferentiateError> {
    let shape = tape.list(sizes);
    let zeros = tape.op("ConstantOfShape", &[&shape])?;
    let mut column = vec![1; sizes.len()];
    column[axis] = places.len() as i64;
    let (places, column) = (tape.list(places), tape.list(&column));
    let places = tape.op("Reshape", &[&places, &column])?;
    let wide = tape.shape_value(value)?;
    let places = tape.op("Expand", &[&places, &wide])?;
    tape.op_with("ScatterElements", &[&zeros, &places, value], |node| {
        node.int("axis", axis as i64)
    })
}

/// Rows go back to where they were taken from, and are added up where one was taken twice.
fn gather(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let (table, indices) = (call.input(0), call.input(1));
    let (shape, places) = (tape.shape(table)?, tape.shape(indices)?);
    let at = axis(call.int("axis").unwrap_or(0), shape.len())
        .ok_or_else(|| call.unsupported("an axis of the table", "another"))?;
    let g = tape.full(g, call.output())?;
    let zeros = tape.zeros_like(table)?;
    // The indices become one axis, in the gradient as well.
    let mut target: Vec<i64> = vec![0; at];
    target.push(-1);
    let (mut column, rest) = (vec![1; shape.len()], &shape[at + 1..]);
    column[at] = -1;
    let updates = match (places.len(), fixed(&rest.to_vec())) {
        (1, _) => g,
        (_, Some(rest)) => {
            target.extend(rest);
            let target = tape.list(&target);
            tape.op("Reshape", &[&g, &target])?
        }
        (_, None) => return Err(call.unsupported("rows of known size", "a named one")),
    };
    let column = tape.list(&column);
    let places = tape.op("Reshape", &[indices, &column])?;
    let wide = tape.op("Shape", &[&updates])?;
    let places = tape.op("Expand", &[&places, &wide])?;
    let gradient = tape.op_with("ScatterElements", &[&zeros, &places, &updates], |node| {
        node.int("axis", at as i64).text("reduction", "add")
    })?;
    Ok(call.only(gradient))
}

fn expand(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let gradient = tape.fit(g, call.output(), call.input(0))?;
    Ok(call.only(gradient))
}

/// Only casts from float to float get here.
fn cast(_: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    Ok(call.only(g.to_string()))
}

fn axis_of(call: &Call<'_>, rank: usize) -> Result<usize, DifferentiateError> {
    let given = call.int("axis").unwrap_or(0);
    axis(given, rank)
        .ok_or_else(|| call.unsupported(format!("an axis of {rank}"), given.to_string()))
}
