//! One step of a recipe at a time: a checkpoint in, the next one out; at the end codes are chosen, and a model folder is written.
//!
//! Time, resuming and printing are the caller's. What it needs for resuming is a name that changes whenever the result would:
//!
//! ```text
//!   key(source) ─ step 1 + its texts ─► key₁ ─ step 2 + its texts ─► key₂ …        sha256, so that equal work has equal names
//! ```

use std::fs;
use std::path::Path;

use llmasos_engine::Runtime;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::coding::Chosen;
use super::degrid;
use super::prune;
use super::recipe::{CompressStep, QuantizeStep};
use crate::checkpoint::Checkpoint;
use crate::distil::{self, DistilData, Generated};
use crate::error::ForgeError;
use crate::folder::{Description, Draft, ModelFolderSummary, Provenance, Watch, hash_file};
use crate::language;

/// Changes when steps of the same recipe give another result than before.
const REVISION: u32 = 2;
/// Endings of files that make a model what it is.
const SOURCE_ENDINGS: [&str; 4] = ["safetensors", "json", "jinja", "model"];
/// Digits of a key: enough to tell the steps of one work folder apart.
const KEY_DIGITS: usize = 16;

/// One in so many training sequences is held out, to see whether the student still learns.
const HELD_OUT_PART: usize = 16;

/// What steps work with, besides the checkpoint.
pub struct Tools<'a> {
    /// Runs graphs.
    pub runtime: &'a Runtime,
    /// The original, which teaches.
    pub original: &'a Checkpoint,
    /// An existing folder that nothing else writes to; what is in it is lost when the work stops.
    pub scratch: &'a Path,
    /// A folder of this step alone, made by the step if it needs one, in which it finds again what it had done when it was stopped.
    pub kept: &'a Path,
    /// Sequences for statistics; empty if no step reads them.
    pub calibration: &'a [Vec<u32>],
    /// Sequences for distillation; empty if no step reads them.
    pub train: &'a [Vec<u32>],
    /// Chance.
    pub seed: u64,
}

/// The name of what a step makes of what the key before it names. `texts` are the sha256 of the texts it reads.
#[must_use]
pub fn key(before: &str, step: &CompressStep, texts: &[String]) -> String {
    let mut hash = Sha256::new();
    let step = serde_json::to_string(step).unwrap_or_default();
    for piece in [before, &REVISION.to_string(), &step] {
        hash.update(piece.as_bytes());
        hash.update(b"\n");
    }
    for text in texts {
        hash.update(text.as_bytes());
        hash.update(b"\n");
    }
    let digest = hash.finalize();
    let hex = digest.iter().map(|byte| format!("{byte:02x}"));
    hex.collect::<String>()[..KEY_DIGITS].to_owned()
}

/// Does a step that makes a checkpoint of a checkpoint, in the new folder `dir`. The value is what the step says about it.
///
/// # Errors
/// Those of the step; [`ForgeError::Recipe`] for a step that makes no checkpoint.
pub fn change(
    step: &CompressStep,
    input: &Checkpoint,
    tools: &Tools<'_>,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<(Checkpoint, Value), ForgeError> {
    match step {
        CompressStep::Degrid { seed } => {
            let made = degrid(input, *seed, dir, watch)?;
            Ok((made, json!({ "seed": seed })))
        }
        CompressStep::Prune(step) => {
            let options = step.options();
            let with = prune::Tools {
                runtime: tools.runtime,
                scratch: tools.scratch,
            };
            let (made, report) =
                prune::prune(input, &options, tools.calibration, with, dir, watch)?;
            Ok((made, said(&report)?))
        }
        CompressStep::Distil(step) => {
            let written = match step.generated {
                Some(options) => {
                    let with = (tools.runtime, tools.kept);
                    let (teacher, seed) = (tools.original, tools.seed);
                    Some(distil::generate(teacher, options, seed, with, watch)?)
                }
                None => None,
            };
            let texts = written
                .as_ref()
                .map_or(tools.train, |written| &written.texts);
            let (train, held_out) = held_out(texts);
            let layers = [input, tools.original].map(|model| model.spec().layers.len());
            let options = step.options(layers.into(), tools.seed);
            let models = (tools.original, input);
            let data = DistilData { train, held_out };
            let (made, report) = distil::run(models, data, &options, dir, tools.runtime, watch)?;
            let mut said = said(&report)?;
            if let (Some(written), Some(fields)) = (written, said.as_object_mut()) {
                fields.insert("generated".into(), about_generated(&written));
                let note = format!(
                    "the original wrote {} tokens of the text itself, {:.0} a second",
                    written.tokens(),
                    written.tokens_per_second()
                );
                fields.insert("notes".into(), json!([note]));
            }
            Ok((made, said))
        }
        CompressStep::Quantize(_) => Err(ForgeError::Recipe {
            recipe: "compress",
            field: "steps",
            expected: "a step that makes a checkpoint".into(),
            found: step.word().into(),
        }),
    }
}

