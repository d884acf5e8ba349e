//! The texts of compression and evaluation: the Wikipedia sample of the catalogue, or what the user gives.
//!
//! ```text
//!   nothing said            wikipedia-sample ─► divided by article ─► calibration │ train │ test
//!   --text NOTES            NOTES            ─► divided by article ─► calibration │ train │ test
//!   --calibration A --test B                    A whole, B whole; refused if they share an article, unless --same-data
//! ```

use std::path::{Path, PathBuf};

use anyhow::Result;
use llmasos_engine::text::Tokenizer;
use llmasos_forge::{
    ForgeError,
    compress::report::TextReport,
    corpus::{Corpus, Part, SentenceNeed, TextNeed},
};

use super::recipe_file::TextPaths;
use crate::cmd::progress::watch;
use crate::models::{FetchPolicy, Models, Reporter};

/// Catalogue name of the text that is used when nobody gives one.
pub(crate) const SAMPLE: &str = "wikipedia-sample";

/// How often a training text is read before more is asked for: a language model gains nearly as much from four readings as from new
/// text (Muennighoff et al. 2023).
pub(super) const MAX_READINGS: usize = 4;

/// Where texts come from, as flags.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct TextFlags {
    /// Text files, a folder of them or a MediaWiki dump, to be divided by article [default: the catalogue's wikipedia-sample]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["calibration", "train", "test"])]
    text: Option<PathBuf>,
    /// Text for statistics
    #[arg(long, value_name = "PATH")]
    calibration: Option<PathBuf>,
    /// Text for distillation
    #[arg(long, value_name = "PATH")]
    train: Option<PathBuf>,
    /// Text that the result is judged on
    #[arg(long, value_name = "PATH")]
    test: Option<PathBuf>,
    /// Judge on text that was used for making too
    #[arg(long)]
    pub(super) same_data: bool,
}

/// The texts, read when they are first asked for.
pub(crate) struct Texts<'m> {
    models: &'m mut Models,
    paths: TextPaths,
    same_data: bool,
    seed: u64,
    sample: Option<Corpus>,
    used: Vec<(Part, Corpus)>,
    reports: Vec<TextReport>,
}

impl<'m> Texts<'m> {
    /// Texts that flags name, before those of a recipe.
    pub(crate) fn new(
        models: &'m mut Models,
        flags: &TextFlags,
        recipe: TextPaths,
        seed: u64,
    ) -> Texts<'m> {
        let flagged = TextPaths {
            all: flags.text.clone(),
            calibration: flags.calibration.clone(),
            train: flags.train.clone(),
            test: flags.test.clone(),
        };
        let paths = if flagged == TextPaths::default() {
            recipe
        } else {
            flagged
        };
        Texts {
            models,
            paths,
            same_data: flags.same_data,
            seed,
            sample: None,
            used: Vec::new(),
            reports: Vec::new(),
        }
    }

    /// Sequences of tokens of a part; of a training text too short for them, all it has, to be read again.
    ///
    /// # Errors
    /// A text that cannot be fetched or read, is too short, or shares an article with one that serves another purpose.
    pub(crate) fn sequences(
        &mut self,
        part: Part,
        sequences: usize,
        length: usize,
        (tokenizer, begin): (&Tokenizer, Option<u32>),
        reporter: &mut dyn Reporter,
    ) -> Result<Vec<Vec<u32>>> {
        let (corpus, from) = self.corpus(part, reporter)?;
        let need = TextNeed {
            purpose: part.name().to_owned(),
            sequences,
            at_least: match part {
                Part::Train => sequences.div_ceil(MAX_READINGS),
                Part::Calibration | Part::Test => sequences,
            },
            length,
            seed: self.seed,
        };
        let mut tokenize = |text: &str| Ok::<_, ForgeError>(tokenizer.encode_prompt(text)?);
        let found = corpus.sequences(
            &need,
            begin,
            &mut tokenize,
            &mut watch(reporter, &format!("{} text", part.name())),
        )?;
        self.reports.retain(|report| report.purpose != part.name());
        self.reports.push(TextReport {
            purpose: part.name().to_owned(),
            from,
            sha256: corpus.sha256(),
            articles: corpus.articles.len(),
            tokens: found.tokens.iter().map(Vec::len).sum(),
        });
        Ok(found.tokens)
    }

    /// Sentences of a part, of at most `longest` tokens each, which `count` counts.
    ///
    /// # Errors
    /// As [`Texts::sequences`].
    pub(crate) fn sentences(
        &mut self,
        part: Part,
        (tokens, longest): (usize, usize),
        count: &mut dyn FnMut(&str) -> Result<usize, ForgeError>,
        reporter: &mut dyn Reporter,
    ) -> Result<Vec<String>> {
        let (corpus, from) = self.corpus(part, reporter)?;
        let need = SentenceNeed {
            purpose: part.name().to_owned(),
            tokens,
            longest,
            seed: self.seed,
        };
        let name = format!("{} text", part.name());
        let found = corpus.sentences(&need, count, &mut watch(reporter, &name))?;
        self.reports.retain(|report| report.purpose != part.name());
        self.reports.push(TextReport {
            purpose: part.name().to_owned(),
            from,
            sha256: corpus.sha256(),
            articles: corpus.articles.len(),
            tokens: found.tokens,
        });
        Ok(found.texts)
    }

    /// The texts that were read.
    pub(super) fn reports(&self) -> Vec<TextReport> {
        self.reports.clone()
    }

    /// The articles of a part, and where they come from.
    ///
    /// # Errors
    /// A text that cannot be fetched or read, or that shares an article with one that serves another purpose.
    pub(crate) fn corpus(
        &mut self,
        part: Part,
        reporter: &mut dyn Reporter,
    ) -> Result<(Corpus, String)> {
        let own = match part {
            Part::Calibration => self.paths.calibration.clone(),
            Part::Train => self.paths.train.clone(),
            Part::Test => self.paths.test.clone(),
        };
        let (corpus, from) = match own {
            Some(path) => (read(&path, reporter)?, name(&path)),
            None => {
                let from = self.paths.all.as_deref().map_or(SAMPLE.to_owned(), name);
                let seed = self.seed;
                (self.divided(reporter)?.part(part, seed), from)
            }
        };
        if !self.same_data {
            // Calibration and training text may be the same: both make the model.
            for (other, theirs) in &self.used {
                if (*other == Part::Test) != (part == Part::Test) {
                    theirs.expect_apart(&corpus, other.name(), part.name())?;
                }
            }
        }
        self.used.retain(|(other, _)| *other != part);
        self.used.push((part, corpus.clone()));
        Ok((corpus, from))
    }

    fn divided(&mut self, reporter: &mut dyn Reporter) -> Result<&Corpus> {
        if self.sample.is_none() {
            let path = match &self.paths.all {
                Some(path) => path.clone(),
                None => self.models.ensure(SAMPLE, FetchPolicy::Auto, reporter)?,
            };
            self.sample = Some(read(&path, reporter)?);
        }
        Ok(self.sample.get_or_insert_default())
    }
}

fn read(path: &Path, reporter: &mut dyn Reporter) -> Result<Corpus> {
    let item = name(path);
    Ok(Corpus::read(path, &mut watch(reporter, &item))?)
}

/// The last part of a path: reports go with models to other computers, whose folders are others.
fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
