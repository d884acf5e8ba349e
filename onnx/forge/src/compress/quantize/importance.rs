//! Grids searched for the least error, weight by weight as important as its input is large.
//!
//! The error of a block is Σⱼ Hⱼⱼ·√(σ² + wⱼ²)·(wⱼ − ŵⱼ)²: inputs that are large count more, and large weights a little more,
//! because their errors are less often averaged out (the rule of llama.cpp's importance matrices). For steps around the one
//! that spans the block and the zero points beside its own, codes are assigned, the step refitted by weighted least squares,
//! and what errs least is kept. Diagonal only: inputs that move together are left to [`super::gptq`] and [`super::refine`].

use super::QuantizeError;
use super::grid::{Grid, GridRows, half_scale, is_near, largest_code, nearest, zero_of};
use super::nearest::{places, span};
use super::tiles::{TILE_ROWS, map};
use crate::quantize::{BLOCK, CodeFormat};

/// Steps tried, as factors of the one that spans the block: below 1, the ends are clipped for the good of the many.
const FACTORS: [f32; 16] = [
    1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.88, 0.86, 0.84, 0.81, 0.78, 0.75, 0.72, 0.68, 1.03, 1.06,
];
/// The same with a minimum, whose fit brings a step to where it should be by itself.
const FACTORS_MINIMA: [f32; 9] = [1.0, 0.97, 0.94, 0.91, 0.87, 0.83, 0.78, 0.72, 1.04];
/// Where the range of codes lies in that of the block: at its lower end, in the middle, at the upper end.
const PLACES_MINIMA: [f32; 3] = [0.0, -0.5, -1.0];
/// Turns of refitting step and codes to each other, of the best candidate.
const REFITS: usize = 3;
/// Eight bits have points enough: clipping ends gains nothing.
const FACTORS_INT8: [f32; 3] = [1.0, 0.99, 0.98];

/// A block on a grid.
#[derive(Clone, Copy)]
struct Candidate {
    codes: [f32; BLOCK],
    scale: f32,
    zero: f32,
    error: f32,
}

/// Searches the grids of f32 `[rows, columns]` and rounds to them. `importance` is Hⱼⱼ, or anything in proportion, per column;
/// inputs of importance 0 count a little.
///
/// # Errors
/// [`QuantizeError::Columns`], [`QuantizeError::NotFinite`], or [`QuantizeError::Length`] of the importance.
pub fn importance(
    weights: &[f32],
    importance: &[f32],
    format: CodeFormat,
) -> Result<Grid, QuantizeError> {
    let columns = importance.len();
    super::check(weights, columns)?;
    let mean = importance.iter().sum::<f32>() / columns as f32;
    // Half of the weight of nothing, and of everything the same if nothing counts.
    let floor = if mean > 0.0 { mean * 1e-4 } else { 1.0 };
    let importance: Vec<f32> = importance.iter().map(|value| value + floor).collect();
    let mut grid = Grid::zeros(weights.len() / columns, columns, format);
    let tiles = weights.chunks(TILE_ROWS * columns);
    map(
        tiles.zip(grid.tiles(TILE_ROWS)),
        |(weights, mut rows): (&[f32], GridRows<'_>)| {
            let blocks = weights.as_chunks::<BLOCK>().0.iter();
            let counts = importance.as_chunks::<BLOCK>().0.iter().cycle();
            for (at, (block, counts)) in blocks.zip(counts).enumerate() {
                let best = search(block, counts, format);
                rows.set_block(at, best.scale, best.zero);
                for (code, value) in rows.codes[at * BLOCK..].iter_mut().zip(best.codes) {
                    *code = value as u8;
                }
            }
        },
    );
    Ok(grid)
}