/// Writes the model folder `dir` of a checkpoint, its weights stored as was chosen for the step.
///
/// # Errors
/// Those of writing. The folder appears whole or not at all.
pub fn folder(
    (chosen, step): (&Chosen, &QuantizeStep),
    input: &Checkpoint,
    about: &Provenance,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<ModelFolderSummary, ForgeError> {
    let draft = Draft::create(dir)?;
    let model = chosen.checkpoint(input);
    let built = language::from_checkpoint(model, chosen.coding(), draft.dir(), watch)?;
    let recipe = serde_json::to_value(step).map_err(|error| ForgeError::Recipe {
        recipe: "compress",
        field: "quantize",
        expected: "a JSON value".into(),
        found: error.to_string(),
    })?;
    let what = Description {
        role: built.role.into(),
        family: built.family.into(),
        config: built.config,
        recipe: json!({ "kind": "compress", "quantize": recipe, "steps": input.about().steps }),
    };
    draft.publish(about, &what, watch)
}

/// What a report says about text that the original wrote.
fn about_generated(written: &Generated) -> Value {
    json!({
        "sha256": written.sha256(),
        "texts": written.texts.len(),
        "tokens": written.tokens(),
        "seconds": written.seconds,
        "tokens_per_second": written.tokens_per_second(),
    })
}

/// Sequences to train on, and those that are held out: the last ones.
fn held_out(all: &[Vec<u32>]) -> (&[Vec<u32>], &[Vec<u32>]) {
    let count = all.len().div_ceil(HELD_OUT_PART);
    all.split_at(all.len().saturating_sub(count))
}

/// A step's own report as JSON.
fn said(report: &impl serde::Serialize) -> Result<Value, ForgeError> {
    serde_json::to_value(report).map_err(|error| ForgeError::Recipe {
        recipe: "compress",
        field: "report",
        expected: "a JSON value".into(),
        found: error.to_string(),
    })
}

/// Parameters of a checkpoint.
#[must_use]
pub fn parameters(checkpoint: &Checkpoint) -> u64 {
    let weights = checkpoint.weights();
    let sizes = weights.names().into_iter().map(|name| {
        let shape = weights.shape(name).unwrap_or_default();
        shape.iter().product::<u64>()
    });
    sizes.sum()
}

/// sha256 of the files of a source, by name: a `.gguf` file, or the weights and descriptions in a folder.
///
/// # Errors
/// [`ForgeError::Io`], [`ForgeError::Cancelled`].
pub fn source_hashes(path: &Path, watch: &mut Watch<'_>) -> Result<Vec<String>, ForgeError> {
    let about = fs::metadata(path).map_err(ForgeError::io("inspect", path))?;
    if about.is_file() {
        return Ok(vec![hash_file(path, watch)?.sha256]);
    }
    let mut files = Vec::new();
    for item in fs::read_dir(path).map_err(ForgeError::io("list", path))? {
        let file = item.map_err(ForgeError::io("list", path))?.path();
        let is_source = file
            .extension()
            .is_some_and(|end| SOURCE_ENDINGS.iter().any(|one| end == *one));
        if is_source && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    files
        .iter()
        .map(|file| Ok(hash_file(file, watch)?.sha256))
        .collect()
}
