//! Shapes of values, inferred node by node: numbers where they are known, names where only equality is.

use super::DifferentiateError;
use super::tape::{int, ints};
use crate::proto::onnx::NodeProto;

/// One size of a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Size {
    /// Known.
    Fixed(i64),
    /// Known at run time; equal names are equal sizes.
    Named(String),
}

/// Sizes of a value, slowest first.
pub(super) type Shape = Vec<Size>;

/// The shape in words, for messages.
pub(super) fn text(shape: &Shape) -> String {
    let sizes: Vec<String> = shape
        .iter()
        .map(|size| match size {
            Size::Fixed(size) => size.to_string(),
            Size::Named(name) => name.clone(),
        })
        .collect();
    format!("[{}]", sizes.join(", "))
}

/// The shape that both broadcast to, if they do.
pub(super) fn broadcast(left: &Shape, right: &Shape) -> Option<Shape> {
    const ONE: Size = Size::Fixed(1);
    let rank = left.len().max(right.len());
    let at = |shape: &Shape, axis: usize| match (axis + shape.len()).checked_sub(rank) {
        Some(index) => shape[index].clone(),
        None => ONE,
    };
    (0..rank)
        .map(|axis| match (at(left, axis), at(right, axis)) {
            (left, right) if left == right => Some(left),
            (ONE, other) | (other, ONE) => Some(other),
            _ => None,
        })
        .collect()
}

/// An axis counted from the front.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let positive = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(positive).ok().filter(|axis| *axis < rank)
}

/// Looks up a shape.
type Shapes<'f> = &'f dyn Fn(&str) -> Option<Shape>;
/// Looks up a constant list of integers.
type Integers<'f> = &'f dyn Fn(&str) -> Option<Vec<i64>>;

/// Shapes of a node's outputs; `None` for what cannot be told, which is an error only where somebody needs it.
pub(super) fn infer(
    node: &NodeProto,
    shapes: Shapes<'_>,
    integers: Integers<'_>,
) -> Result<Vec<Option<Shape>>, DifferentiateError> {
    let input = |index: usize| node.input.get(index).and_then(|name| shapes(name));
    let list = |index: usize| node.input.get(index).and_then(|name| integers(name));
    if node.op_type == "Split" && node.domain.is_empty() {
        return Ok(split(node, input(0), list(1)));
    }
    if !node.domain.is_empty() {
        return Ok(vec![None; node.output.len()]);
    }
    let one = match node.op_type.as_str() {
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Equal" | "Less" | "Greater" | "LessOrEqual"
        | "GreaterOrEqual" | "And" | "Or" => both(node, input(0), input(1))?,
        "Where" => {
            let branches = both(node, input(1), input(2))?;
            both(node, input(0), branches)?
        }
        "Neg" | "Sqrt" | "Reciprocal" | "Exp" | "Log" | "Tanh" | "Erf" | "Sigmoid" | "Softmax"
        | "LogSoftmax" | "Cast" | "Identity" | "Not" | "ScatterElements" | "Abs" | "Sin"
        | "Cos" => input(0),
        "MatMul" => match (input(0), input(1)) {
            (Some(left), Some(right)) => product(node, &left, &right)?,
            _ => None,
        },
        "Gemm" => gemm(node, input(0), input(1)),
        "ReduceSum" | "ReduceMean" => input(0).and_then(|shape| reduced(node, &shape, list(1))),
        "Reshape" => input(0).and_then(|shape| reshaped(node, &shape, list(1)?)),
        "Transpose" => input(0).and_then(|shape| transposed(node, shape)),
        "Concat" => concatenated(node, &(0..node.input.len()).map(input).collect::<Vec<_>>()),
        "Slice" => sliced(node, input(0), [list(1), list(2), list(3), list(4)]),
        "Gather" => gathered(node, input(0), input(1)),
        "Unsqueeze" => input(0).and_then(|shape| unsqueezed(shape, list(1)?)),
        "Squeeze" => input(0).and_then(|shape| squeezed(shape, list(1)?)),
        "Expand" => match (input(0), list(1)) {
            (Some(shape), Some(target)) => {
                let target = target.into_iter().map(Size::Fixed).collect();
                both(node, Some(shape), Some(target))?
            }
            _ => None,
        },
        "Pad" => input(0).and_then(|shape| padded(shape, list(1)?)),
        "Shape" => input(0).map(|shape| vec![Size::Fixed(shape.len() as i64)]),
        "Size" => Some(Vec::new()),
        "ConstantOfShape" => list(0).map(|sizes| sizes.into_iter().map(Size::Fixed).collect()),
        _ => None,
    };
    let mut all = vec![None; node.output.len()];
    if let Some(first) = all.first_mut() {
        *first = one;
    }
    Ok(all)
}

