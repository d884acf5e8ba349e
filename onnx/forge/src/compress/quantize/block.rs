//! The best grid and codes of one block of 32, given the errors of all others.
//!
//! See [`super::refine`] for the formulas.

use super::grid::{half_scale, is_near, largest_code, minimum, nearest, zero_of};
use super::hessian::{Factor, Hessian};
use super::nearest::places;
use crate::quantize::{BLOCK, CodeFormat};

/// The grids that a format allows.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    /// Largest code.
    pub(super) largest: f32,
    /// Whether the minimum is any number, not a multiple of the step.
    pub(super) has_minima: bool,
}

impl Rule {
    pub(super) fn of(format: CodeFormat) -> Rule {
        Rule {
            largest: largest_code(format),
            has_minima: format.has_minima(),
        }
    }

    fn allows(self, zero: f32) -> bool {
        match self.has_minima {
            true => is_near(zero),
            false => (0.0..=self.largest).contains(&zero),
        }
    }
}

/// Passes over the codes of a block before its step is refitted.
const PASSES: usize = 3;
/// Turns of codes and step.
const TURNS: usize = 2;

type Square = [[f32; BLOCK]; BLOCK];

/// What a block needs of the Hessian.
pub(super) struct BlockHessian {
    /// H_bb.
    own: Square,
    /// Its inverse.
    inverse: Square,
    /// 1/Hⱼⱼ.
    inverse_diagonal: [f32; BLOCK],
    /// H_bb·1: what a change of the minimum moves.
    sums: [f32; BLOCK],
    /// H_bb = U D Uᵀ in descending order of its diagonal.
    factor: Factor,
}

/// A block on its grid, with what it means for the error.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub(super) codes: [f32; BLOCK],
    pub(super) scale: f32,
    pub(super) zero: f32,
    /// (e H) of the block's columns.
    pub(super) gradient: [f32; BLOCK],
    /// Change of e H eᵀ since the visit began.
    pub(super) change: f32,
}

impl State {
    /// The weight that code `lane` stands for.
    #[inline(always)]
    pub(super) fn value(&self, lane: usize) -> f32 {
        self.scale * (self.codes[lane] - self.zero)
    }
}

impl BlockHessian {
    /// Cuts block `at` out of a damped Hessian; `None` if it is not positive definite.
    pub(super) fn of(hessian: &Hessian, at: usize) -> Option<BlockHessian> {
        let columns = hessian.columns();
        let mut own = [[0.0; BLOCK]; BLOCK];
        for (line, row) in own.iter_mut().enumerate() {
            let start = (at * BLOCK + line) * columns + at * BLOCK;
            row.copy_from_slice(&hessian.values()[start..start + BLOCK]);
        }
        let mut inverse_diagonal = [0.0; BLOCK];
        for (lane, inverse) in inverse_diagonal.iter_mut().enumerate() {
            *inverse = 1.0 / own[lane][lane];
        }
        Some(BlockHessian {
            own,
            inverse: invert(&own)?,
            inverse_diagonal,
            sums: own.map(|row| row.iter().sum()),
            factor: Factor::of(&hessian.block(at))?,
        })
    }

    /// Descends from `old`, and from every grid that `grids` derives from its own; the best of all.
    pub(super) fn improve(&self, old: &State, grids: &[(f32, f32)], rule: Rule) -> State {
        let mut best = *old;
        // A step of 0 has no codes to choose from.
        if old.scale == 0.0 {
            return best;
        }
        self.descend(&mut best, rule);
        if grids.is_empty() {
            return best;
        }
        let free = times(&old.gradient, &self.inverse);
        for (factor, shift) in grids {
            let scale = half_scale(best.scale * factor);
            let mut zero = best.zero + shift;
            if rule.has_minima {
                // A step that changes leaves the middle of the grid where it is.
                let middle = rule.largest / 2.0;
                zero = zero_of(scale, minimum(scale, (zero - middle) / factor + middle));
            }
            if scale == 0.0 || !rule.allows(zero) {
                continue;
            }
            let mut other = self.rounded(old, &free, scale, zero, rule.largest);
            self.descend(&mut other, rule);
            if other.change < best.change {
                best = other;
            }
        }
        best
    }

    /// The free optimum, rounded to a grid with feedback.
    fn rounded(
        &self,
        old: &State,
        free: &[f32; BLOCK],
        scale: f32,
        zero: f32,
        largest: f32,
    ) -> State {
        let mut feedback = [0.0_f32; BLOCK];
        let mut codes = [0.0; BLOCK];
        let mut deltas = [0.0; BLOCK];
        let place = places(scale, zero);
        for (at, &lane) in self.factor.order.iter().enumerate() {
            let was = old.value(lane);
            let target = was + free[lane];
            codes[lane] = nearest(place(target + feedback[at]), largest);
            let value = scale * (codes[lane] - zero);
            deltas[lane] = value - was;
            let error = target - value;
            let line = &self.factor.upper[at * BLOCK..(at + 1) * BLOCK];
            for (value, factor) in feedback.iter_mut().zip(line) {
                *value += error * factor;
            }
        }
        let moved = times(&deltas, &self.own);
        let mut gradient = old.gradient;
        for (gradient, moved) in gradient.iter_mut().zip(&moved) {
            *gradient -= moved;
        }
        State {
            codes,
            scale,
            zero,
            gradient,
            change: dot(&deltas, &moved) - 2.0 * dot(&deltas, &old.gradient),
        }
    }

    /// Codes and step in turns, while anything changes.
    fn descend(&self, state: &mut State, rule: Rule) {
        for _ in 0..TURNS {
            let codes = self.move_codes(state, rule.largest);
            let step = match rule.has_minima {
                true => self.move_line(state),
                false => self.move_step(state),
            };
            if !codes && !step {
                break;
            }
        }
    }

