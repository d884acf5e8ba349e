//! Symmetric positive definite systems in double precision: the linear algebra of refitting a matrix to what it reads, and of rounding it.
//!
//! A refit solves (G + λI) x = b for hundreds of b, with the Gram matrix G of some thousand inputs. Cholesky's G = L Lᵀ is done
//! in panels, so that most of the work is products of matrices that stay in the cache; rows are shared out to threads, and no row's sum
//! depends on how many there are.
//!
//! ```text
//!   ┌ L₁₁      ┐   panel by panel:  L₁₁ column by column,  L₂₁ = A₂₁ L₁₁⁻ᵀ row by row,  A₂₂ −= L₂₁ L₂₁ᵀ  ← nearly all of it
//!   └ L₂₁  A₂₂ ┘
//! ```

use std::num::NonZero;
use std::sync::Mutex;
use std::thread;

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};

/// Most threads.
const MAX_WORKERS: usize = 16;
/// Multiplications below which a second thread costs more than it gains.
const MIN_WORK: usize = 1 << 20;
/// Columns of the factor that are done before the rest is updated.
const PANEL: usize = 64;
/// Rows that a thread takes at once.
const SHARE_ROWS: usize = 64;
/// Right-hand sides that are solved together, so that the factor is read once for all of them.
const TOGETHER: usize = 8;

/// L of a matrix A = L Lᵀ.
#[derive(Debug, Clone)]
pub(crate) struct Cholesky {
    size: usize,
    /// `[size, size]`; what is above the diagonal means nothing.
    lower: Vec<f64>,
}

impl Cholesky {
    /// Decomposes a symmetric matrix `[size, size]`, of which only what is on and below the diagonal is read. `None` if it is
    /// not positive definite, or has elements that are no numbers.
    pub(crate) fn of(mut matrix: Vec<f64>, size: usize) -> Option<Cholesky> {
        debug_assert_eq!(matrix.len(), size * size);
        for start in (0..size).step_by(PANEL) {
            let end = (start + PANEL).min(size);
            if !corner(&mut matrix, size, start, end) {
                return None;
            }
            below(&mut matrix, size, start, end);
        }
        Some(Cholesky {
            size,
            lower: matrix,
        })
    }

    /// L, `[size, size]`; what is above the diagonal means nothing.
    pub(crate) fn into_lower(self) -> Vec<f64> {
        self.lower
    }

    /// Solves A x = b in place for all rows b of `sides`, `[sides, size]`.
    pub(crate) fn solve(&self, sides: &mut [f64]) {
        self.solve_from(sides, 0);
    }

    /// A⁻¹, `[size, size]`.
    pub(crate) fn inverse(&self) -> Vec<f64> {
        let size = self.size;
        let mut inverse = vec![0.0; size * size];
        for diagonal in inverse.iter_mut().step_by(size + 1) {
            *diagonal = 1.0;
        }
        self.solve_from(&mut inverse, 1);
        inverse
    }

    /// Solves for sides of which number n is 0 before element n·`skip`.
    fn solve_from(&self, sides: &mut [f64], skip: usize) {
        let size = self.size;
        let work = sides.len() * size;
        in_shares(sides, size, TOGETHER, work, &|first, sides| {
            let begin = (first * skip).min(size);
            for row in begin..size {
                let lower = &self.lower[row * size + begin..=row * size + row];
                let (pivot, lower) = (lower[row - begin], &lower[..row - begin]);
                for side in sides.chunks_exact_mut(size) {
                    side[row] = (side[row] - dot(lower, &side[begin..row])) / pivot;
                }
            }
            for row in (0..size).rev() {
                let lower = &self.lower[row * size..=row * size + row];
                let (pivot, lower) = (lower[row], &lower[..row]);
                for side in sides.chunks_exact_mut(size) {
                    let value = side[row] / pivot;
                    side[row] = value;
                    for (known, factor) in side[..row].iter_mut().zip(lower) {
                        *known -= value * factor;
                    }
                }
            }
        });
    }
}

