//! Quantizers: matrices as codes of 4 or 8 bits, chosen by what the errors do to the outputs on real text.
//!
//! ```text
//!   W, H = Σ x xᵀ ─► awq: scales folded into what feeds the inputs ─► importance: grids ─► gptq: codes with feedback
//!                                                                           ─► refine: codes, steps, zero points ─► Grid ─► Codes
//! ```
//!
//! All are pure functions of weights f32 `[rows, columns]` and the inputs' Gram matrix, share rows out to threads, and give the
//! same result whatever their number. Columns are a multiple of 32, weights finite.

mod awq;
mod block;
mod budget;
mod driver;
#[cfg(test)]
mod driver_tests;
mod gptq;
mod grid;
mod hessian;
mod importance;
mod inputs;
mod layer;
mod mix;
mod nearest;
mod overlay;
mod plan;
mod quantized;
mod refine;
mod sensitivity;
mod store;
#[cfg(test)]
mod tests;
mod tiles;

use crate::quantize::BLOCK;

pub use awq::{Channels, Fold, fold};
pub use budget::{Allocation, Budget, Choice, allocate};
pub use driver::quantize;
pub use gptq::gptq;
pub use grid::Grid;
pub(super) use hessian::middle;
pub use hessian::{Factor, Hessian, MAX_COLUMNS};
pub use importance::importance;
pub use mix::mix;
pub use nearest::round_to_nearest;
pub use plan::{MIN_TOKENS, MatrixReport, Method, QuantizeOptions, QuantizeReport};
pub use quantized::Quantized;
pub use refine::{Descent, RefineOptions, refine};
pub use sensitivity::{Sensitivity, raise, sensitivities, stored_bytes};

/// What a quantizer refuses.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantizeError {
    /// Rows that blocks do not fill, or too many inputs.
    #[error(
        "a matrix needs columns that are a multiple of {BLOCK} from {BLOCK} to {MAX_COLUMNS}, found {found}"
    )]
    Columns {
        /// Columns found.
        found: usize,
    },
    /// A weight that is infinite or not a number.
    #[error("weight {column} of row {row} is {value}, expected a finite number")]
    NotFinite {
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        column: usize,
        /// The weight.
        value: f32,
    },
    /// Arguments that do not fit together.
    #[error("{what}: expected {expected}, found {found}")]
    Length {
        /// What was counted.
        what: &'static str,
        /// The count that fits.
        expected: usize,
        /// The count given.
        found: usize,
    },
    /// A Gram matrix that is none.
    #[error("Gram matrix of the inputs: element [{row}, {column}] {what}")]
    Hessian {
        /// Row of the element.
        row: usize,
        /// Column of the element.
        column: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A Gram matrix that stays singular.
    #[error(
        "Gram matrix of the inputs: not positive definite, even damped by {damping} of the middle of its diagonal"
    )]
    NotPositiveDefinite {
        /// The largest damping tried.
        damping: f32,
    },
    /// Codes that a graph asks for and the work folder does not have.
    #[error("no codes in this format in the work folder")]
    Absent,
    /// A budget that cannot be met.
    #[error("{what}: wanted {wanted}, best found {best}")]
    Budget {
        /// What was limited.
        what: &'static str,
        /// The limit.
        wanted: f64,
        /// What can be reached.
        best: f64,
    },
}

/// Checks what all quantizers need: whole rows of whole blocks, and finite weights.
fn check(weights: &[f32], columns: usize) -> Result<(), QuantizeError> {
    if columns == 0 || !columns.is_multiple_of(BLOCK) || columns > MAX_COLUMNS {
        return Err(QuantizeError::Columns { found: columns });
    }
    let rows = weights.len() / columns;
    same_length("weights", rows * columns, weights.len())?;
    match weights.iter().position(|weight| !weight.is_finite()) {
        None => Ok(()),
        Some(at) => Err(QuantizeError::NotFinite {
            row: at / columns,
            column: at % columns,
            value: weights[at],
        }),
    }
}

fn same_length(what: &'static str, expected: usize, found: usize) -> Result<(), QuantizeError> {
    if expected == found {
        return Ok(());
    }
    Err(QuantizeError::Length {
        what,
        expected,
        found,
    })
}
