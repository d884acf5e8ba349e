//! How much each matrix' four bits cost the model's answers, measured, and which matrices to raise to eight.
//!
//! Matrices that err alike at their outputs do not cost alike at the end: later layers damp some errors and blow others up. So
//! every group of matrices (gate and up share a format) is quantized alone, and its error carried through the float layers
//! after it to the scores. For errors this small, KL(p‖q) is half the variance of the change of the scores under p.
//!
//! ```text
//!   float stream ─ layer 0 ─┬─ layer 1 ─┬─ … ─ head ─► p
//!                           │           └─ 4 streams, each with one group of layer 1 quantized ─ … ─ head ─► ½ Var_p(Δz)
//!                           └─ 4 streams of layer 0 ─ … ─ head
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use llmasos_engine::Runtime;

use super::budget::{Allocation, Budget, Choice, allocate};
use super::layer::shape;
use super::mix::folded;
use super::overlay::Overlay;
use super::{Grid, QuantizeOptions, Quantized};
use crate::checkpoint::Checkpoint;
use crate::decoder::{DecoderSpec, LayerPart, Options, packed_dims};
use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report};
use crate::quantize::CodeFormat;
use crate::walk::Walk;
use crate::weights::Weights;

/// Positions at the beginning of a text that are not scored: with so little before them, they say little of the model.
const UNSCORED: usize = 16;
/// Groups of matrices that share a format.
const GROUPS: [&[LayerPart]; 4] = [
    &[LayerPart::Qkv],
    &[LayerPart::Output],
    &[LayerPart::Gate, LayerPart::Up],
    &[LayerPart::Down],
];

/// What the present format of a group costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensitivity {
    /// Layer of the group.
    pub layer: usize,
    /// Its matrices.
    pub parts: Vec<LayerPart>,
    /// KL(float‖quantized) of the group alone, in nats per position.
    pub loss: f64,
    /// Bytes that 8 bits take more.
    pub bytes: u64,
}

/// Measures every group of a quantized model against the checkpoint it was made of. A few hundred tokens are enough to rank them;
/// not those that the result will be judged by.
///
/// # Errors
/// Those of walks and of the work folder.
pub fn sensitivities(
    runtime: &Runtime,
    checkpoint: &Checkpoint,
    quantized: &Quantized,
    texts: &[Vec<u32>],
    watch: &mut Watch<'_>,
) -> Result<Vec<Sensitivity>, ForgeError> {
    let spec = checkpoint.spec();
    let base = checkpoint.weights();
    let dir = quantized.dir();
    let mut float = Vec::new();
    for text in texts {
        float.push(floats(runtime, (spec, base), dir).embed(text)?);
    }
    let mut found: Vec<Sensitivity> = Vec::new();
    let mut streams: Vec<Vec<Vec<f32>>> = Vec::new();
    for index in 0..spec.layers.len() {
        let made = quantized.layer(index)?;
        let before = float.clone();
        // All streams in one walk, so that the layer is opened once.
        let mut all = std::mem::take(&mut float);
        all.extend(streams.drain(..).flatten());
        floats(runtime, (spec, base), dir).layer(index, &mut all)?;
        let rest = all.split_off(texts.len());
        float = all;
        streams = rest.chunks(texts.len().max(1)).map(<[_]>::to_vec).collect();
        let folded = folded(checkpoint, index, &made)?;
        for parts in GROUPS {
            let mut layer = folded.clone();
            let mut bytes = 0;
            for part in parts {
                let (Some((format, codes)), Some((rows, columns))) =
                    (made.matrices.get(part), shape(&spec.layers[index], *part))
                else {
                    continue;
                };
                layer.set_matrix(*part, Grid::unpack(codes, columns, *format).floats());
                let more = matrix_bytes(rows, columns, CodeFormat::Int8);
                bytes += more.saturating_sub(matrix_bytes(rows, columns, *format));
            }
            let overlay = Overlay::new(base, layer.tensors());
            let mut stream = before.clone();
            floats(runtime, (spec, &overlay), dir).layer(index, &mut stream)?;
            streams.push(stream);
            found.push(Sensitivity {
                layer: index,
                parts: parts.to_vec(),
                loss: 0.0,
                bytes,
            });
        }
        let item = format!("layer {index}");
        let progress = Progress {
            step: Step::Measure,
            item: &item,
            done: index as u64 + 1,
            total: spec.layers.len() as u64,
        };
        report(watch, progress)?;
    }
    let losses = losses(&floats(runtime, (spec, base), dir), spec, &float, &streams)?;
    for (sensitivity, loss) in found.iter_mut().zip(losses) {
        sensitivity.loss = loss;
    }
    Ok(found)
}

/// A model to walk through in single precision.
fn floats<'w>(
    runtime: &'w Runtime,
    model: (&'w DecoderSpec, &'w dyn Weights),
    dir: &Path,
) -> Walk<'w> {
    Walk::new(runtime, model, &Options::FP32, dir)
}

