//! The views of a package: structs that borrow, for messages with a list of numbers.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{doc, element_type, rust_name, rust_scalar, struct_name};
use crate::definition::{Base, Count, Field, Scalar};
use crate::registry::{Registry, Type};

/// True for a message with a list of numbers, its own or that of a message in it.
pub(super) fn has_view(registry: &Registry, found: &Type) -> bool {
    let mut fields = found.definition.fields.iter().zip(&found.links);
    fields.any(|(field, link)| match (&field.kind.base, field.kind.count) {
        (Base::Scalar(scalar), Count::Bounded(_) | Count::Unbounded) => *scalar != Scalar::Bool,
        (Base::Message(_), Count::One) => link
            .message
            .is_some_and(|index| has_view(registry, registry.at(index))),
        _ => false,
    })
}

/// The call of the macro; empty if no message of the package has a view.
pub(super) fn block(registry: &Registry, types: &[&Type]) -> String {
    let mut text = String::new();
    for found in types.iter().filter(|found| has_view(registry, found)) {
        let name = struct_name(&found.definition);
        let _ = writeln!(text, "    {name}View: {name} {{");
        for (field, link) in found.definition.fields.iter().zip(&found.links) {
            let inner = link.message.map(|index| registry.at(index));
            let rust = borrowed(registry, found, field, inner, types);
            let _ = write!(
                text,
                "        {:?} {}: {rust}",
                doc(field),
                rust_name(&field.name)
            );
            let bound = match (&field.kind.base, field.kind.count) {
                (Base::Text(bound), Count::One) => *bound,
                (_, Count::Bounded(bound)) => Some(bound),
                _ => None,
            };
            if let Some(bound) = bound {
                let _ = write!(text, ", at most {bound}");
            }
            text.push_str(";\n");
        }
        text.push_str("    }\n");
    }
    if text.is_empty() {
        return text;
    }
    format!("\nviews! {{\n{text}}}\n")
}

/// The type of a field in a view.
fn borrowed(
    registry: &Registry,
    found: &Type,
    field: &Field,
    inner: Option<&Type>,
    siblings: &[&Type],
) -> String {
    let kind = &field.kind;
    match (&kind.base, kind.count) {
        (Base::Scalar(scalar), Count::Bounded(_) | Count::Unbounded) if scalar.is_octet() => {
            return "&'a [u8]".to_owned();
        }
        (Base::Scalar(scalar), Count::Bounded(_) | Count::Unbounded) if *scalar != Scalar::Bool => {
            return format!("std::borrow::Cow<'a, [{}]>", rust_scalar(*scalar));
        }
        (Base::Text(_), Count::One) => return "&'a str".to_owned(),
        _ => {}
    }
    // The packages were named by the messages themselves, which have the same fields.
    let element = element_type(found, field, inner, siblings, &mut BTreeSet::new());
    match kind.count {
        Count::One if inner.is_some_and(|inner| has_view(registry, inner)) => {
            format!("{element}View<'a>")
        }
        Count::One => element,
        Count::Array(size) => format!("[{element}; {size}]"),
        Count::Bounded(_) | Count::Unbounded => format!("Vec<{element}>"),
    }
}
