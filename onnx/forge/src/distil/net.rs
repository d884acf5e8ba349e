//! A model in memory as training needs it: parameters by the names of a checkpoint, layers by kind.

use std::collections::BTreeMap;

use super::graph::{HeadKind, Layer, kind_of};
use crate::decoder::{DecoderSpec, LayerSpec, Linear, Norm};
use crate::error::ForgeError;
use crate::matrix::{Matrix, Vector};
use crate::weights::Weights;

/// A parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    /// Name in the checkpoint.
    pub(super) name: String,
    /// Sizes, slowest first.
    pub(super) dims: Vec<usize>,
    /// Elements.
    pub(super) values: Vec<f32>,
}

impl Tensor {
    pub(super) fn new(name: impl Into<String>, dims: &[usize], values: Vec<f32>) -> Tensor {
        Tensor {
            name: name.into(),
            dims: dims.to_vec(),
            values,
        }
    }
}

/// The layers of a model.
pub(super) struct Layers {
    /// Width of what goes from one to the next.
    pub(super) hidden: usize,
    /// The different kinds.
    pub(super) kinds: Vec<Box<dyn Layer>>,
    /// The kind of each layer, and its parameters in the order of the kind's slots.
    pub(super) all: Vec<(usize, Vec<Tensor>)>,
}

/// The kind of each layer by its number among the different ones.
pub(super) fn numbered<K: Layer + PartialEq + 'static>(
    kinds: impl Iterator<Item = K>,
) -> (Vec<Box<dyn Layer>>, Vec<usize>) {
    let mut different: Vec<K> = Vec::new();
    let numbers = kinds
        .map(
            |kind| match different.iter().position(|other| *other == kind) {
                Some(number) => number,
                None => {
                    different.push(kind);
                    different.len() - 1
                }
            },
        )
        .collect();
    let boxed = different
        .into_iter()
        .map(|kind| Box::new(kind) as Box<dyn Layer>);
    (boxed.collect(), numbers)
}

/// A decoder with its parameters.
pub(super) struct Net {
    pub(super) hidden: usize,
    pub(super) vocab: usize,
    pub(super) context: usize,
    pub(super) layers: Layers,
    /// [vocab, hidden].
    pub(super) embedding: Tensor,
    embedding_scale: f32,
    /// [context, hidden].
    positions: Option<Tensor>,
    pub(super) head: HeadKind,
    /// Parameters of the head in the order of its slots; the matrix is absent if it is the embedding.
    pub(super) ends: BTreeMap<&'static str, Tensor>,
}

impl Net {
    /// Reads all parameters of a described model.
    ///
    /// # Errors
    /// [`ForgeError`] names the tensor that is missing, of another shape, or not finite.
    pub(super) fn read(spec: &DecoderSpec, weights: &dyn Weights) -> Result<Net, ForgeError> {
        spec.check(weights)?;
        let (kinds, numbers) = numbered(spec.layers.iter().map(|layer| kind_of(spec, layer)));
        let mut all = Vec::with_capacity(numbers.len());
        for (index, (layer, number)) in spec.layers.iter().zip(numbers).enumerate() {
            let name = format!("layers.{index}");
            let slots = kinds[number].slots().iter();
            let tensors =
                slots.map(|slot| source(layer, slot.role).read(&name, slot.role, weights));
            all.push((
                number,
                tensors.collect::<Result<Vec<Tensor>, ForgeError>>()?,
            ));
        }
        let layers = Layers {
            hidden: spec.hidden,
            kinds,
            all,
        };
        let head = HeadKind {
            hidden: spec.hidden,
            vocab: spec.vocab,
            norm: spec.norm,
            epsilon: spec.epsilon,
            has_norm_bias: spec.final_norm.bias.is_some(),
            has_bias: spec.head_bias.is_some(),
        };
        let embedding = matrix("embedding.weight", &spec.embedding, weights)?;
        let positions = match &spec.positions {
            Some(part) => {
                let table = Matrix::one(spec.hidden, part.clone());
                Some(matrix("positions.weight", &table, weights)?)
            }
            None => None,
        };
        Ok(Net {
            hidden: spec.hidden,
            vocab: spec.vocab,
            context: spec.context,
            layers,
            embedding,
            embedding_scale: spec.embedding_scale,
            positions,
            head,
            ends: ends(spec, weights)?,
        })
    }

    /// The residual stream before the first layer: [tokens, hidden] of sequences of `length` tokens each.
    pub(super) fn embed(&self, ids: &[u32], length: usize) -> Vec<f32> {
        let width = self.hidden;
        let mut rows = Vec::with_capacity(ids.len() * width);
        for (index, id) in ids.iter().enumerate() {
            let at = *id as usize * width;
            let row = &self.embedding.values[at..at + width];
            let start = rows.len();
            rows.extend(row.iter().map(|value| value * self.embedding_scale));
            if let Some(positions) = &self.positions {
                let at = index % length * width;
                let placed = rows[start..].iter_mut();
                for (value, place) in placed.zip(&positions.values[at..at + width]) {
                    *value += place;
                }
            }
        }
        rows
    }

