//! Derivatives of operators that work element by element, with broadcasting.

use std::f32::consts::FRAC_2_SQRT_PI;

use super::tape::{Call, Gradients, Rule, Tape};

/// The rule of an operator of this file.
pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Add" => add,
        "Sub" => sub,
        "Mul" => mul,
        "Div" => div,
        "Pow" => pow,
        "Neg" => neg,
        "Sqrt" => sqrt,
        "Reciprocal" => reciprocal,
        "Exp" => exp,
        "Log" => log,
        "Tanh" => tanh,
        "Erf" => erf,
        "Sigmoid" => sigmoid,
        "Where" => choose,
        "Identity" => identity,
        _ => return None,
    })
}

/// d(a + b): g, g.
fn add(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    each(tape, call, |_, _| Ok(g.to_string()))
}

/// d(a − b): g, −g.
fn sub(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    each(tape, call, |tape, input| match input {
        0 => Ok(g.to_string()),
        _ => tape.op("Neg", &[g]),
    })
}

/// d(a·b): g·b, g·a.
fn mul(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    each(tape, call, |tape, input| {
        tape.op("Mul", &[g, call.input(1 - input)])
    })
}

/// d(y = a/b): g/b, −g·y/b.
fn div(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let over = tape.op("Div", &[g, call.input(1)])?;
    each(tape, call, |tape, input| match input {
        0 => Ok(over.clone()),
        _ => {
            let product = tape.op("Mul", &[&over, call.output()])?;
            tape.op("Neg", &[&product])
        }
    })
}

/// d(xᵖ) for a p that is not trained: g·p·xᵖ⁻¹.
fn pow(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    if call.wanted.get(1) == Some(&true) {
        return Err(call.unsupported("an exponent that is not trained", call.input(1)));
    }
    let (one, exponent) = (tape.scalar(1.0), call.input(1));
    let less = tape.op("Sub", &[exponent, &one])?;
    let power = tape.op("Pow", &[call.input(0), &less])?;
    let slope = tape.op("Mul", &[&power, exponent])?;
    let product = tape.op("Mul", &[g, &slope])?;
    let gradient = tape.fit(&product, call.output(), call.input(0))?;
    Ok(call.only(gradient))
}

fn neg(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    Ok(call.only(tape.op("Neg", &[g])?))
}

/// d(y = √x): g/(2y).
fn sqrt(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let half = tape.scalar(0.5);
    let scaled = tape.op("Mul", &[g, &half])?;
    Ok(call.only(tape.op("Div", &[&scaled, call.output()])?))
}

/// d(y = 1/x): −g·y².
fn reciprocal(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let square = tape.op("Mul", &[call.output(), call.output()])?;
    let negative = tape.op("Neg", &[g])?;
    Ok(call.only(tape.op("Mul", &[&negative, &square])?))
}

/// d(y = eˣ): g·y.
fn exp(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    Ok(call.only(tape.op("Mul", &[g, call.output()])?))
}

/// d(ln x): g/x.
fn log(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    Ok(call.only(tape.op("Div", &[g, call.input(0)])?))
}

/// d(y = tanh x): g·(1 − y²).
fn tanh(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let one = tape.scalar(1.0);
    let square = tape.op("Mul", &[call.output(), call.output()])?;
    let slope = tape.op("Sub", &[&one, &square])?;
    Ok(call.only(tape.op("Mul", &[g, &slope])?))
}

/// d(erf x): g·2/√π·e^(−x²).
fn erf(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let factor = tape.scalar(FRAC_2_SQRT_PI);
    let square = tape.op("Mul", &[call.input(0), call.input(0)])?;
    let negative = tape.op("Neg", &[&square])?;
    let bell = tape.op("Exp", &[&negative])?;
    let slope = tape.op("Mul", &[&bell, &factor])?;
    Ok(call.only(tape.op("Mul", &[g, &slope])?))
}

/// d(y = σ(x)): g·y·(1 − y).
fn sigmoid(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let one = tape.scalar(1.0);
    let other = tape.op("Sub", &[&one, call.output()])?;
    let slope = tape.op("Mul", &[call.output(), &other])?;
    Ok(call.only(tape.op("Mul", &[g, &slope])?))
}

/// d(c ? a : b): g where the value came from, nothing elsewhere.
fn choose(tape: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    let zero = tape.scalar(0.0);
    each(tape, call, |tape, input| {
        let branches = match input {
            1 => [g, &zero],
            _ => [&zero, g],
        };
        tape.op("Where", &[call.input(0), branches[0], branches[1]])
    })
}

fn identity(_: &mut Tape<'_, '_>, call: &Call<'_>, g: &str) -> Gradients {
    Ok(call.only(g.to_string()))
}

/// The gradient of each wanted input, by `make`, summed over the axes along which the input was broadcast.
fn each<'b, 'a>(
    tape: &mut Tape<'b, 'a>,
    call: &Call<'_>,
    mut make: impl FnMut(&mut Tape<'b, 'a>, usize) -> Result<String, super::DifferentiateError>,
) -> Gradients {
    let mut all = vec![None; call.wanted.len()];
    for input in 0..call.wanted.len() {
        if call.wanted[input] {
            let gradient = make(tape, input)?;
            all[input] = Some(tape.fit(&gradient, call.output(), call.input(input))?);
        }
    }
    Ok(all)
}
