//! Makes matrices answer for what the layers before them got wrong.
//!
//! Behind quantized or pruned layers a matrix reads x where the original model reads t. What it should give is what the original
//! gives, so its weights are moved by least squares. The two matrices that write into the stream also make good what the stream
//! itself is short of. (GPTAQ, Li et al. 2025, folds the first into GPTQ; the second is the refit of pruning.)
//!
//! ```text
//!   query, key, value, gate, up   W' = W + ρ·W·Σ(t − x)xᵀ · (Σ x·xᵀ + λI)⁻¹
//!   output, down                  W' = W + ρ·Σ(stream of t − stream of x)xᵀ · (Σ x·xᵀ + λI)⁻¹      W itself at work in the second
//! ```

use super::quantize::middle;
use super::solve::{Cholesky, add_product};
use crate::decoder::{LayerPart, LayerSpec};
use crate::walk::{Gram, Grams, Missing};

/// Matrices by what they read, in the order of computation; up stands for the gate as well.
pub(super) const PLACES: [LayerPart; 4] = [
    LayerPart::Qkv,
    LayerPart::Output,
    LayerPart::Up,
    LayerPart::Down,
];

/// How far matrices are moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Amount {
    /// ρ, 0 ..= 1.
    pub(super) share: f64,
    /// λ as a share of the middle of the diagonal.
    pub(super) damping: f64,
}

/// The moved matrices of a layer that read the same as one of `parts`; gate stands for up as well. `matrix` gives the elements of one,
/// none if the layer has no such part. Matrices with a norm between them and the stream stay as they are: it lets no linear fit through.
///
/// # Errors
/// The matrix whose inputs no such damping makes positive definite.
pub(super) fn moved<'m>(
    spec: &LayerSpec,
    matrix: &dyn Fn(LayerPart) -> &'m [f32],
    (grams, missing): (&Grams, &Missing),
    parts: &[LayerPart],
    amount: Amount,
) -> Result<Vec<(LayerPart, Vec<f32>)>, LayerPart> {
    let mut moved = Vec::new();
    for &part in parts {
        let (readers, is_normed): (&[LayerPart], _) = match part {
            LayerPart::Qkv => (&[LayerPart::Qkv], false),
            LayerPart::Output => (&[LayerPart::Output], spec.post_attention_norm.is_some()),
            LayerPart::Gate | LayerPart::Up => (&[LayerPart::Gate, LayerPart::Up], false),
            LayerPart::Down => (&[LayerPart::Down], spec.post_ffn_norm.is_some()),
        };
        if is_normed {
            continue;
        }
        let (gram, cross) = (grams.of(part), missing.of(part));
        let factor = damped(gram, amount.damping).ok_or(part)?;
        for &reader in readers {
            let weights = matrix(reader);
            if weights.is_empty() {
                continue;
            }
            let mut change = match reader {
                LayerPart::Output | LayerPart::Down => cross.to_vec(),
                LayerPart::Qkv | LayerPart::Gate | LayerPart::Up => {
                    let weights: Vec<f64> = weights.iter().copied().map(f64::from).collect();
                    let mut product = vec![0.0; weights.len()];
                    let sizes = (gram.width, gram.width);
                    add_product(&mut product, 1.0, (&weights, cross), sizes);
                    product
                }
            };
            factor.solve(&mut change);
            let pairs = weights.iter().zip(&change);
            let new =
                pairs.map(|(weight, change)| (f64::from(*weight) + amount.share * change) as f32);
            moved.push((reader, new.collect()));
        }
    }
    Ok(moved)
}

