//! A checkpoint: a decoder in float32 on the disk, between two steps that change it.
//!
//! Pruning, distilling, rescaling and quantizing all read one form and, but for the last, write it again, so that steps can be
//! put in any order, stopped between any two, and looked at. Weights are mapped, never loaded: what a step holds is the tensor
//! it works on.
//!
//! ```text
//!   GGUF | Hugging Face ─► import ─► checkpoint ─► step ─► checkpoint ─► … ─► model folder
//!
//!   DIR/checkpoint.json      format · description (sizes, which tensors) · ends of texts · licence, sources · steps so far · sha256 of
//!                            the weights
//!       model.safetensors    float32, canonical names (see `names`), in the order of computation
//!       tokenizer.json · chat_template.jinja
//! ```

mod names;
#[cfg(test)]
pub(crate) mod tests;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::decoder::{Coding, DecoderSpec};
use crate::error::ForgeError;
use crate::folder::{
    Description as FolderDescription, Draft, ModelFolderSummary, Progress, Provenance,
    SourceRecord, Watch, copy_file, hash_file, write_file,
};
use crate::language::{self, Ends, Text};
use crate::mapped::MappedFile;
use crate::safetensors::Shards;
use crate::weights::{Weights, letting_go};

pub use names::{Constant, canonical, constants, layer_weight};

/// Value of `format` in `checkpoint.json`.
pub const FORMAT: &str = "llmasos-checkpoint/v1";
/// Name of the description.
pub const DESCRIPTION_FILE: &str = "checkpoint.json";
/// Longest description; one of 1,000 layers has about 3 MB.
const MAX_DESCRIPTION_BYTES: usize = 64 << 20;
const WEIGHTS_FILE: &str = "model.safetensors";
const TOKENIZER_FILE: &str = "tokenizer.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";

/// A folder that is no checkpoint, or a change that does not fit one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The description is not what it should be.
    #[error("{DESCRIPTION_FILE}: {reason}")]
    Description {
        /// What is wrong.
        reason: String,
    },
    /// A step made another number of elements than the description says.
    #[error("tensor {tensor}: expected {expected} elements, found {found}")]
    Length {
        /// The tensor.
        tensor: String,
        /// By the description.
        expected: usize,
        /// Made.
        found: usize,
    },
    /// A step made a weight that is infinite or not a number.
    #[error("tensor {tensor}: weight {index} is {value}")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Which element.
        index: usize,
        /// Its value, as text: NaN is not equal to itself.
        value: String,
    },
}

/// What a checkpoint says besides its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Name of the model it came from.
    pub name: String,
    /// Licence as stated by the source.
    pub license: String,
    /// Files it was made of.
    pub sources: Vec<SourceRecord>,
    /// Tokens that begin and end texts.
    pub ends: Ends,
    /// What was done to it since, oldest first.
    pub steps: Vec<Json>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: String,
    about: About,
    /// sha256 of the file of weights; those written before it was noted have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights_sha256: Option<String>,
    spec: DecoderSpec,
}

/// Makes a tensor by its canonical name, or takes the old one over.
pub type Change<'c> = &'c mut dyn FnMut(&str) -> Result<Option<Vec<f32>>, ForgeError>;

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    about: About,
    weights_sha256: Option<String>,
    spec: DecoderSpec,
    weights: Shards,
}

impl Checkpoint {
    /// Opens a folder and checks that its weights are those of its description.
    ///
    /// # Errors
    /// [`ForgeError::Io`], [`ForgeError::Checkpoint`], [`ForgeError::Safetensors`] and [`ForgeError::Matrix`] name what is
    /// wrong.
    pub fn open(dir: &Path) -> Result<Checkpoint, ForgeError> {
        let path = dir.join(DESCRIPTION_FILE);
        let file = MappedFile::open(&path)?;
        let invalid = |reason: String| {
            let error = CheckpointError::Description { reason };
            ForgeError::in_file(dir)(error.into())
        };
        if file.bytes().len() > MAX_DESCRIPTION_BYTES {
            return Err(invalid(format!(
                "expected at most {MAX_DESCRIPTION_BYTES} bytes, found {}",
                file.bytes().len()
            )));
        }
        let found: Description =
            serde_json::from_slice(file.bytes()).map_err(|error| invalid(error.to_string()))?;
        if found.format != FORMAT {
            return Err(invalid(format!(
                "format: expected {FORMAT}, found {}",
                found.format
            )));
        }
        let files = BTreeMap::from([(WEIGHTS_FILE.to_string(), dir.join(WEIGHTS_FILE))]);
        let weights = Shards::open(&files)?;
        let sizes = found.spec.check_sizes().map_err(ForgeError::from);
        sizes
            .and_then(|()| found.spec.check(&weights))
            .map_err(ForgeError::in_file(dir))?;
        Ok(Checkpoint {
            dir: dir.to_path_buf(),
            about: found.about,
            weights_sha256: found.weights_sha256,
            spec: found.spec,
            weights,
        })
    }

