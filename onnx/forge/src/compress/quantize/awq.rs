//! Scales that move precision to the inputs that matter (Lin et al. 2023), folded into whatever makes these inputs.
//!
//! A column that is multiplied by s, while its input is divided by s, computes the same and rounds with an error 1/s as large.
//! Every other column of its block pays for that, so s follows the input's size only in part. What a column pays with is its own
//! size, which s takes out: s = √Hⱼⱼ^α ÷ ‖wⱼ‖^(1−α). So the result does not depend on how large the channels were before. α is
//! what errs least after rounding as the matrices will be rounded, with feedback, on a sample of their rows; or nothing is folded.
//!
//! ```text
//!   norm weight ÷ s ─► qkv columns · s           up rows ÷ s ─► down columns · s
//!   norm weight ÷ s ─► gate|up columns · s       value rows ÷ s ─► output columns · s, all query heads of a value head alike
//! ```

use super::QuantizeError;
use super::gptq::gptq;
use super::hessian::{Factor, Hessian, middle};
use super::importance::importance;
use crate::quantize::CodeFormat;

/// Exponents tried. In every run measured the least error was between 0 and 0.4.
const ALPHAS: [f32; 4] = [0.0, 0.15, 0.3, 0.45];
/// Most rows that exponents are judged by.
const SAMPLE_ROWS: usize = 64;
/// Farthest that a scale may be from 1, either way: half-precision steps must hold the weights.
const MAX_SCALE: f32 = 256.0;
/// Inputs below this share of the middle one are taken for as large as it.
const MIN_SHARE: f32 = 1e-3;

/// Which inputs are scaled alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channels {
    of_column: Vec<usize>,
    count: usize,
}

/// The scales found.
#[derive(Debug, Clone, PartialEq)]
pub struct Fold {
    /// s of each channel: what makes the inputs is divided by it.
    pub channels: Vec<f32>,
    /// s of each column: the matrix is multiplied by it.
    pub columns: Vec<f32>,
    /// The exponent; `None` if no scales err less than none.
    pub alpha: Option<f32>,
    /// Error of the sampled rows, as a share of the error without scales.
    pub ratio: f64,
}

impl Channels {
    /// Every input by itself.
    pub fn each(columns: usize) -> Channels {
        Channels {
            of_column: (0..columns).collect(),
            count: columns,
        }
    }

    /// Outputs of attention: query heads that read the same value head share its channels. `heads` is a multiple of `kv_heads`.
    pub fn value_heads(heads: usize, kv_heads: usize, head_dim: usize) -> Channels {
        let group = (heads / kv_heads.max(1)).max(1);
        let column = |head: usize, lane: usize| head / group * head_dim + lane;
        Channels {
            of_column: (0..heads)
                .flat_map(|head| (0..head_dim).map(move |lane| column(head, lane)))
                .collect(),
            count: kv_heads * head_dim,
        }
    }

    /// The scale of each column.
    pub(super) fn spread(&self, channels: &[f32]) -> Vec<f32> {
        self.of_column.iter().map(|&at| channels[at]).collect()
    }

    /// √ of the mean square of each channel, given that of each column.
    fn sizes(&self, diagonal: &[f32]) -> Vec<f32> {
        let mut sums = vec![(0.0_f32, 0.0_f32); self.count];
        for (&channel, value) in self.of_column.iter().zip(diagonal) {
            sums[channel].0 += value;
            sums[channel].1 += 1.0;
        }
        let floor = (middle(diagonal) as f32 * MIN_SHARE).max(f32::MIN_POSITIVE);
        (sums.iter())
            .map(|(sum, count)| (sum / count.max(1.0)).max(floor).sqrt())
            .collect()
    }
}

