//! Makes matrices answer for what the layers before them got wrong.
//!
//! Behind quantized layers a matrix reads x where the original model reads t. What it should give is what the original gives, so
//! its weights are moved by least squares before they are rounded. The two matrices that write into the stream also make good what
//! the stream itself is short of. (GPTAQ, Li et al. 2025, folds the first into GPTQ; the second is the refit of pruning.)
//!
//! ```text
//!   query, key, value, gate, up   W' = W + ρ·W·Σ(t − x)xᵀ · (Σ x·xᵀ + λI)⁻¹
//!   output, down                  W' = W + ρ·Σ(stream of t − stream of x)xᵀ · (Σ x·xᵀ + λI)⁻¹      W itself at work in the second
//! ```

use super::QuantizeError;
use super::hessian::middle;
use super::layer::Layer;
use crate::compress::solve::{Cholesky, add_product};
use crate::decoder::{LayerPart, LayerSpec};
use crate::walk::{Gram, Grams, Missing};

/// Moves the matrices of a layer by ρ = `share`; `damping` is λ as a share of the middle of the diagonal.
///
/// # Errors
/// [`QuantizeError::NotPositiveDefinite`] with the matrix it is about.
pub(super) fn correct(
    layer: &mut Layer,
    spec: &LayerSpec,
    (grams, missing): (&Grams, &Missing),
    (share, damping): (f64, f64),
) -> Result<(), (LayerPart, QuantizeError)> {
    for (part, cross) in [
        (LayerPart::Qkv, &missing.qkv),
        (LayerPart::Output, &missing.output),
        (LayerPart::Up, &missing.up),
        (LayerPart::Down, &missing.down),
    ] {
        let is_normed = match part {
            LayerPart::Output => spec.post_attention_norm.is_some(),
            LayerPart::Down => spec.post_ffn_norm.is_some(),
            LayerPart::Qkv | LayerPart::Gate | LayerPart::Up => false,
        };
        // A norm between the matrix and the stream lets no linear fit through.
        if is_normed {
            continue;
        }
        let gram = grams.of(part);
        let factor = damped(gram, damping).ok_or((
            part,
            QuantizeError::NotPositiveDefinite {
                damping: damping as f32,
            },
        ))?;
        let parts: &[LayerPart] = match part {
            LayerPart::Up => &[LayerPart::Gate, LayerPart::Up],
            _ => &[part],
        };
        for &part in parts {
            let weights = layer.matrix(part);
            if weights.is_empty() {
                continue;
            }
            let mut change = match part {
                LayerPart::Output | LayerPart::Down => cross.clone(),
                LayerPart::Qkv | LayerPart::Gate | LayerPart::Up => {
                    let weights: Vec<f64> = weights.iter().copied().map(f64::from).collect();
                    let mut product = vec![0.0; weights.len()];
                    add_product(
                        &mut product,
                        1.0,
                        (&weights, cross),
                        (gram.width, gram.width),
                    );
                    product
                }
            };
            factor.solve(&mut change);
            let moved = weights.iter().zip(&change);
            let moved = moved.map(|(weight, change)| (f64::from(*weight) + share * change) as f32);
            let moved = moved.collect();
            layer.set_matrix(part, moved);
        }
    }
    Ok(())
}

/// Σ x·xᵀ damped as [`super::Hessian::damped`] does it, decomposed.
fn damped(gram: &Gram, damping: f64) -> Option<Cholesky> {
    let diagonal: Vec<f32> = (gram.sum.iter().step_by(gram.width + 1))
        .map(|value| *value as f32)
        .collect();
    let middle = middle(&diagonal);
    let ridge = if middle > 0.0 { damping * middle } else { 1.0 };
    let mut matrix = gram.sum.clone();
    for value in matrix.iter_mut().step_by(gram.width + 1) {
        *value += ridge;
    }
    Cholesky::of(matrix, gram.width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_ridge_fits_what_can_be_fitted() {
        // One output, inputs along two axes, of which one is large for a single token.
        let gram = Gram {
            width: 32,
            sum: square(&[1e6, 4.0]),
            rows: 10,
        };
        let factor = damped(&gram, 0.01).unwrap();
        // Missing along the second: 2 for an input of 1, four times.
        let mut change = vec![0.0; 32];
        change[1] = 8.0;
        factor.solve(&mut change);
        assert!((change[1] - 2.0).abs() < 0.05, "{}", change[1]);
    }

    fn square(first: &[f64]) -> Vec<f64> {
        let mut sum = vec![0.0; 32 * 32];
        for at in 0..32 {
            sum[at * 33] = first.get(at).copied().unwrap_or(4.0);
        }
        sum
    }
}
