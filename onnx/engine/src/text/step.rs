//! What the server needs of a model: one run over tokens of several sequences, and where their keys and values live.
//!
//! A trait, because three things implement it: the fused graph (many sequences, pages of 32 tokens), the stock graph (one
//! sequence, one page as long as the context), and a few lines of a test.
//!
//! ```text
//! a step:   sequence a  ▪           one token, scored      (decoding)
//!           sequence b  ▪           one token, scored
//!           sequence c  ▪▪▪▪▪▪▪▪    a part of its prompt   (scored only if it is the last part)
//! ```

use crate::error::Result;
use crate::session::Terminator;

/// Where keys and values live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Pages of all sequences together.
    pub pages: usize,
    /// Size of a page over all layers.
    pub page_bytes: usize,
}

/// The tokens of one sequence in a step.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// At least one.
    pub tokens: &'a [u32],
    /// Position of the first of them: how many tokens of the sequence are in its pages already.
    pub start: usize,
    /// Page table: entry `i` holds positions `i * page_tokens..`; covers `start + tokens.len()`.
    pub pages: &'a [u32],
    /// After how many of its last tokens the scores are wanted: none for a part of a prompt, one for an answer, more for a text
    /// that is judged. At most `tokens.len()` and [`StepModel::scored_max`].
    pub scored: usize,
}

/// A decoder-only model that runs tokens of several sequences at once.
pub trait StepModel {
    /// Most tokens of one sequence.
    fn context(&self) -> usize;

    /// Where keys and values live.
    fn memory(&self) -> Memory;

    /// Most tokens of a step, of all sequences together; at least [`StepModel::sequences_max`].
    fn rows_max(&self) -> usize;

    /// Most sequences of a step.
    fn sequences_max(&self) -> usize;

    /// Most scored tokens of a step that belong to one sequence. A model whose graph gives the last token's scores says 1.
    fn scored_max(&self) -> usize {
        1
    }

    /// Runs once. After an error nothing has been written that counts: the same step may be tried again.
    ///
    /// # Errors
    /// [`EngineError::Run`](crate::EngineError::Run), [`EngineError::Terminated`](crate::EngineError::Terminated).
    fn step(&mut self, batch: &[Rows<'_>]) -> Result<()>;

    /// Scores of the `index`-th scored token of the last step, by token id; tokens count in the order of the batch.
    fn scores(&self, index: usize) -> &[f32];

    /// Copies the first `tokens` tokens of a page to another one.
    ///
    /// # Errors
    /// A page or a number of tokens out of range.
    fn copy_page(&mut self, from: u32, to: u32, tokens: usize) -> Result<()>;

    /// A handle that ends a running step from another thread, if there is one.
    fn terminator(&self) -> Option<Terminator> {
        None
    }

    /// Forgets terminations asked for until now.
    ///
    /// # Errors
    /// [`EngineError::Run`](crate::EngineError::Run).
    fn forget_termination(&self) -> Result<()> {
        Ok(())
    }
}