/// Adds `factor`·left·right to `sum`: `[rows, columns]` += `[rows, inner]`·`[inner, columns]`.
pub(crate) fn add_product(
    sum: &mut [f64],
    factor: f64,
    (left, right): (&[f64], &[f64]),
    (inner, columns): (usize, usize),
) {
    // Nothing to add: where all inputs of a matrix are kept, for one.
    if inner == 0 || sum.is_empty() {
        return;
    }
    let work = sum.len() * inner;
    in_shares(sum, columns, SHARE_ROWS, work, &|first, sum| {
        let rows = sum.len() / columns.max(1);
        let left = view(&left[first * inner..], (rows, inner), inner);
        let right = view(right, (inner, columns), columns);
        let mut sum = view_mut(sum, (rows, columns), columns);
        general_mat_mul(factor, &left, &right, 1.0, &mut sum);
    });
}

/// Sum of products, in eight parts that the compiler keeps in vectors.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let (a, b) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.0.iter().zip(b.0) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a.1.iter().zip(b.1).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

/// A part of a matrix whose rows begin `stride` elements after each other.
fn view(from: &[f64], shape: (usize, usize), stride: usize) -> ArrayView2<'_, f64> {
    ArrayView2::from_shape(shape.strides((stride, 1)), from)
        .expect("the rows of a part stand inside of their matrix")
}

/// The same, to be changed.
fn view_mut(from: &mut [f64], shape: (usize, usize), stride: usize) -> ArrayViewMut2<'_, f64> {
    ArrayViewMut2::from_shape(shape.strides((stride, 1)), from)
        .expect("the rows of a part stand inside of their matrix")
}

/// L of the panel's own square; what was before it is accounted for. `false` if a pivot is not positive.
fn corner(matrix: &mut [f64], size: usize, start: usize, end: usize) -> bool {
    for column in start..end {
        let known = matrix[column * size + start..column * size + column].to_vec();
        let pivot = (matrix[column * size + column] - dot(&known, &known)).sqrt();
        if pivot.is_nan() || pivot <= 0.0 || pivot.is_infinite() {
            return false;
        }
        matrix[column * size + column] = pivot;
        for row in column + 1..end {
            let at = row * size;
            let sum = dot(&matrix[at + start..at + column], &known);
            matrix[at + column] = (matrix[at + column] - sum) / pivot;
        }
    }
    true
}

/// L of the panel's columns in all rows below, and what they take from everything to the right of them.
fn below(matrix: &mut [f64], size: usize, start: usize, end: usize) {
    let rows = size - end;
    if rows == 0 {
        return;
    }
    let depth = end - start;
    let (above, under) = matrix.split_at_mut(end * size);
    let panel_work = rows * depth * depth;
    in_shares(under, size, SHARE_ROWS, panel_work, &|_, under| {
        for row in under.chunks_exact_mut(size) {
            for column in start..end {
                let at = column * size;
                let sum = dot(&row[start..column], &above[at + start..at + column]);
                row[column] = (row[column] - sum) / above[at + column];
            }
        }
    });
    // [rows, depth], apart from what is changed.
    let columns = under.chunks_exact(size);
    let panel: Vec<f64> = columns.flat_map(|row| &row[start..end]).copied().collect();
    let work = rows * rows * depth / 2;
    in_shares(under, size, SHARE_ROWS, work, &|first, under| {
        let count = under.len() / size;
        // What is above the diagonal is not read again: a share ends with its own last row.
        let last = first + count;
        let left = view(&panel[first * depth..], (count, depth), depth);
        let right = view(&panel, (last, depth), depth);
        let mut sum = view_mut(&mut under[end..], (count, last), size);
        general_mat_mul(-1.0, &left, &right.t(), 1.0, &mut sum);
    });
}

/// Work on some rows: the number of the first, and the rows.
type Share<'s> = &'s (dyn Fn(usize, &mut [f64]) + Sync);

/// Shares rows of `columns` out to threads, `rows` at a time, if `work` multiplications are worth it.
fn in_shares(all: &mut [f64], columns: usize, rows: usize, work: usize, share: Share<'_>) {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = cores.min(MAX_WORKERS).min(work / MIN_WORK).max(1);
    in_shares_of(all, columns, rows, workers, share);
}

