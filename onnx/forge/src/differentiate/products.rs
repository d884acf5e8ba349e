//! Derivatives of matrix products: again matrix products, with one factor transposed.
//!
//! ```text
//!   Y = A·B     dA = dY·Bᵀ     dB = Aᵀ·dY
//! ```
//!
//! Two-dimensional factors use Gemm, which reads a factor transposed for nothing; a MatMul of more dimensions has Transpose in
//! front, which ONNX Runtime folds into the product.

use super::tape::{Call, Gradients, Rule, Tape};

/// The rule of an operator of this file.
pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "MatMul" => matmul,
        "Gemm" => gemm,
        _ => return None,
    })
}

fn matmul(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let (a, b) = (call.input(0), call.input(1));
    let ranks = [tape.shape(a)?.len(), tape.shape(b)?.len()];
    if ranks.contains(&1) {
        let expected = "factors of two or more dimensions";
        return Err(call.unsupported(expected, format!("{} and {}", ranks[0], ranks[1])));
    }
    let g = &tape.full(g, call.output())?;
    let mut all = vec![None; 2];
    if call.wanted[0] {
        let gradient = match ranks {
            [2, 2] => tape.op_with("Gemm", &[g, b], |node| node.int("transB", 1))?,
            _ => {
                let transposed = tape.transposed(b)?;
                tape.op("MatMul", &[g, &transposed])?
            }
        };
        all[0] = Some(outer(tape, &gradient, a)?);
    }
    if call.wanted[1] {
        let gradient = match ranks {
            [2, 2] => tape.op_with("Gemm", &[a, g], |node| node.int("transA", 1))?,
            // A weight that many rows share: one product over all rows instead of one per matrix and a sum.
            [_, 2] => {
                let (rows, gradients) = (flat(tape, a)?, flat(tape, g)?);
                tape.op_with("Gemm", &[&rows, &gradients], |node| node.int("transA", 1))?
            }
            _ => {
                let transposed = tape.transposed(a)?;
                tape.op("MatMul", &[&transposed, g])?
            }
        };
        all[1] = Some(outer(tape, &gradient, b)?);
    }
    Ok(all)
}

/// Sums over the matrices of a stack that `input` was broadcast along.
fn outer(
    tape: &mut Tape<'_, '_>,
    gradient: &str,
    input: &str,
) -> Result<String, super::DifferentiateError> {
    tape.fit(gradient, gradient, input)
}

/// [.., columns] as [rows, columns].
fn flat(tape: &mut Tape<'_, '_>, value: &str) -> Result<String, super::DifferentiateError> {
    let shape = tape.shape(value)?;
    if shape.len() == 2 {
        return Ok(value.to_string());
    }
    let target = match shape.last() {
        Some(super::shape::Size::Fixed(columns)) => tape.list(&[-1, *columns]),
        _ => {
            let sizes = tape.op("Shape", &[value])?;
            let (end, far, rest) = (tape.list(&[-1]), tape.list(&[i64::MAX]), tape.list(&[-1]));
            let columns = tape.op("Slice", &[&sizes, &end, &far])?;
            tape.op_with("Concat", &[&rest, &columns], |node| node.int("axis", 0))?
        }
    };
    let output = tape.op("Reshape", &[value, &target])?;
    tape.assume_flat(&output, value)?;
    Ok(output)
}

/// Y = α·A'·B' + β·C, where ' is a transposition or nothing.
fn gemm(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let (a, b) = (call.input(0), call.input(1));
    let flag = |name| call.int(name).unwrap_or(0) != 0;
    let (a_turned, b_turned) = (flag("transA"), flag("transB"));
    let (alpha, beta) = (
        call.float("alpha").unwrap_or(1.0),
        call.float("beta").unwrap_or(1.0),
    );
    let narrow = g.to_string();
    let g = &tape.full(g, call.output())?;
    let mut product = |left: (&str, bool), right: (&str, bool)| {
        tape.op_with("Gemm", &[left.0, right.0], |node| {
            node.int("transA", left.1.into())
                .int("transB", right.1.into())
                .float("alpha", alpha)
        })
    };
    let mut all = vec![None; call.wanted.len()];
    if call.wanted[0] {
        all[0] = Some(match a_turned {
            false => product((g, false), (b, !b_turned))?,
            true => product((b, b_turned), (g, true))?,
        });
    }
    if call.wanted[1] {
        all[1] = Some(match b_turned {
            false => product((a, !a_turned), (g, false))?,
            true => product((g, true), (a, a_turned))?,
        });
    }
    if call.wanted.get(2) == Some(&true) {
        let mut gradient = tape.fit(&narrow, call.output(), call.input(2))?;
        if beta != 1.0 {
            let beta = tape.scalar(beta);
            gradient = tape.op("Mul", &[&gradient, &beta])?;
        }
        all[2] = Some(gradient);
    }
    Ok(all)
}
