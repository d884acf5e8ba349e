//! Plain rounding: the grid that just spans a block, every weight to its nearest point. The yardstick of all other methods.

use super::QuantizeError;
use super::grid::{
    Grid, GridRows, MAX_ZERO, half_scale, largest_code, middle_code, nearest, zero_of,
};
use super::tiles::{TILE_ROWS, map};
use crate::quantize::{BLOCK, CodeFormat};

/// Rounds every weight of f32 `[rows, columns]` to the nearest point of its block's grid.
///
/// # Errors
/// [`QuantizeError::Columns`] or [`QuantizeError::NotFinite`].
pub fn round_to_nearest(
    weights: &[f32],
    columns: usize,
    format: CodeFormat,
) -> Result<Grid, QuantizeError> {
    super::check(weights, columns)?;
    let mut grid = Grid::zeros(weights.len() / columns, columns, format);
    let tiles = weights.chunks(TILE_ROWS * columns);
    map(
        tiles.zip(grid.tiles(TILE_ROWS)),
        |(weights, mut rows): (&[f32], GridRows<'_>)| {
            for (at, block) in weights.as_chunks::<BLOCK>().0.iter().enumerate() {
                let (scale, zero) = span(block, format);
                rows.set_block(at, scale, zero);
                let place = places(scale, zero);
                let largest = largest_code(format);
                for (code, &weight) in rows.codes[at * BLOCK..].iter_mut().zip(block) {
                    *code = nearest(place(weight), largest) as u8;
                }
            }
        },
    );
    Ok(grid)
}

/// Where a weight lies on a grid, in steps from code 0.
pub(super) fn places(scale: f32, zero: f32) -> impl Fn(f32) -> f32 {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    move |weight| weight * inverse + zero
}

/// Step and zero point of the grid that just spans a block, and 0 unless the format has minima.
pub(super) fn span(block: &[f32; BLOCK], format: CodeFormat) -> (f32, f32) {
    let mut lowest = 0.0_f32;
    let mut highest = 0.0_f32;
    for &weight in block {
        lowest = lowest.min(weight);
        highest = highest.max(weight);
    }
    let middle = f32::from(middle_code(format));
    match format {
        CodeFormat::Int4Minima => {
            let mut own = (f32::INFINITY, f32::NEG_INFINITY);
            for &weight in block {
                own = (own.0.min(weight), own.1.max(weight));
            }
            // Weights that are all alike still need a step to be told by.
            let finest = highest.max(-lowest) * (2.0 / MAX_ZERO);
            let scale = half_scale(((own.1 - own.0) / 15.0).max(finest));
            (scale, zero_of(scale, half_scale(own.0)))
        }
        CodeFormat::Int4 => {
            let scale = half_scale((highest - lowest) / 15.0);
            let zero = places(scale, 0.0)(-lowest);
            (scale, nearest(zero, 15.0))
        }
        // The weight of largest magnitude gets code 0, which is one step farther from the zero point than code 15.
        CodeFormat::Int4Symmetric if -lowest > highest => (half_scale(-lowest / 8.0), middle),
        CodeFormat::Int4Symmetric => (half_scale(-highest / 8.0), middle),
        CodeFormat::Int8 => (half_scale(highest.max(-lowest) / 127.0), middle),
    }
}