fn in_shares_of(all: &mut [f64], columns: usize, rows: usize, workers: usize, share: Share<'_>) {
    let chunks = all.chunks_mut((rows * columns).max(1)).enumerate();
    if workers == 1 {
        for (index, chunk) in chunks {
            share(index * rows, chunk);
        }
        return;
    }
    let queue = Mutex::new(chunks);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                // A lock is poisoned by a panic of another thread, which ends the scope anyway.
                while let Some((index, chunk)) =
                    queue.lock().ok().and_then(|mut queue| queue.next())
                {
                    share(index * rows, chunk);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::random::Random;

    fn noise(count: usize, seed: u64) -> Vec<f64> {
        let mut random = Random::new(seed);
        (0..count).map(|_| 2.0 * random.unit() - 1.0).collect()
    }

    /// X Xᵀ/n + I/10 of `size` rows.
    fn definite(size: usize) -> Vec<f64> {
        let rows = noise(size * size, 3);
        let mut all = vec![0.0; size * size];
        for i in 0..size {
            for j in 0..size {
                let product: f64 = (0..size)
                    .map(|k| rows[i * size + k] * rows[j * size + k])
                    .sum();
                all[i * size + j] = product / size as f64 + f64::from(u8::from(i == j)) / 10.0;
            }
        }
        all
    }

    /// a·b for `[rows, inner]`·`[inner, columns]`, by definition.
    fn product(a: &[f64], b: &[f64], inner: usize, columns: usize) -> Vec<f64> {
        let rows = a.len() / inner;
        let element = |i: usize, j: usize| {
            (0..inner)
                .map(|k| a[i * inner + k] * b[k * columns + j])
                .sum()
        };
        (0..rows * columns)
            .map(|at| element(at / columns, at % columns))
            .collect()
    }

    fn worst(a: &[f64], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max)
    }

    #[test]
    fn solutions_solve() {
        // Sizes around the panel's: none, one, and several of them, whole and in part.
        for size in [1, 2, 31, 64, 65, 150] {
            let matrix = definite(size);
            let factor = Cholesky::of(matrix.clone(), size).unwrap();
            let sides = noise(11 * size, 5);
            let mut solved = sides.clone();
            factor.solve(&mut solved);
            // x·A = b, as A is symmetric.
            let again = product(&solved, &matrix, size, size);
            assert!(worst(&again, &sides) < 1e-10, "{size}");
            let identity = product(&factor.inverse(), &matrix, size, size);
            for (at, element) in identity.iter().enumerate() {
                let expected = f64::from(u8::from(at % (size + 1) == 0));
                assert!((element - expected).abs() < 1e-10, "{size}");
            }
        }
    }

    #[test]
    fn products_are_sums_of_products() {
        for (rows, inner, columns) in [(1, 1, 1), (3, 5, 7), (70, 130, 33), (2, 66, 600), (0, 5, 7)]
        {
            let (left, right) = (noise(rows * inner, 1), noise(inner * columns, 2));
            let before = noise(rows * columns, 3);
            let mut sum = before.clone();
            add_product(&mut sum, -2.0, (&left, &right), (inner, columns));
            let expected: Vec<f64> = product(&left, &right, inner, columns)
                .iter()
                .zip(&before)
                .map(|(product, before)| before - 2.0 * product)
                .collect();
            assert!(worst(&sum, &expected) < 1e-11, "{rows} {inner} {columns}");
        }
    }

    #[test]
    fn nothing_is_added_where_there_is_nothing() {
        // As when all inputs of a matrix stay, so that none is to be made good.
        let mut sum = noise(21, 3);
        add_product(&mut sum, 1.0, (&[], &[]), (0, 7));
        assert_eq!(sum, noise(21, 3));
        add_product(&mut [], 1.0, (&noise(15, 1), &[]), (5, 0));
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let start = noise(300 * 40, 9);
        let twice = |workers| {
            let mut all = start.clone();
            in_shares_of(&mut all, 40, 7, workers, &|first, rows| {
                for (row, elements) in rows.chunks_exact_mut(40).enumerate() {
                    elements[0] = dot(elements, elements) + (first + row) as f64;
                }
            });
            all
        };
        let one = twice(1);
        assert!([2, 3, 16].into_iter().all(|workers| twice(workers) == one));
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        let mut negative = definite(80);
        negative[70 * 81] = -1.0;
        let mut no_number = definite(80);
        no_number[79 * 80 + 3] = f64::NAN;
        for (why, matrix) in [
            ("a negative diagonal", negative),
            ("an element that is no number", no_number),
            ("rank 0", vec![0.0; 6400]),
        ] {
            assert!(Cholesky::of(matrix, 80).is_none(), "{why}");
        }
    }
}
