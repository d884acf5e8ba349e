//! Keys and values as bytes: measures the scale of each channel, which is all that the fused graph needs to keep them so.
//!
//! Channels of keys differ by orders of magnitude and stay so from token to token, so each has a scale of its own; a scale for
//! all of a head loses twice as much. The scales are constants of the model, measured once: the largest magnitude that a channel
//! has over the calibration texts, with a margin for those that come later, which saturate.
//!
//! ```text
//!   texts ─ walk ─► keys (rotated), values of each layer ─► largest |·| of each channel · margin / 127 ─► layers.l.kv_scales [2, width]
//! ```

use std::path::Path;

use llmasos_engine::Runtime;
use serde_json::json;

use crate::checkpoint::Checkpoint;
use crate::decoder::Options;
use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report};
use crate::matrix::Vector;
use crate::walk::Walk;

/// Factor of the largest magnitude met: what is longer by less than this does not saturate.
const MARGIN: f32 = 1.1;
/// Smallest scale: a channel that is always zero stays zero.
const MIN_SCALE: f32 = 1e-6;
/// Fewest tokens to measure with.
pub const MIN_TOKENS: usize = 256;

/// Writes the checkpoint `dir`: the same model with scales for its keys and values. `scratch` is an existing folder for graphs.
///
/// # Errors
/// [`ForgeError::Walk`] for less than [`MIN_TOKENS`] tokens of text and those of a walk; those of [`Checkpoint::change`].
pub fn kv_int8(
    checkpoint: &Checkpoint,
    texts: &[Vec<u32>],
    runtime: &Runtime,
    (dir, scratch): (&Path, &Path),
    watch: &mut Watch<'_>,
) -> Result<Checkpoint, ForgeError> {
    let tokens: usize = texts.iter().map(Vec::len).sum();
    if tokens < MIN_TOKENS {
        return Err(ForgeError::Walk {
            what: "tokens to measure keys and values with",
            expected: format!("at least {MIN_TOKENS}"),
            found: tokens.to_string(),
        });
    }
    let mut spec = checkpoint.spec().clone();
    let model = (checkpoint.spec(), checkpoint.weights());
    let walk = Walk::new(runtime, model, &Options::FP32, scratch);
    let mut hidden = texts
        .iter()
        .map(|text| walk.embed(text))
        .collect::<Result<Vec<_>, _>>()?;
    let (head_dim, width) = (spec.head_dim, spec.kv_width());
    let mut scales = Vec::with_capacity(spec.layers.len());
    for index in 0..spec.layers.len() {
        let mut largest = vec![0.0_f32; 2 * width];
        walk.layer_cache(index, &mut hidden, &mut |keys, values| {
            let (of_keys, of_values) = largest.split_at_mut(width);
            raise(of_keys, keys, head_dim);
            raise(of_values, values, head_dim);
            Ok(())
        })?;
        scales.push(largest.iter().map(|most| scale(*most)).collect::<Vec<_>>());
        spec.layers[index].kv_scales = Some(Vector::stored(name(index), 2 * width));
        let progress = Progress {
            step: Step::Read,
            item: "keys and values",
            done: index as u64 + 1,
            total: spec.layers.len() as u64,
        };
        report(watch, progress)?;
    }
    let mut change = |tensor: &str| {
        let index = (0..scales.len()).find(|index| name(*index) == tensor);
        Ok(index.map(|index| scales[index].clone()))
    };
    let step = json!({"step": "kv", "format": "int8", "tokens": tokens});
    checkpoint.change(dir, &spec, step, &mut change, watch)
}

/// Canonical name of a layer's scales.
fn name(index: usize) -> String {
    format!("layers.{index}.kv_scales")
}

fn scale(largest: f32) -> f32 {
    (largest * MARGIN / 127.0).max(MIN_SCALE)
}

/// Raises the largest magnitude of each channel, `[heads · head_dim]`, to that of `elements`, `[heads, tokens, head_dim]`.
fn raise(largest: &mut [f32], elements: &[f32], head_dim: usize) {
    let heads = largest.len() / head_dim.max(1);
    let of_head = elements.len() / heads.max(1);
    for (largest, rows) in largest
        .chunks_exact_mut(head_dim)
        .zip(elements.chunks_exact(of_head.max(1)))
    {
        for row in rows.chunks_exact(head_dim) {
            for (most, element) in largest.iter_mut().zip(row) {
                *most = most.max(element.abs());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::architecture::toys;
    use crate::checkpoint::tests::imported;
    use crate::walk::tests::runtime;

    #[test]
    fn channels_are_told_apart() {
        // Two heads of two channels, three tokens.
        let elements = [
            1.0, -4.0, 2.0, 0.0, -3.0, 1.0, // head 0
            0.5, 0.0, 0.0, 0.0, 0.0, 9.0, // head 1
        ];
        let mut largest = [0.0, 5.0, 0.0, 0.0];
        raise(&mut largest, &elements, 2);
        assert_eq!(largest, [3.0, 5.0, 0.5, 9.0]);
    }

    #[test]
    fn scales_are_in_the_fused_graph_and_short_texts_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let checkpoint = imported(&root.path().join("a"), &toys::gated("llama", 2));
        let mut go_on = |_: Progress<'_>| ControlFlow::Continue(());
        let dirs = (root.path().join("b"), root.path().to_path_buf());
        let mut run = |texts: &[Vec<u32>]| {
            let dirs = (dirs.0.as_path(), dirs.1.as_path());
            kv_int8(&checkpoint, texts, &runtime(), dirs, &mut go_on)
        };
        let text: Vec<u32> = (0..8).map(|token| token % 5).collect();
        let message = run(std::slice::from_ref(&text)).unwrap_err().to_string();
        assert!(
            message.contains("expected at least 256, found 8"),
            "{message}"
        );
        let scaled = run(&vec![text; 32]).unwrap();
        assert!(scaled.spec().has_kv_scales());
        let scales = scaled.tensor("layers.1.kv_scales").unwrap();
        assert_eq!(scales.len(), 2 * 16);
        assert!(scales.iter().all(|scale| scale.is_finite() && *scale > 0.0));
    }
}
