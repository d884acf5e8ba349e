//! Quantizes a checkpoint layer by layer, on what each layer really reads.
//!
//! Texts walk through the model twice at once: as it is, and as it becomes. A layer's matrices are fitted to what they read behind
//! the layers that were quantized before it, so that errors do not add up unseen. Every finished layer is on the disk.
//!
//! ```text
//!   for each layer:   hidden states of all texts ─► Gram matrices ─► correct ─► fold ─► codes of every matrix ─► WORK/layer.NNNN
//!                                 ▲                                                              │
//!                                 └─────────────── through the layer as quantized ◄──────────────┘
//!   in the end:       WORK/checkpoint (weights that the codes stand for, folded norms) and a Coding that has the codes
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use llmasos_engine::Runtime;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::inputs::{Hessians, channels};
use super::layer::{Layer, shape};
use super::overlay::Overlay;
use super::quantized::{Quantized, assemble, restored};
use super::store::{LayerCodes, Store};
use super::{
    Factor, Fold, Grid, Hessian, MIN_TOKENS, MatrixReport, Method, QuantizeError, QuantizeOptions,
    QuantizeReport, fold, gptq, importance, refine, round_to_nearest,
};
use crate::checkpoint::{Checkpoint, layer_weight};
use crate::compress::toward::{Amount, PLACES, moved};
use crate::decoder::{LayerPart, Options};
use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report};
use crate::quantize::CodeFormat;
use crate::walk::{Grams, Walk};
use crate::weights::Weights;

/// Quantizes a checkpoint with the tokens of some texts, in a work folder that a stopped run of the same goes on in.
///
/// # Errors
/// [`ForgeError::Quantize`] names the matrix and what is wrong with it, [`ForgeError::Walk`] texts that are too short or do not fit
/// the model, and those of walks and files.
pub fn quantize(
    runtime: &Runtime,
    checkpoint: &Checkpoint,
    texts: &[Vec<u32>],
    options: &QuantizeOptions,
    work: &Path,
    watch: &mut Watch<'_>,
) -> Result<(Quantized, QuantizeReport), ForgeError> {
    let tokens: usize = texts.iter().map(Vec::len).sum();
    if options.method.reads_texts() && tokens < MIN_TOKENS {
        return Err(ForgeError::Walk {
            what: "tokens to calibrate with",
            expected: format!("at least {MIN_TOKENS}"),
            found: tokens.to_string(),
        });
    }
    checkpoint.spec().check_layer_blocks()?;
    let store = Store::open(work, fingerprint(checkpoint, texts, options)?)?;
    let mut run = Run {
        runtime,
        checkpoint,
        options,
        store,
        hidden: Vec::new(),
        original: Vec::new(),
        report: QuantizeReport {
            tokens,
            matrices: Vec::new(),
            resumed_layers: 0,
        },
    };
    let all = checkpoint.spec().layers.len();
    if options.method.reads_texts() && run.first_missing()?.is_some() {
        run.embed(texts)?;
    }
    for index in 0..all {
        let item = format!("layer {index}");
        run.layer(index)?;
        let progress = Progress {
            step: Step::Quantize,
            item: &item,
            done: index as u64 + 1,
            total: all as u64,
        };
        report(watch, progress)?;
    }
    let report = run.report;
    let quantized = assemble(checkpoint, run.store, options, watch)?;
    Ok((quantized, report))
}

/// What a stopped run must have in common with one that goes on.
fn fingerprint(
    checkpoint: &Checkpoint,
    texts: &[Vec<u32>],
    options: &QuantizeOptions,
) -> Result<String, ForgeError> {
    let described = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "about": checkpoint.about(),
        "options": options,
    });
    let mut hasher = Sha256::new();
    hasher.update(described.to_string());
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        for token in text {
            hasher.update(token.to_le_bytes());
        }
    }
    // The steps of a checkpoint do not say which weights it has.
    hasher.update(checkpoint.weights_sha256()?);
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

struct Run<'a> {
    runtime: &'a Runtime,
    checkpoint: &'a Checkpoint,
    options: &'a QuantizeOptions,
    store: Store,
    /// Hidden states of all texts before the next layer, behind layers as quantized.
    hidden: Vec<Vec<f32>>,
    /// The same, behind layers as they were.
    original: Vec<Vec<f32>>,
    report: QuantizeReport,
}

