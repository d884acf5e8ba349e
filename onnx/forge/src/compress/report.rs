//! What compression did and what it cost, as it is printed, and written into the folder it made.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::recipe::CompressRecipe;
use crate::error::ForgeError;
use crate::evaluate::Evaluation;
use crate::folder::{MANIFEST_FILE, write_file};
use crate::static_int8::{DetectorAgreement, EncoderAgreement};

/// Version of the form.
pub const REPORT_FORMAT: &str = "llmasos-compress/v1";

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompressReport {
    /// [`REPORT_FORMAT`].
    pub format: String,
    /// What was compressed: its name, and sha256 over its files' hashes.
    pub source: SourceReport,
    /// How.
    pub recipe: CompressRecipe,
    /// The texts that were read, by purpose.
    pub texts: Vec<TextReport>,
    /// The pictures that were looked at, by purpose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pictures: Vec<PictureReport>,
    /// The steps, in order.
    pub steps: Vec<StepReport>,
    /// What it cost against the original in 32-bit floats, on text that no step has read.
    pub evaluation: Option<Evaluation>,
    /// What the codes alone cost, computed with activations in 32-bit floats; if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes: Option<Evaluation>,
    /// How far a detector or an encoder still says what the original says, on inputs that no step has read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
    /// Sizes and speeds on the computer that did it.
    pub measured: Measured,
    /// Whether budget and largest increase of perplexity are kept.
    pub is_within_budget: bool,
}

/// What was compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceReport {
    /// Name of the model.
    pub name: String,
    /// sha256 over its sources' hashes, 64 hexadecimal digits.
    pub sha256: String,
    /// Parameters.
    pub parameters: u64,
}

/// A text that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextReport {
    /// `calibration`, `train` or `test`.
    pub purpose: String,
    /// Where it came from: a name of the catalogue, or the name of a file.
    pub from: String,
    /// sha256 over its articles.
    pub sha256: String,
    /// Articles it was chosen from.
    pub articles: usize,
    /// Tokens read.
    pub tokens: usize,
}

/// Pictures that were looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureReport {
    /// `calibration` or `test`.
    pub purpose: String,
    /// Where they came from: a name of the catalogue, or the name of a folder.
    pub from: String,
    /// sha256 over their pixels.
    pub sha256: String,
    /// Their names.
    pub files: Vec<String>,
    /// Views of all of them: whole, in parts, mirrored.
    pub views: usize,
}

/// How far a model says what the original says, by what it is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Agreement {
    /// Boxes in pictures.
    Detector {
        /// Score from which on a box counts.
        min_score: f32,
        /// The comparison.
        found: DetectorAgreement,
    },
    /// Vectors of sentences.
    Encoder {
        /// The comparison.
        found: EncoderAgreement,
    },
}

impl Agreement {
    /// The one figure that a recipe can ask for: mean average precision, or mean cosine.
    #[must_use]
    pub fn figure(&self) -> f64 {
        match self {
            Agreement::Detector { found, .. } => found.mean_average_precision,
            Agreement::Encoder { found } => found.mean_cosine,
        }
    }
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepReport {
    /// `degrid`, `prune`, `distil`, `quantize`.
    pub step: String,
    /// Parameters after it.
    pub parameters: u64,
    /// Time it took.
    pub seconds: f64,
    /// Whether an earlier run had done it.
    pub is_resumed: bool,
    /// What it says itself.
    pub detail: Value,
}

/// Sizes and speeds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Bytes of all files of the folder.
    pub bytes: u64,
    /// Bytes of the graph that runs here, with its weights.
    pub graph_bytes: u64,
    /// Bytes that a zip of that graph would have, if weights were masked: all that their zeros save.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zipped_bytes: Option<u64>,
    /// Memory of the process with the model loaded and warm, files included.
    pub resident_bytes: Option<u64>,
    /// Bytes of keys and values of a token.
    pub kv_bytes_per_token: Option<u64>,
    /// Tokens per second of a prompt.
    pub prefill: Option<f64>,
    /// Tokens per second of an answer.
    pub decode: Option<f64>,
    /// Inference threads.
    pub threads: usize,
    /// Seconds of everything.
    pub seconds: f64,
    /// Largest memory of the process.
    pub peak_bytes: Option<u64>,
    /// The original beside it, for a model that is one graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
}

/// A model and its original, run turn by turn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// Bytes of the original's graph, with its weights.
    pub original_bytes: u64,
    /// Milliseconds of a run of the graph: the median.
    pub run_ms: f64,
    /// The same of the original.
    pub original_run_ms: f64,
    /// How many times faster: the median over the turns.
    pub speedup: f64,
}

impl CompressReport {
    /// Whether a `report` of an `llmasos.json` is well formed.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(value: &Value) -> Result<CompressReport, String> {
        let report: CompressReport =
            serde_json::from_value(value.clone()).map_err(|error| format!("report: {error}"))?;
        if report.format != REPORT_FORMAT {
            return Err(format!(
                "report: format: expected {REPORT_FORMAT:?}, found {:?}",
                report.format
            ));
        }
        report
            .recipe
            .check()
            .map_err(|error| format!("report: {error}"))?;
        if report.steps.len() != report.recipe.steps.len() {
            return Err(format!(
                "report: expected {} steps as in its recipe, found {}",
                report.recipe.steps.len(),
                report.steps.len()
            ));
        }
        Ok(report)
    }
}

/// Writes the report into the `llmasos.json` of a model folder.
///
/// # Errors
/// [`ForgeError::Io`] when it cannot be read or written, or is no JSON object.
pub fn attach(dir: &Path, report: &CompressReport) -> Result<(), ForgeError> {
    let path = dir.join(MANIFEST_FILE);
    let invalid = |error: serde_json::Error| ForgeError::Io {
        action: "serialize",
        path: path.clone(),
        source: error.into(),
    };
    let bytes = fs::read(&path).map_err(ForgeError::io("read", &path))?;
    let mut manifest: Map<String, Value> = serde_json::from_slice(&bytes).map_err(invalid)?;
    let report = serde_json::to_value(report).map_err(invalid)?;
    manifest.insert("report".into(), report);
    let mut json = serde_json::to_vec_pretty(&manifest).map_err(invalid)?;
    json.push(b'\n');
    let part = dir.join(format!(".{MANIFEST_FILE}.part"));
    write_file(&part, &json)?;
    fs::rename(&part, &path).map_err(ForgeError::io("rename", &part))
}
