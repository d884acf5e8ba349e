//! The last step for models that are a graph already: detectors and encoders, from one model folder to the next.
//!
//! ```text
//!   model folder ─► graph ─┬─ int8-static   samples ─► ranges ─► codes ─┐
//!                          ├─ int8-dynamic                              ├─► graph ─► model folder: everything else comes along
//!                          └─ fp16                                      ┘
//! ```

use std::path::Path;

use llmasos_engine::ModelFolder;
use llmasos_engine::runtime::Runtime;
use serde_json::{Value, json};

use super::recipe::{Bits, QuantizeStep, word};
use crate::error::ForgeError;
use crate::folder::{ModelFolderSummary, Watch};
use crate::onnx_file::OnnxFile;
use crate::proto::onnx::DataType;
use crate::static_int8::dynamic::dynamic_int8;
use crate::static_int8::half::half_storage;
use crate::static_int8::{
    NamedTensor, NewModel, Samples, StaticOptions, Workplace, quantize, write_folder,
};
use crate::writer::MODEL_FILE;

/// What half precision means here.
pub(super) const HALF_NOTE: &str =
    "stored in 16 bits; the runtime computes in 32, with the memory and the speed of the original";

/// What the step works with.
pub struct ReadyTools<'a> {
    /// Runs graphs.
    pub runtime: &'a Runtime,
    /// An existing folder with room for the model and half as much again.
    pub scratch: &'a Path,
    /// Inputs that ranges are taken from; none if the step reads none.
    pub samples: Option<&'a mut dyn Samples>,
}

/// What became of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Ready {
    /// The new folder.
    pub summary: ModelFolderSummary,
    /// What the step says about it.
    pub detail: Value,
    /// Whether a largest error of the recipe is kept; true if it has none.
    pub is_met: bool,
}

/// Numbers that the graph of a model folder has as constants of 32-bit floats.
///
/// # Errors
/// [`ForgeError::Engine`] for a folder that is none, those of reading its graph.
pub fn graph_parameters(folder: &Path) -> Result<u64, ForgeError> {
    let file = OnnxFile::open(&ModelFolder::open(folder)?.path(MODEL_FILE)?)?;
    let floats = file.constants();
    Ok(floats
        .filter(|spec| spec.data_type == DataType::Float)
        .filter_map(|spec| Some(spec.bytes().ok()? / 4))
        .sum())
}

/// Writes the model folder `dir`: that of `source` with its graph stored as `step` says.
///
/// # Errors
/// [`ForgeError::Recipe`] for weights that graphs are not offered with, [`ForgeError::Static`] and those of reading and writing. `dir`
/// appears whole or not at all.
pub fn finish_graph(
    step: &QuantizeStep,
    source: &Path,
    tools: ReadyTools<'_>,
    new: NewModel<'_>,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<Ready, ForgeError> {
    let folder = ModelFolder::open(source)?;
    let graph = OnnxFile::open(&folder.path(MODEL_FILE)?)?.graph();
    let options = step.activations.clone().unwrap_or_default();
    let (graph, about, is_met) = match step.weights {
        Bits::Int8Static => {
            let mut none: Vec<Vec<NamedTensor>> = Vec::new();
            let samples: &mut dyn Samples = match tools.samples {
                Some(samples) => samples,
                None => &mut none,
            };
            let place = Workplace {
                runtime: tools.runtime,
                scratch: tools.scratch,
            };
            let (graph, report) = quantize(graph, &options, samples, place, watch)?;
            let is_met = report.is_met;
            (graph, details(step, Some(&options), &report)?, is_met)
        }
        Bits::Int8Dynamic => {
            let (graph, report) = dynamic_int8(graph, &options.keep_float)?;
            (graph, details(step, None, &report)?, true)
        }
        Bits::Fp16 => {
            let about = json!({ "weights": "fp16", "note": HALF_NOTE });
            (half_storage(graph)?, about, true)
        }
        other => {
            return Err(ForgeError::Recipe {
                recipe: "compress",
                field: "quantize.weights",
                expected: "int8-static, int8-dynamic or fp16 for a graph".into(),
                found: word(other),
            });
        }
    };
    let summary = write_folder(source, graph, new, dir, watch)?;
    Ok(Ready {
        summary,
        detail: about,
        is_met,
    })
}

/// What was done, in figures for people first, and everything else behind.
fn details(
    step: &QuantizeStep,
    options: Option<&StaticOptions>,
    report: &impl serde::Serialize,
) -> Result<Value, ForgeError> {
    let invalid = |error: serde_json::Error| ForgeError::Recipe {
        recipe: "compress",
        field: "report",
        expected: "a JSON value".into(),
        found: error.to_string(),
    };
    let report = serde_json::to_value(report).map_err(invalid)?;
    let count = |field: &str| report[field].as_array().map_or(0, Vec::len);
    let mut about = json!({
        "weights": word(step.weights),
        "quantized": count("nodes"),
        "left": count("left"),
    });
    if let Some(options) = options {
        about["ranges"] = serde_json::to_value(options.ranges).map_err(invalid)?;
        about["error"] = report["error"].clone();
    }
    about["graph"] = report;
    Ok(about)
}