/// Searches the scales of the inputs of f32 `[rows, columns]`: all rows that read them, one matrix below the other.
///
/// `hessian` and `factor` are what [`Hessian::factor`] gives.
///
/// # Errors
/// [`QuantizeError::Length`], [`QuantizeError::NotFinite`].
pub fn fold(
    weights: &[f32],
    hessian: &Hessian,
    factor: &Factor,
    channels: &Channels,
    format: CodeFormat,
) -> Result<Fold, QuantizeError> {
    let columns = hessian.columns();
    super::check(weights, columns)?;
    super::same_length("channels of columns", columns, channels.of_column.len())?;
    let step = (weights.len() / columns).div_ceil(SAMPLE_ROWS).max(1);
    let sample = weights.chunks_exact(columns).step_by(step).flatten();
    let sample: Vec<f32> = sample.copied().collect();
    let diagonal = hessian.diagonal();
    let inputs = channels.sizes(&diagonal);
    let weights = channels.sizes(&squares(weights, columns));
    let none = vec![1.0; columns];
    let plain = judge(&sample, hessian, factor, &none, format)?;
    let mut least = plain;
    let mut found = Fold {
        channels: vec![1.0; channels.count],
        columns: none,
        alpha: None,
        ratio: 1.0,
    };
    for alpha in ALPHAS {
        let scales = scales(&inputs, &weights, alpha);
        let columns = channels.spread(&scales);
        let error = judge(&sample, hessian, factor, &columns, format)?;
        if error < least {
            least = error;
            found = Fold {
                channels: scales,
                columns,
                alpha: Some(alpha),
                ratio: error / plain,
            };
        }
    }
    Ok(found)
}

/// Mean square of each column.
fn squares(weights: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f32; columns];
    for row in weights.chunks_exact(columns) {
        for (sum, weight) in sums.iter_mut().zip(row) {
            *sum += weight * weight;
        }
    }
    let rows = (weights.len() / columns).max(1) as f32;
    sums.iter().map(|sum| sum / rows).collect()
}

/// inputs^α ÷ weights^(1−α), with the middle of its range at 1.
fn scales(inputs: &[f32], weights: &[f32], alpha: f32) -> Vec<f32> {
    let pairs = inputs.iter().zip(weights);
    let powers: Vec<f32> = pairs
        .map(|(input, weight)| input.powf(alpha) / weight.powf(1.0 - alpha))
        .collect();
    let range = powers
        .iter()
        .fold((f32::MAX, 0.0_f32), |(low, high), &value| {
            (low.min(value), high.max(value))
        });
    let middle = (range.0 * range.1).sqrt();
    (powers.iter())
        .map(|power| (power / middle).clamp(1.0 / MAX_SCALE, MAX_SCALE))
        .collect()
}

/// Σ e H eᵀ of the rows, rounded with these scales.
fn judge(
    rows: &[f32],
    hessian: &Hessian,
    factor: &Factor,
    scales: &[f32],
    format: CodeFormat,
) -> Result<f64, QuantizeError> {
    let columns = scales.len();
    let scaled = multiply_columns(rows, scales);
    let counts: Vec<f32> = (hessian.diagonal().iter().zip(scales))
        .map(|(value, scale)| value / (scale * scale))
        .collect();
    let mut grid = importance(&scaled, &counts, format)?;
    gptq(&scaled, &factor.rescaled(scales), &mut grid)?;
    let mut differences = grid.floats();
    let rows = rows.chunks_exact(columns);
    for (differences, row) in differences.chunks_exact_mut(columns).zip(rows) {
        for ((difference, weight), scale) in differences.iter_mut().zip(row).zip(scales) {
            *difference = *difference / scale - weight;
        }
    }
    Ok(hessian.error(&differences))
}

/// Columns of f32 `[rows, columns]` times `scales`.
pub(super) fn multiply_columns(weights: &[f32], scales: &[f32]) -> Vec<f32> {
    let mut out = weights.to_vec();
    for row in out.chunks_exact_mut(scales.len().max(1)) {
        for (weight, scale) in row.iter_mut().zip(scales) {
            *weight *= scale;
        }
    }
    out
}
