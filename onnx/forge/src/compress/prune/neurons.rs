//! Takes neurons out of the feed-forward parts: rows of gate and up, columns of down.
//!
//! What is left of a layer is a multiple of 32 neurons, which is what blocks of codes and packed rows need.
//!
//! ```text
//!   magnitude   ‖gate row‖·‖up row‖·‖down column‖       (Han et al. 2015)      reads no text, and destroys gated models
//!   activation  √E[a²]·‖down column‖                    what a neuron adds to the stream
//!   wanda       √E[a²]·Σ |down column|                  (Sun et al. 2023, summed over the outputs)
//!   surgeon     what is lost after all others have made good what they can (see `surgeon`), one neuron after the other
//!
//!   uniform     the same share of every layer
//!   global      32 at a time from the layer whose predictions change least by it (see `spread`): layers get different widths
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::normal::Normal;
use super::overlay::Changed;
use super::refit::{columns, cut, fit, others, rows};
use super::side::{Ground, Method, Now, Plan, Side, resize, write};
use super::spread::allocate;
use super::surgeon::Surgeon;
use super::{FitError, LayerReport, PruneError, PruneOptions, wrong};
use crate::checkpoint::{Checkpoint, layer_weight};
use crate::decoder::LayerPart;
use crate::error::ForgeError;
use crate::folder::Watch;

/// Neurons that a layer keeps are a multiple of this: rows of a packed group, weights of a block.
pub(super) const UNIT: usize = 32;
/// Damping of the surgeon where nothing is fitted afterwards.
const DAMPING: f64 = 0.01;

/// How many neurons.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// This part of them, more than 0 and less than 1.
    Fraction(f64),
    /// So many of each layer, on average.
    Count(usize),
}

/// Which neurons go first: those with the lowest score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeuronScore {
    /// Product of the norms of a neuron's weights.
    Magnitude,
    /// Activation times the norm of the column.
    Activation,
    /// Activation times the sum of the column's absolute weights.
    Wanda,
    /// Loss after the others have been fitted.
    Surgeon,
}

/// How neurons are taken from layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// The same part of each.
    Uniform,
    /// Where predictions change least.
    Global,
}

