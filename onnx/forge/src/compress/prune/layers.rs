//! Takes whole layers away, and fits the layers around the gaps.
//!
//! Layers go one at a time, and what is left is looked at again after each: two neighbours that do the same are both cheap until one
//! of them is gone.
//!
//! ```text
//!   influence    1 − mean cos(state in front, state behind)         (Men et al. 2024, ShortGPT): one walk a layer
//!   divergence   KL(original ‖ model without it) on a short text    all candidates walk together: n²/2 layers a layer
//!
//!   x ─ layer 3 ─ y₄ ─ [layer 4] ─ y₅        without layer 4, down of layer 3 is fitted so that its states come near y₅;
//!        down'   └──────────────► y₅         so is down of every layer behind, each to the states of its own original
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::overlay::Changed;
use super::side::{Ground, Method, Plan, Side, write};
use super::{LayerReport, PruneError, PruneOptions, wrong};
use crate::checkpoint::Checkpoint;
use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report};
use crate::walk::{Head, SCORED_ROWS};

/// Tokens that candidates walk with.
const SCORE_TOKENS: usize = 1024;
/// Positions at which predictions are compared.
const SCORED_POSITIONS: usize = 256;

/// Which layers go first: those with the lowest score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerScore {
    /// How much a layer turns the hidden states.
    Influence,
    /// How much predictions change without it.
    Divergence,
}

pub(super) fn prune(
    ground: &Ground<'_>,
    (count, score): (usize, LayerScore),
    options: &PruneOptions,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<(Checkpoint, Vec<LayerReport>), ForgeError> {
    let spec = ground.model.spec().clone();
    let most = spec.layers.len().saturating_sub(1);
    if !(1..=most).contains(&count) {
        let expected = format!("1 to {most} of {}", spec.layers.len());
        return Err(wrong("layers", expected, count).into());
    }
    let fits = ground.refit.is_some_and(|refit| refit.stream > 0.0);
    let widths = spec.layers.iter().map(|layer| layer.feed_forward());
    ground.need(widths.max().filter(|_| fits))?;
    let kept = match score {
        LayerScore::Influence => by_influence(ground, count, watch)?,
        LayerScore::Divergence => by_divergence(ground, count, watch)?,
    };
    let plan = Plan { spec, kept };
    let mut method = Layers {
        kept: plan.kept.clone(),
        is_changed: false,
    };
    write(ground, &plan, (&mut method, fits), options, dir, watch)
}

struct Layers {
    kept: Vec<usize>,
    /// Whether a layer is gone already.
    is_changed: bool,
}

impl Method for Layers {
    fn layer(
        &mut self,
        side: &mut Side<'_>,
        index: usize,
    ) -> Result<(Changed, LayerReport), ForgeError> {
        let layers = side.spec.layers.len();
        let next = self.kept.iter().find(|kept| **kept > index);
        let end = next.copied().unwrap_or(layers) - 1;
        let at = self.kept.binary_search(&index).unwrap_or_else(|at| at);
        self.is_changed |= at != index || end != index;
        let mut changed = Changed::new();
        side.follow(end)?;
        let down = match self.is_changed {
            true => side.fit_down(index, &mut changed)?,
            false => None,
        };
        match self.is_changed {
            true => side.advance(index, &changed)?,
            false => side.advance_as_original(index)?,
        }
        let report = LayerReport {
            layer: index,
            neurons: side.spec.layers[index].feed_forward(),
            heads: side.spec.heads,
            output: None,
            down,
            zeros: 0,
        };
        Ok((changed, report))
    }
}

/// The first tokens of the texts.
pub(super) fn short(texts: &[Vec<u32>], tokens: usize) -> Vec<Vec<u32>> {
    let mut left = tokens;
    let mut short = Vec::new();
    for text in texts {
        let length = text.len().min(left);
        if length == 0 {
            break;
        }
        short.push(text[..length].to_vec());
        left -= length;
    }
    short
}

fn progress(
    watch: &mut Watch<'_>,
    item: &str,
    (done, total): (usize, usize),
) -> Result<(), ForgeError> {
    let progress = Progress {
        step: Step::Prune,
        item,
        done: done as u64,
        total: total as u64,
    };
    report(watch, progress)
}

/// The layers that stay.
fn by_influence(
    ground: &Ground<'_>,
    count: usize,
    watch: &mut Watch<'_>,
) -> Result<Vec<usize>, ForgeError> {
    let spec = ground.model.spec();
    let walk = ground.walk(spec, ground.model.weights());
    let texts = short(ground.texts, SCORE_TOKENS);
    let start = ground.embed(&texts)?;
    let mut left: Vec<usize> = (0..spec.layers.len()).collect();
    for round in 0..count {
        progress(watch, "influence of layers", (round, count))?;
        let mut states = start.clone();
        let mut scores = Vec::new();
        for &layer in &left {
            let before = states.clone();
            walk.layer(layer, &mut states)?;
            scores.push(turn(&before, &states, spec.hidden));
        }
        take_least(&mut left, &scores)?;
    }
    Ok(left)
}

/// 1 − mean cosine of two lists of states.
fn turn(before: &[Vec<f32>], after: &[Vec<f32>], hidden: usize) -> f64 {
    let (mut sum, mut rows) = (0.0, 0_usize);
    for (before, after) in before.iter().zip(after) {
        let pairs = before.chunks_exact(hidden).zip(after.chunks_exact(hidden));
        for (a, b) in pairs {
            let product = |a: &[f32], b: &[f32]| -> f64 {
                a.iter()
                    .zip(b)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum()
            };
            let size = (product(a, a) * product(b, b)).sqrt();
            // A state of nothing has no direction; it counts as unturned.
            sum += if size > 0.0 {
                1.0 - product(a, b) / size
            } else {
                0.0
            };
            rows += 1;
        }
    }
    sum / rows.max(1) as f64
}

fn take_least(left: &mut Vec<usize>, scores: &[f64]) -> Result<(), PruneError> {
    if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
        return Err(PruneError::NotFinite {
            place: format!("layers.{}", left[at]),
            what: "its score",
        });
    }
    let least = (0..scores.len()).min_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    if let Some(at) = least {
        left.remove(at);
    }
    Ok(())
}