    fn move_codes(&self, state: &mut State, largest: f32) -> bool {
        let inverse = 1.0 / state.scale;
        let mut any = false;
        for _ in 0..PASSES {
            let mut moved = false;
            for lane in 0..BLOCK {
                let (code, slope) = (state.codes[lane], state.gradient[lane]);
                let wish = code + slope * self.inverse_diagonal[lane] * inverse;
                let new = nearest(wish, largest);
                if new == code {
                    continue;
                }
                let delta = state.scale * (new - code);
                let change = delta * (delta * self.own[lane][lane] - 2.0 * slope);
                // On the border of two codes, rounding must not make a round trip of it.
                if change >= 0.0 {
                    continue;
                }
                state.codes[lane] = new;
                state.change += change;
                for (gradient, factor) in state.gradient.iter_mut().zip(&self.own[lane]) {
                    *gradient -= delta * factor;
                }
                moved = true;
            }
            any |= moved;
            if !moved {
                break;
            }
        }
        any
    }

    /// Step and minimum together, by least squares.
    fn move_line(&self, state: &mut State) -> bool {
        let moved = times(&state.codes, &self.own);
        let (square, sum) = (dot(&state.codes, &moved), moved.iter().sum::<f32>());
        let all = self.sums.iter().sum::<f32>();
        let determinant = square * all - sum * sum;
        if determinant <= square * all * 1e-6 {
            return false;
        }
        let slope = dot(&state.codes, &state.gradient);
        let shift = state.gradient.iter().sum::<f32>();
        let step = (slope * all - shift * sum) / determinant;
        let start = (shift * square - slope * sum) / determinant;
        let scale = half_scale(state.scale + step);
        let zero = zero_of(scale, half_scale(start - state.scale * state.zero));
        if scale == 0.0 || !is_near(zero) {
            return false;
        }
        // What rounding left of both, and what it does to the error.
        let (step, start) = (scale - state.scale, state.scale * state.zero - scale * zero);
        let mut delta = [0.0_f32; BLOCK];
        let mut push = [0.0_f32; BLOCK];
        for lane in 0..BLOCK {
            delta[lane] = step * state.codes[lane] + start;
            push[lane] = step * moved[lane] + start * self.sums[lane];
        }
        let change = dot(&delta, &push) - 2.0 * dot(&delta, &state.gradient);
        if change >= 0.0 || change.is_nan() {
            return false;
        }
        (state.scale, state.zero) = (scale, zero);
        state.change += change;
        for (gradient, push) in state.gradient.iter_mut().zip(&push) {
            *gradient -= push;
        }
        true
    }

    fn move_step(&self, state: &mut State) -> bool {
        let offsets = state.codes.map(|code| code - state.zero);
        let moved = times(&offsets, &self.own);
        let (slope, square) = (dot(&offsets, &state.gradient), dot(&offsets, &moved));
        if square <= 0.0 {
            return false;
        }
        let scale = half_scale(state.scale + slope / square);
        let delta = scale - state.scale;
        let change = delta * (delta * square - 2.0 * slope);
        if scale == 0.0 || change >= 0.0 || change.is_nan() {
            return false;
        }
        state.scale = scale;
        state.change += change;
        for (gradient, moved) in state.gradient.iter_mut().zip(&moved) {
            *gradient -= delta * moved;
        }
        true
    }
}

/// A row times a symmetric square.
fn times(row: &[f32; BLOCK], square: &Square) -> [f32; BLOCK] {
    let mut out = [0.0_f32; BLOCK];
    for (value, line) in row.iter().zip(square) {
        for (out, factor) in out.iter_mut().zip(line) {
            *out += value * factor;
        }
    }
    out
}

/// Sum of products, in parts that the compiler keeps in vectors.
fn dot(a: &[f32; BLOCK], b: &[f32; BLOCK]) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0_f32; LANES];
    for at in 0..BLOCK {
        sums[at % LANES] += a[at] * b[at];
    }
    sums.iter().sum()
}

/// Gauss and Jordan's inverse, without exchanges: a positive definite matrix needs none. `None` if it is not.
fn invert(square: &Square) -> Option<Square> {
    let mut left = square.map(|row| row.map(f64::from));
    let mut right = [[0.0_f64; BLOCK]; BLOCK];
    for (at, row) in right.iter_mut().enumerate() {
        row[at] = 1.0;
    }
    for at in 0..BLOCK {
        let pivot = left[at][at];
        if pivot.is_nan() || pivot <= 0.0 {
            return None;
        }
        let (own, own_right) = (left[at].map(|v| v / pivot), right[at].map(|v| v / pivot));
        for line in 0..BLOCK {
            let factor = if line == at { 0.0 } else { left[line][at] };
            for lane in 0..BLOCK {
                left[line][lane] -= factor * own[lane];
                right[line][lane] -= factor * own_right[lane];
            }
        }
        (left[at], right[at]) = (own, own_right);
    }
    Some(right.map(|row| row.map(|value| value as f32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_undoes_the_square() {
        let mut square = [[0.0; BLOCK]; BLOCK];
        for (i, row) in square.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                *value = 0.9_f32.powi(i.abs_diff(j) as i32) + if i == j { 0.1 } else { 0.0 };
            }
        }
        let inverse = invert(&square).unwrap();
        for (i, row) in square.iter().enumerate() {
            let row = times(row, &inverse);
            for (j, value) in row.iter().enumerate() {
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((value - expected).abs() < 1e-4, "{i} {j}: {value}");
            }
        }
        square[3][3] = -1.0;
        assert!(invert(&square).is_none());
    }
}
