//! A decoder-only language model, described: sizes, and for each layer which tensors make which matrix.
//!
//! An architecture reads its configuration and fills in a description; the graph writers know descriptions and no architecture.
//! What a family does not have is absent (`None`), so that a writer leaves it out.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{DecoderError, LayerPart};
use crate::error::ForgeError;
use crate::matrix::{Matrix, Part, Vector};
use crate::weights::Weights;

/// How a norm works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormKind {
    /// x / √(mean(x²) + ε) · w (Zhang and Sennrich 2019, equation 4).
    Rms,
    /// (x − mean(x)) / √(var(x) + ε) · w + b (Ba et al. 2016).
    Layer,
}

/// The nonlinearity of the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// x·σ(x).
    Silu,
    /// x·Φ(x), exactly.
    Gelu,
    /// x/2·(1 + tanh(√(2/π)(x + 0.044715x³))).
    GeluTanh,
}

/// The constants of a norm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// w.
    pub weight: Vector,
    /// b, of a [`NormKind::Layer`].
    pub bias: Option<Vector>,
}

/// A matrix and the bias that is added to its product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// [outputs, inputs].
    pub matrix: Matrix,
    /// `[outputs]`.
    pub bias: Option<Vector>,
}

/// Frequencies of a rotary embedding: at position p the pair (i, i + d/2) turns by p·f\[i\] (Su et al. 2021).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// f, [head_dim / 2].
    pub inverse_frequencies: Vec<f64>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerSpec {
    /// Norm before attention.
    pub input_norm: Norm,
    /// Rows of query, key and value.
    pub qkv: Linear,
    /// Norm of each query head, `[head_dim]`.
    pub query_norm: Option<Vector>,
    /// Norm of each key head, `[head_dim]`.
    pub key_norm: Option<Vector>,
    /// From the heads back to the residual stream.
    pub output: Linear,
    /// Norm of what attention gives, before it is added.
    pub post_attention_norm: Option<Vector>,
    /// Norm before the feed-forward part.
    pub ffn_norm: Norm,
    /// The gate, if there is one; as many rows as `up`.
    pub gate: Option<Linear>,
    /// Into the feed-forward part.
    pub up: Linear,
    /// Out of it.
    pub down: Linear,
    /// Norm of what the feed-forward part gives, before it is added.
    pub post_ffn_norm: Option<Vector>,
    /// Tokens that a query sees, itself included; all, if absent.
    pub window: Option<usize>,
    /// Number of the rotary embedding in [`DecoderSpec::rotary`].
    pub rotary: Option<usize>,
    /// Factor of q·k.
    pub scale: f32,
    /// What a byte is worth that stores a key or value: one number for each feature of the keys (after norm and rotation),
    /// then of the values, 2·[`DecoderSpec::kv_width`]. Measured on texts; absent, keys and values are stored in half
    /// precision. Only the fused graph has a use for it.
    pub kv_scales: Option<Vector>,
}

/// A whole model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderSpec {
    /// Name of the architecture, as GGUF has it.
    pub architecture: Cow<'static, str>,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest context in tokens.
    pub context: usize,
    /// ε of all norms.
    pub epsilon: f32,
    /// Kind of all norms of the residual stream. Norms of heads and of deltas are always [`NormKind::Rms`].
    pub norm: NormKind,
    /// Nonlinearity of all layers.
    pub activation: Activation,
    /// [vocab, hidden].
    pub embedding: Matrix,
    /// Factor of the embedding.
    pub embedding_scale: f32,
    /// Learned positions, [context, hidden].
    pub positions: Option<Part>,
    /// The rotary embeddings that layers refer to.
    pub rotary: Vec<Rotary>,
    /// Base of the rotary embedding of most reach, for people.
    pub rope_base: Option<f64>,
    /// The layers.
    pub layers: Vec<LayerSpec>,
    /// Norm before the head.
    pub final_norm: Norm,
    /// [vocab, hidden]; the embedding, if absent.
    pub head: Option<Matrix>,
    /// `[vocab]`.
    pub head_bias: Option<Vector>,
    /// Tensors that files carry and no graph needs.
    pub ignored: BTreeSet<String>,
}

impl DecoderSpec {
    /// Rows of the query.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Rows of the key, and of the value.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Whether keys and values of all layers can be stored as bytes.
    pub fn has_kv_scales(&self) -> bool {
        !self.layers.is_empty() && self.layers.iter().all(|layer| layer.kv_scales.is_some())
    }

