//! Decoder-only language models: one description, two graphs.
//!
//! An architecture ([`crate::architecture`]) says which tensors make which matrix; here that becomes ONNX. The portable graph
//! uses stock operators of ONNX Runtime and is the reference; the fused graph has one operator of our own per layer.
//!
//! ```text
//!   x₀ = s·Embedding[ids] (+ Positions[p])
//!   for each layer:
//!     n  = Norm(x)                                         RMS, or layer norm with bias
//!     q|k|v = n·Wqkv (+ b);  q, k = RMSNorm per head       the last only where the family has it
//!     a  = softmax(c · rot(q)·rot(k)ᵀ, in the window) · v
//!     x  = x + [PostNorm](a·Wo (+ b))
//!     n  = Norm(x)
//!     f  = act(n·Wg) ⊙ (n·Wu)  or  act(n·Wu)
//!     x  = x + [PostNorm](f·Wdown (+ b))
//!   logits = Norm(x)[last]·Eᵀ (or a head of its own)
//! ```

mod coding;
mod fused;
mod pieces;
mod portable;
mod spec;
#[cfg(test)]
mod tests;
mod tiles;

use serde::{Deserialize, Serialize};

pub use coding::{Coding, FloatActivations, LayerPart, Options, Place, Storage};
pub use fused::{fused, fused_is_possible};
pub use pieces::{Look, head, layer};
pub(crate) use pieces::{STREAM, widths as pieces_widths};
pub use portable::portable;
pub use spec::{Activation, DecoderSpec, LayerSpec, Linear, Norm, NormKind, Rotary};
pub use tiles::dims as packed_dims;

/// A description and a file that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecoderError {
    /// Two sizes of a description that do not fit each other.
    #[error("{what}: expected {expected}, found {found}")]
    Sizes {
        /// Which size.
        what: String,
        /// By the others.
        expected: usize,
        /// What it is.
        found: usize,
    },
    /// A tensor that this graph has no place for; leaving it out would silently change the model.
    #[error("tensor {tensor} has no place in the {architecture} graph")]
    UnexpectedTensor {
        /// The tensor.
        tensor: String,
        /// The architecture.
        architecture: String,
    },
}

/// The settings that a model folder's `llmasos.json` has of a decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens the model has scores for.
    pub vocab: usize,
    /// Longest context in tokens.
    pub context: usize,
    /// Base of the rotary embedding, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_base: Option<f64>,
    /// Token that begins a text.
    pub bos: u64,
    /// Whether a text has to begin with it.
    pub add_bos: bool,
    /// Tokens that end an answer.
    pub eos: Vec<u64>,
    /// `accuracy_level` of MatMulNBits.
    pub accuracy_level: u8,
    /// Name of the architecture.
    pub architecture: String,
    /// Whether the folder holds `fused.onnx`.
    pub fused: bool,
    /// How that graph keeps keys and values: "int8" if all layers have scales for it; else it is left out and means "f16".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv: Option<String>,
}