    /// Writes a described model, whose tensors may have any names and orders, as a checkpoint.
    pub(crate) fn import(
        spec: &DecoderSpec,
        weights: &dyn Weights,
        text: &Text,
        about: About,
        dir: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<Checkpoint, ForgeError> {
        let draft = Draft::create(dir)?;
        let watch: &mut Watch<'_> = &mut letting_go(weights, watch);
        let from = constants(spec);
        let canonical = canonical(spec);
        let mut source = from.iter();
        let mut make = |_: &str| match source.next() {
            Some((_, Constant::Matrix(matrix))) => matrix.floats(weights).map(Cow::Owned),
            Some((_, Constant::Vector(vector))) => vector.floats(weights).map(Cow::Owned),
            None => Ok(Cow::Owned(Vec::new())),
        };
        let hash = write::weights(draft.dir(), &canonical, &mut make, watch)?;
        describe(draft.dir(), about, hash, canonical)?;
        write_file(&draft.dir().join(TOKENIZER_FILE), &text.tokenizer)?;
        if let Some(template) = &text.chat_template {
            write_file(&draft.dir().join(TEMPLATE_FILE), template)?;
        }
        draft.place()?;
        Checkpoint::open(dir)
    }

    /// Writes the checkpoint that a step makes of this one. `spec` describes it, in canonical names; `step` says what was done, for
    /// people and for resuming. `change` is asked for every tensor of the new description, in order: its elements, or `None`
    /// to take those of the same name over.
    ///
    /// # Errors
    /// [`ForgeError::Checkpoint`] for a tensor of the wrong size or with weights that are no numbers, [`ForgeError::Io`],
    /// [`ForgeError::Cancelled`], and those of `change`. Nothing stays under the name `dir` unless all was written.
    pub fn change(
        &self,
        dir: &Path,
        spec: &DecoderSpec,
        step: Json,
        change: Change<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Checkpoint, ForgeError> {
        let draft = Draft::create(dir)?;
        let mut make = |name: &str| match change(name)? {
            Some(elements) => Ok(Cow::Owned(elements)),
            None => self.tensor(name),
        };
        let hash = write::weights(draft.dir(), spec, &mut make, watch)?;
        let mut about = self.about.clone();
        about.steps.push(step);
        describe(draft.dir(), about, hash, spec.clone())?;
        for name in [TOKENIZER_FILE, TEMPLATE_FILE] {
            let from = self.dir.join(name);
            if from.is_file() {
                copy_file(&from, &draft.dir().join(name), watch)?;
            }
        }
        draft.place()?;
        Checkpoint::open(dir)
    }

    /// Writes the model folder `out` of this model, its matrices stored as `coding` says. `recipe` is what the folder says about how
    /// it was made.
    ///
    /// # Errors
    /// [`ForgeError`]: a storage that cannot hold a matrix, no space, cancelled. The folder appears whole or not at all.
    pub fn build(
        &self,
        coding: &dyn Coding,
        out: &Path,
        recipe: Json,
        watch: &mut Watch<'_>,
    ) -> Result<ModelFolderSummary, ForgeError> {
        let draft = Draft::create(out)?;
        let built = language::from_checkpoint(self, coding, draft.dir(), watch)?;
        let about = Provenance {
            name: crate::folder::file_name(out),
            license: self.about.license.clone(),
            sources: self.about.sources.clone(),
        };
        let what = FolderDescription {
            role: built.role.into(),
            family: built.family.into(),
            config: built.config,
            recipe,
        };
        draft.publish(&about, &what, watch)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The model, in canonical names.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// What it says besides.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// sha256 of the file of all its weights, 64 hexadecimal digits: as noted when it was written, else computed.
    ///
    /// # Errors
    /// [`ForgeError::Io`] if the file has to be read and cannot be.
    pub fn weights_sha256(&self) -> Result<String, ForgeError> {
        match &self.weights_sha256 {
            Some(noted) => Ok(noted.clone()),
            None => {
                let path = self.dir.join(WEIGHTS_FILE);
                let mut go_on = |_: Progress<'_>| ControlFlow::Continue(());
                Ok(hash_file(&path, &mut go_on)?.sha256)
            }
        }
    }

    /// Its tensors.
    pub fn weights(&self) -> &dyn Weights {
        &self.weights
    }

    /// Elements of a tensor, row by row; read in place where the file's alignment allows it.
    ///
    /// # Errors
    /// [`ForgeError::Safetensors`] if there is none of this name, [`ForgeError::Gguf`] for weights that are no numbers.
    pub fn tensor(&self, name: &str) -> Result<Cow<'_, [f32]>, ForgeError> {
        let (_, bytes) = self.weights.raw(name)?;
        match bytemuck::try_cast_slice::<u8, f32>(bytes) {
            Ok(elements) => {
                write::check_finite(name, elements)?;
                Ok(Cow::Borrowed(elements))
            }
            Err(_) => Ok(Cow::Owned(self.weights.floats(name)?)),
        }
    }

    /// Tokenizer and chat template.
    pub(crate) fn text(&self) -> Result<Text, ForgeError> {
        let template = self.dir.join(TEMPLATE_FILE);
        let read = |path: &Path| MappedFile::open(path).map(|file| file.bytes().to_vec());
        Ok(Text {
            tokenizer: read(&self.dir.join(TOKENIZER_FILE))?,
            chat_template: match template.is_file() {
                true => Some(read(&template)?),
                false => None,
            },
            ends: self.about.ends.clone(),
            pooling: "none",
        })
    }

    /// Content of `tokenizer.json`.
    ///
    /// # Errors
    /// [`ForgeError::Io`].
    pub fn tokenizer(&self) -> Result<Vec<u8>, ForgeError> {
        Ok(self.text()?.tokenizer)
    }
}

fn describe(
    dir: &Path,
    about: About,
    weights_sha256: String,
    spec: DecoderSpec,
) -> Result<(), ForgeError> {
    let description = Description {
        format: FORMAT.to_string(),
        about,
        weights_sha256: Some(weights_sha256),
        spec,
    };
    let path = dir.join(DESCRIPTION_FILE);
    let mut json = serde_json::to_vec_pretty(&description).map_err(|error| ForgeError::Io {
        action: "serialize",
        path: path.clone(),
        source: error.into(),
    })?;
    json.push(b'\n');
    write_file(&path, &json)
}
