//! What detectors and encoders are calibrated with and judged on: pictures, or sentences. Never the same for both, unless somebody asks
//! for it.
//!
//! ```text
//!   nothing said                   calibration-images ─► ranges      street-images ─► agreement       (names of the catalogue)
//!   --images A --test-images B     A ─► ranges                       B ─► agreement                   refused if they share a picture
//!   encoders                       text, divided by article as for language models, a sentence at a time
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use llmasos_engine::{ModelFolder, Runtime, text::Encoder};
use llmasos_forge::{
    ForgeError,
    compress::{
        recipe::{CompressRecipe, CompressStep},
        report::{PictureReport, TextReport},
    },
    corpus::Part,
    pictures::Pictures,
    static_int8::{VIEWS, Views},
};

use super::super::Texts;
use super::super::recipe_file::PicturePaths;
use super::super::text::MAX_READINGS;
use crate::cmd::progress::watch;
use crate::models::{FetchPolicy, Models, Reporter};

/// Catalogue names of the pictures that are used when nobody gives any.
const CALIBRATION: &str = "calibration-images";
const TEST: &str = "street-images";
/// Longest sentence, in tokens: longer ones add time and no new values.
const LONGEST_TOKENS: usize = 128;

/// Where pictures come from, as flags.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct PictureFlags {
    /// JPEG and PNG files that a detector's ranges are taken from [default: the catalogue's calibration-images]
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// JPEG and PNG files that a detector is judged on [default: the catalogue's street-images]
    #[arg(long, value_name = "DIR")]
    test_images: Option<PathBuf>,
}

/// What a model is given, by what it is for.
#[derive(Debug)]
pub(crate) enum Inputs {
    /// A detector.
    Pictures(PictureSets),
    /// An encoder.
    Sentences(SentenceSets),
}

/// Pictures by purpose.
#[derive(Debug)]
pub(crate) struct PictureSets {
    /// Empty if nothing is calibrated.
    pub(crate) calibration: Pictures,
    pub(crate) test: Pictures,
    reports: Vec<PictureReport>,
}

/// Sentences by purpose.
#[derive(Debug)]
pub(crate) struct SentenceSets {
    /// Empty if nothing is calibrated.
    pub(crate) calibration: Vec<String>,
    /// As tokens; empty if nothing is taught.
    pub(crate) train: Vec<Vec<u32>>,
    pub(crate) test: Vec<String>,
    reports: Vec<TextReport>,
}

impl Inputs {
    /// What a report says about the pictures.
    pub(crate) fn pictures(&self) -> Vec<PictureReport> {
        match self {
            Inputs::Pictures(sets) => sets.reports.clone(),
            Inputs::Sentences(_) => Vec::new(),
        }
    }

    /// What a report says about the texts.
    pub(crate) fn texts(&self) -> Vec<TextReport> {
        match self {
            Inputs::Pictures(_) => Vec::new(),
            Inputs::Sentences(sets) => sets.reports.clone(),
        }
    }

    /// What names a part of them: with another one it is another step.
    pub(crate) fn key_of(&self, part: Part) -> Vec<String> {
        let is_wanted = |purpose: &str| purpose == part.name();
        let pictures = self.pictures();
        let pictures = pictures.iter().filter(|it| is_wanted(&it.purpose));
        let texts = self.texts();
        let texts = texts.iter().filter(|it| is_wanted(&it.purpose));
        let mut key: Vec<String> = pictures.map(|it| it.sha256.clone()).collect();
        key.extend(texts.map(|it| format!("{} {}", it.sha256, it.tokens)));
        key
    }
}