fn both(
    node: &NodeProto,
    left: Option<Shape>,
    right: Option<Shape>,
) -> Result<Option<Shape>, DifferentiateError> {
    let (Some(left), Some(right)) = (left, right) else {
        return Ok(None);
    };
    match broadcast(&left, &right) {
        Some(shape) => Ok(Some(shape)),
        None => Err(mismatch(node, &left, &right)),
    }
}

fn mismatch(node: &NodeProto, left: &Shape, right: &Shape) -> DifferentiateError {
    DifferentiateError::Shapes {
        node: node.name.clone(),
        left: text(left),
        right: text(right),
    }
}

/// [.., m, k] · [.., k, n]; vectors are not covered.
fn product(
    node: &NodeProto,
    left: &Shape,
    right: &Shape,
) -> Result<Option<Shape>, DifferentiateError> {
    let ([outer @ .., rows, inner], [others @ .., also_inner, columns]) = (&left[..], &right[..])
    else {
        return Ok(None);
    };
    let outer = broadcast(&outer.to_vec(), &others.to_vec());
    let Some(mut shape) = outer.filter(|_| inner == also_inner) else {
        return Err(mismatch(node, left, right));
    };
    shape.extend([rows.clone(), columns.clone()]);
    Ok(Some(shape))
}

fn gemm(node: &NodeProto, left: Option<Shape>, right: Option<Shape>) -> Option<Shape> {
    let rows = usize::from(int(node, "transA").unwrap_or(0) != 0);
    let columns = usize::from(int(node, "transB").unwrap_or(0) == 0);
    Some(vec![left?.get(rows)?.clone(), right?.get(columns)?.clone()])
}

/// Axes of a reduction, counted from the front; all, if none are given.
pub(super) fn reduced_axes(
    node: &NodeProto,
    rank: usize,
    given: Option<Vec<i64>>,
) -> Option<Vec<usize>> {
    match given {
        Some(axes) if !axes.is_empty() => axes.iter().map(|at| axis(*at, rank)).collect(),
        None if node.input.get(1).is_some_and(|name| !name.is_empty()) => None,
        _ if int(node, "noop_with_empty_axes").unwrap_or(0) != 0 => Some(Vec::new()),
        _ => Some((0..rank).collect()),
    }
}

fn reduced(node: &NodeProto, shape: &Shape, given: Option<Vec<i64>>) -> Option<Shape> {
    let axes = reduced_axes(node, shape.len(), given)?;
    let keeps = int(node, "keepdims").unwrap_or(1) != 0;
    let sizes =
        shape
            .iter()
            .enumerate()
            .filter_map(|(at, size)| match (axes.contains(&at), keeps) {
                (false, _) => Some(size.clone()),
                (true, true) => Some(Size::Fixed(1)),
                (true, false) => None,
            });
    Some(sizes.collect())
}

fn reshaped(node: &NodeProto, from: &Shape, target: Vec<i64>) -> Option<Shape> {
    let keeps_zero = int(node, "allowzero").unwrap_or(0) == 0;
    let mut shape = Vec::with_capacity(target.len());
    for (at, size) in target.iter().enumerate() {
        shape.push(match size {
            0 if keeps_zero => from.get(at)?.clone(),
            // The rest, unless the sizes below tell it.
            -1 => Size::Named(format!("{}.{at}", node.output.first()?)),
            size => Size::Fixed(*size),
        });
    }
    let Some(open) = target.iter().position(|size| *size == -1) else {
        return Some(shape);
    };
    // The rest is known if what remains of the old sizes, after those that stay are crossed out, is a product of numbers.
    let mut left = from.clone();
    let mut divisor = 1;
    for (_, size) in shape.iter().enumerate().filter(|(at, _)| *at != open) {
        match size {
            Size::Fixed(size) => divisor *= size,
            named => {
                let found = left.iter().position(|other| other == named)?;
                left.remove(found);
            }
        }
    }
    let names: Vec<Size> = left
        .iter()
        .filter(|size| matches!(size, Size::Named(_)))
        .cloned()
        .collect();
    let product: i64 = left
        .iter()
        .map(|size| match size {
            Size::Fixed(size) => *size,
            Size::Named(_) => 1,
        })
        .product();
    if divisor > 0 && product % divisor == 0 {
        match (&names[..], product / divisor) {
            ([], rest) => shape[open] = Size::Fixed(rest),
            ([name], 1) => shape[open] = name.clone(),
            _ => {}
        }
    }
    Some(shape)
}

fn transposed(node: &NodeProto, shape: Shape) -> Option<Shape> {
    match ints(node, "perm") {
        None => Some(shape.into_iter().rev().collect()),
        Some(order) => order
            .iter()
            .map(|at| shape.get(usize::try_from(*at).ok()?).cloned())
            .collect(),
    }
}

fn concatenated(node: &NodeProto, inputs: &[Option<Shape>]) -> Option<Shape> {
    let mut shape = inputs.first()?.clone()?;
    let at = axis(int(node, "axis")?, shape.len())?;
    let mut sum = 0;
    for input in inputs {
        match input.as_ref()?.get(at)? {
            Size::Fixed(size) => sum += size,
            Size::Named(_) => {
                shape[at] = Size::Named(format!("{}.{at}", node.output.first()?));
                return Some(shape);
            }
        }
    }
    shape[at] = Size::Fixed(sum);
    Some(shape)
}

