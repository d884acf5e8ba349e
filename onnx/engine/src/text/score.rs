//! Scores of a given text: what two engines are compared by.
//!
//! The sampler is not asked, so every position can be compared, also after the first difference. The text runs in pages that
//! nobody else holds, and leaves nothing behind. A step reads as many tokens as the model can score at once:
//!
//! ```text
//! from = 3, two scored in a step:   ▫▫▫▪▪ │ ▪▪ │ ▪▪ │ ▪      ▫ read   ▪ read and scored
//! ```

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
            let first = start.max(from);
            let end = first
                .saturating_add(self.model.scored_max())
                .min(start + self.model.rows_max())
                .min(tokens.len());
            let scored = end.saturating_sub(first);
            self.model.step(&[Rows {
                tokens: &tokens[start..end],
                start,
                pages: table.pages(),
                scored,
            }])?;
            for index in 0..scored {
                hear(first + index, self.model.scores(index));
            }
            start = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiny::{Bench, Shape, VOCAB};
    use crate::error::EngineError;

    /// The likeliest word after each position, and the tokens of each step. The model likes the sum of all it has seen.
    fn scored(shape: Shape, tokens: &[u32], from: usize) -> (Vec<(usize, u32)>, Vec<usize>) {
        let mut bench = Bench::shaped(shape, |seen, scores| {
            scores[seen.iter().sum::<u32>() as usize % VOCAB] = 1.0;
            Ok(())
        });
        let mut heard = Vec::new();
        bench
            .server
            .score(tokens, from, &mut |position, scores| {
                let best = scores.iter().position(|score| *score > 0.0).unwrap();
                heard.push((position, best as u32));
            })
            .unwrap();
        (heard, bench.runs())
    }

    fn shape(rows: usize, scored: usize) -> Shape {
        Shape {
            context: 64,
            page_tokens: 4,
            pages: 16,
            rows,
            sequences: 1,
            scored,
        }
    }

    #[test]
    fn every_position_is_scored_once_however_many_a_step_scores() {
        let tokens: Vec<u32> = (1..=11).collect();
        const CASES: &[(usize, usize, usize, &[usize], &str)] = &[
            (
                64,
                1,
                4,
                &[5, 1, 1, 1, 1, 1, 1],
                "a graph that scores the last token",
            ),
            (64, 3, 4, &[7, 3, 1], "a few at once"),
            (64, 64, 0, &[11], "all at once"),
            (
                4,
                3,
                6,
                &[4, 4, 3],
                "steps that are shorter than what is not scored",
            ),
            (
                4,
                64,
                0,
                &[4, 4, 3],
                "steps that are shorter than what may be scored",
            ),
            (64, 3, 10, &[11], "only the last"),
            (64, 3, 11, &[11], "none"),
        ];
        for (rows, at_once, from, steps, why) in CASES {
            let (heard, runs) = scored(shape(*rows, *at_once), &tokens, *from);
            let expected: Vec<(usize, u32)> = (*from..tokens.len())
                .map(|at| (at, tokens[..=at].iter().sum::<u32>()))
                .collect();
            assert_eq!(heard, expected, "{why}");
            assert_eq!(&runs, steps, "{why}");
        }
    }

    #[test]
    fn what_cannot_be_scored_is_refused() {
        let mut bench = Bench::shaped(shape(8, 2), |_, _| Ok(()));
        let mut score = |tokens: &[u32]| bench.server.score(tokens, 0, &mut |_, _| ());
        assert!(matches!(score(&[]), Err(EngineError::PromptEmpty)));
        assert!(matches!(
            score(&[VOCAB as u32]),
            Err(EngineError::Request { .. })
        ));
        assert!(matches!(
            score(&[1; 65]),
            Err(EngineError::PromptTooLong { .. })
        ));
        assert!(score(&[1; 64]).is_ok());
    }
}
