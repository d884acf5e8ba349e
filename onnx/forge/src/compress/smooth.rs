//! Moves large inputs into weights, so that one scale can serve a whole matrix of activations (Xiao et al. 2023, "SmoothQuant").
//!
//! Products of bytes have one scale for all activations of a matrix. A few channels are a hundred times larger than the others, and
//! leave them a handful of codes. Weights have one scale a row and room for more range, so each channel's size is shared between them:
//! s = max|x|^α ÷ max|w|^(1−α), whatever makes the input is divided by it, and the columns that read it are multiplied.
//!
//! ```text
//!   texts ─ walk ─► max|x| of each channel ─► s ─► norms ÷ s, value rows ÷ s, up rows ÷ s; columns · s: the same function
//! ```

use std::path::Path;

use llmasos_engine::Runtime;
use serde_json::json;

use super::degrid::{Factors, rescaled};
use crate::checkpoint::{Checkpoint, layer_weight};
use crate::decoder::{LayerPart, Options};
use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report};
use crate::walk::Walk;

/// α: how much of a channel's size goes into the weights. On SmolLM2 .7 and .8 lost equally little (KL .011), .5 .016 and .35 .031; the
/// paper has .5, and .75 for models with larger outliers.
const ALPHA: f32 = 0.75;
/// Farthest that a factor may be from 1, either way: half-precision copies of the weights must hold them.
const MAX_FACTOR: f32 = 256.0;
/// Fewest tokens to measure with.
const MIN_TOKENS: usize = 256;

/// Writes the checkpoint `dir`: the same function with its large channels moved. `scratch` is an existing folder for graphs.
///
/// # Errors
/// [`ForgeError::Walk`] for too little text and those of a walk; those of [`Checkpoint::change`].
pub(super) fn smooth(
    checkpoint: &Checkpoint,
    texts: &[Vec<u32>],
    runtime: &Runtime,
    (dir, scratch): (&Path, &Path),
    watch: &mut Watch<'_>,
) -> Result<Checkpoint, ForgeError> {
    let tokens: usize = texts.iter().map(Vec::len).sum();
    if tokens < MIN_TOKENS {
        return Err(ForgeError::Walk {
            what: "tokens to measure activations with",
            expected: format!("at least {MIN_TOKENS}"),
            found: tokens.to_string(),
        });
    }
    let spec = checkpoint.spec();
    let walk = Walk::new(
        runtime,
        (spec, checkpoint.weights()),
        &Options::FP32,
        scratch,
    );
    let mut hidden = texts
        .iter()
        .map(|text| walk.embed(text))
        .collect::<Result<Vec<_>, _>>()?;
    let mut all = Vec::with_capacity(spec.layers.len());
    for (index, layer) in spec.layers.iter().enumerate() {
        let inner = layer.feed_forward();
        let mut largest =
            [spec.hidden, spec.query_width(), spec.hidden, inner].map(|width| vec![0.0_f32; width]);
        walk.layer_inputs(index, &mut hidden, &mut |seen| {
            let inputs = [seen.qkv, seen.output, seen.up, seen.down];
            for (largest, inputs) in largest.iter_mut().zip(inputs) {
                raise(largest, inputs);
            }
            Ok(())
        })?;
        let [qkv, output, up, down] = &largest;
        let read = |part: LayerPart, columns: usize| -> Result<Vec<f32>, ForgeError> {
            let mut largest = vec![0.0_f32; columns];
            if layer.linear(part).is_some() {
                raise(
                    &mut largest,
                    &checkpoint.tensor(&layer_weight(index, part))?,
                );
            }
            Ok(largest)
        };
        let mut of_up = read(LayerPart::Up, spec.hidden)?;
        raise(&mut of_up, &read(LayerPart::Gate, spec.hidden)?);
        let of_output = read(LayerPart::Output, spec.query_width())?;
        let by_value =
            |columns: &[f32]| by_value(columns, spec.heads, spec.kv_heads, spec.head_dim);
        all.push(Factors {
            attention: factors(qkv, &read(LayerPart::Qkv, spec.hidden)?),
            feed_forward: factors(up, &of_up),
            inner: factors(down, &read(LayerPart::Down, inner)?),
            values: factors(&by_value(output), &by_value(&of_output)),
        });
        let progress = Progress {
            step: Step::Read,
            item: "sizes of activations",
            done: index as u64 + 1,
            total: spec.layers.len() as u64,
        };
        report(watch, progress)?;
    }
    let step = json!({"step": "smooth", "alpha": ALPHA, "tokens": tokens});
    rescaled(checkpoint, dir, step, &|index| all[index].clone(), watch)
}