/// Σ x·xᵀ damped as the quantizer's Hessians are, decomposed.
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
    use crate::architecture::toys;
    use crate::checkpoint::tests::imported;
    use crate::compress::random::Random;

    const WIDTH: usize = 32;

    #[test]
    fn a_small_ridge_fits_what_can_be_fitted() {
        // One output, inputs along two axes, of which one is large for a single token.
        let gram = gram(square(&[1e6, 4.0]));
        let factor = damped(&gram, 0.01).unwrap();
        // Missing along the second: 2 for an input of 1, four times.
        let mut change = vec![0.0; WIDTH];
        change[1] = 8.0;
        factor.solve(&mut change);
        assert!((change[1] - 2.0).abs() < 0.05, "{}", change[1]);
    }

    #[test]
    fn what_is_missing_is_made_good_where_it_follows_from_what_is_read() {
        // t − x = A·x: then Σ (t − x)·xᵀ = A·G, and the matrices become W·(I + A), or W + A where they write into the stream.
        let root = tempfile::tempdir().unwrap();
        let model = imported(&root.path().join("model"), &toys::gated("llama", 1));
        let mut spec = model.spec().layers[0].clone();
        let mut random = Random::new(5);
        let mut noise =
            |count: usize| -> Vec<f64> { (0..count).map(|_| random.unit() - 0.5).collect() };
        let (rows, a) = (noise(100 * WIDTH), noise(WIDTH * WIDTH));
        let weights: Vec<f32> = noise(WIDTH * WIDTH).iter().map(|w| *w as f32).collect();
        let mut sum = vec![0.0; WIDTH * WIDTH];
        for row in rows.chunks_exact(WIDTH) {
            for (sums, left) in sum.chunks_exact_mut(WIDTH).zip(row) {
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(sum, right)| *sum += left * right);
            }
        }
        let mut cross = vec![0.0; WIDTH * WIDTH];
        add_product(&mut cross, 1.0, (&a, &sum), (WIDTH, WIDTH));
        let grams = Grams {
            qkv: gram(sum.clone()),
            output: gram(sum.clone()),
            up: gram(sum.clone()),
            down: gram(sum),
        };
        let missing = Missing {
            qkv: cross.clone(),
            output: cross.clone(),
            up: cross.clone(),
            down: cross,
        };
        let wide: Vec<f64> = weights.iter().copied().map(f64::from).collect();
        let mut through = wide.clone();
        add_product(&mut through, 0.5, (&wide, &a), (WIDTH, WIDTH));
        let added: Vec<f64> = wide.iter().zip(&a).map(|(w, a)| w + 0.5 * a).collect();
        let amount = Amount {
            share: 0.5,
            damping: 1e-9,
        };
        let all = |spec: &LayerSpec| {
            moved(spec, &|_| &weights, (&grams, &missing), &PLACES, amount).unwrap()
        };
        let found = all(&spec);
        let parts: Vec<LayerPart> = found.iter().map(|(part, _)| *part).collect();
        assert_eq!(parts, LayerPart::ALL);
        for (part, found) in found {
            let expected = match part {
                LayerPart::Output | LayerPart::Down => &added,
                LayerPart::Qkv | LayerPart::Gate | LayerPart::Up => &through,
            };
            for (found, expected) in found.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{part:?}");
            }
        }
        // A norm behind a matrix keeps it as it is.
        spec.post_ffn_norm = Some(spec.ffn_norm.weight.clone());
        assert!(all(&spec).iter().all(|(part, _)| *part != LayerPart::Down));
        // Without a gate there is nothing to move in its place.
        let some = |part| {
            if part == LayerPart::Gate {
                &[][..]
            } else {
                &weights[..]
            }
        };
        let found = moved(&spec, &some, (&grams, &missing), &[LayerPart::Up], amount).unwrap();
        assert_eq!(found.len(), 1);
    }

    fn gram(sum: Vec<f64>) -> Gram {
        Gram {
            width: WIDTH,
            sum,
            rows: 10,
        }
    }

    fn square(first: &[f64]) -> Vec<f64> {
        let mut sum = vec![0.0; WIDTH * WIDTH];
        for at in 0..WIDTH {
            sum[at * (WIDTH + 1)] = first.get(at).copied().unwrap_or(4.0);
        }
        sum
    }
}