impl Run<'_> {
    fn first_missing(&self) -> Result<Option<usize>, ForgeError> {
        for index in 0..self.checkpoint.spec().layers.len() {
            if self.store.load(index)?.is_none() {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    fn embed(&mut self, texts: &[Vec<u32>]) -> Result<(), ForgeError> {
        let weights = self.checkpoint.weights();
        let walk = self.walk(weights);
        let hidden = texts.iter().map(|text| walk.embed(text));
        let hidden: Vec<_> = hidden.collect::<Result<_, _>>()?;
        if self.options.corrects() {
            self.original.clone_from(&hidden);
        }
        self.hidden = hidden;
        Ok(())
    }

    fn walk<'w>(&'w self, weights: &'w dyn Weights) -> Walk<'w> {
        let model = (self.checkpoint.spec(), weights);
        Walk::new(self.runtime, model, &Options::FP32, self.store.dir())
    }

    /// Makes or loads a layer, and takes the texts through it.
    fn layer(&mut self, index: usize) -> Result<(), ForgeError> {
        let made = match self.store.load(index)? {
            Some(made) => {
                self.report.resumed_layers += 1;
                self.follow(index)?;
                made
            }
            None => {
                let made = self.make(index)?;
                self.store.save(index, &made)?;
                made
            }
        };
        self.report.matrices.extend(made.reports.iter().cloned());
        if !self.hidden.is_empty() {
            let layer = restored(self.checkpoint, index, &made)?;
            let overlay = Overlay::new(self.checkpoint.weights(), layer.tensors());
            let mut hidden = std::mem::take(&mut self.hidden);
            self.walk(&overlay).layer(index, &mut hidden)?;
            self.hidden = hidden;
        }
        Ok(())
    }

    /// Takes the texts through a layer as it was.
    fn follow(&mut self, index: usize) -> Result<(), ForgeError> {
        if !self.original.is_empty() {
            let mut original = std::mem::take(&mut self.original);
            self.walk(self.checkpoint.weights())
                .layer(index, &mut original)?;
            self.original = original;
        }
        Ok(())
    }

    fn make(&mut self, index: usize) -> Result<LayerCodes, ForgeError> {
        let mut layer = Layer::read(self.checkpoint, index)?;
        if !self.options.method.reads_texts() {
            return self.round(index, &layer);
        }
        let grams = self.look(index, &mut layer)?;
        let mut hessians = Hessians::of(grams).map_err(at(index, LayerPart::Qkv))?;
        let folds = self.fold(index, &mut layer, &mut hessians)?;
        let mut made = LayerCodes::default();
        let mut known: Option<(LayerPart, (Hessian, Factor))> = None;
        for part in LayerPart::ALL {
            if layer.matrix(part).is_empty() {
                continue;
            }
            let hessian = hessians.of_part(part);
            let format = self.options.format(index, part);
            let input = reader(part);
            if self.options.method.feeds_back() && known.as_ref().is_none_or(|at| at.0 != input) {
                let factor = hessian.factor(self.options.damping);
                known = Some((input, factor.map_err(at(index, part))?));
            }
            let factor = known.as_ref().map(|(_, factor)| factor);
            let grid = self
                .grid(layer.matrix(part), hessian, factor, format)
                .map_err(at(index, part))?;
            let relative_error = relative_error(layer.matrix(part), &grid, hessian);
            made.matrices.insert(part, (format, grid.pack()));
            made.reports.push(MatrixReport {
                layer: index,
                part,
                format,
                relative_error,
                fold: folds.get(&reader(part)).and_then(|fold| fold.alpha),
            });
        }
        let vectors = layer.vectors();
        made.vectors = vectors
            .map(|(name, values)| (name.clone(), values.clone()))
            .collect();
        made.folds = folds
            .into_iter()
            .map(|(part, fold)| (part, fold.channels))
            .collect();
        Ok(made)
    }

    /// Sums what the matrices of a layer read, and makes them answer for what the layers before them got wrong.
    fn look(&mut self, index: usize, layer: &mut Layer) -> Result<Grams, ForgeError> {
        let mut hidden = self.hidden.clone();
        if !self.options.corrects() {
            let walk = self.walk(self.checkpoint.weights());
            return walk.layer_grams(index, &mut hidden);
        }
        let mut original = std::mem::take(&mut self.original);
        let walk = self.walk(self.checkpoint.weights());
        let streams = walk.layer_streams(index, &mut original)?;
        let (grams, missing) = walk.layer_toward(index, &mut hidden, &streams)?;
        self.original = original;
        let damping = self.options.damping;
        let amount = Amount {
            share: self.options.correction,
            damping: f64::from(damping),
        };
        let spec = &self.checkpoint.spec().layers[index];
        let matrix = |part| layer.matrix(part);
        let moved = moved(spec, &matrix, (&grams, &missing), &PLACES, amount)
            .map_err(|part| at(index, part)(QuantizeError::NotPositiveDefinite { damping }))?;
        for (part, weights) in moved {
            layer.set_matrix(part, weights);
        }
        Ok(grams)
    }

    /// Without texts: the relative error is that of the weights alone.
    fn round(&self, index: usize, layer: &Layer) -> Result<LayerCodes, ForgeError> {
        let mut made = LayerCodes::default();
        for part in LayerPart::ALL {
            let Some((_, columns)) = shape(&self.checkpoint.spec().layers[index], part) else {
                continue;
            };
            let (weights, format) = (layer.matrix(part), self.options.format(index, part));
            let grid = round_to_nearest(weights, columns, format).map_err(at(index, part))?;
            let square = |values: &[f32]| -> f64 {
                values.iter().map(|value| f64::from(*value).powi(2)).sum()
            };
            let relative_error =
                square(&differences(weights, &grid)) / square(weights).max(f64::MIN_POSITIVE);
            made.matrices.insert(part, (format, grid.pack()));
            made.reports.push(MatrixReport {
                layer: index,
                part,
                format,
                relative_error,
                fold: None,
            });
        }
        Ok(made)
    }

    /// Searches the scales of all inputs of a layer, and folds them into it and its Gram matrices.
    fn fold(
        &self,
        index: usize,
        layer: &mut Layer,
        hessians: &mut Hessians,
    ) -> Result<BTreeMap<LayerPart, Fold>, ForgeError> {
        let spec = self.checkpoint.spec();
        let mut found_folds = BTreeMap::new();
        if !self.options.method.folds() {
            return Ok(found_folds);
        }
        let is_gated = spec.layers[index].gate.is_some();
        for part in [
            LayerPart::Output,
            LayerPart::Down,
            LayerPart::Up,
            LayerPart::Qkv,
        ] {
            // Without a gate the activation stands between up and down, and lets no scale through.
            if part == LayerPart::Down && !is_gated {
                continue;
            }
            let hessian = hessians.of_part(part);
            let channels = channels(spec, part, hessian.columns());
            let mut rows = Vec::new();
            if part == LayerPart::Up {
                rows.extend_from_slice(layer.matrix(LayerPart::Gate));
            }
            rows.extend_from_slice(layer.matrix(part));
            let format = self.options.format(index, part);
            let found = (|| {
                let (damped, factor) = hessian.factor(self.options.damping)?;
                fold(&rows, &damped, &factor, &channels, format)
            })()
            .map_err(at(index, part))?;
            layer.fold(spec, part, &found.columns, &found.channels);
            hessians.rescale(part, &found.columns);
            found_folds.insert(part, found);
        }
        Ok(found_folds)
    }

    fn grid(
        &self,
        weights: &[f32],
        hessian: &Hessian,
        factor: Option<&(Hessian, Factor)>,
        format: CodeFormat,
    ) -> Result<Grid, QuantizeError> {
        let mut grid = importance(weights, &hessian.diagonal(), format)?;
        if let Some((damped, factor)) = factor {
            gptq(weights, factor, &mut grid)?;
            if self.options.method == Method::Best {
                refine(weights, damped, &mut grid, self.options.refine)?;
            }
        }
        Ok(grid)
    }
}

/// The matrix whose input a part shares: gate and up read the same.
fn reader(part: LayerPart) -> LayerPart {
    match part {
        LayerPart::Gate => LayerPart::Up,
        other => other,
    }
}

fn differences(weights: &[f32], grid: &Grid) -> Vec<f32> {
    let values = grid.floats();
    weights
        .iter()
        .zip(values)
        .map(|(weight, value)| weight - value)
        .collect()
}

fn relative_error(weights: &[f32], grid: &Grid, hessian: &Hessian) -> f64 {
    let all = hessian.error(weights);
    match all > 0.0 {
        true => hessian.error(&differences(weights, grid)) / all,
        false => 0.0,
    }
}

/// Names the matrix that an error is about.
fn at(index: usize, part: LayerPart) -> impl FnOnce(QuantizeError) -> ForgeError {
    move |source| ForgeError::Quantize {
        place: layer_weight(index, part),
        source,
    }
}
