//! A quantized model: a checkpoint of what its codes stand for, and the codes for graph writers.
//!
//! ```text
//!   WORK/layer.NNNN.safetensors ─┬─ codes ────────────────────────► Coding::codes
//!                                └─ weights they stand for, folded norms ─► WORK/checkpoint
//! ```

use std::path::Path;

use serde_json::json;

use super::layer::{Layer, shape};
use super::store::{LayerCodes, Store};
use super::{Grid, QuantizeError, QuantizeOptions};
use crate::checkpoint::{Checkpoint, layer_weight};
use crate::decoder::{Coding, Place, Storage};
use crate::error::ForgeError;
use crate::folder::Watch;
use crate::matrix::Matrix;
use crate::quantize::{CodeFormat, Codes};
use crate::weights::Weights;

/// Name of the folder of the resulting checkpoint in the work folder.
const CHECKPOINT_DIR: &str = "checkpoint";

/// A quantized model: weights that its codes stand for, in a checkpoint, and the codes.
#[derive(Debug)]
pub struct Quantized {
    checkpoint: Checkpoint,
    options: QuantizeOptions,
    store: Store,
}

impl Quantized {
    /// The checkpoint whose graph the codes belong to: norms have scales folded in.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What was made of a layer.
    pub(super) fn layer(&self, index: usize) -> Result<LayerCodes, ForgeError> {
        self.store.load(index)?.ok_or_else(|| absent(index))
    }

    /// Where its files are.
    pub(super) fn dir(&self) -> &Path {
        self.store.dir()
    }

    /// An empty store in another folder, for a mix of these codes.
    pub(super) fn store_for(
        &self,
        dir: &Path,
        options: &QuantizeOptions,
    ) -> Result<Store, ForgeError> {
        let what = json!({ "mix": options }).to_string();
        self.store.derived(dir, &what)
    }

    /// Seconds that each layer took in the run that made it, `[layers]`.
    ///
    /// # Errors
    /// [`ForgeError::Io`] for a work folder that cannot be read, [`ForgeError::Quantize`] for one that lacks a layer.
    pub fn layer_seconds(&self) -> Result<Vec<f64>, ForgeError> {
        let layers = 0..self.checkpoint.spec().layers.len();
        let seconds = layers.map(|index| self.store.seconds(index)?.ok_or_else(|| absent(index)));
        seconds.collect()
    }

    /// How it was made.
    pub fn options(&self) -> &QuantizeOptions {
        &self.options
    }
}

impl Coding for Quantized {
    fn storage(&self, place: Place) -> Storage {
        match place {
            Place::Embedding | Place::Head => Storage::Blocks(self.options.head),
            Place::Table => Storage::Fp32,
            Place::Layer { index, part } => Storage::Blocks(self.options.format(index, part)),
        }
    }

    fn accuracy_level(&self) -> u8 {
        self.options.accuracy_level
    }

    fn codes(
        &self,
        place: Place,
        matrix: &Matrix,
        weights: &dyn Weights,
        format: CodeFormat,
    ) -> Result<Codes, ForgeError> {
        let Place::Layer { index, part } = place else {
            return matrix.codes(weights, format);
        };
        let layer = self.store.load(index)?;
        let found = layer.and_then(|mut layer| layer.matrices.remove(&part));
        match found {
            Some((stored, codes)) if stored == format => Ok(codes),
            _ => Err(ForgeError::Quantize {
                place: layer_weight(index, part),
                source: QuantizeError::Absent,
            }),
        }
    }
}

fn absent(index: usize) -> ForgeError {
    ForgeError::Quantize {
        place: format!("layers.{index}"),
        source: QuantizeError::Absent,
    }
}

/// A layer with the weights that its codes stand for.
pub(super) fn restored(
    checkpoint: &Checkpoint,
    index: usize,
    made: &LayerCodes,
) -> Result<Layer, ForgeError> {
    let mut layer = Layer::read(checkpoint, index)?;
    for (&part, (format, codes)) in &made.matrices {
        let Some((_, columns)) = shape(&checkpoint.spec().layers[index], part) else {
            continue;
        };
        layer.set_matrix(part, Grid::unpack(codes, columns, *format).floats());
    }
    for (name, values) in &made.vectors {
        layer.set_tensor(name.clone(), values.clone());
    }
    Ok(layer)
}

/// Writes the checkpoint of what the codes stand for.
pub(super) fn assemble(
    checkpoint: &Checkpoint,
    store: Store,
    options: &QuantizeOptions,
    watch: &mut Watch<'_>,
) -> Result<Quantized, ForgeError> {
    let mut current: Option<(usize, Layer)> = None;
    let mut change = |name: &str| -> Result<Option<Vec<f32>>, ForgeError> {
        let number = name
            .strip_prefix("layers.")
            .and_then(|rest| rest.split_once('.'))
            .and_then(|(index, _)| index.parse::<usize>().ok());
        let Some(index) = number else {
            return Ok(None);
        };
        if current.as_ref().is_none_or(|(have, _)| *have != index) {
            let Some(made) = store.load(index)? else {
                return Ok(None);
            };
            current = Some((index, restored(checkpoint, index, &made)?));
        }
        Ok(current
            .as_ref()
            .and_then(|(_, layer)| layer.tensors().get(name).cloned()))
    };
    let dir = store.dir().join(CHECKPOINT_DIR);
    let step = json!({"step": "quantize", "options": options});
    let quantized = checkpoint.change(&dir, checkpoint.spec(), step, &mut change, watch)?;
    Ok(Quantized {
        checkpoint: quantized,
        options: options.clone(),
        store,
    })
}
