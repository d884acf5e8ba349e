//! Fits what is left of a matrix, by least squares, to what the whole did, and to what the original model has behind the layer.
//!
//! The fit looks for a change X of the weights that are left, not for the weights: where the text says nothing, damping then leaves
//! them as they were trained instead of pulling them to nothing, so that little text does little harm.
//!
//! ```text
//!   W = [Wₖ | Wₚ]  kept, pruned          r = Wₚ·aₚ + ρ·e        what is missing behind the layer; e: original − pruned so far
//!   min over X   Σ w·‖r − X·aₖ‖² + λ‖X‖²        X·(Gₖₖ + λI) = Wₚ·Gₚₖ + ρ·Cₖ
//! ```

use serde::{Deserialize, Serialize};

use super::PruneError;
use super::normal::Normal;
use super::surgeon::factor;
use crate::compress::solve::{add_product, dot};

/// How matrices are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refit {
    /// λ, relative to the mean of the Gram matrix' diagonal: more for less text.
    pub damping: f64,
    /// ρ, 0 ..= 1: how much of what earlier layers got wrong is made good too.
    pub stream: f64,
}

impl Default for Refit {
    /// Damping of 1 % of the mean, as GPTQ has it, and all of what is missing. A choice, not yet the result of a measurement.
    fn default() -> Refit {
        Refit {
            damping: 0.01,
            stream: 1.0,
        }
    }
}

/// Error behind a layer, relative to the hidden states (mean over tokens of ‖error‖² / ‖state‖²).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitError {
    /// With the rest as it was.
    pub before: f64,
    /// With the rest fitted, on the text it was fitted to.
    pub after: f64,
}

/// Columns `kept` of a matrix `[outputs, inputs]`, and the error of leaving out the others.
pub(super) fn cut(normal: &Normal, weights: &[f32], kept: &[usize]) -> (Vec<f32>, FitError) {
    let lost = lost(normal, weights, &others(kept, normal.inputs));
    let error = relative(lost, normal, weights.len() / normal.inputs);
    let error = FitError {
        before: error,
        after: error,
    };
    (columns(weights, normal.inputs, kept), error)
}

/// The same, the columns that are left fitted.
pub(super) fn fit(
    normal: &Normal,
    weights: &[f32],
    kept: &[usize],
    refit: Refit,
    place: &str,
) -> Result<(Vec<f32>, FitError), PruneError> {
    let inputs = normal.inputs;
    let outputs = weights.len() / inputs;
    let gone = others(kept, inputs);
    let pruned = columns_f64(weights, inputs, &gone);
    // [gone, kept] of the Gram matrix.
    let rows = gone
        .iter()
        .map(|row| &normal.gram[row * inputs..(row + 1) * inputs]);
    let between: Vec<f64> = rows
        .flat_map(move |row| kept.iter().map(move |column| row[*column]))
        .collect();
    let mut sides = vec![0.0; outputs * kept.len()];
    let sizes = (gone.len(), kept.len());
    add_product(&mut sides, 1.0, (&pruned, &between), sizes);
    let stream = if normal.cross.is_empty() {
        0.0
    } else {
        refit.stream
    };
    let mut lost = square(normal, &pruned, &gone);
    if stream > 0.0 {
        let cross = normal.cross.chunks_exact(inputs);
        for (side, cross) in sides.chunks_exact_mut(kept.len()).zip(cross) {
            for (side, column) in side.iter_mut().zip(kept) {
                *side += stream * cross[*column];
            }
        }
        let of_gone = normal.cross.chunks_exact(inputs);
        let of_gone = of_gone.flat_map(|row| gone.iter().map(move |column| row[*column]));
        let both: f64 = of_gone
            .zip(&pruned)
            .map(|(cross, weight)| cross * weight)
            .sum();
        lost += stream * (2.0 * both + stream * normal.missing);
    }
    let (factor, ridge) = factor(normal, kept, refit.damping, place)?;
    let mut change = sides.clone();
    factor.solve(&mut change);
    // ‖r − X·a‖² = ‖r‖² − 2X·side + X·G·Xᵀ, and X·G = side − λX.
    let gained = dot(&change, &sides) + ridge * dot(&change, &change);
    let mut fitted = columns(weights, inputs, kept);
    for (weight, change) in fitted.iter_mut().zip(&change) {
        *weight = (f64::from(*weight) + change) as f32;
    }
    let error = FitError {
        before: relative(lost, normal, outputs),
        after: relative(lost - gained, normal, outputs),
    };
    Ok((fitted, error))
}

/// Σ w·‖Wₚ·aₚ‖²: what the inputs `gone` add behind a matrix.
pub(super) fn lost(normal: &Normal, weights: &[f32], gone: &[usize]) -> f64 {
    square(normal, &columns_f64(weights, normal.inputs, gone), gone)
}

/// Columns of a matrix of `inputs` columns.
pub(super) fn columns(weights: &[f32], inputs: usize, kept: &[usize]) -> Vec<f32> {
    let rows = weights.chunks_exact(inputs);
    rows.flat_map(move |row| kept.iter().map(move |column| row[*column]))
        .collect()
}

/// Rows of a matrix of `columns` columns, or elements of a vector with 1.
pub(super) fn rows(weights: &[f32], columns: usize, kept: &[usize]) -> Vec<f32> {
    let rows = kept
        .iter()
        .map(|row| &weights[row * columns..(row + 1) * columns]);
    rows.flatten().copied().collect()
}

/// The numbers below `count` that are not in `kept`, which is sorted.
pub(super) fn others(kept: &[usize], count: usize) -> Vec<usize> {
    (0..count)
        .filter(|index| kept.binary_search(index).is_err())
        .collect()
}

fn columns_f64(weights: &[f32], inputs: usize, kept: &[usize]) -> Vec<f64> {
    let columns = columns(weights, inputs, kept);
    columns.iter().copied().map(f64::from).collect()
}

/// Σ w·‖D·a‖² for columns D, `[outputs, some]`, of the inputs `some`.
fn square(normal: &Normal, columns: &[f64], some: &[usize]) -> f64 {
    let rows = some.iter().map(|row| &normal.gram[row * normal.inputs..]);
    let gram: Vec<f64> = rows
        .flat_map(|row| some.iter().map(move |column| row[*column]))
        .collect();
    let mut product = vec![0.0; columns.len()];
    let sizes = (some.len(), some.len());
    add_product(&mut product, 1.0, (columns, &gram), sizes);
    dot(&product, columns)
}

/// States are scaled to a mean square of 1 a channel, so the sum is as many times the relative error as there are channels.
fn relative(sum: f64, normal: &Normal, outputs: usize) -> f64 {
    (sum / (normal.rows.max(1) as f64 * outputs.max(1) as f64)).max(0.0)
}
