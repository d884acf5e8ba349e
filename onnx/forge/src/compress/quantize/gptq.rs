//! GPTQ: every weight is rounded so as to answer for the errors of the weights before it (Frantar et al. 2022).
//!
//! On grids that stand fixed (a searched one), in the order and with the feedback of [`super::hessian`]. Errors of a panel of
//! columns reach the columns after it by one product of matrices.
//!
//! ```text
//!   panel    ◄── E[.., before]·U[before, panel]      one product
//!   within:  ŵⱼ = round(wⱼ + fⱼ)   eⱼ = wⱼ − ŵⱼ   f[later in panel] += eⱼ·Uⱼ[later]
//! ```

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayViewMut2, s};

use super::QuantizeError;
use super::grid::{Grid, GridRows, largest_code, nearest};
use super::hessian::{Factor, view};
use super::nearest::places;
use super::tiles::{TILE_ROWS, map};
use crate::quantize::BLOCK;

/// Columns of a panel.
const PANEL: usize = 64;

/// Assigns new codes to `grid`, whose steps and zero points stay.
///
/// # Errors
/// [`QuantizeError::Length`] if the sizes of `weights`, `factor` and `grid` differ, [`QuantizeError::NotFinite`].
pub fn gptq(weights: &[f32], factor: &Factor, grid: &mut Grid) -> Result<(), QuantizeError> {
    let columns = factor.order.len();
    super::check(weights, columns)?;
    super::same_length("codes", weights.len(), grid.codes.len())?;
    super::same_length("columns of the grid", columns, grid.columns)?;
    let largest = largest_code(grid.format);
    let tiles = weights.chunks(TILE_ROWS * columns);
    map(tiles.zip(grid.tiles(TILE_ROWS)), |(weights, mut rows)| {
        round_tile(weights, factor, &mut rows, largest);
    });
    Ok(())
}

fn round_tile(weights: &[f32], factor: &Factor, rows: &mut GridRows<'_>, largest: f32) {
    let columns = factor.order.len();
    let count = weights.len() / columns;
    let upper = view(&factor.upper, columns);
    // Errors in the factor's order, so that those of the columns before a panel are one matrix.
    let mut errors = vec![0.0_f32; weights.len()];
    let mut feedback = vec![0.0_f32; count * PANEL];
    for start in (0..columns).step_by(PANEL) {
        let width = PANEL.min(columns - start);
        let feedback = &mut feedback[..count * width];
        let mut product = ArrayViewMut2::from_shape((count, width), &mut *feedback)
            .expect("feedback was cut to this shape");
        let before = view(&errors, columns);
        let before = before.slice(s![.., ..start]);
        let above = upper.slice(s![..start, start..start + width]);
        general_mat_mul(1.0, &before, &above, 0.0, &mut product);
        for row in 0..count {
            let feedback = &mut feedback[row * width..(row + 1) * width];
            for at in 0..width {
                let column = factor.order[start + at];
                let weight = weights[row * columns + column];
                let (scale, zero) = rows.step((row * columns + column) / BLOCK);
                let code = nearest(places(scale, zero)(weight + feedback[at]), largest);
                rows.codes[row * columns + column] = code as u8;
                let error = weight - scale * (code - zero);
                errors[row * columns + start + at] = error;
                let line = (start + at) * columns + start;
                let later = &factor.upper[line + at + 1..line + width];
                for (value, factor) in feedback[at + 1..].iter_mut().zip(later) {
                    *value += error * factor;
                }
            }
        }
    }
}
