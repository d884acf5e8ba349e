//! The Hessian of a matrix' output error, and its factors.
//!
//! A row of weights w with inputs x errs by (w − ŵ)·x, in square and summed over a text by e H eᵀ with H = Σ x xᵀ. Rounding
//! one weight after the other, each made to answer for the errors before it, is optimal for H = U D Uᵀ with a unit upper
//! triangular U (Chee et al. 2023 show that it is what GPTQ does, without its inverse of H):
//!
//! ```text
//!   e H eᵀ = Σⱼ Dⱼ·(eⱼ + Σ_{i<j} eᵢ Uᵢⱼ)²      so  ŵⱼ = round(wⱼ + Σ_{i<j} eᵢ Uᵢⱼ)
//!
//!   order   descending Hⱼⱼ: what matters most is rounded first, when there is nothing to answer for and most to answer with
//!   damping λ·(middle of the diagonal): few texts span few directions, and what they do not span is not free
//! ```

use ndarray::{ArrayView1, ArrayView2};

use super::QuantizeError;
use super::tiles::{TILE_ROWS, map};
use crate::compress::solve::Cholesky;
use crate::quantize::BLOCK;

/// Most inputs of a matrix: its Hessian in double precision has 2 GiB.
pub const MAX_COLUMNS: usize = 16_384;
/// Factor by which damping is raised when a Hessian is not positive definite.
const DAMPING_STEP: f32 = 10.0;
/// Times that it is raised.
const DAMPING_STEPS: usize = 4;
/// Difference of mirrored elements, relative to the diagonal, that rounding explains.
const ASYMMETRY: f32 = 1e-3;

/// H = Σ x xᵀ of a matrix' inputs, of any scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Hessian {
    columns: usize,
    values: Vec<f32>,
}

/// H = U D Uᵀ of the inputs in another order.
#[derive(Debug, Clone)]
pub struct Factor {
    /// The input that stands at each place.
    pub(super) order: Vec<usize>,
    /// U, f32 `[columns, columns]`, both sizes in that order.
    pub(super) upper: Vec<f32>,
}

