//! Descends on codes, steps and zero points together, block by block, with all other blocks held.
//!
//! GPTQ never looks back: a weight answers for errors before it, not for those after. Starting from its codes, every block of
//! 32 is visited in turn (coordinate descent, as QuantEase does it: Behdin et al. 2023), and not only its codes are
//! improved but also its step, in closed form, and its zero point, so that the grid fits the weights as they became.
//!
//! With e = w − ŵ, g = e H and a change δ of the block b:
//!
//! ```text
//!   e H eᵀ  changes by  −2 δ·g_b + δ H_bb δᵀ                           never above 0, or the block stays as it is
//!   one code       best at  ŵⱼ + gⱼ/Hⱼⱼ,                               rounded to the grid
//!   the step       best at  s + d·g_b / d H_bb dᵀ,  d = q − z          with a minimum: both, by least squares
//!   another grid   its codes: the free optimum ŵ_b + H_bb⁻¹ g_b, rounded with feedback inside the block
//!   then           g −= δ·H[b, all]                                    one product of matrices for a tile of rows
//! ```

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayViewMut2, s};
use serde::{Deserialize, Serialize};

use super::QuantizeError;
use super::block::{BlockHessian, Rule, State};
use super::grid::{Grid, GridRows};
use super::hessian::{Hessian, view};
use super::tiles::{TILE_ROWS, map};
use crate::quantize::{BLOCK, CodeFormat};

/// How long to descend.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefineOptions {
    /// Most visits to every block.
    pub sweeps: usize,
    /// Of these, the first visits that also try other grids.
    pub searches: usize,
    /// Stops when a sweep lowers the error by less than this share.
    pub tolerance: f64,
}

impl Default for RefineOptions {
    fn default() -> RefineOptions {
        RefineOptions {
            sweeps: 3,
            searches: 1,
            tolerance: 0.002,
        }
    }
}

/// Σ e H eᵀ before and after, in the units of the Hessian.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Descent {
    /// Of the codes given.
    pub before: f64,
    /// Of the codes now.
    pub after: f64,
}

/// Other grids that a search tries: factor of the step, shift of the zero point.
const GRIDS: [(f32, f32); 5] = [
    (1.0, 0.0),
    (0.94, 0.0),
    (1.06, 0.0),
    (1.0, -1.0),
    (1.0, 1.0),
];

/// The same for grids with minima, whose place is fitted: a shift by half a step starts from the other side.
const GRIDS_MINIMA: [(f32, f32); 4] = [(1.0, 0.0), (0.94, 0.0), (1.06, 0.0), (1.0, 0.5)];

/// Lowers the error of `grid` as an approximation of f32 `[rows, columns]` under a damped Hessian. No row's error rises.
///
/// # Errors
/// [`QuantizeError::Length`], [`QuantizeError::NotFinite`], or [`QuantizeError::NotPositiveDefinite`].
pub fn refine(
    weights: &[f32],
    hessian: &Hessian,
    grid: &mut Grid,
    options: RefineOptions,
) -> Result<Descent, QuantizeError> {
    let columns = hessian.columns();
    super::check(weights, columns)?;
    super::same_length("codes", weights.len(), grid.codes.len())?;
    super::same_length("columns of the grid", columns, grid.columns)?;
    let blocks = (0..columns / BLOCK)
        .map(|block| BlockHessian::of(hessian, block))
        .collect::<Option<Vec<_>>>()
        .ok_or(QuantizeError::NotPositiveDefinite { damping: 0.0 })?;
    let format = grid.format;
    let tiles = weights.chunks(TILE_ROWS * columns);
    let parts = map(tiles.zip(grid.tiles(TILE_ROWS)), |(weights, rows)| {
        let mut tile = Tile::new(weights, hessian, &blocks, rows, format);
        tile.descend(options)
    });
    Ok(Descent {
        before: parts.iter().map(|part| part.before).sum(),
        after: parts.iter().map(|part| part.after).sum(),
    })
}

/// Some rows of the matrix, and their errors.
struct Tile<'a> {
    weights: &'a [f32],
    hessian: &'a Hessian,
    blocks: &'a [BlockHessian],
    rows: GridRows<'a>,
    grids: &'static [(f32, f32)],
    rule: Rule,
    /// e, f32 [rows, columns].
    errors: Vec<f32>,
    /// e H, f32 [rows, columns].
    gradients: Vec<f32>,
}

