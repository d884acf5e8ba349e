//! The llama architecture (Touvron et al. 2023; SmolLM2 is one) from GGUF to an ONNX graph for generation.
//!
//! One token in, one row of logits out, and the keys and values of the past as inputs and outputs that may share one buffer.
//! Matrices that read the same input are one: query|key|value and gate|up, because on few cores a kernel costs as much to start
//! as to run. RMS norms are fused with the residual sum before them. Only the last position meets the output head, which is the
//! embedding itself when both are tied.
//!
//! ```text
//!   x₀ = Embedding[ids]                                   GatherBlockQuantized (8-bit) | Gather (fp32)
//!   for each layer:
//!     n  = RMSNorm(x)                                     standard operators; later SkipSimplified… with the sum before
//!     q|k|v = n·Wqkv                                      MatMulNBits | MatMul
//!     a  = softmax(rope(q)·rope(k)ᵀ/√d) · v               GroupQueryAttention   past_key_values.{l} → present.{l}
//!     x  = x + a·Wo                                       MatMulNBits
//!     n  = RMSNorm(x)                                     SkipSimplifiedLayerNormalization
//!     g|u = n·Wgu                                         MatMulNBits, Split
//!     x  = x + (SiLU(g) ⊙ u)·Wdown                        QuickGelu(α=1), Mul, MatMulNBits
//!   logits = RMSNorm(x)[last]·Eᵀ                          SkipSimplified…, Gather, MatMulNBits | Gemm
//! ```
//!
//! GGUF stores the rows of query and key for rotary embeddings of neighbouring pairs; the kernel rotates halves. So these rows
//! are put back into the order of the original checkpoint: (head, i, half) → (head, half, i).

mod config;
mod graph;
mod matrix;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use graph::graph;

use crate::quantize::CodeFormat;

/// Value of `general.architecture`.
pub const ARCHITECTURE: &str = "llama";

/// Upper bound of every size in the configuration; what is larger does not run on a vehicle.
pub const MAX_SIZE: u64 = 1 << 20;
/// Longest context for which rotary tables are written (16 MiB of tables at a head size of 64).
pub const MAX_CONTEXT: u64 = 65_536;
/// Most layers.
pub const MAX_LAYERS: u64 = 1024;

/// A GGUF file that is not a llama this module can build.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LlamaError {
    /// Another architecture.
    #[error("expected architecture \"llama\", found {found:?}")]
    Architecture {
        /// The architecture.
        found: String,
    },
    /// A size of the configuration out of range or inconsistent with another.
    #[error("metadata {key}: expected {expected}, found {found}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is possible.
        expected: String,
        /// What there is.
        found: String,
    },
    /// A tensor with another shape than the configuration says.
    #[error("tensor {tensor}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Sizes, fastest first.
        expected: Vec<u64>,
        /// Sizes, fastest first.
        found: Vec<u64>,
    },
    /// A tensor that this graph has no place for; leaving it out would silently change the model.
    #[error("tensor {tensor} has no place in the llama graph")]
    UnexpectedTensor {
        /// The tensor.
        tensor: String,
    },
}

/// How matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Blocks of codes, multiplied by MatMulNBits.
    Blocks(CodeFormat),
    /// 32-bit floats.
    Fp32,
}

/// What can be chosen about the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The matrices of the layers.
    pub layers: Storage,
    /// Embedding and head.
    pub head: Storage,
    /// `accuracy_level` of MatMulNBits: 0, 1 or 4.
    pub accuracy_level: u8,
}
/// The embedding's tensor.
const EMBEDDING: &str = "token_embd.weight";
/// The output head's tensor; absent if the embedding is the head.
const HEAD: &str = "output.weight";
