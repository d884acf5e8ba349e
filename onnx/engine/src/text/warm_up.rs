//! The first runs of a model: not slower than the later ones for whoever asks first, and measured, so that the first
//! requests are planned like all others.

use std::time::Instant;

use super::pages::PageTable;
use super::server::TextServer;
use super::step::Rows;
use crate::error::{EngineError, Result};

/// Single tokens that are measured.
const STEPS: usize = 6;
/// Sizes of prompt parts that are measured.
const PARTS: [usize; 3] = [16, 32, 128];
/// Runs of each other size: the first pays for memory that the later ones find, the last is measured.
const ROUNDS: usize = 2;

impl TextServer {
    /// See [`LanguageModel::warm_up`](super::LanguageModel::warm_up).
    pub(crate) fn warm_up(&mut self, bos: Option<u32>) -> Result<()> {
        if self.has_work() {
            return Ok(());
        }
        self.grammars()?;
        self.model.forget_termination()?;
        self.store.forget();
        let token = bos.unwrap_or(self.language.eos[0]);
        let rows_max = self.model.rows_max().min(self.context() - 1);
        for rows in PARTS {
            let rows = rows.min(rows_max);
            for round in 0..ROUNDS {
                self.trial(token, 1, rows, round + 1 == ROUNDS)?;
            }
        }
        self.trial(token, 1, 1, false)?;
        for _ in 0..STEPS {
            self.trial(token, 1, 1, true)?;
        }
        let mut sequences = 2;
        while sequences <= self.model.sequences_max() {
            for round in 0..ROUNDS {
                self.trial(token, sequences, 1, round + 1 == ROUNDS)?;
            }
            sequences *= 2;
        }
        if self.model.scores(0).iter().any(|score| score.is_finite()) {
            return Ok(());
        }
        Err(EngineError::NotFinite {
            model: self.language.name.clone(),
        })
    }

    /// One step of so many sequences with so many tokens each; fewer sequences if there are not the pages.
    fn trial(&mut self, token: u32, sequences: usize, rows: usize, measured: bool) -> Result<()> {
        let mut tables: Vec<PageTable> = Vec::new();
        for _ in 0..sequences {
            let mut table = PageTable::default();
            if self.store.reserve(&mut table, rows) {
                tables.push(table);
            }
        }
        let tokens = vec![token; rows];
        let batch: Vec<Rows<'_>> = tables
            .iter()
            .map(|table| Rows {
                tokens: &tokens,
                start: 0,
                pages: table.pages(),
                scored: true,
            })
            .collect();
        let begun = Instant::now();
        let ran = self.model.step(&batch);
        let (took, count) = (begun.elapsed(), batch.len());
        for table in tables {
            self.store.discard(table);
        }
        ran?;
        if measured {
            self.record(count, count * rows, took);
        }
        Ok(())
    }
}