impl PictureSets {
    /// The pictures that flags name, before those of a recipe.
    ///
    /// # Errors
    /// Pictures that cannot be fetched or read, or serve two purposes.
    pub(crate) fn read(
        models: &mut Models,
        (flags, recipe): (&PictureFlags, &PicturePaths),
        (is_calibrated, same_data): (bool, bool),
        reporter: &mut dyn Reporter,
    ) -> Result<PictureSets> {
        let mut reports = Vec::new();
        let mut read = |part: Part, flag: &Option<PathBuf>, path: &Option<PathBuf>, name: &str| {
            let (path, from) = match flag.as_ref().or(path.as_ref()) {
                Some(path) => (path.clone(), last_part(path)),
                None => {
                    let path = models.ensure(name, FetchPolicy::Auto, reporter)?;
                    (path, name.to_owned())
                }
            };
            let title = format!("{} pictures", part.name());
            let found = Pictures::read(&path, &mut watch(reporter, &title))?;
            reports.push(PictureReport {
                purpose: part.name().to_owned(),
                from,
                sha256: found.sha256(),
                files: found.names(),
                views: found.count() * VIEWS,
            });
            anyhow::Ok(found)
        };
        let test = read(Part::Test, &flags.test_images, &recipe.test, TEST)?;
        let mut calibration = Pictures::default();
        if is_calibrated {
            calibration = read(
                Part::Calibration,
                &flags.images,
                &recipe.calibration,
                CALIBRATION,
            )?;
        }
        if !same_data {
            let (first, second) = (Part::Calibration.name(), Part::Test.name());
            calibration.expect_apart(&test, first, second)?;
        }
        Ok(PictureSets {
            calibration,
            test,
            reports,
        })
    }
}

/// Views of pictures: whole, in parts, mirrored.
pub(crate) fn views(pictures: &Pictures) -> Views<'_> {
    Views::new(pictures.count(), move |index| {
        pictures.open(index).map_err(ForgeError::from)
    })
}

impl SentenceSets {
    /// Sentences of the texts, counted by the encoder in `folder`.
    ///
    /// # Errors
    /// A text that cannot be fetched or read, is too short, or serves two purposes.
    pub(crate) fn read(
        mut texts: Texts<'_>,
        (folder, runtime): (&Path, &Runtime),
        recipe: &CompressRecipe,
        is_calibrated: bool,
        reporter: &mut dyn Reporter,
    ) -> Result<SentenceSets> {
        let encoder = Encoder::load(runtime, &ModelFolder::open(folder)?)?;
        let longest = encoder.config().context.min(LONGEST_TOKENS);
        let mut count = |text: &str| Ok::<_, ForgeError>(encoder.tokenize(text)?.len());
        let judged = recipe.evaluate.sequences * recipe.evaluate.length;
        let test = texts.sentences(Part::Test, (judged, longest), &mut count, reporter)?;
        let mut calibration = Vec::new();
        if is_calibrated {
            let tokens =
                usize::try_from(recipe.calibration.tokens).context("calibration tokens")?;
            let wanted = (tokens, longest);
            calibration = texts.sentences(Part::Calibration, wanted, &mut count, reporter)?;
        }
        let mut train = Vec::new();
        if let Some(tokens) = recipe.steps.iter().find_map(taught_with) {
            let tokens = usize::try_from(tokens).context("tokens to be taught with")?;
            let wanted = (tokens.div_ceil(MAX_READINGS), longest);
            let found = texts.sentences(Part::Train, wanted, &mut count, reporter)?;
            train = found
                .iter()
                .map(|text| encoder.tokenize(text))
                .collect::<Result<_, _>>()?;
        }
        Ok(SentenceSets {
            calibration,
            train,
            test,
            reports: texts.reports(),
        })
    }
}

/// Tokens that a step is taught with.
fn taught_with(step: &CompressStep) -> Option<u64> {
    match step {
        CompressStep::Distil(step) => Some(step.tokens),
        CompressStep::Degrid { .. } | CompressStep::Prune(_) | CompressStep::Quantize(_) => None,
    }
}

/// The last part of a path: reports go with models to other computers, whose folders are others.
fn last_part(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
