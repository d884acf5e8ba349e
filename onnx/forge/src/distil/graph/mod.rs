//! The graphs of a training step: one layer, and the head with the loss, in operators that have derivatives.
//!
//! A model is not one graph here. All layers of one kind share a graph, whose matrices are inputs: they are read in place from the
//! memory where the optimiser changes them, nothing is loaded again after a step, and a session is ready in milliseconds. What a
//! layer's forward part keeps for its backward part are the products of its matrices, which are dear; norms, attention weights and
//! activations are computed anew from them.
//!
//! ```text
//!   x [tokens, hidden], matrices ─► forward ─► y [tokens, hidden], kept.*
//!   x, matrices, kept.*, d.y     ─► backward ─► d.x, d.matrices
//!
//!   x, norm, head, teacher's logits, targets ─► loss ─► cross entropy, divergence, d.x, d.norm, d.head
//! ```
//!
//! Matrices stay [outputs, inputs] as a checkpoint has them: Gemm reads either factor transposed.

mod attention;
mod decoder;
mod encoder;
mod head;
mod matching;
mod part;
mod values;

pub(super) use decoder::kind_of;
pub(super) use encoder::EncoderKind;
pub(super) use head::{HeadKind, LossTerms};
pub use matching::Distance;
pub(super) use matching::MatchKind;
pub(super) use part::{Fed, Layer, LayerGraphs, Part, Workshop};
use values::Values;

/// Sizes of a batch, fixed while a graph lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Sequences.
    pub(super) batch: usize,
    /// Tokens of each.
    pub(super) length: usize,
}

impl Shape {
    pub(super) fn tokens(self) -> usize {
        self.batch * self.length
    }
}

/// A parameter of a layer graph: its name, which is also the input's, and its sizes; a size of `None` differs between layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) role: &'static str,
    pub(super) dims: Vec<Option<usize>>,
}

impl Slot {
    pub(super) fn matrix(role: &'static str, rows: Option<usize>, columns: Option<usize>) -> Slot {
        let dims = vec![rows, columns];
        Slot { role, dims }
    }

    pub(super) fn vector(role: &'static str, length: Option<usize>) -> Slot {
        let dims = vec![length];
        Slot { role, dims }
    }
}