/// Keeps the largest magnitude of each channel.
fn raise(largest: &mut [f32], rows: &[f32]) {
    for row in rows.chunks_exact(largest.len().max(1)) {
        for (most, value) in largest.iter_mut().zip(row) {
            *most = most.max(value.abs());
        }
    }
}

/// The largest of the query heads that read the same value head.
fn by_value(columns: &[f32], heads: usize, kv_heads: usize, head_dim: usize) -> Vec<f32> {
    let group = (heads / kv_heads.max(1)).max(1);
    let mut largest = vec![0.0_f32; kv_heads * head_dim];
    for (head, lanes) in columns.chunks_exact(head_dim.max(1)).enumerate() {
        let begin = head / group * head_dim;
        raise(&mut largest[begin..begin + head_dim], lanes);
    }
    largest
}

/// s of each channel, the middle of their logarithms at 1: only their ratios matter. 1 where a channel is silent.
fn factors(inputs: &[f32], weights: &[f32]) -> Vec<f32> {
    let pairs = inputs.iter().zip(weights);
    let logs: Vec<Option<f32>> = pairs
        .map(|(input, weight)| {
            let is_used = *input > 0.0 && *weight > 0.0;
            is_used.then(|| ALPHA * input.ln() - (1.0 - ALPHA) * weight.ln())
        })
        .collect();
    let count = logs.iter().flatten().count().max(1);
    let middle = logs.iter().flatten().sum::<f32>() / count as f32;
    logs.iter()
        .map(|log| match log {
            Some(log) => (log - middle).exp().clamp(1.0 / MAX_FACTOR, MAX_FACTOR),
            None => 1.0,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::architecture::toys;
    use crate::checkpoint::tests::imported;
    use crate::walk::tests::runtime;

    #[test]
    fn a_channel_gives_most_of_its_size_to_the_weights() {
        let inputs = [1.0, 16.0, 1.0, 0.0];
        let found = factors(&inputs, &[1.0, 1.0, 16.0, 1.0]);
        assert!((found[1] / found[0] - 8.0).abs() < 1e-4, "{found:?}");
        assert!((found[2] / found[0] - 0.5).abs() < 1e-5, "{found:?}");
        assert_eq!(found[3], 1.0, "silent");
        let product: f32 = found[..3].iter().product();
        assert!((product - 1.0).abs() < 1e-4);
    }

    #[test]
    fn query_heads_of_a_value_head_are_scaled_alike() {
        let columns = [1.0, -2.0, 3.0, 1.0, 5.0, 6.0, 4.0, 7.0];
        assert_eq!(by_value(&columns, 4, 2, 2), [3.0, 2.0, 5.0, 7.0]);
    }

    #[test]
    fn the_function_stays_and_its_channels_come_closer() {
        let root = tempfile::tempdir().unwrap();
        let given = imported(&root.path().join("a"), &toys::gated("llama", 2));
        let mut go_on = |_: Progress<'_>| ControlFlow::Continue(());
        let text: Vec<u32> = (0..8).map(|token| token * token % 5).collect();
        let mut run = |texts: &[Vec<u32>]| {
            let place = root.path().join("b");
            smooth(&given, texts, &runtime(), (&place, root.path()), &mut go_on)
        };
        let message = run(std::slice::from_ref(&text)).unwrap_err().to_string();
        assert!(
            message.contains("expected at least 256, found 8"),
            "{message}"
        );
        let made = run(&vec![text.clone(); 32]).unwrap();
        // How far the largest channel of what down reads is from the smallest, and what comes out behind.
        let runtime = runtime();
        let seen = |model: &Checkpoint| {
            let walk = Walk::new(
                &runtime,
                (model.spec(), model.weights()),
                &Options::FP32,
                root.path(),
            );
            let mut hidden = vec![walk.embed(&text).unwrap()];
            let mut largest = vec![0.0_f32; model.spec().layers[1].feed_forward()];
            walk.layer(0, &mut hidden).unwrap();
            walk.layer_inputs(1, &mut hidden, &mut |seen| {
                raise(&mut largest, seen.down);
                Ok(())
            })
            .unwrap();
            let most = largest.iter().copied().fold(0.0, f32::max);
            let least = largest.iter().copied().fold(f32::MAX, f32::min);
            (most / least, hidden.remove(0))
        };
        let ((before, wanted), (after, found)) = (seen(&given), seen(&made));
        assert!(after < 0.7 * before, "{before} → {after}");
        let most = wanted
            .iter()
            .fold(0.0_f32, |most, value| most.max(value.abs()));
        for (found, wanted) in found.iter().zip(&wanted) {
            assert!((found - wanted).abs() < 1e-4 * most, "{found}, {wanted}");
        }
    }
}