impl Hessian {
    /// Takes H, f32 `[columns, columns]`.
    ///
    /// # Errors
    /// [`QuantizeError::Columns`] or [`QuantizeError::Hessian`] if it has another size, is not finite, not symmetric, or negative
    /// on its diagonal.
    pub fn new(columns: usize, values: Vec<f32>) -> Result<Hessian, QuantizeError> {
        if columns == 0 || !columns.is_multiple_of(BLOCK) || columns > MAX_COLUMNS {
            return Err(QuantizeError::Columns { found: columns });
        }
        let wrong = |row: usize, column: usize, what| QuantizeError::Hessian { row, column, what };
        if values.len() != columns * columns {
            return Err(wrong(values.len() / columns, columns, "has another size"));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(wrong(at / columns, at % columns, "is not a finite number"));
        }
        for row in 0..columns {
            let own = values[row * columns + row];
            if own < 0.0 {
                return Err(wrong(row, row, "is negative"));
            }
            for column in 0..row {
                let (below, above) = (
                    values[row * columns + column],
                    values[column * columns + row],
                );
                let size = (own * values[column * columns + column]).sqrt();
                if (below - above).abs() > ASYMMETRY * size {
                    return Err(wrong(row, column, "differs from its mirror image"));
                }
            }
        }
        Ok(Hessian { columns, values })
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// f32 `[columns, columns]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Hⱼⱼ of all inputs.
    pub fn diagonal(&self) -> Vec<f32> {
        self.values
            .iter()
            .step_by(self.columns + 1)
            .copied()
            .collect()
    }

    /// H of the inputs of block `at` alone.
    pub(super) fn block(&self, at: usize) -> Hessian {
        let rows = self.values[at * BLOCK * self.columns..].chunks(self.columns);
        let values = rows.take(BLOCK);
        Hessian {
            columns: BLOCK,
            values: values
                .flat_map(|row| row[at * BLOCK..(at + 1) * BLOCK].iter().copied())
                .collect(),
        }
    }

    /// H of the inputs divided by `scales`: 1/(s sᵀ) times this one, without a look at the inputs.
    pub fn rescaled(&self, scales: &[f32]) -> Hessian {
        let inverse: Vec<f32> = scales.iter().map(|scale| 1.0 / scale).collect();
        let mut values = self.values.clone();
        for (row, factor) in values.chunks_exact_mut(self.columns).zip(&inverse) {
            for (value, other) in row.iter_mut().zip(&inverse) {
                *value *= factor * other;
            }
        }
        Hessian {
            columns: self.columns,
            values,
        }
    }

    /// H in units of the middle of its diagonal, plus `damping` on the diagonal. Not of the mean: where few tokens have inputs a
    /// thousand times larger than all others, damping in units of these would drown the others. Inputs that never were anything
    /// but 0 get a diagonal that is not 0, and so keep their weights; if no input ever was, all count the same.
    pub fn damped(&self, damping: f32) -> Hessian {
        let columns = self.columns;
        let middle = middle(&self.diagonal());
        let unit = if middle > 0.0 { 1.0 / middle } else { 0.0 };
        let floor = if middle > 0.0 { damping } else { 1.0 };
        let mut values: Vec<f32> = (self.values.iter())
            .map(|&value| (f64::from(value) * unit) as f32)
            .collect();
        for value in values.iter_mut().step_by(columns + 1) {
            *value += floor;
        }
        Hessian { columns, values }
    }

    /// Damps and decomposes, with more damping if less does not make H positive definite.
    ///
    /// # Errors
    /// [`QuantizeError::NotPositiveDefinite`] if none of the dampings does.
    pub fn factor(&self, damping: f32) -> Result<(Hessian, Factor), QuantizeError> {
        let mut tried = damping;
        for _ in 0..=DAMPING_STEPS {
            let damped = self.damped(tried);
            if let Some(factor) = Factor::of(&damped) {
                return Ok((damped, factor));
            }
            tried = (tried * DAMPING_STEP).max(1e-4);
        }
        Err(QuantizeError::NotPositiveDefinite {
            damping: tried / DAMPING_STEP,
        })
    }

    /// Σ over rows of e H eᵀ for differences e, f32 `[rows, columns]`.
    pub fn error(&self, differences: &[f32]) -> f64 {
        let hessian = view(&self.values, self.columns);
        let tiles = differences.chunks(TILE_ROWS * self.columns);
        let parts = map(tiles, |tile| {
            let differences = view(tile, self.columns);
            let product = differences.dot(&hessian);
            let pairs = product.iter().zip(tile);
            pairs
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum::<f64>()
        });
        parts.iter().sum()
    }
}

impl Factor {
    /// Decomposes a damped H, in descending order of its diagonal; `None` if it is not positive definite.
    pub(super) fn of(hessian: &Hessian) -> Option<Factor> {
        let columns = hessian.columns;
        let diagonal = hessian.diagonal();
        let mut order: Vec<usize> = (0..columns).collect();
        order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
        // U D Uᵀ is L D Lᵀ with both sizes in reverse.
        let mut lower: Vec<f64> = Vec::with_capacity(columns * columns);
        for &row in order.iter().rev() {
            let values = &hessian.values[row * columns..(row + 1) * columns];
            lower.extend(order.iter().rev().map(|&column| f64::from(values[column])));
        }
        let lower = Cholesky::of(lower, columns)?.into_lower();
        let mut upper = vec![0.0; columns * columns];
        for i in 0..columns {
            for j in 0..=i {
                let value = lower[i * columns + j] / lower[j * columns + j];
                upper[(columns - 1 - i) * columns + columns - 1 - j] = value as f32;
            }
        }
        Some(Factor { order, upper })
    }

    /// The factor of [`Hessian::rescaled`], in the same order: S⁻¹ U S.
    pub(super) fn rescaled(&self, scales: &[f32]) -> Factor {
        let columns = self.order.len();
        let placed: Vec<f32> = self.order.iter().map(|&column| scales[column]).collect();
        let mut upper = self.upper.clone();
        for (row, scale) in upper.chunks_exact_mut(columns).zip(&placed) {
            for (value, other) in row.iter_mut().zip(&placed) {
                *value *= other / scale;
            }
        }
        Factor {
            order: self.order.clone(),
            upper,
        }
    }
}

/// The middle of the values above 0, by size; 0 if there are none.
pub(in crate::compress) fn middle(values: &[f32]) -> f64 {
    let mut sizes: Vec<f32> = values
        .iter()
        .copied()
        .filter(|value| *value > 0.0)
        .collect();
    let half = sizes.len() / 2;
    if sizes.is_empty() {
        return 0.0;
    }
    f64::from(*sizes.select_nth_unstable_by(half, f32::total_cmp).1)
}

/// Rows of a slice as a matrix; elements beyond the last whole row are left out.
pub(super) fn view(values: &[f32], columns: usize) -> ArrayView2<'_, f32> {
    let rows = values.len() / columns.max(1);
    ArrayView1::from(&values[..rows * columns])
        .into_shape_with_order((rows, columns))
        .expect("a slice of whole rows has the shape of its rows")
}
