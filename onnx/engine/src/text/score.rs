//! Scores of a given text: what two engines are compared by.
//!
//! The sampler is not asked, so every position can be compared, also after the first difference. The text runs in pages that
//! nobody else holds, and leaves nothing behind.

use super::pages::PageTable;
use super::server::{MAX_QUEUED, TextServer};
use super::step::Rows;
use crate::error::{EngineError, Result};

impl TextServer {
    /// See [`LanguageModel::score`](super::LanguageModel::score).
    pub(crate) fn score(
        &mut self,
        tokens: &[u32],
        from: usize,
        hear: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        if self.has_work() {
            return Err(EngineError::QueueFull { limit: MAX_QUEUED });
        }
        if tokens.is_empty() {
            return Err(EngineError::PromptEmpty);
        }
        let vocab = self.language.tokenizer.vocab();
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab) {
            return Err(EngineError::Request {
                field: "token",
                expected: format!("below {vocab}"),
                found: token.to_string(),
            });
        }
        self.store.forget();
        let mut table = PageTable::default();
        let fits = tokens.len() <= self.context() && self.store.reserve(&mut table, tokens.len());
        let result = if fits {
            self.model.forget_termination()?;
            self.score_in(&table, tokens, from, hear)
        } else {
            Err(EngineError::PromptTooLong {
                prompt_tokens: tokens.len(),
                context_tokens: self.context(),
            })
        };
        self.store.discard(table);
        result
    }

    fn score_in(
        &mut self,
        table: &PageTable,
        tokens: &[u32],
        from: usize,
        hear: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let mut start = 0;
        while start < tokens.len() {
            // Up to and with `from`, whose scores come from the end of the prompt.
            let end = if start <= from {
                (from + 1).min(start + self.model.rows_max())
            } else {
                start + 1
            };
            let end = end.min(tokens.len());
            self.model.step(&[Rows {
                tokens: &tokens[start..end],
                start,
                pages: table.pages(),
                scored: true,
            }])?;
            if end > from {
                hear(end - 1, self.model.scores(0));
            }
            start = end;
        }
        Ok(())
    }
}
