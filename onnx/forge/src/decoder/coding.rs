//! How each matrix of a model is stored: the one question that graph writers ask and quantizers answer.
//!
//! A writer knows where a matrix stands ([`Place`]); a [`Coding`] says in which storage it goes there, and makes its codes. The
//! simplest one, [`Options`], rounds to nearest when the writer comes to a matrix, so that a conversion holds one of them at
//! a time. Quantizers that look at data have made their codes before, and hand them out.
//!
//! ```text
//!   portable ─┐  storage(place)                     Options      round to nearest, in passing
//!   fused ────┼────────────────► dyn Coding ◄────── compress     codes of a search, from the work folder
//!   encoder ──┘  codes(place, matrix, weights)
//! ```

use serde::{Deserialize, Serialize};

use crate::error::ForgeError;
use crate::matrix::Matrix;
use crate::quantize::{CodeFormat, Codes};
use crate::weights::Weights;

/// How a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Storage {
    /// Blocks of codes, and products by them (weight-only).
    Blocks(CodeFormat),
    /// Bytes with one scale a row, and products of bytes: the portable graph computes activations' scales at run time, one for
    /// a whole input, which is fast and coarse. The fused graph, whose activations have a scale per 32, stores such matrices in
    /// blocks of 8 bits.
    Dynamic,
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats in the file, which the runtime turns into 32-bit ones when it opens it.
    Fp16,
}

impl Storage {
    /// Blocks for a table that rows are looked up in, and for the fused graph: where bytes with one scale a row do not go.
    #[must_use]
    pub fn in_blocks(self) -> Storage {
        match self {
            Storage::Dynamic => Storage::Blocks(CodeFormat::Int8),
            other => other,
        }
    }
}

/// A matrix of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerPart {
    /// Rows of query, key and value.
    Qkv,
    /// From the heads back to the stream.
    Output,
    /// The gate of the feed-forward part. Stored as `Up` is: products of both are one.
    Gate,
    /// Into the feed-forward part.
    Up,
    /// Out of it.
    Down,
}

impl LayerPart {
    /// All of them, in the order of computation.
    pub const ALL: [LayerPart; 5] = [
        LayerPart::Qkv,
        LayerPart::Output,
        LayerPart::Gate,
        LayerPart::Up,
        LayerPart::Down,
    ];
}

/// Where a matrix stands in a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The table of token vectors; the output head too, where the model has no other.
    Embedding,
    /// An output head of its own.
    Head,
    /// Learned positions, or kinds of token: always floats.
    Table,
    /// A layer's.
    Layer {
        /// Which layer.
        index: usize,
        /// Which of its matrices.
        part: LayerPart,
    },
}

impl Place {
    /// A layer's matrix.
    #[must_use]
    pub fn layer(index: usize, part: LayerPart) -> Place {
        Place::Layer { index, part }
    }
}

/// Says how matrices are stored, and makes their codes.
pub trait Coding {
    /// The storage of a matrix.
    fn storage(&self, place: Place) -> Storage;

    /// `accuracy_level` of MatMulNBits: 0 (the kernel's choice), 1 (fp32 activations) or 4 (int8 activations).
    fn accuracy_level(&self) -> u8;

    /// The codes of a matrix whose storage is [`Storage::Blocks`] of `format`; of a part of it, if the matrix is one.
    ///
    /// # Errors
    /// As [`Weights::rows`].
    fn codes(
        &self,
        _place: Place,
        matrix: &Matrix,
        weights: &dyn Weights,
        format: CodeFormat,
    ) -> Result<Codes, ForgeError> {
        matrix.codes(weights, format)
    }
}

/// The same codes, computed with activations in 32-bit floats: what the codes alone cost.
pub struct FloatActivations<'c>(pub &'c dyn Coding);

impl Coding for FloatActivations<'_> {
    fn storage(&self, place: Place) -> Storage {
        self.0.storage(place)
    }

    fn accuracy_level(&self) -> u8 {
        1
    }

    fn codes(
        &self,
        place: Place,
        matrix: &Matrix,
        weights: &dyn Weights,
        format: CodeFormat,
    ) -> Result<Codes, ForgeError> {
        self.0.codes(place, matrix, weights, format)
    }
}

/// One storage for all layers, one for embedding and head; codes by rounding to nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The matrices of the layers.
    pub layers: Storage,
    /// Embedding and head.
    pub head: Storage,
    /// `accuracy_level` of MatMulNBits: 0, 1 or 4.
    pub accuracy_level: u8,
}

impl Options {
    /// 32-bit floats everywhere: the reference.
    pub const FP32: Options = Options {
        layers: Storage::Fp32,
        head: Storage::Fp32,
        accuracy_level: 0,
    };
}

impl Coding for Options {
    fn storage(&self, place: Place) -> Storage {
        match place {
            Place::Embedding | Place::Head => self.head.in_blocks(),
            Place::Table => Storage::Fp32,
            Place::Layer { .. } => self.layers,
        }
    }

    fn accuracy_level(&self) -> u8 {
        self.accuracy_level
    }
}
