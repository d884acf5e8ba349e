//! An encoder in memory as training needs it, and what comes out of training.

use super::encoder::ByName;
use super::graph::EncoderKind;
use super::net::{Layers, Tensor, numbered};
use crate::decoder::{Linear, Norm};
use crate::encoder::{EncoderLayer, EncoderSpec};
use crate::error::ForgeError;
use crate::gguf::BlockFormat;
use crate::graph::float_bytes;
use crate::matrix::{Matrix, MatrixError, Part, Vector};
use crate::weights::Weights;

/// An encoder with its parameters.
pub(super) struct EncoderNet {
    spec: EncoderSpec,
    pub(super) layers: Layers,
    /// Tables and norm before the layers, in canonical names.
    before: ByName,
}

/// A trained encoder: a description in canonical names, one tensor for each matrix and vector, and the weights themselves.
pub struct TrainedEncoder {
    /// The description.
    pub spec: EncoderSpec,
    /// Shape and little-endian floats.
    tensors: std::collections::BTreeMap<String, (Vec<u64>, Vec<u8>)>,
}

impl Weights for TrainedEncoder {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.tensors.get(name).map(|(shape, _)| shape.clone())
    }

    fn raw(&self, name: &str) -> Result<(BlockFormat, &[u8]), ForgeError> {
        let missing = || MatrixError::Missing {
            tensor: name.to_string(),
        };
        let (_, bytes) = self.tensors.get(name).ok_or_else(missing)?;
        Ok((BlockFormat::F32, bytes))
    }
}

/// A constant of a description.
enum Slot<'s> {
    Matrix(&'s mut Matrix),
    Vector(&'s mut Vector),
}

/// Shows every constant with its canonical name.
fn visit(
    spec: &mut EncoderSpec,
    hear: &mut dyn FnMut(String, Slot<'_>) -> Result<(), ForgeError>,
) -> Result<(), ForgeError> {
    let tables = [
        ("embedding", &mut spec.embedding),
        ("positions", &mut spec.positions),
        ("types", &mut spec.token_types),
    ];
    for (name, table) in tables {
        hear(format!("{name}.weight"), Slot::Matrix(table))?;
    }
    visit_norm("embedding_norm", &mut spec.embedding_norm, hear)?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let EncoderLayer {
            qkv,
            output,
            attention_norm,
            up,
            down,
            ffn_norm,
        } = layer;
        for (name, linear) in [("qkv", qkv), ("output", output), ("up", up), ("down", down)] {
            visit_linear(&format!("layers.{index}.{name}"), linear, hear)?;
        }
        for (name, norm) in [("attention_norm", attention_norm), ("ffn_norm", ffn_norm)] {
            visit_norm(&format!("layers.{index}.{name}"), norm, hear)?;
        }
    }
    Ok(())
}

fn visit_linear(
    name: &str,
    linear: &mut Linear,
    hear: &mut dyn FnMut(String, Slot<'_>) -> Result<(), ForgeError>,
) -> Result<(), ForgeError> {
    hear(format!("{name}.weight"), Slot::Matrix(&mut linear.matrix))?;
    match &mut linear.bias {
        Some(bias) => hear(format!("{name}.bias"), Slot::Vector(bias)),
        None => Ok(()),
    }
}

fn visit_norm(
    name: &str,
    norm: &mut Norm,
    hear: &mut dyn FnMut(String, Slot<'_>) -> Result<(), ForgeError>,
) -> Result<(), ForgeError> {
    hear(format!("{name}.weight"), Slot::Vector(&mut norm.weight))?;
    match &mut norm.bias {
        Some(bias) => hear(format!("{name}.bias"), Slot::Vector(bias)),
        None => Ok(()),
    }
}

impl EncoderNet {
    /// Reads all parameters of a described encoder.
    ///
    /// # Errors
    /// [`ForgeError`] names the tensor that is missing, of another shape, or not finite.
    pub(super) fn read(
        spec: &EncoderSpec,
        weights: &dyn Weights,
    ) -> Result<EncoderNet, ForgeError> {
        spec.check(weights)?;
        let mut spec = spec.clone();
        let mut before = ByName::new();
        visit(&mut spec, &mut |name, slot| {
            let tensor = match slot {
                Slot::Matrix(matrix) => {
                    let dims = [matrix.rows(), matrix.columns];
                    let values = matrix.floats(weights)?;
                    *matrix = Matrix::one(dims[1], Part::stored(name.clone(), dims[0]));
                    Tensor::new(name.clone(), &dims, values)
                }
                Slot::Vector(vector) => {
                    let values = vector.floats(weights)?;
                    *vector = Vector::stored(name.clone(), values.len());
                    Tensor::new(name.clone(), &[values.len()], values)
                }
            };
            before.insert(name, tensor);
            Ok(())
        })?;
        spec.ignored.clear();
        let kinds = spec
            .layers
            .iter()
            .map(|layer| EncoderKind::of(&spec, layer));
        let (kinds, numbers) = numbered(kinds);
        let all = numbers.into_iter().enumerate().map(|(index, number)| {
            let slots = kinds[number].slots().iter();
            let tensors =
                slots.filter_map(|s| before.remove(&format!("layers.{index}.{}", s.role)));
            (number, tensors.collect())
        });
        let all = all.collect();
        let layers = Layers {
            hidden: spec.hidden,
            kinds,
            all,
        };
        Ok(EncoderNet {
            spec,
            layers,
            before,
        })
    }

    /// What the first layer reads: the normed sum of word, position and the first kind, [tokens, hidden].
    pub(super) fn embed(&self, ids: &[u32], length: usize) -> Vec<f32> {
        let width = self.spec.hidden;
        let table = |name: &str| self.before.get(name).map_or(&[][..], |t| &t.values[..]);
        let (words, places) = (table("embedding.weight"), table("positions.weight"));
        let kind = &table("types.weight")[..width];
        let (scale, shift) = (table("embedding_norm.weight"), table("embedding_norm.bias"));
        let mut rows = Vec::with_capacity(ids.len() * width);
        for (index, id) in ids.iter().enumerate() {
            let (word, place) = (*id as usize * width, index % length * width);
            let sum = (0..width).map(|at| words[word + at] + places[place + at] + kind[at]);
            let sum: Vec<f32> = sum.collect();
            let mean = sum.iter().sum::<f32>() / width as f32;
            let variance = sum.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / width as f32;
            let factor = 1.0 / (variance + self.spec.epsilon).sqrt();
            let normed = sum.iter().zip(scale).enumerate();
            rows.extend(normed.map(|(at, (value, scale))| {
                (value - mean) * factor * scale + shift.get(at).copied().unwrap_or(0.0)
            }));
        }
        rows
    }

    pub(super) fn into_trained(self) -> TrainedEncoder {
        let layers = self.layers.all.into_iter().flat_map(|(_, tensors)| tensors);
        let all = self.before.into_values().chain(layers);
        let stored = all.map(|tensor| {
            let shape = tensor.dims.iter().map(|size| *size as u64).collect();
            (tensor.name, (shape, float_bytes(&tensor.values)))
        });
        TrainedEncoder {
            spec: self.spec,
            tensors: stored.collect(),
        }
    }
}