    /// The matrix of the output head.
    pub fn head_matrix(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Checks that every tensor of the description is there in its shape, and that there are no others: leaving one out would
    /// silently change the model.
    ///
    /// # Errors
    /// [`ForgeError::Matrix`] or [`ForgeError::Decoder`] names the tensor.
    pub fn check(&self, weights: &dyn Weights) -> Result<(), ForgeError> {
        let mut used = self.ignored.clone();
        for matrix in self.matrices() {
            matrix.check(weights)?;
            used.extend(matrix.parts.iter().map(|part| part.tensor.clone()));
        }
        for vector in self.vectors() {
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

    /// Checks that the sizes of a description that was read from a file fit each other.
    ///
    /// # Errors
    /// [`DecoderError::Sizes`] for the first that does not.
    pub fn check_sizes(&self) -> Result<(), DecoderError> {
        let (width, hidden) = (self.query_width(), self.hidden);
        let qkv = width + 2 * self.kv_width();
        let heads = self.heads.checked_rem(self.kv_heads).map(|_| self.heads);
        let per_key = self.heads.checked_div(self.kv_heads).unwrap_or(0);
        let mut sizes = vec![
            (
                "heads".to_string(),
                per_key * self.kv_heads,
                heads.unwrap_or(1),
            ),
            ("embedding rows".into(), self.vocab, self.embedding.rows()),
            ("embedding columns".into(), hidden, self.embedding.columns),
            ("head rows".into(), self.vocab, self.head_matrix().rows()),
            ("head columns".into(), hidden, self.head_matrix().columns),
            ("final norm".into(), hidden, self.final_norm.weight.length()),
        ];
        for (index, layer) in self.layers.iter().enumerate() {
            let inner = layer.feed_forward();
            for (part, rows, columns) in [
                (LayerPart::Qkv, qkv, hidden),
                (LayerPart::Output, hidden, width),
                (LayerPart::Gate, inner, hidden),
                (LayerPart::Up, inner, hidden),
                (LayerPart::Down, hidden, inner),
            ] {
                let Some(linear) = layer.linear(part) else {
                    continue;
                };
                let name = |what: &str| format!("layer {index} {part:?} {what}");
                sizes.push((name("rows"), rows, linear.matrix.rows()));
                sizes.push((name("columns"), columns, linear.matrix.columns));
                if let Some(bias) = &linear.bias {
                    sizes.push((name("bias"), rows, bias.length()));
                }
            }
            for (name, norm) in [("input", &layer.input_norm), ("ffn", &layer.ffn_norm)] {
                let name = format!("layer {index} {name} norm");
                sizes.push((name, hidden, norm.weight.length()));
            }
            if let Some(scales) = &layer.kv_scales {
                let name = format!("layer {index} scales of keys and values");
                sizes.push((name, 2 * self.kv_width(), scales.length()));
            }
        }
        match sizes
            .into_iter()
            .find(|(_, expected, found)| expected != found)
        {
            None => Ok(()),
            Some((what, expected, found)) => Err(DecoderError::Sizes {
                what,
                expected,
                found,
            }),
        }
    }

    /// Checks that block formats can hold the layers' matrices.
    ///
    /// # Errors
    /// [`ForgeError::Matrix`].
    pub fn check_layer_blocks(&self) -> Result<(), ForgeError> {
        for linear in self.layers.iter().flat_map(LayerSpec::linears) {
            linear.matrix.check_blocks()?;
        }
        Ok(())
    }

    fn matrices(&self) -> impl Iterator<Item = Matrix> {
        let positions = self
            .positions
            .iter()
            .map(|part| Matrix::one(self.hidden, part.clone()));
        let tables = std::iter::once(&self.embedding).chain(&self.head).cloned();
        let linears = self.layers.iter().flat_map(LayerSpec::linears);
        tables
            .chain(positions)
            .chain(linears.map(|linear| linear.matrix.clone()))
    }

    fn vectors(&self) -> impl Iterator<Item = &Vector> {
        let layers = self.layers.iter().flat_map(|layer| {
            let norms = [&layer.input_norm, &layer.ffn_norm]
                .into_iter()
                .flat_map(Norm::vectors);
            let single = [
                &layer.query_norm,
                &layer.key_norm,
                &layer.post_attention_norm,
                &layer.post_ffn_norm,
                &layer.kv_scales,
            ];
            let biases = layer.linears().filter_map(|linear| linear.bias.as_ref());
            norms.chain(single.into_iter().flatten()).chain(biases)
        });
        layers
            .chain(self.final_norm.vectors())
            .chain(&self.head_bias)
    }
}

impl LayerSpec {
    /// Width inside the feed-forward part: layers may have lost neurons.
    pub fn feed_forward(&self) -> usize {
        self.down.matrix.columns
    }

    /// The matrix of a part.
    pub fn linear(&self, part: LayerPart) -> Option<&Linear> {
        match part {
            LayerPart::Qkv => Some(&self.qkv),
            LayerPart::Output => Some(&self.output),
            LayerPart::Gate => self.gate.as_ref(),
            LayerPart::Up => Some(&self.up),
            LayerPart::Down => Some(&self.down),
        }
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.qkv, &self.output, &self.up, &self.down]
            .into_iter()
            .chain(&self.gate)
    }
}

impl Norm {
    fn vectors(&self) -> impl Iterator<Item = &Vector> {
        std::iter::once(&self.weight).chain(&self.bias)
    }
}