pub(super) fn prune(
    ground: &Ground<'_>,
    (amount, score, spread): (Amount, NeuronScore, Spread),
    options: &PruneOptions,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<(Checkpoint, Vec<LayerReport>), ForgeError> {
    let mut spec = ground.model.spec().clone();
    let widths: Vec<usize> = spec
        .layers
        .iter()
        .map(|layer| layer.feed_forward())
        .collect();
    let mut kept = widths
        .iter()
        .map(|width| left(*width, amount))
        .collect::<Result<Vec<_>, _>>()?;
    let reads =
        score != NeuronScore::Magnitude || ground.refit.is_some() || spread == Spread::Global;
    if reads {
        // A layer may keep all of its neurons where others pay for it.
        let unknowns = if spread == Spread::Global {
            &widths
        } else {
            &kept
        };
        let most = unknowns.iter().copied().max();
        ground.need(most.filter(|_| ground.refit.is_some()))?;
    }
    if spread == Spread::Global {
        kept = allocate(ground, score, &widths, &kept, watch)?;
    }
    let hidden = spec.hidden;
    for (layer, &kept) in spec.layers.iter_mut().zip(&kept) {
        for linear in layer.gate.iter_mut().chain([&mut layer.up]) {
            resize(linear, kept, hidden);
        }
        // Its bias is as long as the stream is wide.
        resize(&mut layer.down, hidden, kept);
    }
    let plan = Plan {
        kept: (0..spec.layers.len()).collect(),
        spec,
    };
    let mut method = Neurons { score, reads };
    write(ground, &plan, (&mut method, reads), options, dir, watch)
}

/// Neurons that stay of a layer.
fn left(width: usize, amount: Amount) -> Result<usize, PruneError> {
    let (gone, found) = match amount {
        Amount::Fraction(part) if part > 0.0 && part < 1.0 => {
            // Rounding must not take a unit more than was asked for: 0.1 of 320 are 32.
            let gone = (width as f64 * part * (1.0 + 1e-9)) as usize;
            (gone, format!("{part} of {width} neurons"))
        }
        Amount::Fraction(part) => {
            let expected = "more than 0 and less than 1".to_string();
            return Err(wrong("neurons.fraction", expected, part));
        }
        Amount::Count(count) => (count, format!("{count} of {width} neurons")),
    };
    let kept = width.saturating_sub(gone) / UNIT * UNIT;
    if gone == 0 || kept == 0 || kept >= width {
        let expected = format!("at least 1 neuron of each layer, and {UNIT} left");
        return Err(wrong("neurons", expected, found));
    }
    Ok(kept)
}

struct Neurons {
    score: NeuronScore,
    reads: bool,
}

impl Method for Neurons {
    fn layer(
        &mut self,
        side: &mut Side<'_>,
        index: usize,
    ) -> Result<(Changed, LayerReport), ForgeError> {
        let ground = side.ground;
        let place = layer_weight(index, LayerPart::Down);
        let width = ground.model.spec().layers[index].feed_forward();
        let left = side.spec.layers[index].feed_forward();
        let (mut changed, mut normal) = (Changed::new(), None);
        if self.reads {
            changed = side.correct(index)?;
            let has_target = side.has_target(index);
            normal = Some(side.look(index, Now::Whole(&changed), LayerPart::Down, has_target)?);
        }
        let mut gone = rank(ground, index, self.score, normal.as_ref(), width - left)?;
        gone.sort_unstable();
        let kept = others(&gone, width);
        let down = ground.matrix(index, LayerPart::Down)?;
        let (down, error) = match (&normal, ground.refit) {
            (Some(normal), Some(refit)) => {
                let (down, error) = fit(normal, &down, &kept, refit, &place)?;
                (down, Some(error))
            }
            (Some(normal), None) => {
                let (down, error) = cut(normal, &down, &kept);
                (down, Some(error))
            }
            (None, _) => (columns(&down, width, &kept), None),
        };
        narrow(ground, index, &kept, &mut changed)?;
        changed.insert("down.weight", down);
        side.advance(index, &changed)?;
        Ok((changed, layer_report(side, index, error)))
    }
}

fn layer_report(side: &Side<'_>, index: usize, down: Option<FitError>) -> LayerReport {
    LayerReport {
        layer: index,
        neurons: side.spec.layers[index].feed_forward(),
        heads: side.spec.heads,
        output: None,
        down,
        zeros: 0,
    }
}

/// Leaves the neurons `kept` alone in gate and up of a layer, whose tensors may have changed before.
fn narrow(
    ground: &Ground<'_>,
    index: usize,
    kept: &[usize],
    changed: &mut Changed,
) -> Result<(), ForgeError> {
    let hidden = ground.model.spec().hidden;
    let parts = [
        (LayerPart::Gate, "gate.weight", "gate.bias"),
        (LayerPart::Up, "up.weight", "up.bias"),
    ];
    for (part, weight, bias) in parts {
        if ground.model.spec().layers[index].linear(part).is_none() {
            continue;
        }
        let matrix = match changed.remove(weight) {
            Some(matrix) => matrix,
            None => ground.matrix(index, part)?,
        };
        changed.insert(weight, rows(&matrix, hidden, kept));
        if let Some(elements) = ground.bias(index, part)? {
            changed.insert(bias, rows(&elements, 1, kept));
        }
    }
    Ok(())
}

/// The `count` neurons of a layer to go first, the first to go first.
pub(super) fn rank(
    ground: &Ground<'_>,
    index: usize,
    score: NeuronScore,
    normal: Option<&Normal>,
    count: usize,
) -> Result<Vec<usize>, ForgeError> {
    let down = ground.matrix(index, LayerPart::Down)?;
    let place = layer_weight(index, LayerPart::Down);
    let width = ground.model.spec().layers[index].feed_forward();
    let activations = normal
        .map(Normal::norms)
        .unwrap_or_else(|| vec![1.0; width]);
    let by_column = |each: fn(f64) -> f64| {
        let mut sums = vec![0.0; width];
        for row in down.chunks_exact(width) {
            for (sum, weight) in sums.iter_mut().zip(row) {
                *sum += each(f64::from(*weight));
            }
        }
        sums
    };
    let scores: Vec<f64> = match (score, normal) {
        (NeuronScore::Surgeon, Some(normal)) => {
            let damping = ground.refit.map_or(DAMPING, |refit| refit.damping);
            let removal = Surgeon::new(normal, &down, damping, &place)?.cheapest(count);
            return Ok(removal.order);
        }
        (NeuronScore::Wanda, _) => {
            let sums = by_column(f64::abs);
            sums.iter()
                .zip(&activations)
                .map(|(sum, norm)| sum * norm)
                .collect()
        }
        (NeuronScore::Magnitude, _) => {
            let mut scores = by_column(|weight| weight * weight);
            scores.iter_mut().for_each(|square| *square = square.sqrt());
            for part in [LayerPart::Gate, LayerPart::Up] {
                if ground.model.spec().layers[index].linear(part).is_some() {
                    let matrix = ground.matrix(index, part)?;
                    let rows = matrix.chunks_exact(ground.model.spec().hidden);
                    for (score, row) in scores.iter_mut().zip(rows) {
                        let squares = row.iter().map(|weight| f64::from(*weight).powi(2));
                        *score *= squares.sum::<f64>().sqrt();
                    }
                }
            }
            scores
        }
        (NeuronScore::Activation | NeuronScore::Surgeon, _) => {
            let sums = by_column(|weight| weight * weight);
            let pairs = sums.iter().zip(&activations);
            pairs.map(|(square, norm)| square.sqrt() * norm).collect()
        }
    };
    if scores.iter().any(|score| !score.is_finite()) {
        let what = "a score";
        return Err(PruneError::NotFinite { place, what }.into());
    }
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    order.truncate(count);
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_keep_multiples_of_32() {
        let cases = [
            (1536, Amount::Fraction(0.25), Some(1152), "a quarter"),
            (
                1536,
                Amount::Fraction(0.01),
                Some(1504),
                "rounded up to a unit",
            ),
            (
                320,
                Amount::Fraction(0.1),
                Some(288),
                "0.1 is not a binary fraction",
            ),
            (
                64,
                Amount::Count(1),
                Some(32),
                "one, and what the unit takes",
            ),
            (64, Amount::Count(32), Some(32), "half"),
            (64, Amount::Count(64), None, "all"),
            (64, Amount::Count(0), None, "none"),
            (64, Amount::Fraction(0.99), None, "nearly all"),
            (64, Amount::Fraction(1.0), None, "all"),
            (64, Amount::Fraction(-0.5), None, "less than none"),
            (64, Amount::Fraction(f64::NAN), None, "no number"),
        ];
        for (width, amount, expected, why) in cases {
            assert_eq!(left(width, amount).ok(), expected, "{why}");
        }
    }
}