/// ½ Var_p(Δz) of every stream, the mean over all scored positions.
fn losses(
    walk: &Walk<'_>,
    spec: &DecoderSpec,
    float: &[Vec<f32>],
    streams: &[Vec<Vec<f32>>],
) -> Result<Vec<f64>, ForgeError> {
    let mut head = walk.head()?;
    let mut sums = vec![0.0; streams.len()];
    let mut positions = 0_usize;
    for (text, states) in float.iter().enumerate() {
        let rows = states.len() / spec.hidden;
        for row in UNSCORED.min(rows.saturating_sub(1))..rows {
            let one = row * spec.hidden..(row + 1) * spec.hidden;
            let mut batch = states[one.clone()].to_vec();
            for stream in streams {
                batch.extend_from_slice(&stream[text][one.clone()]);
            }
            let mut reference = Reference::default();
            head.scores(&batch, 0, &mut |at, scores| {
                match at {
                    0 => reference = Reference::of(scores),
                    _ => sums[at - 1] += reference.loss(scores),
                }
                Ok(())
            })?;
            positions += 1;
        }
    }
    Ok(sums
        .iter()
        .map(|sum| sum / positions.max(1) as f64)
        .collect())
}

/// Scores of the float model at a position, and their probabilities.
#[derive(Default)]
struct Reference {
    scores: Vec<f32>,
    shares: Vec<f32>,
}

impl Reference {
    fn of(scores: &[f32]) -> Reference {
        let most = scores
            .iter()
            .fold(f32::NEG_INFINITY, |most, &score| most.max(score));
        let mut shares: Vec<f32> = scores.iter().map(|score| (score - most).exp()).collect();
        let sum: f64 = shares.iter().copied().map(f64::from).sum();
        for share in &mut shares {
            *share = (f64::from(*share) / sum) as f32;
        }
        Reference {
            scores: scores.to_vec(),
            shares,
        }
    }

    fn loss(&self, scores: &[f32]) -> f64 {
        const LANES: usize = 8;
        let (mut means, mut squares) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let all = self.scores.iter().zip(&self.shares).zip(scores);
        for (at, ((was, share), is)) in all.enumerate() {
            let change = is - was;
            means[at % LANES] += share * change;
            squares[at % LANES] += share * change * change;
        }
        let (mean, square): (f32, f32) = (means.iter().sum(), squares.iter().sum());
        f64::from((square - mean * mean).max(0.0)) / 2.0
    }
}

/// Matrices to raise to eight bits under a budget, best first; see [`Allocation::met`].
pub fn raise(
    sensitivities: &[Sensitivity],
    budget: Budget,
) -> (BTreeSet<(usize, LayerPart)>, Allocation) {
    let choices: Vec<Choice> = (sensitivities.iter())
        .map(|group| Choice {
            bytes: group.bytes,
            benefit: if group.bytes > 0 { group.loss } else { 0.0 },
        })
        .collect();
    let found = allocate(&choices, budget);
    let groups = found.taken.iter().map(|&at| &sensitivities[at]);
    let raised = groups
        .flat_map(|group| group.parts.iter().map(|part| (group.layer, *part)))
        .collect();
    (raised, found)
}

/// Bytes of a matrix as the fused graph stores it, which is the file that a vehicle maps.
fn matrix_bytes(rows: usize, columns: usize, format: CodeFormat) -> u64 {
    packed_dims(rows, columns, format).iter().product::<i64>() as u64
}

/// Bytes of all matrices of a model as the fused graph stores them.
pub fn stored_bytes(spec: &DecoderSpec, options: &QuantizeOptions) -> u64 {
    let tables = 1 + u64::from(spec.head.is_some());
    let mut bytes = tables * matrix_bytes(spec.vocab, spec.hidden, options.head);
    for (index, layer) in spec.layers.iter().enumerate() {
        for part in LayerPart::ALL {
            if let Some((rows, columns)) = shape(layer, part) {
                bytes += matrix_bytes(rows, columns, options.format(index, part));
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_the_divergence_of_close_scores() {
        let scores: Vec<f32> = (0..50).map(|at| (at * 37 % 50) as f32 / 10.0).collect();
        let moved: Vec<f32> = (scores.iter().enumerate())
            .map(|(at, score)| score + 3.0 + ((at * 13 % 7) as f32 - 3.0) / 300.0)
            .collect();
        let shares = |scores: &[f32]| -> Vec<f64> {
            let powers: Vec<f64> = scores.iter().map(|score| f64::from(*score).exp()).collect();
            let sum: f64 = powers.iter().sum();
            powers.iter().map(|power| power / sum).collect()
        };
        let (p, q) = (shares(&scores), shares(&moved));
        let divergence: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        let loss = Reference::of(&scores).loss(&moved);
        assert!(
            (loss - divergence).abs() < 0.02 * divergence,
            "{loss} {divergence}"
        );
    }
}