fn by_divergence(
    ground: &Ground<'_>,
    count: usize,
    watch: &mut Watch<'_>,
) -> Result<Vec<usize>, ForgeError> {
    let spec = ground.model.spec();
    let walk = ground.walk(spec, ground.model.weights());
    let texts = short(ground.texts, SCORE_TOKENS);
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let stride = tokens.div_ceil(SCORED_POSITIONS).max(1);
    let start = ground.embed(&texts)?;
    let mut left: Vec<usize> = (0..spec.layers.len()).collect();
    let mut original: Option<Vec<f32>> = None;
    let total = count * spec.layers.len();
    for round in 0..count {
        // The model as it is, and behind it the one without each layer so far.
        let mut states = start.clone();
        for (at, &layer) in left.iter().enumerate() {
            let item = "predictions without layers";
            progress(watch, item, (round * spec.layers.len() + at, total))?;
            let without = states[..texts.len()].to_vec();
            walk.layer(layer, &mut states)?;
            states.extend(without);
        }
        let mut models = states
            .chunks(texts.len())
            .map(|states| some(states, spec.hidden, stride));
        let whole = models.next().unwrap_or_default();
        let original = original.get_or_insert(whole);
        let candidates: Vec<Vec<f32>> = models.collect();
        let scores = divergences(walk.head()?, original, &candidates, spec.hidden)?;
        take_least(&mut left, &scores)?;
    }
    Ok(left)
}

/// Every `stride`-th state.
pub(super) fn some(states: &[Vec<f32>], hidden: usize, stride: usize) -> Vec<f32> {
    let rows = states.iter().flat_map(|states| states.chunks_exact(hidden));
    rows.step_by(stride).flatten().copied().collect()
}

/// Mean KL(original ‖ candidate) of the predictions from states `[positions, hidden]`.
pub(super) fn divergences(
    mut head: Head,
    original: &[f32],
    candidates: &[Vec<f32>],
    hidden: usize,
) -> Result<Vec<f64>, ForgeError> {
    let mut sums = vec![0.0; candidates.len()];
    let chunk = SCORED_ROWS * hidden;
    for (number, states) in original.chunks(chunk).enumerate() {
        let mut expected: Vec<Vec<f32>> = Vec::new();
        head.scores(states, 0, &mut |_, scores| {
            expected.push(log_probabilities(scores));
            Ok(())
        })?;
        let range = number * chunk..number * chunk + states.len();
        for (sum, candidate) in sums.iter_mut().zip(candidates) {
            head.scores(&candidate[range.clone()], 0, &mut |row, scores| {
                *sum += divergence(&expected[row], &log_probabilities(scores));
                Ok(())
            })?;
        }
    }
    let positions = (original.len() / hidden).max(1) as f64;
    Ok(sums.iter().map(|sum| sum / positions).collect())
}

fn log_probabilities(scores: &[f32]) -> Vec<f32> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores
        .iter()
        .map(|score| f64::from((score - largest).exp()))
        .sum();
    let total = largest + sum.ln() as f32;
    scores.iter().map(|score| score - total).collect()
}

/// Σ p·(ln p − ln q).
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let terms = p
        .iter()
        .zip(q)
        .map(|(p, q)| f64::from(p.exp()) * f64::from(p - q));
    terms.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turned_states_count_by_their_angle() {
        let before = [vec![1.0, 0.0, 0.0, 2.0], vec![0.0, 0.0]];
        // Unturned (longer), turned by 90°, and from nothing.
        let after = [vec![3.0, 0.0, 2.0, 0.0], vec![1.0, 1.0]];
        assert!((turn(&before, &after, 2) - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn divergence_is_that_of_the_definition() {
        let (a, b) = ([1.0_f32, 2.0, 0.5], [0.0_f32, 2.5, 0.5]);
        let softmax = |scores: [f32; 3]| {
            let exps = scores.map(|score| f64::from(score).exp());
            exps.map(|exp| exp / exps.iter().sum::<f64>())
        };
        let (p, q) = (softmax(a), softmax(b));
        let expected: f64 = (0..3).map(|i| p[i] * (p[i] / q[i]).ln()).sum();
        let found = divergence(&log_probabilities(&a), &log_probabilities(&b));
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }

    #[test]
    fn short_texts_end_where_scores_have_enough() {
        let texts = vec![vec![1; SCORE_TOKENS - 2], vec![2; 5], vec![3; 5]];
        let lengths: Vec<usize> = short(&texts, SCORE_TOKENS).iter().map(Vec::len).collect();
        assert_eq!(lengths, [SCORE_TOKENS - 2, 2]);
    }
}
