//! The text that models of others are judged on, and what the original predicts of it.

use std::path::Path;

use anyhow::Result;
use llmasos_engine::Runtime;
use llmasos_forge::{Checkpoint, corpus::Part, evaluate::Evaluation};

use super::Plan;
use crate::cmd::compress::{
    Candidate, Given, TextFlags, TextPaths, Texts, Work, judge, record, tokenizer,
};
use crate::models::{Models, Reporter};

/// Tokens of a sequence, as `compress` has them.
const LENGTH: usize = llmasos_forge::evaluate::LENGTH;

/// What is needed to judge any number of models.
pub(super) struct Jury<'p> {
    plan: &'p Plan<'p>,
    /// The original.
    pub(super) original: Checkpoint,
    sequences: Vec<Vec<u32>>,
    source: String,
}

impl<'p> Jury<'p> {
    /// Reads the same text that `compress` judges on.
    ///
    /// # Errors
    /// When the original or the text cannot be read.
    pub(super) fn new(
        models: &mut Models,
        plan: &'p Plan<'p>,
        original: &Path,
        reporter: &mut dyn Reporter,
    ) -> Result<Jury<'p>> {
        let checkpoint = Checkpoint::open(original)?;
        let (words, begin) = tokenizer(&checkpoint)?;
        let mut texts = Texts::new(models, &TextFlags::default(), TextPaths::default(), 1);
        let with = (&words, begin);
        let sequences = texts.sequences(Part::Test, plan.sequences, LENGTH, with, reporter)?;
        Ok(Jury {
            plan,
            original: checkpoint,
            sequences,
            source: Given::Checkpoint(original.to_owned()).sha256(reporter)?,
        })
    }

    /// Compares a model with the original, whose predictions are recorded once in the folder of the plan.
    ///
    /// # Errors
    /// When one of them cannot be run.
    pub(super) fn judge(
        &self,
        work: &Work,
        candidate: &Candidate<'_>,
        runtime: &Runtime,
        reporter: &mut dyn Reporter,
    ) -> Result<Evaluation> {
        let records = Some(self.plan.dir.as_path());
        let (source, sequences) = (&self.source, &self.sequences);
        let mut reference = record(
            (work, records),
            source,
            &self.original,
            sequences,
            runtime,
            reporter,
        )?;
        let scratch = work.scratch();
        judge(
            &mut reference,
            candidate,
            sequences,
            (runtime, &scratch),
            reporter,
        )
    }
}
