//! A model from the disk, without a catalogue: a `.gguf` file or a Hugging Face folder to a model folder.
//!
//! The kind is read from the path, everything else from the files. Their hashes go into the result, so that it can be told later
//! what it was made of.
//!
//! ```text
//!   path ─ a file   ─► recipe gguf        ─┐
//!        └ a folder ─► recipe huggingface ─┴─► build ─► model folder
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::architecture::Model;
use crate::checkpoint::{About, Checkpoint};
use crate::error::ForgeError;
use crate::folder::{ModelFolderSummary, Provenance, SourceRecord, Watch, hash_file};
use crate::huggingface::FILES;
use crate::language::{Text, Use, open_folder, open_gguf};
use crate::recipe::{Recipe, WeightFormat, build};
use crate::weights::Weights;

/// Most files of a folder that are looked at.
const MAX_FILES: usize = 4096;

/// What can be chosen about an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOptions {
    /// Storage of the layers' matrices.
    pub weights: WeightFormat,
    /// Storage of embedding and head.
    pub head: WeightFormat,
    /// `accuracy_level` of MatMulNBits in the portable graph: 0, 1 or 4.
    pub accuracy_level: u8,
    /// Licence of the weights, as the user states it.
    pub license: Option<String>,
}

impl Default for ImportOptions {
    fn default() -> ImportOptions {
        ImportOptions {
            weights: WeightFormat::Int4,
            head: WeightFormat::Int8,
            accuracy_level: 4,
            license: None,
        }
    }
}

/// Whether the files of a path are an encoder's; if not, they are a language model's.
///
/// # Errors
/// [`ForgeError`] names what is wrong with them.
pub fn is_encoder(path: &Path) -> Result<bool, ForgeError> {
    open(path, &mut |model, _, _| {
        Ok(matches!(model, Model::Encoder(_)))
    })
}

/// Opens a Hugging Face folder or a GGUF file.
///
/// # Errors
/// [`ForgeError`] names what is wrong with it; and those of `then`.
pub(crate) fn open<T>(path: &Path, then: Use<'_, T>) -> Result<T, ForgeError> {
    let about = fs::metadata(path).map_err(ForgeError::io("inspect", path))?;
    match about.is_dir() {
        true => open_folder(&folder_files(path)?, then),
        false => open_gguf(path, then).map_err(ForgeError::in_file(path)),
    }
}

/// Builds the model folder `out` from a `.gguf` file or a Hugging Face folder. The model is named after `out`.
///
/// # Errors
/// [`ForgeError`]: a path that is neither, files that are missing, unreadable or malformed, no space, cancelled.
pub fn import(
    path: &Path,
    options: &ImportOptions,
    out: &Path,
    watch: &mut Watch<'_>,
) -> Result<ModelFolderSummary, ForgeError> {
    let about = fs::metadata(path).map_err(ForgeError::io("inspect", path))?;
    let ImportOptions {
        weights,
        head,
        accuracy_level,
        ..
    } = *options;
    let (recipe, sources) = if about.is_dir() {
        let recipe = Recipe::Huggingface {
            weights,
            accuracy_level,
            head,
        };
        (recipe, folder_files(path)?)
    } else {
        let recipe = Recipe::Gguf {
            weights,
            accuracy_level,
            head,
        };
        (
            recipe,
            BTreeMap::from([(name_of(path), path.to_path_buf())]),
        )
    };
    let about = Provenance {
        name: name_of(out),
        license: options
            .license
            .clone()
            .unwrap_or_else(|| "not stated".into()),
        sources: records(&sources, watch)?,
    };
    build(&recipe, &sources, out, &about, watch)
}

/// Writes the checkpoint `dir` of the decoder in a `.gguf` file or a Hugging Face folder: all weights in float32.
///
/// # Errors
/// [`ForgeError`]: a path that is neither, files that are missing, unreadable or malformed, a model that is no decoder, no
/// space, cancelled.
pub fn import_checkpoint(
    path: &Path,
    name: &str,
    license: &str,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<Checkpoint, ForgeError> {
    let about = fs::metadata(path).map_err(ForgeError::io("inspect", path))?;
    let sources = match about.is_dir() {
        true => folder_files(path)?,
        false => BTreeMap::from([(name_of(path), path.to_path_buf())]),
    };
    let records = records(&sources, watch)?;
    let mut write = |model: &Model, weights: &dyn Weights, text: &Text| {
        let Model::Decoder(spec) = model else {
            return Err(ForgeError::Recipe {
                recipe: "checkpoint",
                field: "model",
                expected: "a decoder".into(),
                found: "an encoder".into(),
            });
        };
        spec.check(weights)?;
        let about = About {
            name: name.to_string(),
            license: license.to_string(),
            sources: records.clone(),
            ends: text.ends.clone(),
            steps: Vec::new(),
        };
        Checkpoint::import(spec, weights, text, about, dir, watch)
    };
    open(path, &mut write)
}

fn records(
    sources: &BTreeMap<String, PathBuf>,
    watch: &mut Watch<'_>,
) -> Result<Vec<SourceRecord>, ForgeError> {
    let mut records = Vec::new();
    for (name, path) in sources {
        records.push(SourceRecord {
            package: "local".into(),
            version: String::new(),
            path: name.clone(),
            sha256: hash_file(path, watch)?.sha256,
        });
    }
    Ok(records)
}

/// The files of a folder that a model needs, by name.
fn folder_files(dir: &Path) -> Result<BTreeMap<String, PathBuf>, ForgeError> {
    let mut files = BTreeMap::new();
    for name in FILES {
        let path = dir.join(name);
        if path.is_file() {
            files.insert(name.to_string(), path);
        }
    }
    let entries = fs::read_dir(dir).map_err(ForgeError::io("list", dir))?;
    for entry in entries.take(MAX_FILES) {
        let path = entry.map_err(ForgeError::io("list", dir))?.path();
        let is_shard = path.extension().is_some_and(|end| end == "safetensors");
        if is_shard && path.is_file() {
            files.insert(name_of(&path), path);
        }
    }
    Ok(files)
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
