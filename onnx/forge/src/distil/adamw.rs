//! AdamW: Adam with the decay of weights apart from the gradient (Loshchilov and Hutter 2019, algorithm 2), and clipping by the
//! global norm (Pascanu et al. 2013).
//!
//! ```text
//!   m = β₁·m + (1 − β₁)·g        v = β₂·v + (1 − β₂)·g²
//!   w = w − η·(m̂ / (√v̂ + ε) + λ·w)        m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ)
//! ```
//!
//! Every element stands alone, so that the work is shared out to threads by ranges, and the result is the same for any number of
//! them. The norm is summed in pieces of fixed length for the same reason.

use std::num::NonZero;
use std::thread;

use super::net::Tensor;

/// β₁, of the mean gradient.
const BETA_1: f32 = 0.9;
/// β₂, of the mean square: that of language models (Brown et al. 2020), shorter than Adam's .999, since distillation has few steps.
const BETA_2: f32 = 0.95;
/// ε.
const EPSILON: f32 = 1e-8;
/// Elements whose squares are summed in one go.
const PIECE: usize = 1 << 16;
/// Elements below which a thread costs more than it gains.
const MIN_SHARE: usize = 1 << 18;
/// Most threads.
const MAX_WORKERS: usize = 16;

/// What is remembered of one tensor, and its gradient.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moments {
    pub(super) gradient: Vec<f32>,
    pub(super) mean: Vec<f32>,
    pub(super) square: Vec<f32>,
    /// Whether λ applies: not to norms and biases, which are not large by themselves.
    decays: bool,
}

impl Moments {
    pub(super) fn of(tensor: &Tensor) -> Moments {
        let zeros = vec![0.0; tensor.values.len()];
        Moments {
            gradient: zeros.clone(),
            mean: zeros.clone(),
            square: zeros,
            decays: tensor.dims.len() > 1,
        }
    }

    /// Adds to the gradient of this step.
    pub(super) fn add(&mut self, gradient: &[f32]) {
        let workers = workers(gradient.len());
        let share = gradient.len().div_ceil(workers).max(1);
        thread::scope(|scope| {
            let pieces = self.gradient.chunks_mut(share).zip(gradient.chunks(share));
            for (sums, pieces) in pieces {
                let mut add = move || {
                    for (sum, piece) in sums.iter_mut().zip(pieces) {
                        *sum += piece;
                    }
                };
                if workers == 1 {
                    add();
                } else {
                    scope.spawn(add);
                }
            }
        });
    }
}

/// A step's numbers, the same for all tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    /// η.
    pub(super) rate: f32,
    /// λ.
    pub(super) decay: f32,
    /// Factor of the gradient, from clipping.
    pub(super) scale: f32,
    /// t, from 1.
    pub(super) number: u32,
}

/// The length of all gradients as one vector.
pub(super) fn norm<'m>(all: impl Iterator<Item = &'m Moments>) -> f64 {
    let squares = all.flat_map(|moments| moments.gradient.chunks(PIECE));
    squares
        .map(|piece| {
            // Sixteen sums side by side, which the compiler makes one vector of.
            let mut sums = [0.0_f32; 16];
            for group in piece.chunks(16) {
                for (sum, value) in sums.iter_mut().zip(group) {
                    *sum += value * value;
                }
            }
            sums.iter().map(|sum| f64::from(*sum)).sum::<f64>()
        })
        .sum::<f64>()
        .sqrt()
}

/// Moves one tensor, and sets its gradient to zero.
pub(super) fn update(weights: &mut [f32], moments: &mut Moments, step: Step) {
    let decay = if moments.decays { step.decay } else { 0.0 };
    let corrections = [BETA_1, BETA_2].map(|beta| 1.0 - beta.powi(step.number as i32));
    let workers = workers(weights.len());
    let share = weights.len().div_ceil(workers).max(1);
    let Moments {
        gradient,
        mean,
        square,
        ..
    } = moments;
    thread::scope(|scope| {
        let pieces = weights
            .chunks_mut(share)
            .zip(gradient.chunks_mut(share))
            .zip(mean.chunks_mut(share).zip(square.chunks_mut(share)));
        for ((weights, gradient), (mean, square)) in pieces {
            let mut work =
                move || piece([weights, gradient, mean, square], step, decay, corrections);
            if workers == 1 {
                work();
            } else {
                scope.spawn(work);
            }
        }
    });
}

