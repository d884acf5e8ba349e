//! The first runs of a model: not slower than the later ones for whoever asks first, and measured, so that the first
//! requests are planned like all others.

use std::time::{Duration, Instant};

use super::pages::PageTable;
use super::server::TextServer;
use super::step::Rows;
use crate::error::{EngineError, Result};

/// Sizes of prompt parts that are measured.
const PARTS: [usize; 3] = [16, 32, 128];
/// Runs of each size. The first pays for memory that the later ones find; of those the fastest counts, because one that the
/// computer interrupted would make the first requests look hopeless.
const ROUNDS: usize = 3;

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
            self.measure(token, 1, rows.min(rows_max))?;
        }
        let mut sequences = 1;
        while sequences <= self.model.sequences_max() {
            self.measure(token, sequences, 1)?;
            sequences *= 2;
        }
        if self.model.scores(0).iter().any(|score| score.is_finite()) {
            return Ok(());
        }
        Err(EngineError::NotFinite {
            model: self.language.name.clone(),
        })
    }

    /// Takes in what a step costs of so many sequences with so many tokens each; fewer sequences if there are not the pages.
    fn measure(&mut self, token: u32, sequences: usize, rows: usize) -> Result<()> {
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
                scored: 1,
            })
            .collect();
        let (mut ran, mut fastest) = (Ok(()), Duration::MAX);
        for round in 0..ROUNDS {
            let begun = Instant::now();
            ran = ran.and_then(|()| self.model.step(&batch));
            if round > 0 {
                fastest = fastest.min(begun.elapsed());
            }
        }
        let count = batch.len();
        for table in tables {
            self.store.discard(table);
        }
        ran?;
        self.record(count, count * rows, fastest);
        Ok(())
    }
}