fn search(block: &[f32; BLOCK], importance: &[f32; BLOCK], format: CodeFormat) -> Candidate {
    let variance = block.iter().map(|weight| weight * weight).sum::<f32>() / BLOCK as f32;
    let mut counts = [0.0; BLOCK];
    for (count, (weight, importance)) in counts.iter_mut().zip(block.iter().zip(importance)) {
        *count = importance * (variance + weight * weight).sqrt();
    }
    let (scale, zero) = span(block, format);
    let largest = largest_code(format);
    let try_out = |scale: f32, zero: f32| match format.has_minima() {
        true => fit_line(block, &counts, scale, zero, largest),
        false => fit(block, &counts, scale, zero, largest),
    };
    let mut best = try_out(scale, zero);
    if scale == 0.0 {
        return best;
    }
    let (factors, zeros): (&[f32], &[f32]) = match format {
        CodeFormat::Int8 => (&FACTORS_INT8, &[0.0]),
        CodeFormat::Int4Symmetric => (&FACTORS, &[0.0]),
        CodeFormat::Int4 => (&FACTORS, &[0.0, -1.0, 1.0]),
        CodeFormat::Int4Minima => (&FACTORS_MINIMA, &PLACES_MINIMA),
    };
    for shift in zeros {
        for factor in factors {
            // With a minimum, a shift says where what is clipped lies.
            let zero = match format.has_minima() {
                true => (zero + largest * shift) / factor - largest * shift,
                false => zero + shift,
            };
            if !format.has_minima() && !(0.0..=largest).contains(&zero) {
                continue;
            }
            let candidate = try_out(scale * factor, zero);
            if candidate.error < best.error {
                best = candidate;
            }
        }
    }
    for _ in 0..REFITS {
        let candidate = try_out(best.scale, best.zero);
        if candidate.error >= best.error {
            break;
        }
        best = candidate;
    }
    best
}

impl Candidate {
    /// With what it errs.
    fn new(
        block: &[f32; BLOCK],
        counts: &[f32; BLOCK],
        codes: [f32; BLOCK],
        (scale, zero): (f32, f32),
    ) -> Candidate {
        let mut errors = [0.0_f32; LANES];
        for at in 0..BLOCK {
            let error = block[at] - scale * (codes[at] - zero);
            errors[at % LANES] += counts[at] * error * error;
        }
        Candidate {
            codes,
            scale,
            zero,
            error: errors.iter().sum(),
        }
    }
}

fn nearest_codes(block: &[f32; BLOCK], scale: f32, zero: f32, largest: f32) -> [f32; BLOCK] {
    let place = places(scale, zero);
    block.map(|weight| nearest(place(weight), largest))
}

/// Codes for a step and a zero point, the step that then errs least, and its error.
fn fit(
    block: &[f32; BLOCK],
    counts: &[f32; BLOCK],
    scale: f32,
    zero: f32,
    largest: f32,
) -> Candidate {
    let codes = nearest_codes(block, scale, zero, largest);
    let (mut products, mut squares) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    for at in 0..BLOCK {
        let offset = codes[at] - zero;
        let counted = counts[at] * offset;
        products[at % LANES] += counted * block[at];
        squares[at % LANES] += counted * offset;
    }
    let (product, square) = (products.iter().sum::<f32>(), squares.iter().sum::<f32>());
    let best = if square > 0.0 { product / square } else { 0.0 };
    let scale = half_scale(best);
    Candidate::new(block, counts, codes, (scale, zero))
}

/// The same where the minimum is free too: the line through codes and weights, by weighted least squares.
fn fit_line(
    block: &[f32; BLOCK],
    counts: &[f32; BLOCK],
    scale: f32,
    zero: f32,
    largest: f32,
) -> Candidate {
    let codes = nearest_codes(block, scale, zero, largest);
    // Σ count·(1, q, q², w, q·w)
    let mut sums = [[0.0_f32; LANES]; 5];
    for at in 0..BLOCK {
        let (count, code, weight) = (counts[at], codes[at], block[at]);
        let counted = count * code;
        let parts = [
            count,
            counted,
            counted * code,
            count * weight,
            counted * weight,
        ];
        for (sum, part) in sums.iter_mut().zip(parts) {
            sum[at % LANES] += part;
        }
    }
    let [n, q, qq, w, qw] = sums.map(|lanes| lanes.iter().sum::<f32>());
    let (mean, mean_weight) = (q / n, w / n);
    let (spread, product) = (qq - q * mean, qw - q * mean_weight);
    // All on one code, or on a line that falls: the grid stays as it was.
    let (mut fitted, mut fitted_zero) = (half_scale(scale), zero);
    if spread > 0.0 && product > 0.0 {
        let step = half_scale(product / spread);
        let start = zero_of(step, half_scale(mean_weight - step * mean));
        if step > 0.0 && is_near(start) {
            (fitted, fitted_zero) = (step, start);
        }
    }
    Candidate::new(block, counts, codes, (fitted, fitted_zero))
}

/// Sums that are kept apart, so that the compiler can keep them in vectors.
const LANES: usize = 8;
