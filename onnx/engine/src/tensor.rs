//! Tensors at a session's border: what a graph must have, what is fed, what comes back.
//!
//! A caller says once which inputs and outputs it relies on; the check against the real graph happens when the session is
//! opened, so that a wrong model is refused with names and numbers instead of failing in the middle of a drive.

use std::fmt;

use ort::session::{SessionInputValue, SessionOutputs};
use ort::value::{DynValue, Outlet, TensorElementType, TensorRef, ValueType};

use crate::error::{EngineError, Result};

/// More axes than any graph here has.
pub const MAX_RANK: usize = 8;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 32-bit float.
    F32,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 8-bit unsigned integer.
    U8,
    /// Truth value.
    Bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TensorElementType::from(*self).fmt(f)
    }
}

impl From<Kind> for TensorElementType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::F32 => Self::Float32,
            Kind::I64 => Self::Int64,
            Kind::I32 => Self::Int32,
            Kind::U8 => Self::Uint8,
            Kind::Bool => Self::Bool,
        }
    }
}

/// What an axis of a graph's tensor must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// This size, or left open by the graph.
    Is(usize),
    /// Any size.
    Any,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(size) => size.fmt(f),
            Self::Any => f.write_str("?"),
        }
    }
}

/// One input or output that a caller relies on.
#[derive(Debug, Clone, Copy)]
pub struct TensorSpec<'a> {
    /// Its name in the graph.
    pub name: &'a str,
    /// Its element type.
    pub kind: Kind,
    /// Its axes, outermost first.
    pub dims: &'a [Dim],
}

impl<'a> TensorSpec<'a> {
    /// A spec, in the order the fields are read aloud.
    #[must_use]
    pub const fn new(name: &'a str, kind: Kind, dims: &'a [Dim]) -> Self {
        Self { name, kind, dims }
    }
}

/// What a graph must have to be used. Every input of the graph must be listed, because a run has to feed it; outputs that
/// are not listed are allowed.
#[derive(Debug, Clone, Copy)]
pub struct SessionSpec<'a> {
    /// All inputs.
    pub inputs: &'a [TensorSpec<'a>],
    /// The outputs that are read.
    pub outputs: &'a [TensorSpec<'a>],
}

/// A tensor as the graph declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Declared {
    pub(crate) name: String,
    /// `None`: not a tensor, or elements nobody here uses.
    pub(crate) element: Option<TensorElementType>,
    /// Axes; `-1` is one left open. No axes is a scalar or an undeclared shape: the runtime does not tell them apart.
    pub(crate) dims: Vec<i64>,
}

impl From<&Outlet> for Declared {
    fn from(outlet: &Outlet) -> Self {
        let (element, dims) = match outlet.dtype() {
            ValueType::Tensor { ty, shape, .. } => (Some(*ty), shape.to_vec()),
            _ => (None, Vec::new()),
        };
        Self {
            name: outlet.name().to_owned(),
            element,
            dims,
        }
    }
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.element {
            Some(element) => {
                let dims: Vec<_> = self
                    .dims
                    .iter()
                    .map(|dim| {
                        if *dim < 0 {
                            "?".to_owned()
                        } else {
                            dim.to_string()
                        }
                    })
                    .collect();
                write!(f, "{element}[{}]", dims.join(","))
            }
            None => f.write_str("no tensor"),
        }
    }
}

/// Which side of a graph a tensor is on; the word goes into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Input,
    Output,
}