impl<'a> Tile<'a> {
    fn new(
        weights: &'a [f32],
        hessian: &'a Hessian,
        blocks: &'a [BlockHessian],
        rows: GridRows<'a>,
        format: CodeFormat,
    ) -> Tile<'a> {
        Tile {
            weights,
            hessian,
            blocks,
            rows,
            grids: match format {
                CodeFormat::Int4 => &GRIDS,
                CodeFormat::Int4Minima => &GRIDS_MINIMA,
                CodeFormat::Int4Symmetric => &GRIDS[..3],
                CodeFormat::Int8 => &[],
            },
            rule: Rule::of(format),
            errors: vec![0.0; weights.len()],
            gradients: vec![0.0; weights.len()],
        }
    }

    fn descend(&mut self, options: RefineOptions) -> Descent {
        let first = self.row_errors();
        let kept = (
            self.rows.codes.to_vec(),
            self.rows.scales.to_vec(),
            self.rows.zeros.to_vec(),
        );
        let before: f64 = first.iter().sum();
        let mut last = before;
        for sweep in 0..options.sweeps {
            let change = self.sweep(sweep < options.searches);
            if -change <= options.tolerance * last {
                break;
            }
            last += change;
        }
        // Changes were added up in single precision; what counts is the error computed anew.
        let columns = self.hessian.columns();
        let steps = columns / BLOCK;
        let mut after = 0.0;
        for (row, (first, last)) in first.iter().zip(self.row_errors()).enumerate() {
            if last > *first {
                let (codes, blocks) = (row * columns.., row * steps..);
                self.rows.codes[codes.clone()][..columns]
                    .copy_from_slice(&kept.0[codes][..columns]);
                self.rows.scales[blocks.clone()][..steps]
                    .copy_from_slice(&kept.1[blocks.clone()][..steps]);
                self.rows.zeros[blocks.clone()][..steps].copy_from_slice(&kept.2[blocks][..steps]);
            }
            after += last.min(*first);
        }
        Descent { before, after }
    }

    /// Computes errors and gradients, and e H eᵀ of every row.
    fn row_errors(&mut self) -> Vec<f64> {
        let columns = self.hessian.columns();
        let blocks = self.weights.as_chunks::<BLOCK>().0.iter();
        let codes = self.rows.codes.as_chunks::<BLOCK>().0;
        let errors = self.errors.as_chunks_mut::<BLOCK>().0.iter_mut();
        for (at, (weights, errors)) in blocks.zip(errors).enumerate() {
            let (scale, zero) = self.rows.step(at);
            for (error, (weight, &code)) in errors.iter_mut().zip(weights.iter().zip(&codes[at])) {
                *error = weight - scale * (f32::from(code) - zero);
            }
        }
        let hessian = view(self.hessian.values(), columns);
        let shape = (self.errors.len() / columns, columns);
        let mut gradients = ArrayViewMut2::from_shape(shape, &mut self.gradients)
            .expect("gradients have the shape of the weights");
        let errors = view(&self.errors, columns);
        general_mat_mul(1.0, &errors, &hessian, 0.0, &mut gradients);
        let rows = self.errors.chunks(columns);
        rows.zip(self.gradients.chunks(columns))
            .map(|(errors, gradients)| {
                let pairs = errors.iter().zip(gradients);
                pairs.map(|(e, g)| f64::from(*e) * f64::from(*g)).sum()
            })
            .collect()
    }

    /// Visits every block of every row once; returns the change of the error.
    fn sweep(&mut self, is_search: bool) -> f64 {
        let columns = self.hessian.columns();
        let count = self.weights.len() / columns;
        let mut deltas = vec![0.0_f32; count * BLOCK];
        let mut change = 0.0;
        for at in 0..columns / BLOCK {
            let mut moved = false;
            for (row, delta) in deltas.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
                let part = self.visit(row, at, is_search, delta);
                change += f64::from(part);
                moved |= part < 0.0;
            }
            if moved {
                let hessian = view(self.hessian.values(), columns);
                let lines = hessian.slice(s![at * BLOCK..(at + 1) * BLOCK, ..]);
                let mut gradients =
                    ArrayViewMut2::from_shape((count, columns), &mut self.gradients)
                        .expect("gradients have the shape of the weights");
                general_mat_mul(-1.0, &view(&deltas, BLOCK), &lines, 1.0, &mut gradients);
            }
        }
        change
    }

    /// Improves one block of one row; returns the change of its error, and of its weights in `delta`.
    fn visit(&mut self, row: usize, at: usize, is_search: bool, delta: &mut [f32; BLOCK]) -> f32 {
        let columns = self.hessian.columns();
        let (index, first) = (row * (columns / BLOCK) + at, row * columns + at * BLOCK);
        let (scale, zero) = self.rows.step(index);
        delta.fill(0.0);
        let mut old = State {
            codes: [0.0; BLOCK],
            scale,
            zero,
            gradient: [0.0; BLOCK],
            change: 0.0,
        };
        for (value, &code) in old.codes.iter_mut().zip(&self.rows.codes[first..]) {
            *value = f32::from(code);
        }
        old.gradient
            .copy_from_slice(&self.gradients[first..first + BLOCK]);
        let grids = if is_search { self.grids } else { &[] };
        let new = self.blocks[at].improve(&old, grids, self.rule);
        if new.change >= 0.0 {
            return 0.0;
        }
        for (lane, delta) in delta.iter_mut().enumerate() {
            *delta = new.value(lane) - old.value(lane);
            self.rows.codes[first + lane] = new.codes[lane] as u8;
        }
        self.rows.set_block(index, new.scale, new.zero);
        new.change
    }
}