fn piece(
    [weights, gradients, means, squares]: [&mut [f32]; 4],
    step: Step,
    decay: f32,
    [mean_part, square_part]: [f32; 2],
) {
    let rate = step.rate / mean_part;
    let root = square_part.sqrt().recip();
    let shrink = 1.0 - step.rate * decay;
    let all = weights.iter_mut().zip(gradients);
    for ((weight, gradient), (mean, square)) in all.zip(means.iter_mut().zip(squares)) {
        let g = *gradient * step.scale;
        *mean = BETA_1 * *mean + (1.0 - BETA_1) * g;
        *square = BETA_2 * *square + (1.0 - BETA_2) * g * g;
        *weight = *weight * shrink - rate * *mean / (square.sqrt() * root + EPSILON);
        *gradient = 0.0;
    }
}

fn workers(elements: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    cores.min(MAX_WORKERS).min(elements / MIN_SHARE).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_are_those_of_the_formula() {
        // The definition, in f64.
        let (rate, decay) = (0.1_f64, 0.01_f64);
        let gradients = [[0.5_f64, -2.0], [0.25, 1.0]];
        let mut expected = [1.0_f64, -3.0];
        let (mut m, mut v) = ([0.0_f64; 2], [0.0_f64; 2]);
        for (t, g) in gradients.iter().enumerate() {
            for i in 0..2 {
                let g = g[i] * 0.5;
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                let (b1, b2) = (0.9_f64.powi(t as i32 + 1), 0.95_f64.powi(t as i32 + 1));
                let ratio = (m[i] / (1.0 - b1)) / ((v[i] / (1.0 - b2)).sqrt() + 1e-8);
                expected[i] -= rate * (ratio + decay * expected[i]);
            }
        }
        let tensor = Tensor::new("w", &[1, 2], vec![1.0, -3.0]);
        let mut moments = Moments::of(&tensor);
        let mut weights = tensor.values;
        for (t, g) in gradients.iter().enumerate() {
            moments.add(&[g[0] as f32, g[1] as f32]);
            let step = Step {
                rate: 0.1,
                decay: 0.01,
                scale: 0.5,
                number: t as u32 + 1,
            };
            update(&mut weights, &mut moments, step);
        }
        for (found, expected) in weights.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-5,
                "{found} {expected}"
            );
        }
        assert_eq!(moments.gradient, [0.0, 0.0]);
    }

    #[test]
    fn vectors_do_not_decay() {
        let tensor = Tensor::new("norm", &[1], vec![2.0]);
        let (mut moments, mut weights) = (Moments::of(&tensor), vec![2.0]);
        let step = Step {
            rate: 0.1,
            decay: 0.5,
            scale: 1.0,
            number: 1,
        };
        update(&mut weights, &mut moments, step);
        assert_eq!(weights, [2.0]);
    }

    #[test]
    fn the_norm_is_that_of_all_tensors_together() {
        let tensors = [3.0, 4.0].map(|value| {
            let mut moments = Moments::of(&Tensor::new("w", &[1], vec![0.0]));
            moments.add(&[value]);
            moments
        });
        assert_eq!(norm(tensors.iter()), 5.0);
    }

    #[test]
    fn large_tensors_are_shared_out_and_come_out_the_same() {
        let size = 3 * MIN_SHARE + 7;
        let gradient: Vec<f32> = (0..size).map(|i| (i % 97) as f32 - 48.0).collect();
        let tensor = Tensor::new("w", &[1, size], vec![1.0; size]);
        let (mut moments, mut weights) = (Moments::of(&tensor), tensor.values);
        moments.add(&gradient);
        assert_eq!(moments.gradient, gradient);
        let step = Step {
            rate: 0.1,
            decay: 0.0,
            scale: 1.0,
            number: 1,
        };
        update(&mut weights, &mut moments, step);
        // The first step of Adam is the sign of the gradient.
        for (weight, gradient) in weights.iter().zip(&gradient) {
            let sign = if *gradient == 0.0 {
                0.0
            } else {
                gradient.signum()
            };
            assert!((weight - (1.0 - 0.1 * sign)).abs() < 1e-5, "{weight}");
        }
    }
}