impl Side {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// Compares what is relied on with what the graph declares.
pub(crate) fn check(
    model: &str,
    side: Side,
    specs: &[TensorSpec<'_>],
    declared: &[Declared],
) -> Result<()> {
    let names = || {
        declared
            .iter()
            .map(|tensor| tensor.name.as_str())
            .take(64)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let misnamed = |tensor: &str, reason| EngineError::TensorName {
        model: model.to_owned(),
        direction: side.word(),
        tensor: tensor.to_owned(),
        reason,
        found: names(),
    };
    for spec in specs {
        let found = declared
            .iter()
            .find(|tensor| tensor.name == spec.name)
            .ok_or_else(|| misnamed(spec.name, "is missing"))?;
        if !fits(spec, found) {
            return Err(EngineError::Tensor {
                model: model.to_owned(),
                direction: side.word(),
                tensor: spec.name.to_owned(),
                expected: shape_text(spec.kind, spec.dims),
                found: found.to_string(),
            });
        }
    }
    if side == Side::Input
        && let Some(extra) = declared
            .iter()
            .find(|tensor| specs.iter().all(|spec| spec.name != tensor.name))
    {
        return Err(misnamed(
            &extra.name,
            "is not known, so nobody would feed it",
        ));
    }
    Ok(())
}

fn fits(spec: &TensorSpec<'_>, found: &Declared) -> bool {
    if found.element != Some(spec.kind.into()) {
        return false;
    }
    found.dims.is_empty()
        || found.dims.len() == spec.dims.len()
            && spec
                .dims
                .iter()
                .zip(&found.dims)
                .all(|(expected, found)| match expected {
                    Dim::Any => true,
                    Dim::Is(size) => *found < 0 || usize::try_from(*found) == Ok(*size),
                })
}

fn shape_text(kind: Kind, dims: &[impl fmt::Display]) -> String {
    let dims: Vec<_> = dims.iter().map(ToString::to_string).collect();
    format!("{kind}[{}]", dims.join(","))
}

/// A value for one input: borrowed elements with their axes, or a tensor that an earlier run returned.
#[derive(Debug, Clone, Copy)]
pub struct Feed<'a> {
    name: &'a str,
    dims: &'a [usize],
    data: Data<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Data<'a> {
    F32(&'a [f32]),
    I64(&'a [i64]),
    I32(&'a [i32]),
    U8(&'a [u8]),
    Bool(&'a [bool]),
    Held(&'a Held),
}

impl<'a> Feed<'a> {
    /// Floats, row by row.
    #[must_use]
    pub const fn f32(name: &'a str, dims: &'a [usize], data: &'a [f32]) -> Self {
        Self {
            name,
            dims,
            data: Data::F32(data),
        }
    }

    /// 64-bit integers.
    #[must_use]
    pub const fn i64(name: &'a str, dims: &'a [usize], data: &'a [i64]) -> Self {
        Self {
            name,
            dims,
            data: Data::I64(data),
        }
    }

    /// 32-bit integers.
    #[must_use]
    pub const fn i32(name: &'a str, dims: &'a [usize], data: &'a [i32]) -> Self {
        Self {
            name,
            dims,
            data: Data::I32(data),
        }
    }

    /// Bytes.
    #[must_use]
    pub const fn u8(name: &'a str, dims: &'a [usize], data: &'a [u8]) -> Self {
        Self {
            name,
            dims,
            data: Data::U8(data),
        }
    }

    /// Truth values.
    #[must_use]
    pub const fn bool(name: &'a str, dims: &'a [usize], data: &'a [bool]) -> Self {
        Self {
            name,
            dims,
            data: Data::Bool(data),
        }
    }

    /// A tensor of an earlier run, without copying it.
    #[must_use]
    pub const fn held(name: &'a str, held: &'a Held) -> Self {
        Self {
            name,
            dims: &[],
            data: Data::Held(held),
        }
    }

    pub(crate) const fn name(&self) -> &'a str {
        self.name
    }

    fn kind_and_len(&self) -> Option<(Kind, usize)> {
        match self.data {
            Data::F32(data) => Some((Kind::F32, data.len())),
            Data::I64(data) => Some((Kind::I64, data.len())),
            Data::I32(data) => Some((Kind::I32, data.len())),
            Data::U8(data) => Some((Kind::U8, data.len())),
            Data::Bool(data) => Some((Kind::Bool, data.len())),
            Data::Held(_) => None,
        }
    }

    /// The value for the runtime, after checking that axes and elements agree: the runtime multiplies unchecked.
    pub(crate) fn value(&self, model: &str) -> Result<SessionInputValue<'a>> {
        if let Some((kind, len)) = self.kind_and_len() {
            let elements = self
                .dims
                .iter()
                .try_fold(1_usize, |product, dim| product.checked_mul(*dim));
            if self.dims.len() > MAX_RANK || elements != Some(len) {
                return Err(EngineError::Tensor {
                    model: model.to_owned(),
                    direction: Side::Input.word(),
                    tensor: self.name.to_owned(),
                    expected: format!("elements for {}", shape_text(kind, self.dims)),
                    found: format!("{len} elements"),
                });
            }
        }
        let dims = self.dims;
        let value = match self.data {
            Data::F32(data) => TensorRef::from_array_view((dims, data)).map(Into::into),
            Data::I64(data) => TensorRef::from_array_view((dims, data)).map(Into::into),
            Data::I32(data) => TensorRef::from_array_view((dims, data)).map(Into::into),
            Data::U8(data) => TensorRef::from_array_view((dims, data)).map(Into::into),
            Data::Bool(data) => TensorRef::from_array_view((dims, data)).map(Into::into),
            Data::Held(held) => Ok(SessionInputValue::from(&held.0)),
        };
        value.map_err(|error: ort::Error| EngineError::Run {
            model: model.to_owned(),
            reason: format!("input {}: {error}", self.name),
        })
    }
}

/// A tensor that a run returned and that the next run may take in, such as a state or a cache.
#[derive(Debug)]
pub struct Held(DynValue);

impl Held {
    /// Its elements, if they are floats.
    #[must_use]
    pub fn f32(&self) -> Option<View<'_, f32>> {
        let (dims, data) = self.0.try_extract_tensor::<f32>().ok()?;
        Some(View { dims, data })
    }
}

/// Elements of an output, row by row, with their axes.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    /// Axes, outermost first; never negative in a returned tensor.
    pub dims: &'a [i64],
    /// Elements, as many as the product of the axes.
    pub data: &'a [T],
}

/// What a run returned. It borrows the session: read it, then run again.
pub struct Outputs<'s> {
    model: &'s str,
    values: SessionOutputs<'s>,
}

impl fmt::Debug for Outputs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outputs")
            .field("model", &self.model)
            .field("names", &self.values.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl<'s> Outputs<'s> {
    pub(crate) fn new(model: &'s str, values: SessionOutputs<'s>) -> Self {
        Self { model, values }
    }

    /// A float output.
    ///
    /// # Errors
    /// [`EngineError::TensorName`] or [`EngineError::Tensor`] when there is none of this name and type.
    pub fn f32(&self, name: &str) -> Result<View<'_, f32>> {
        self.view(name, Kind::F32)
    }

    /// A 64-bit integer output.
    ///
    /// # Errors
    /// As [`Outputs::f32`].
    pub fn i64(&self, name: &str) -> Result<View<'_, i64>> {
        self.view(name, Kind::I64)
    }

    /// A 32-bit integer output.
    ///
    /// # Errors
    /// As [`Outputs::f32`].
    pub fn i32(&self, name: &str) -> Result<View<'_, i32>> {
        self.view(name, Kind::I32)
    }

    /// Takes an output out, to feed it to a later run without copying it.
    ///
    /// # Errors
    /// [`EngineError::TensorName`] when there is none of this name, or it was taken already.
    pub fn take(&mut self, name: &str) -> Result<Held> {
        if name.is_empty() {
            return Err(self.missing(name));
        }
        self.values
            .remove(name)
            .map(Held)
            .ok_or_else(|| self.missing(name))
    }

    fn view<T: ort::value::PrimitiveTensorElementType>(
        &self,
        name: &str,
        kind: Kind,
    ) -> Result<View<'_, T>> {
        // The runtime's own look-up refuses an empty name by a panic.
        let value = if name.is_empty() {
            None
        } else {
            self.values.get(name)
        };
        let value = value.ok_or_else(|| self.missing(name))?;
        let (dims, data) = value
            .try_extract_tensor::<T>()
            .map_err(|_| EngineError::Tensor {
                model: self.model.to_owned(),
                direction: Side::Output.word(),
                tensor: name.to_owned(),
                expected: kind.to_string(),
                found: value.dtype().to_string(),
            })?;
        Ok(View { dims, data })
    }