fn split(node: &NodeProto, input: Option<Shape>, sizes: Option<Vec<i64>>) -> Vec<Option<Shape>> {
    let count = node.output.len();
    let shapes = || -> Option<Vec<Option<Shape>>> {
        let input = input?;
        let at = axis(int(node, "axis").unwrap_or(0), input.len())?;
        let sizes = match (sizes, &input[at]) {
            (Some(sizes), _) => sizes,
            // Equal parts, the last one smaller where they do not come out even.
            (None, Size::Fixed(size)) => {
                let part = (*size as usize).div_ceil(count.max(1)) as i64;
                let part_of = |index: i64| part.min(size - index * part);
                (0..count as i64).map(part_of).collect()
            }
            (None, Size::Named(_)) => return None,
        };
        let part = |size: &i64| {
            let mut shape = input.clone();
            shape[at] = Size::Fixed(*size);
            Some(shape)
        };
        Some(sizes.iter().map(part).collect())
    };
    shapes()
        .filter(|shapes| shapes.len() == count)
        .unwrap_or_else(|| vec![None; count])
}

/// First and last index (exclusive) and step of a slice along one axis, as ONNX clamps them.
pub(super) fn cut(start: i64, end: i64, step: i64, size: i64) -> (i64, i64) {
    let wrap = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    if step > 0 {
        (wrap(start).clamp(0, size), wrap(end).clamp(0, size))
    } else {
        (
            wrap(start).clamp(0, size - 1),
            wrap(end).clamp(-1, size - 1),
        )
    }
}

/// How many elements such a slice has.
pub(super) fn cut_length((start, end): (i64, i64), step: i64) -> i64 {
    let (span, stride) = ((end - start) * step.signum(), step.abs());
    if span <= 0 {
        0
    } else {
        (span + stride - 1) / stride
    }
}

fn sliced(
    node: &NodeProto,
    input: Option<Shape>,
    [starts, ends, axes, steps]: [Option<Vec<i64>>; 4],
) -> Option<Shape> {
    let mut shape = input?;
    let (starts, ends) = (starts?, ends?);
    let axes = match (axes, node.input.get(3)) {
        (Some(axes), _) => axes,
        (None, Some(name)) if !name.is_empty() => return None,
        _ => (0..starts.len() as i64).collect(),
    };
    let steps = match (steps, node.input.get(4)) {
        (Some(steps), _) => steps,
        (None, Some(name)) if !name.is_empty() => return None,
        _ => vec![1; starts.len()],
    };
    for (index, at) in axes.iter().enumerate() {
        let at = axis(*at, shape.len())?;
        let step = *steps.get(index)?;
        let (start, end) = (*starts.get(index)?, *ends.get(index)?);
        shape[at] = match &shape[at] {
            Size::Fixed(size) if step != 0 => {
                Size::Fixed(cut_length(cut(start, end, step, *size), step))
            }
            _ => Size::Named(format!("{}.{at}", node.output.first()?)),
        };
    }
    Some(shape)
}

fn gathered(node: &NodeProto, table: Option<Shape>, indices: Option<Shape>) -> Option<Shape> {
    let (table, indices) = (table?, indices?);
    let at = axis(int(node, "axis").unwrap_or(0), table.len())?;
    Some([&table[..at], &indices, &table[at + 1..]].concat())
}

fn unsqueezed(shape: Shape, axes: Vec<i64>) -> Option<Shape> {
    let rank = shape.len() + axes.len();
    let axes: Option<Vec<usize>> = axes.iter().map(|at| axis(*at, rank)).collect();
    let axes = axes?;
    let mut sizes = shape.into_iter();
    (0..rank)
        .map(|at| match axes.contains(&at) {
            true => Some(Size::Fixed(1)),
            false => sizes.next(),
        })
        .collect()
}

fn squeezed(shape: Shape, axes: Vec<i64>) -> Option<Shape> {
    let axes: Option<Vec<usize>> = axes.iter().map(|at| axis(*at, shape.len())).collect();
    let axes = axes?;
    let kept = shape.into_iter().enumerate();
    let kept = kept.filter(|(at, _)| !axes.contains(at));
    Some(kept.map(|(_, size)| size).collect())
}

fn padded(mut shape: Shape, pads: Vec<i64>) -> Option<Shape> {
    let rank = shape.len();
    for (at, size) in shape.iter_mut().enumerate() {
        match size {
            Size::Fixed(size) => *size += pads.get(at)? + pads.get(at + rank)?,
            Size::Named(_) if pads.get(at)? + pads.get(at + rank)? == 0 => {}
            Size::Named(_) => return None,
        }
    }
    Some(shape)
}
