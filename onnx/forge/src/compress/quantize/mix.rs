//! Mixes of 4 and 8 bits out of one quantization: a matrix that is raised is rounded anew, all others keep their codes.
//!
//! Scales that were folded tie the matrices of a layer together, so that codes of two quantizations cannot be put side by side. But 8 bits
//! need no search: the nearest code of the folded weights is as good as any. So a mix is an assembly, and takes seconds where a
//! quantization takes minutes.
//!
//! ```text
//!   int4:   WORK/layer.NNNN  codes · folds · norms ─────────────────────────────┐
//!                              └─► folded floats ─ raised? to the nearest, 8 bits ─┴─► MIX/layer.NNNN
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use super::inputs::channels;
use super::layer::{Layer, shape};
use super::quantized::{Quantized, assemble};
use super::store::LayerCodes;
use super::{MatrixReport, QuantizeOptions, round_to_nearest};
use crate::checkpoint::{Checkpoint, layer_weight};
use crate::decoder::LayerPart;
use crate::error::ForgeError;
use crate::folder::Watch;

/// The matrices of `base` with those of `raised` in 8 bits (gate and up of a layer together), in the work folder `work`, which must not be
/// that of `base`. The relative errors of what was raised are those of the weights alone.
///
/// # Errors
/// Those of the work folders and of writing the checkpoint.
pub fn mix(
    checkpoint: &Checkpoint,
    base: &Quantized,
    raised: &BTreeSet<(usize, LayerPart)>,
    work: &Path,
    watch: &mut Watch<'_>,
) -> Result<(Quantized, Vec<MatrixReport>), ForgeError> {
    let options = QuantizeOptions {
        raised: raised.clone(),
        ..base.options().clone()
    };
    let store = base.store_for(work, &options)?;
    let mut reports = Vec::new();
    for index in 0..checkpoint.spec().layers.len() {
        let mut made = base.layer(index)?;
        raise_layer(checkpoint, index, &options, &mut made)?;
        store.save(index, &made)?;
        reports.append(&mut made.reports);
    }
    let quantized = assemble(checkpoint, store, &options, watch)?;
    Ok((quantized, reports))
}

/// Rounds what a layer is to have in another format.
fn raise_layer(
    checkpoint: &Checkpoint,
    index: usize,
    options: &QuantizeOptions,
    made: &mut LayerCodes,
) -> Result<(), ForgeError> {
    let spec = &checkpoint.spec().layers[index];
    let is_other = |part: &LayerPart| {
        let stored = made.matrices.get(part);
        stored.is_some_and(|(stored, _)| *stored != options.format(index, *part))
    };
    let parts: Vec<LayerPart> = LayerPart::ALL.into_iter().filter(is_other).collect();
    if parts.is_empty() {
        return Ok(());
    }
    let layer = folded(checkpoint, index, made)?;
    for part in parts {
        let Some((_, columns)) = shape(spec, part) else {
            continue;
        };
        let (weights, format) = (layer.matrix(part), options.format(index, part));
        let grid =
            round_to_nearest(weights, columns, format).map_err(|source| ForgeError::Quantize {
                place: layer_weight(index, part),
                source,
            })?;
        let (mut lost, mut all) = (0.0, f64::MIN_POSITIVE);
        for (weight, value) in weights.iter().zip(grid.floats()) {
            lost += f64::from(weight - value).powi(2);
            all += f64::from(*weight).powi(2);
        }
        made.matrices.insert(part, (format, grid.pack()));
        let reports = made.reports.iter_mut().filter(|report| report.part == part);
        for report in reports {
            (report.format, report.relative_error) = (format, lost / all);
        }
    }
    Ok(())
}

/// A layer in floats, with the scales folded into it that its codes were made with.
pub(super) fn folded(
    checkpoint: &Checkpoint,
    index: usize,
    made: &LayerCodes,
) -> Result<Layer, ForgeError> {
    let spec = checkpoint.spec();
    let mut layer = Layer::read(checkpoint, index)?;
    for (&part, scales) in &made.folds {
        if let Some((_, columns)) = shape(&spec.layers[index], part) {
            let spread = channels(spec, part, columns).spread(scales);
            layer.fold(spec, part, &spread, scales);
        }
    }
    Ok(layer)
}
