//! Distillation: a student is trained to say what its teacher says.
//!
//! The loss is that of Hinton, Vinyals and Dean (2015): cross entropy with the text and the divergence from the teacher's
//! probabilities at a temperature; hidden states can be compared as well. Students that were made from their teacher (by pruning,
//! by leaving out layers) come back to it within some hundred steps, because every position teaches them the whole
//! distribution.
//!
//! Layers run one by one on ONNX Runtime with graphs that [`crate::differentiate`] made; parameters, gradients and the optimiser
//! live here. So memory is the parameters a few times over and what the layers of one batch keep.
//!
//! ```text
//!   texts ─► sequences ─► batch ─┬─► teacher: embed ─► layers ──────────────► logits ─┐
//!                                └─► student: embed ─► layers (keep products) ─► loss ◄─┘
//!                                       AdamW ◄─ gradients ◄─ layers, last to first ◄─┘
//! ```
//!
//! The same seed, options and texts give the same student on the same computer, also when the run was stopped and goes on
//! from its state.

mod adamw;
mod cache;
mod encoder;
mod encoder_net;
mod generate;
mod graph;
mod net;
mod options;
mod sequences;
mod stack;
mod state;
mod student;
mod teacher;
#[cfg(test)]
mod tests;
mod train;

use serde::{Deserialize, Serialize};

pub use encoder::{Encoder, EncoderReport, TrainedEncoder, Vectors, run_encoder};
pub use generate::{Generate, Generated, MAX_GENERATED, generate};
pub use graph::Distance;
pub use options::{DistilOptions, Frozen, MAX_BATCH_TOKENS, MAX_LENGTH, Matching};
pub use train::{DistilData, run};

/// Why a distillation cannot be done or went wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DistilError {
    /// A value out of its range.
    #[error("option {option}: expected {expected}, found {found}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value.
        found: String,
    },
    /// Too little text for one batch.
    #[error("{what} text: expected at least {needed} tokens, found {found}")]
    TooShort {
        /// Which texts.
        what: &'static str,
        /// Tokens needed.
        needed: usize,
        /// Tokens given.
        found: usize,
    },
    /// A token that the models do not know.
    #[error("{what} text: token {token} is outside the vocabulary of {vocab}")]
    Token {
        /// Which texts.
        what: &'static str,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// Teacher and student do not go together.
    #[error("{what}: the teacher has {teacher}, the student {student}")]
    Pair {
        /// What they differ in.
        what: &'static str,
        /// The teacher's.
        teacher: String,
        /// The student's.
        student: String,
    },
    /// The loss is no longer a number: the learning rate is too high, or a model was broken before.
    #[error("step {step}: the loss is {found}; try a lower learning rate than {rate}")]
    NotFinite {
        /// The step, from 1.
        step: u32,
        /// The loss.
        found: f32,
        /// The rate.
        rate: f32,
    },
    /// A state of another run, or a damaged one.
    #[error("state {path}: expected {expected}, found {found}; remove it to start anew")]
    State {
        /// The file.
        path: String,
        /// What it should have.
        expected: String,
        /// What it has.
        found: String,
    },
}

/// What the held-out texts say at one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Steps done.
    pub step: u32,
    /// Tokens trained on.
    pub tokens: u64,
    /// exp of the mean cross entropy with the text.
    pub perplexity: f64,
    /// Mean KL(teacher ‖ student) in nats, at the temperature of training.
    pub divergence: f64,
    /// The loss that decides about stopping, without the comparison of hidden states.
    pub loss: f64,
}

/// What a distillation did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DistilReport {
    /// What it was told.
    pub options: DistilOptions,
    /// Steps done.
    pub steps: u32,
    /// Tokens trained on.
    pub tokens: u64,
    /// Perplexity of the teacher on the held-out texts.
    pub teacher_perplexity: f64,
    /// Looks at the held-out texts; the first one before any step, the last one at the end.
    pub looks: Vec<Look>,
    /// Mean loss of the training batches of each step.
    pub losses: Vec<f64>,
    /// Trained parameters.
    pub trained: u64,
    /// Whether it ended early because the held-out loss no longer fell; then the student is the best one seen.
    pub ended_early: bool,
    /// Whether it went on from the state of a run that was stopped.
    pub resumed: bool,
}