    fn missing(&self, name: &str) -> EngineError {
        EngineError::TensorName {
            model: self.model.to_owned(),
            direction: Side::Output.word(),
            tensor: name.to_owned(),
            reason: "is missing",
            found: self.values.keys().collect::<Vec<_>>().join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, element: TensorElementType, dims: &[i64]) -> Declared {
        Declared {
            name: name.to_owned(),
            element: Some(element),
            dims: dims.to_vec(),
        }
    }

    #[test]
    fn a_graph_that_fits_passes() {
        let graph = [
            declared("x", TensorElementType::Float32, &[1, -1, 3]),
            declared("n", TensorElementType::Int64, &[]),
        ];
        let specs = [
            TensorSpec::new("x", Kind::F32, &[Dim::Is(1), Dim::Is(7), Dim::Any]),
            TensorSpec::new("n", Kind::I64, &[Dim::Is(1)]), // no axes declared: unknown
        ];
        check("m", Side::Input, &specs, &graph).unwrap();
    }

    #[test]
    fn each_misfit_names_model_tensor_expected_and_found() {
        const SPEC: [TensorSpec<'static>; 1] =
            [TensorSpec::new("x", Kind::F32, &[Dim::Is(1), Dim::Any])];
        let cases: [(&str, Vec<Declared>, &[&str]); 5] = [
            ("absent", vec![], &["model m", "input x", "is missing"]),
            (
                "type",
                vec![declared("x", TensorElementType::Int64, &[1, 2])],
                &["f32[1,?]", "i64[1,2]"],
            ),
            (
                "rank",
                vec![declared("x", TensorElementType::Float32, &[1])],
                &["f32[1,?]", "f32[1]"],
            ),
            (
                "size",
                vec![declared("x", TensorElementType::Float32, &[2, -1])],
                &["f32[1,?]", "f32[2,?]"],
            ),
            (
                "input nobody feeds",
                vec![
                    declared("x", TensorElementType::Float32, &[1, 2]),
                    declared("y", TensorElementType::Bool, &[]),
                ],
                &["input y", "nobody"],
            ),
        ];
        for (why, graph, words) in cases {
            let message = check("m", Side::Input, &SPEC, &graph)
                .unwrap_err()
                .to_string();
            for word in words {
                assert!(message.contains(word), "{why}: {message}");
            }
        }
    }

    #[test]
    fn outputs_that_nobody_reads_are_allowed() {
        check(
            "m",
            Side::Output,
            &[],
            &[declared("extra", TensorElementType::Float32, &[])],
        )
        .unwrap();
    }

    #[test]
    fn axes_that_do_not_agree_with_the_elements_are_refused() {
        for dims in [&[2_usize, 2][..], &[usize::MAX, 2], &[1; 9]] {
            let error = Feed::f32("x", dims, &[1.0, 2.0, 3.0]).value("m").err();
            assert!(
                matches!(error, Some(EngineError::Tensor { .. })),
                "{dims:?}"
            );
        }
    }
}
