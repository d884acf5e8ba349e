//! Takes a model off the grid that its weights were quantized on, without changing what it computes.
//!
//! Published weights are often 4-bit numbers already. A quantizer that meets its own grid finds a loss of nothing, and a comparison
//! of quantizers would compare which one guesses the grid. So channels between two matrices are rescaled at random: one side is
//! multiplied, the other divided, and the product stays the same up to rounding.
//!
//! ```text
//!   input_norm.w / s ── qkv columns · s          up rows / s ── down columns · s      (without activation in between only)
//!   ffn_norm.w   / s ── gate, up columns · s     value rows / s ── output columns · s (one s for the queries that share a head)
//!   s = exp(u), u even in −0.25 … 0.25
//! ```

use std::path::Path;

use serde_json::json;

use super::random::Random;
use crate::checkpoint::Checkpoint;
use crate::decoder::{DecoderSpec, LayerSpec};
use crate::error::ForgeError;
use crate::folder::Watch;

/// Half the width of the even distribution of ln s.
const SPREAD: f64 = 0.25;

/// The factors of one layer: what makes a channel is divided, the columns that read it are multiplied.
#[derive(Debug, Clone)]
pub(super) struct Factors {
    /// Of what query, key and value read.
    pub(super) attention: Vec<f32>,
    /// Of what gate and up read.
    pub(super) feed_forward: Vec<f32>,
    /// Of what down reads.
    pub(super) inner: Vec<f32>,
    /// Of the values, which output reads.
    pub(super) values: Vec<f32>,
}

impl Factors {
    fn new(seed: u64, index: usize, spec: &DecoderSpec, layer: &LayerSpec) -> Factors {
        // A sequence for each layer, so that one can be made without those before it.
        let mut random = Random::new(seed ^ (index as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95));
        let mut draw = |count: usize| -> Vec<f32> {
            let exponent = |unit: f64| ((2.0 * unit - 1.0) * SPREAD).exp() as f32;
            (0..count).map(|_| exponent(random.unit())).collect()
        };
        Factors {
            attention: draw(spec.hidden),
            feed_forward: draw(spec.hidden),
            inner: draw(layer.feed_forward()),
            values: draw(spec.kv_width()),
        }
    }
}

/// Writes the rescaled model as the checkpoint `dir`.
///
/// # Errors
/// Those of [`Checkpoint::change`].
pub fn degrid(
    checkpoint: &Checkpoint,
    seed: u64,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<Checkpoint, ForgeError> {
    let spec = checkpoint.spec();
    let factors = |index: usize| Factors::new(seed, index, spec, &spec.layers[index]);
    let step = json!({"step": "degrid", "seed": seed});
    rescaled(checkpoint, dir, step, &factors, watch)
}

/// Writes the model with the factors of each layer as the checkpoint `dir`; `step` is noted in it.
///
/// # Errors
/// Those of [`Checkpoint::change`].
pub(super) fn rescaled(
    checkpoint: &Checkpoint,
    dir: &Path,
    step: serde_json::Value,
    factors: &dyn Fn(usize) -> Factors,
    watch: &mut Watch<'_>,
) -> Result<Checkpoint, ForgeError> {
    let spec = checkpoint.spec();
    let mut change = |name: &str| -> Result<Option<Vec<f32>>, ForgeError> {
        let Some((index, part)) = layer_part(name) else {
            return Ok(None);
        };
        let layer = &spec.layers[index];
        let factors = factors(index);
        let mut weights = checkpoint.tensor(name)?.into_owned();
        let is_changed = rescale(&mut weights, part, spec, layer, &factors);
        Ok(is_changed.then_some(weights))
    };
    checkpoint.change(dir, spec, step, &mut change, watch)
}

/// Number of the layer and the rest of a canonical name.
pub(super) fn layer_part(name: &str) -> Option<(usize, &str)> {
    let (index, part) = name.strip_prefix("layers.")?.split_once('.')?;
    Some((index.parse().ok()?, part))
}

fn rescale(
    weights: &mut [f32],
    part: &str,
    spec: &DecoderSpec,
    layer: &LayerSpec,
    factors: &Factors,
) -> bool {
    // Without a gate the activation stands between up and down, and does not let a factor through.
    let is_gated = layer.gate.is_some();
    let first_value = spec.query_width() + spec.kv_width();
    match part {
        "input_norm.weight" | "input_norm.bias" => divide(weights, &factors.attention),
        "ffn_norm.weight" | "ffn_norm.bias" => divide(weights, &factors.feed_forward),
        "qkv.weight" => {
            multiply_columns(weights, &factors.attention);
            divide_rows(
                &mut weights[first_value * spec.hidden..],
                spec.hidden,
                &factors.values,
            );
        }
        "qkv.bias" => divide(&mut weights[first_value..], &factors.values),
        "output.weight" => multiply_columns(weights, &by_query(spec, &factors.values)),
        "gate.weight" => multiply_columns(weights, &factors.feed_forward),
        "up.weight" => {
            multiply_columns(weights, &factors.feed_forward);
            if is_gated {
                divide_rows(weights, spec.hidden, &factors.inner);
            }
        }
        "up.bias" if is_gated => divide(weights, &factors.inner),
        "down.weight" if is_gated => multiply_columns(weights, &factors.inner),
        _ => return false,
    }
    true
}

/// Factors of the value heads, for each query head that reads them.
fn by_query(spec: &DecoderSpec, values: &[f32]) -> Vec<f32> {
    let group = spec.heads / spec.kv_heads;
    let heads = values.chunks_exact(spec.head_dim);
    heads
        .flat_map(|head| std::iter::repeat_n(head, group))
        .flatten()
        .copied()
        .collect()
}

fn divide(elements: &mut [f32], factors: &[f32]) {
    for (element, factor) in elements.iter_mut().zip(factors) {
        *element /= factor;
    }
}

fn multiply_columns(weights: &mut [f32], factors: &[f32]) {
    for row in weights.chunks_exact_mut(factors.len().max(1)) {
        for (weight, factor) in row.iter_mut().zip(factors) {
            *weight *= factor;
        }
    }
}

fn divide_rows(weights: &mut [f32], columns: usize, factors: &[f32]) {
    for (row, factor) in weights.chunks_exact_mut(columns.max(1)).zip(factors) {
        for weight in row {
            *weight /= factor;
        }
    }
}
