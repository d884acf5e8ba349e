//! Encoders: models that read a whole text at once and give a vector per token. One description, one portable graph.
//!
//! Inputs and output are named as exporters of these models name them, so that a graph made here and a ready one from elsewhere
//! run alike. Pooling is the caller's.
//!
//! ```text
//!   input_ids, attention_mask, token_type_ids i64[batch,S] ─► last_hidden_state f32[batch,S,hidden]
//!
//!   x₀ = LayerNorm(E[ids] + P[0…S−1] + T[types])          GatherBlockQuantized | Gather, Slice, Gather, LayerNormalization
//!   for each layer:
//!     q|k|v = x·Wqkv + b                                  MatMulNBits | MatMul, Add; Split
//!     a = softmax(q·kᵀ/√d where the mask is 1)·v          MultiHeadAttention
//!     h = LayerNorm(x + a·Wo + b)                         MatMulNBits | …, SkipLayerNormalization
//!     x = LayerNorm(h + GELU(h·Wup + b)·Wdown + b)        MatMulNBits | …, Gelu, SkipLayerNormalization
//! ```

mod portable;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::decoder::{Activation, DecoderError, Linear, Norm};
use crate::error::ForgeError;
use crate::matrix::{Matrix, Vector};
use crate::weights::Weights;

pub use portable::portable;

/// A layer of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderLayer {
    /// Rows of query, key and value.
    pub qkv: Linear,
    /// From the heads back.
    pub output: Linear,
    /// Norm of the sum with attention.
    pub attention_norm: Norm,
    /// Into the feed-forward part.
    pub up: Linear,
    /// Out of it.
    pub down: Linear,
    /// Norm of the sum with the feed-forward part.
    pub ffn_norm: Norm,
}

/// A whole encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// Name of the architecture.
    pub architecture: &'static str,
    /// Width.
    pub hidden: usize,
    /// Heads of a layer.
    pub heads: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest text in tokens.
    pub context: usize,
    /// Kinds of token, such as first and second text of a pair.
    pub types: usize,
    /// ε of all norms.
    pub epsilon: f32,
    /// Nonlinearity of all layers.
    pub activation: Activation,
    /// [vocab, hidden].
    pub embedding: Matrix,
    /// [context, hidden].
    pub positions: Matrix,
    /// [types, hidden].
    pub token_types: Matrix,
    /// Norm of the sum of the three.
    pub embedding_norm: Norm,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
    /// Tensors that files carry and no graph needs.
    pub ignored: BTreeSet<String>,
}

/// The settings that a model folder's `llmasos.json` has of an encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// Layers.
    pub layers: usize,
    /// Width of the vectors.
    pub hidden: usize,
    /// Tokens the model knows.
    pub vocab: usize,
    /// Longest text in tokens.
    pub context: usize,
    /// How token vectors become one: `mean`, `cls`, or `none` if the file does not say.
    pub pooling: String,
    /// `accuracy_level` of MatMulNBits.
    pub accuracy_level: u8,
    /// Name of the architecture.
    pub architecture: String,
}

impl EncoderSpec {
    /// Checks that every tensor of the description is there in its shape, and that there are no others.
    ///
    /// # Errors
    /// [`ForgeError::Matrix`] or [`ForgeError::Decoder`] names the tensor.
    pub fn check(&self, weights: &dyn Weights) -> Result<(), ForgeError> {
        let mut used = self.ignored.clone();
        let norms = self
            .layers
            .iter()
            .flat_map(|layer: &EncoderLayer| [&layer.attention_norm, &layer.ffn_norm])
            .chain([&self.embedding_norm]);
        let linears: Vec<&Linear> = self.layers.iter().flat_map(EncoderLayer::linears).collect();
        let tables = [&self.embedding, &self.positions, &self.token_types];
        for matrix in tables
            .into_iter()
            .chain(linears.iter().map(|linear| &linear.matrix))
        {
            matrix.check(weights)?;
            used.extend(matrix.parts.iter().map(|part| part.tensor.clone()));
        }
        let vectors = norms
            .flat_map(|norm| std::iter::once(&norm.weight).chain(&norm.bias))
            .chain(linears.iter().filter_map(|linear| linear.bias.as_ref()));
        for vector in vectors.collect::<Vec<&Vector>>() {
            vector.check(weights)?;
            used.extend(vector.parts.iter().map(|part| part.tensor.clone()));
        }
        match weights.names().iter().find(|name| !used.contains(**name)) {
            None => Ok(()),
            Some(tensor) => Err(DecoderError::UnexpectedTensor {
                tensor: tensor.to_string(),
                architecture: self.architecture.to_string(),
            }
            .into()),
        }
    }
}

impl EncoderLayer {
    fn linears(&self) -> [&Linear; 4] {
        [&self.qkv, &self.output, &self.up, &self.down]
    }
}
