//! Sets single weights to 0. Offered because it is asked for; a CPU computes zeros like any other weight, and the report says so.
//!
//! ```text
//!   magnitude   the smallest |w| of a matrix                              (Han et al. 2015)
//!   wanda       the smallest |w|·‖x‖ of each row, ‖x‖ of its input        (Sun et al. 2023)
//!   2:4         two of each four in a row, by the same score              what sparse tensor cores of GPUs read
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::overlay::Changed;
use super::side::{Ground, Method, Now, Plan, Side, write};
use super::{LayerReport, PruneError, PruneOptions, wrong};
use crate::checkpoint::{Checkpoint, layer_weight};
use crate::decoder::LayerPart;
use crate::error::ForgeError;
use crate::folder::Watch;

/// Which weights become 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// This part of each matrix, by size.
    Magnitude(f64),
    /// This part of each row, by size times the norm of the input.
    Wanda(f64),
    /// Two of each four in a row, by the same score.
    TwoOfFour,
}

pub(super) fn prune(
    ground: &Ground<'_>,
    pattern: Pattern,
    options: &PruneOptions,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<(Checkpoint, Vec<LayerReport>), ForgeError> {
    if let Pattern::Magnitude(part) | Pattern::Wanda(part) = pattern
        && !(part > 0.0 && part < 1.0)
    {
        let expected = "more than 0 and less than 1".to_string();
        return Err(wrong("weights", expected, part).into());
    }
    if ground.refit.is_some() {
        let expected = "none: masks are not fitted".to_string();
        return Err(wrong("refit", expected, "a refit").into());
    }
    let reads = !matches!(pattern, Pattern::Magnitude(_));
    if reads {
        ground.need(None)?;
    }
    let spec = ground.model.spec().clone();
    for layer in &spec.layers {
        for part in LayerPart::ALL {
            let columns = layer.linear(part).map_or(0, |linear| linear.matrix.columns);
            if pattern == Pattern::TwoOfFour && !columns.is_multiple_of(4) {
                let expected = "matrices with columns in fours".to_string();
                return Err(wrong("weights", expected, columns).into());
            }
        }
    }
    let plan = Plan {
        kept: (0..spec.layers.len()).collect(),
        spec,
    };
    let mut method = Masks { pattern, reads };
    write(ground, &plan, (&mut method, reads), options, dir, watch)
}

struct Masks {
    pattern: Pattern,
    reads: bool,
}

impl Method for Masks {
    fn layer(
        &mut self,
        side: &mut Side<'_>,
        index: usize,
    ) -> Result<(Changed, LayerReport), ForgeError> {
        // Squares of what the matrices read, in the order of their computation; gate and up read the same.
        let mut squares: [Vec<f64>; 4] = Default::default();
        if self.reads {
            side.hear(index, Now::Whole(&Changed::new()), &mut |seen| {
                let inputs = [seen.qkv, seen.output, seen.up, seen.down];
                for (squares, inputs) in squares.iter_mut().zip(inputs) {
                    add_squares(squares, inputs, inputs.len() / seen.rows.max(1));
                }
                Ok(())
            })?;
        }
        let [qkv, output, up, down] = &squares;
        let parts = [
            (LayerPart::Qkv, "qkv.weight", qkv),
            (LayerPart::Output, "output.weight", output),
            (LayerPart::Gate, "gate.weight", up),
            (LayerPart::Up, "up.weight", up),
            (LayerPart::Down, "down.weight", down),
        ];
        let (mut changed, mut zeros) = (Changed::new(), 0);
        for (part, name, squares) in parts {
            let Some(linear) = side.spec.layers[index].linear(part) else {
                continue;
            };
            let columns = linear.matrix.columns;
            let mut weights = side.ground.matrix(index, part)?;
            let norms: Vec<f32> = match self.reads {
                true => squares.iter().map(|square| square.sqrt() as f32).collect(),
                false => vec![1.0; columns],
            };
            if norms.iter().any(|norm| !norm.is_finite()) {
                return Err(PruneError::NotFinite {
                    place: layer_weight(index, part),
                    what: "the norm of an input",
                }
                .into());
            }
            zeros += mask(&mut weights, &norms, self.pattern);
            changed.insert(name, weights);
        }
        side.advance(index, &changed)?;
        let report = LayerReport {
            layer: index,
            neurons: side.spec.layers[index].feed_forward(),
            heads: side.spec.heads,
            output: None,
            down: None,
            zeros,
        };
        Ok((changed, report))
    }
}

fn add_squares(squares: &mut Vec<f64>, inputs: &[f32], width: usize) {
    squares.resize(width, 0.0);
    for row in inputs.chunks_exact(width.max(1)) {
        for (square, input) in squares.iter_mut().zip(row) {
            *square += f64::from(*input).powi(2);
        }
    }
}

/// Sets weights of a matrix with inputs of these norms to 0; how many.
fn mask(weights: &mut [f32], norms: &[f32], pattern: Pattern) -> u64 {
    let columns = norms.len().max(1);
    let (unit, gone) = match pattern {
        Pattern::Magnitude(part) => (weights.len(), (weights.len() as f64 * part) as usize),
        Pattern::Wanda(part) => (columns, (columns as f64 * part) as usize),
        Pattern::TwoOfFour => (4, 2),
    };
    let mut zeros = 0;
    for (number, unit_weights) in weights.chunks_exact_mut(unit.max(1)).enumerate() {
        let begin = number * unit;
        let mut scored: Vec<(f32, usize)> = unit_weights
            .iter()
            .enumerate()
            .map(|(at, weight)| (weight.abs() * norms[(begin + at) % columns], at))
            .collect();
        if gone == 0 {
            continue;
        }
        // Ties go by place, so that the result is the same everywhere.
        scored.select_nth_unstable_by(gone - 1, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (_, at) in &scored[..gone] {
            unit_weights[*at] = 0.0;
        }
        zeros += gone as u64;
    }
    zeros
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_become_zero() {
        let weights = [4.0_f32, -1.0, 3.0, 2.0, 1.0, -5.0, 6.0, 7.0];
        let norms = [1.0, 10.0, 1.0, 1.0];
        let cases: [(Pattern, [f32; 4], [f32; 8], &str); 4] = [
            (
                Pattern::Magnitude(0.25),
                [1.0; 4],
                [4.0, 0.0, 3.0, 2.0, 0.0, -5.0, 6.0, 7.0],
                "two of the whole matrix, ties in order",
            ),
            (
                Pattern::Wanda(0.25),
                norms,
                [4.0, -1.0, 3.0, 0.0, 0.0, -5.0, 6.0, 7.0],
                "one of each row; a small weight of a large input stays",
            ),
            (
                Pattern::TwoOfFour,
                norms,
                [4.0, -1.0, 0.0, 0.0, 0.0, -5.0, 0.0, 7.0],
                "two of each four",
            ),
            (
                Pattern::Wanda(0.1),
                norms,
                weights,
                "less than one of a row",
            ),
        ];
        for (pattern, norms, expected, why) in cases {
            let mut masked = weights;
            let zeros = mask(&mut masked, &norms, pattern);
            assert_eq!(masked, expected, "{why}");
            let counted = expected.iter().filter(|weight| **weight == 0.0).count();
            assert_eq!(zeros, counted as u64, "{why}");
        }
    }
}