    /// Adds to the gradient of the embedding what arrives at its rows.
    pub(super) fn embed_back(&self, ids: &[u32], arriving: &[f32], gradient: &mut [f32]) {
        let width = self.hidden;
        for (id, row) in ids.iter().zip(arriving.chunks(width)) {
            let at = *id as usize * width;
            for (sum, value) in gradient[at..at + width].iter_mut().zip(row) {
                *sum += value * self.embedding_scale;
            }
        }
    }

    /// All parameters by name.
    pub(super) fn into_tensors(self) -> BTreeMap<String, Vec<f32>> {
        let layers = self.layers.all.into_iter().flat_map(|(_, tensors)| tensors);
        let ends = self.ends.into_values();
        let tables = self.positions.into_iter().chain([self.embedding]);
        let all = layers.chain(ends).chain(tables);
        all.map(|tensor| (tensor.name, tensor.values)).collect()
    }

    /// The matrix of the head, [vocab, hidden].
    pub(super) fn head_matrix(&self) -> &Tensor {
        self.ends.get("head.weight").unwrap_or(&self.embedding)
    }

    /// Whether head and embedding are one matrix.
    pub(super) fn is_tied(&self) -> bool {
        !self.ends.contains_key("head.weight")
    }
}

fn ends(
    spec: &DecoderSpec,
    weights: &dyn Weights,
) -> Result<BTreeMap<&'static str, Tensor>, ForgeError> {
    let mut ends = BTreeMap::new();
    let mut vectors = vec![("final_norm.weight", &spec.final_norm.weight)];
    vectors.extend(
        spec.final_norm
            .bias
            .iter()
            .map(|bias| ("final_norm.bias", bias)),
    );
    vectors.extend(spec.head_bias.iter().map(|bias| ("head.bias", bias)));
    for (name, vector) in vectors {
        let values = vector.floats(weights)?;
        ends.insert(name, Tensor::new(name, &[values.len()], values));
    }
    if let Some(head) = &spec.head {
        ends.insert("head.weight", matrix("head.weight", head, weights)?);
    }
    Ok(ends)
}

fn matrix(name: &str, matrix: &Matrix, weights: &dyn Weights) -> Result<Tensor, ForgeError> {
    let dims = [matrix.rows(), matrix.columns];
    Ok(Tensor::new(name, &dims, matrix.floats(weights)?))
}

/// Where a parameter of a layer comes from.
enum Source<'s> {
    Matrix(&'s Matrix),
    Vector(&'s Vector),
    /// Not in this layer; its kind does not list it.
    Absent,
}

impl Source<'_> {
    fn read(&self, layer: &str, role: &str, weights: &dyn Weights) -> Result<Tensor, ForgeError> {
        let name = format!("{layer}.{role}");
        match self {
            Source::Matrix(source) => matrix(&name, source, weights),
            Source::Vector(source) => {
                let values = source.floats(weights)?;
                Ok(Tensor::new(name, &[values.len()], values))
            }
            Source::Absent => Ok(Tensor::new(name, &[0], Vec::new())),
        }
    }
}

fn source<'s>(layer: &'s LayerSpec, role: &str) -> Source<'s> {
    let (name, part) = role.split_once('.').unwrap_or((role, ""));
    let linear = |linear: &'s Linear| match part {
        "weight" => Source::Matrix(&linear.matrix),
        _ => optional(linear.bias.as_ref()),
    };
    let norm = |norm: &'s Norm| match part {
        "weight" => Source::Vector(&norm.weight),
        _ => optional(norm.bias.as_ref()),
    };
    match name {
        "input_norm" => norm(&layer.input_norm),
        "qkv" => linear(&layer.qkv),
        "query_norm" => optional(layer.query_norm.as_ref()),
        "key_norm" => optional(layer.key_norm.as_ref()),
        "output" => linear(&layer.output),
        "post_attention_norm" => optional(layer.post_attention_norm.as_ref()),
        "ffn_norm" => norm(&layer.ffn_norm),
        "gate" => layer.gate.as_ref().map_or(Source::Absent, linear),
        "up" => linear(&layer.up),
        "down" => linear(&layer.down),
        "post_ffn_norm" => optional(layer.post_ffn_norm.as_ref()),
        _ => Source::Absent,
    }
}

fn optional(vector: Option<&Vector>) -> Source<'_> {
    vector.map_or(Source::Absent, Source::Vector)
}
