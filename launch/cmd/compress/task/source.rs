//! A detector or an encoder as it was given, as a model folder whose graph computes in 32-bit floats.
//!
//! ```text
//!   ssd-mobilenet-v2-coco   a name of the catalogue                          ─► the cache's folder
//!   models/eyes             a model folder, ours or of the same form         ─► itself
//!   ./all-MiniLM-L6-v2      a Hugging Face folder or GGUF file of an encoder ─► imported into the work folder
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use llmasos_engine::ModelFolder;
use llmasos_forge::{
    ImportOptions, WeightFormat, checkpoint::DESCRIPTION_FILE, compress::recipe::ModelKind, import,
    is_encoder,
};

use super::super::Work;
use super::super::source::together;
use crate::cmd::progress::watch;
use crate::models::{Entry, Event, FetchPolicy, Models, Reporter, Role};

/// Digits of the source's hash in names.
const KEY_DIGITS: usize = 16;

/// A model that is one graph.
#[derive(Debug)]
pub(crate) enum Source {
    /// A name of the catalogue.
    Entry(Box<Entry>, ModelKind),
    /// A model folder.
    Folder(PathBuf, ModelKind),
    /// Files of an encoder as they are published.
    Published(PathBuf),
}

impl Source {
    /// What a word of the command line means, if it is a detector or an encoder.
    ///
    /// # Errors
    /// When it is a model folder that cannot be opened.
    pub(crate) fn find(models: &Models, word: &str) -> Result<Option<Source>> {
        let path = Path::new(word);
        if !word.contains('/')
            && let Ok(entry) = models.catalogue().get(word)
        {
            let kind = match entry.role {
                Role::Detector => ModelKind::Detector,
                Role::Encoder => ModelKind::Encoder,
                _ => return Ok(None),
            };
            return Ok(Some(Source::Entry(Box::new(entry.clone()), kind)));
        }
        if path.join("llmasos.json").is_file() {
            let folder = ModelFolder::open(path)?;
            let kind = match ModelKind::of_role(&folder.manifest.role) {
                Some(ModelKind::Language) | None => return Ok(None),
                Some(kind) => kind,
            };
            return Ok(Some(Source::Folder(path.to_owned(), kind)));
        }
        if !path.exists() || path.join(DESCRIPTION_FILE).is_file() {
            return Ok(None);
        }
        // What cannot be read is told by whoever reads it as a language model.
        Ok(is_encoder(path)
            .unwrap_or(false)
            .then(|| Source::Published(path.to_owned())))
    }

    /// What the model is for.
    pub(crate) fn kind(&self) -> ModelKind {
        match self {
            Source::Entry(_, kind) | Source::Folder(_, kind) => *kind,
            Source::Published(_) => ModelKind::Encoder,
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        match self {
            Source::Entry(entry, _) => entry.name.clone(),
            Source::Folder(path, _) | Source::Published(path) => {
                let last = path.file_name().unwrap_or_default().to_string_lossy();
                last.strip_suffix(".gguf").unwrap_or(&last).to_owned()
            }
        }
    }

    /// What names this source: changes whenever the weights would.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what a model folder's list says.
    pub(crate) fn sha256(&self, reporter: &mut dyn Reporter) -> Result<String> {
        match self {
            Source::Entry(entry, _) => {
                let leaves = entry.sources.iter().flat_map(crate::models::Source::leaves);
                Ok(together(leaves.map(|leaf| leaf.pin.sha256.as_str())))
            }
            Source::Folder(path, _) => {
                let folder = ModelFolder::open(path)?;
                folder.verify()?;
                let files = folder.manifest.files.values();
                Ok(together(files.map(|file| file.sha256.as_str())))
            }
            Source::Published(path) => {
                let name = self.name();
                let mut watch = watch(reporter, &name);
                let found = llmasos_forge::compress::source_hashes(path, &mut watch)?;
                Ok(together(found.iter().map(String::as_str)))
            }
        }
    }

    /// The model folder; an imported one is kept in the work folder under `sha256`.
    ///
    /// # Errors
    /// Those of fetching and importing.
    pub(crate) fn folder(
        &self,
        models: &mut Models,
        (work, sha256): (&Work, &str),
        license: Option<&str>,
        reporter: &mut dyn Reporter,
    ) -> Result<PathBuf> {
        let path = match self {
            Source::Entry(entry, _) => {
                return Ok(models.ensure(&entry.name, FetchPolicy::Auto, reporter)?);
            }
            Source::Folder(path, _) => return Ok(path.clone()),
            Source::Published(path) => path,
        };
        let name = self.name();
        let place = work.place("source", &sha256[..KEY_DIGITS]);
        if place.is_dir() {
            let text = format!("{name}: its graph is here from an earlier run");
            reporter.event(Event::Note { text: &text });
            return Ok(place);
        }
        let options = ImportOptions {
            weights: WeightFormat::Fp32,
            head: WeightFormat::Fp32,
            accuracy_level: 0,
            license: license.map(str::to_owned),
        };
        import(path, &options, &place, &mut watch(reporter, &name))
            .with_context(|| format!("{name} cannot be read"))?;
        Ok(place)
    }
}
