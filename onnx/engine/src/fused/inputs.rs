//! Reading a node: attributes, constants that stay, tensors of a run. Everything comes from a file and is checked.

use llmasos_kernels::norm::{Norm, NormKind};
use llmasos_kernels::pack::Packed;
use ort::operator::{ComputeContext, KernelContext};
use ort::value::{PrimitiveTensorElementType, TensorValueType, ValueRef};

use super::failed;

/// Largest size an attribute may state.
const MAX_SIZE: i64 = 1 << 24;

/// A size from an attribute: at least 0, at most [`MAX_SIZE`].
pub(super) fn size(node: &KernelContext<'_>, name: &str) -> ort::Result<usize> {
    let found: i64 = node
        .get(name)
        .ok_or_else(|| failed(format!("attribute {name} is missing")))?;
    if !(0..=MAX_SIZE).contains(&found) {
        return Err(failed(format!(
            "attribute {name}: expected 0..={MAX_SIZE}, found {found}"
        )));
    }
    Ok(found as usize)
}

/// A finite number from an attribute.
pub(super) fn number(node: &KernelContext<'_>, name: &str) -> ort::Result<f32> {
    let found: f32 = node
        .get(name)
        .ok_or_else(|| failed(format!("attribute {name} is missing")))?;
    if found.is_finite() {
        Ok(found)
    } else {
        Err(failed(format!(
            "attribute {name}: expected a finite number, found {found}"
        )))
    }
}

/// One of several words from an attribute.
pub(super) fn word<T: Copy>(
    node: &KernelContext<'_>,
    name: &str,
    words: &[(&str, T)],
) -> ort::Result<T> {
    let found: String = node
        .get(name)
        .ok_or_else(|| failed(format!("attribute {name} is missing")))?;
    let known = words.iter().find(|(word, _)| *word == found);
    known.map(|(_, value)| *value).ok_or_else(|| {
        let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        failed(format!(
            "attribute {name}: expected one of {}, found {found:?}",
            all.join(", ")
        ))
    })
}

/// The attribute `norm`.
pub(super) fn norm_kind(node: &KernelContext<'_>) -> ort::Result<NormKind> {
    word(
        node,
        "norm",
        &[("rms", NormKind::Rms), ("layer", NormKind::Layer)],
    )
}

/// A constant, in place: the runtime keeps initializers where the file is mapped for as long as the kernel lives.
pub(super) fn constant<'a, T: PrimitiveTensorElementType + std::fmt::Debug + 'a>(
    node: &KernelContext<'a>,
    index: usize,
    what: &str,
) -> ort::Result<&'a [T]> {
    let value: ValueRef<'a, TensorValueType<T>> = node.constant_input(index).map_err(|error| {
        failed(format!(
            "input {index}, {what}: expected a constant: {error}"
        ))
    })?;
    // The view must live as long as the slice into it, which is as long as the kernel: some ten small boxes a block are not
    // given back when a model is closed.
    let value: &'a ValueRef<'a, TensorValueType<T>> = Box::leak(Box::new(value));
    Ok(value.extract_tensor().1)
}

/// A constant that may be absent.
pub(super) fn optional<'a>(node: &KernelContext<'a>, index: usize) -> Option<&'a [f32]> {
    constant(node, index, "optional").ok()
}

/// A packed matrix.
pub(super) fn packed<'a>(
    node: &KernelContext<'a>,
    index: usize,
    what: &str,
    (rows, columns): (usize, usize),
) -> ort::Result<Packed<'a>> {
    let bytes = constant::<u8>(node, index, what)?;
    Packed::new(bytes, rows, columns)
        .map_err(|error| failed(format!("input {index}, {what}: {error}")))
}

/// A norm whose weight must be there.
pub(super) fn norm<'a>(
    node: &KernelContext<'a>,
    (weight, bias): (usize, usize),
    what: &str,
    kind: NormKind,
    epsilon: f32,
) -> ort::Result<Norm<'a>> {
    Ok(Norm {
        kind,
        epsilon,
        weight: constant(node, weight, what)?,
        bias: optional(node, bias),
    })
}

/// A tensor of a run: its axes and elements.
pub(super) fn tensor<'v, T: PrimitiveTensorElementType>(
    value: &'v Option<ValueRef<'_>>,
    what: &str,
) -> ort::Result<(&'v [i64], &'v [T])> {
    let value = value
        .as_ref()
        .ok_or_else(|| failed(format!("{what} is missing")))?;
    let (shape, data) = value.try_extract_tensor::<T>()?;
    Ok((shape, data))
}

/// Refuses optional inputs that are there without being constants: they would be ignored.
pub(super) fn no_hidden_inputs(
    context: &ComputeContext,
    taken: &[(usize, bool)],
) -> ort::Result<()> {
    let count = context.num_inputs()?;
    for (index, is_taken) in taken.iter().filter(|(index, _)| *index < count) {
        if !is_taken && context.input(*index)?.is_some() {
            return Err(failed(format!(
                "input {index}: expected a constant or nothing"
            )));
        }
    }
    Ok(())
}
