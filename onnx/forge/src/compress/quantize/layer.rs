//! One layer of a checkpoint in memory, and the rescales that change no result.
//!
//! What feeds a matrix is divided by s, its columns are multiplied: norm and projections, value rows and output columns, up rows and
//! down columns. The last only where the product with the gate stands in between, and no activation.

use std::collections::BTreeMap;

use super::awq::multiply_columns;
use crate::checkpoint::{Checkpoint, layer_weight};
use crate::decoder::{DecoderSpec, LayerPart, LayerSpec};
use crate::error::ForgeError;

/// Names and elements of a layer's tensors.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    index: usize,
    tensors: BTreeMap<String, Vec<f32>>,
}

/// Rows and columns of a layer's matrix; `None` if the layer has no such part.
pub(super) fn shape(layer: &LayerSpec, part: LayerPart) -> Option<(usize, usize)> {
    let linear = match part {
        LayerPart::Qkv => Some(&layer.qkv),
        LayerPart::Output => Some(&layer.output),
        LayerPart::Gate => layer.gate.as_ref(),
        LayerPart::Up => Some(&layer.up),
        LayerPart::Down => Some(&layer.down),
    };
    linear.map(|linear| (linear.matrix.rows(), linear.matrix.columns))
}

impl Layer {
    /// Reads what quantizing may change: the matrices, and what their inputs are made by.
    ///
    /// # Errors
    /// Those of [`Checkpoint::tensor`], which names weights that are no numbers.
    pub(super) fn read(checkpoint: &Checkpoint, index: usize) -> Result<Layer, ForgeError> {
        let mut tensors = BTreeMap::new();
        let layer = &checkpoint.spec().layers[index];
        let parts = LayerPart::ALL.into_iter();
        let matrices = parts
            .filter(|&part| shape(layer, part).is_some())
            .map(|part| layer_weight(index, part));
        let others = [
            "input_norm.weight",
            "input_norm.bias",
            "ffn_norm.weight",
            "ffn_norm.bias",
            "qkv.bias",
            "up.bias",
        ];
        let others = others.iter().map(|name| format!("layers.{index}.{name}"));
        for name in matrices.chain(others) {
            if checkpoint.weights().has(&name) {
                tensors.insert(name.clone(), checkpoint.tensor(&name)?.into_owned());
            }
        }
        Ok(Layer { index, tensors })
    }

    /// A matrix, f32 `[rows, columns]`; empty if the layer has none.
    pub(super) fn matrix(&self, part: LayerPart) -> &[f32] {
        let matrix = self.tensors.get(&layer_weight(self.index, part));
        matrix.map_or(&[], Vec::as_slice)
    }

    /// Puts other weights in the place of a matrix.
    pub(super) fn set_matrix(&mut self, part: LayerPart, weights: Vec<f32>) {
        self.tensors.insert(layer_weight(self.index, part), weights);
    }

    /// The tensors by name.
    pub(super) fn tensors(&self) -> &BTreeMap<String, Vec<f32>> {
        &self.tensors
    }

    /// Those that are no matrices.
    pub(super) fn vectors(&self) -> impl Iterator<Item = (&String, &Vec<f32>)> {
        let is_matrix = |name: &str| {
            let mut parts = LayerPart::ALL.into_iter();
            parts.any(|part| layer_weight(self.index, part) == name)
        };
        self.tensors
            .iter()
            .filter(move |(name, _)| !is_matrix(name))
    }

    /// Puts elements in the place of a tensor.
    pub(super) fn set_tensor(&mut self, name: String, elements: Vec<f32>) {
        self.tensors.insert(name, elements);
    }

    /// Multiplies the columns of the matrices that read one input by `columns`, and divides what makes the input by `channels`.
    pub(super) fn fold(
        &mut self,
        spec: &DecoderSpec,
        reader: LayerPart,
        columns: &[f32],
        channels: &[f32],
    ) {
        let readers: &[LayerPart] = match reader {
            LayerPart::Gate | LayerPart::Up => &[LayerPart::Gate, LayerPart::Up],
            LayerPart::Qkv => &[LayerPart::Qkv],
            LayerPart::Output => &[LayerPart::Output],
            LayerPart::Down => &[LayerPart::Down],
        };
        for &part in readers {
            if let Some(weights) = self.tensors.get_mut(&layer_weight(self.index, part)) {
                *weights = multiply_columns(weights, columns);
            }
        }
        let first_value = spec.query_width() + spec.kv_width();
        match reader {
            LayerPart::Qkv => {
                self.divide(&["input_norm.weight", "input_norm.bias"], 0, 1, channels)
            }
            LayerPart::Gate | LayerPart::Up => {
                self.divide(&["ffn_norm.weight", "ffn_norm.bias"], 0, 1, channels);
            }
            LayerPart::Output => {
                self.divide(&["qkv.weight"], first_value, spec.hidden, channels);
                self.divide(&["qkv.bias"], first_value, 1, channels);
            }
            LayerPart::Down => {
                self.divide(&["up.weight"], 0, spec.hidden, channels);
                self.divide(&["up.bias"], 0, 1, channels);
            }
        }
    }

    /// Divides rows of `columns` elements, from row `first` on.
    fn divide(&mut self, names: &[&str], first: usize, columns: usize, by: &[f32]) {
        for name in names {
            let name = format!("layers.{}.{name}", self.index);
            let Some(elements) = self.tensors.get_mut(&name) else {
                continue;
            };
            let rows = elements.chunks_exact_mut(columns).skip(first);
            for (row, factor) in rows.zip(by) {
                for element in row {
                    *element /= factor;
                }
            }
        }
    }
}
