//! Compressed models, measured: each way of making one smaller beside the others, on the same weights and the same text.
//!
//! ```text
//!   MODEL ─► float32, off its grid: the original ─┬─ compress, a process a way ─► report ─┐
//!                                                 └─ other people's quantizers ───────────┴─► table, JSON
//!   detectors, encoders: as they are ─── compress, ONNX Runtime's quantizer ──────────────────► a table of their own
//! ```
//!
//! A way is a process of its own, so that its largest memory is its own too. What the original predicts is computed once.

pub mod beside;
mod conversion;
mod jury;
mod llama_cpp;
pub mod measure;
mod onnxruntime;
mod ways;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::child;
use crate::models::{Event, Models, Reporter, size_words};
pub use conversion::CONVERSION;
pub use ways::{MIXED, WAYS, Way};

/// What to measure.
#[derive(Debug)]
pub struct Plan<'a> {
    /// A name of the catalogue, a file or a folder, as `compress` takes them.
    pub model: &'a str,
    /// Which ways.
    pub ways: Vec<&'static Way>,
    /// Whether the memory of a conversion is measured.
    pub converts: bool,
    /// Sequences that each is judged on.
    pub sequences: usize,
    /// Tokens that each is calibrated with, but for ways that say themselves how many.
    pub calibration_tokens: u64,
    /// Largest graph of the way [`MIXED`], as `compress` takes it.
    pub budget: &'a str,
    /// Threads.
    pub threads: usize,
    /// Whose quantizers are measured beside ours.
    pub against: Vec<Against>,
    /// Catalogue files, for the children.
    pub catalogues: &'a [PathBuf],
    /// Where everything is put; what is there from before is used.
    pub dir: PathBuf,
}

/// Other people's quantizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Against {
    /// llama-quantize on the same weights; its formats are judged with activations in 32-bit floats
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// onnxruntime's Python quantizer on the same graphs, with the same calibration inputs
    Ort,
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    /// The way.
    pub name: &'static str,
    /// Whether it is a detector's or an encoder's, with other figures than a language model's.
    pub is_task: bool,
    /// What `compress --json` said last, or why there is nothing.
    pub outcome: Result<Value, String>,
}

/// Runs all ways. Blocks, for many minutes.
///
/// # Errors
/// When the original cannot be made; a way that fails is a line of the table.
pub fn measure(
    models: &mut Models,
    plan: &Plan<'_>,
    reporter: &mut dyn Reporter,
) -> Result<Vec<Row>> {
    fs::create_dir_all(&plan.dir).with_context(|| format!("creating {}", plan.dir.display()))?;
    let has_llama = plan.against.contains(&Against::LlamaCpp);
    let original =
        match has_llama || plan.converts || plan.ways.iter().any(|way| way.model.is_none()) {
            true => Some(original(plan, reporter)?),
            false => None,
        };
    let mut rows = Vec::new();
    for way in &plan.ways {
        reporter.event(Event::Note {
            text: &format!("{}: {}", way.name, way.flags.join(" ")),
        });
        let out = plan.dir.join(way.name.replace(' ', "-"));
        if out.is_dir() {
            fs::remove_dir_all(&out).with_context(|| format!("removing {}", out.display()))?;
        }
        let given = way.model.map(Path::new).or(original.as_deref());
        let given = given.context("there is no model for this way")?;
        let mut flags = way.flags.to_vec();
        if way.name == MIXED {
            flags.extend(["--budget", plan.budget]);
        }
        // Other people's formats are judged so too.
        if has_llama && way.model.is_none() {
            flags.push("--float-activations");
        }
        let outcome = compress(plan, given, &out, &flags, reporter);
        if reporter.is_cancelled() {
            bail!("stopped after {} of {} ways", rows.len(), plan.ways.len());
        }
        rows.push(Row {
            name: way.name,
            is_task: way.model.is_some(),
            outcome: outcome.map_err(|error| format!("{error:#}")),
        });
    }
    if let Some(original) = original.as_deref().filter(|_| plan.converts) {
        rows.extend(conversion::rows(models, plan, original, reporter)?);
    }
    if let Some(original) = original.as_deref().filter(|_| has_llama) {
        rows.extend(llama_cpp::rows(models, plan, original, reporter)?);
    }
    if plan.against.contains(&Against::Ort) {
        let is_language = plan.ways.iter().any(|way| way.model.is_none());
        let original = original.as_deref().filter(|_| is_language);
        rows.extend(onnxruntime::rows(models, plan, original, reporter)?);
    }
    Ok(rows)
}

/// The original off its grid, as a checkpoint: what a run that degrids leaves in its work folder.
fn original(plan: &Plan<'_>, reporter: &mut dyn Reporter) -> Result<PathBuf> {
    let place = plan.dir.join("original");
    if place.is_dir() {
        return Ok(place);
    }
    reporter.event(Event::Note {
        text: "the original: 32-bit floats, off their grid",
    });
    let out = plan.dir.join("floats");
    let flags = ["--degrid", "1", "--quantize", "fp32", "--keep-work"];
    let _ = fs::remove_dir_all(&out);
    compress(plan, Path::new(plan.model), &out, &flags, reporter)?;
    let work = plan.dir.join(".floats.work");
    let made = fs::read_dir(&work)
        .with_context(|| format!("listing {}", work.display()))?
        .flatten()
        .map(|item| item.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.is_dir() && name.starts_with("step-")
        })
        .with_context(|| format!("{} has no checkpoint", work.display()))?;
    fs::rename(&made, &place).with_context(|| format!("renaming {}", made.display()))?;
    for dir in [out, work] {
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(place)
}

/// The flag of `compress` for how many tokens a model is calibrated with.
const CALIBRATION: &str = "--calibration-tokens";

/// One run of `compress` in a process of its own; what it says last.
fn compress(
    plan: &Plan<'_>,
    model: &Path,
    out: &Path,
    flags: &[&str],
    reporter: &mut dyn Reporter,
) -> Result<Value> {
    let mut command = child::this_program()?;
    command
        .arg("compress")
        .arg(model)
        .arg("-o")
        .arg(out)
        .args(flags);
    command.args(["--json", "--threads", &plan.threads.to_string()]);
    command.args(["--sequences", &plan.sequences.to_string()]);
    // Unless a way needs more of them than others, and says how many.
    if !flags.contains(&CALIBRATION) {
        command.args([CALIBRATION, &plan.calibration_tokens.to_string()]);
    }
    command.arg("--records").arg(&plan.dir);
    for catalogue in plan.catalogues {
        command.arg("--catalogue").arg(catalogue);
    }
    let (status, text) = child::run(&mut command, reporter)?;
    ensure!(
        status.success(),
        "compress ended with {status}; what it said is above"
    );
    let last = text.lines().last().context("compress said nothing")?;
    serde_json::from_str(last).context("reading what compress said")
}

impl Row {
    /// The object of `--json`.
    pub fn object(&self) -> Value {
        match &self.outcome {
            Ok(found) => {
                let mut object = found.clone();
                if let Some(fields) = object.as_object_mut() {
                    fields.insert("way".into(), json!(self.name));
                }
                object
            }
            Err(problem) => json!({ "way": self.name, "error": problem }),
        }
    }

    /// The cells of a detector's or encoder's table: way, agreement (mean average precision or mean cosine), recall or rank correlation,
    /// size, milliseconds of a run, those of the original, how many times faster, seconds, memory.
    pub fn task_cells(&self) -> [String; 9] {
        let found = match &self.outcome {
            Ok(found) => found,
            Err(problem) => return failed(self.name, problem),
        };
        let number = |field: &str, digits: usize| match found[field].as_f64() {
            Some(value) => format!("{value:.digits$}"),
            None => "–".to_owned(),
        };
        let second = match found["recall"].is_number() {
            true => number("recall", 3),
            false => number("ranking", 4),
        };
        [
            self.name.to_owned(),
            number("agreement", 4),
            second,
            size(found, "bytes"),
            number("run_ms", 2),
            number("original_run_ms", 2),
            number("speedup", 2),
            step_seconds(found),
            size(found, "peak_bytes"),
        ]
    }

    /// The cells of the table: way, KL (that of the codes alone), perplexity, agreement, size, prefill, decode, seconds, memory.
    pub fn cells(&self) -> [String; 9] {
        let found = match &self.outcome {
            Ok(found) => found,
            Err(problem) => return failed(self.name, problem),
        };
        let number = |field: &str, digits: usize| match found[field].as_f64() {
            Some(value) => format!("{value:.digits$}"),
            None => "–".to_owned(),
        };
        let share = |field: &str| match found[field].as_f64() {
            Some(value) => format!("{:.1} %", value * 100.0),
            None => "–".to_owned(),
        };
        [
            self.name.to_owned(),
            match found["kl_codes"].as_f64() {
                Some(codes) => format!("{} ({codes:.4})", number("kl", 4)),
                None => number("kl", 4),
            },
            format!(
                "{} ({})",
                number("perplexity", 2),
                share("perplexity_increase")
            ),
            share("top1"),
            size(found, "bytes"),
            number("prefill", 0),
            number("decode", 0),
            step_seconds(found),
            size(found, "peak_bytes"),
        ]
    }
}

/// A row that says what went wrong.
fn failed(name: &str, problem: &str) -> [String; 9] {
    let mut cells = [const { String::new() }; 9];
    cells[0] = name.to_owned();
    let first = problem.lines().next().unwrap_or_default();
    cells[1] = first.chars().take(40).collect();
    cells
}

fn size(found: &Value, field: &str) -> String {
    match found[field].as_u64() {
        Some(bytes) => size_words(bytes),
        None => "–".to_owned(),
    }
}

/// Seconds of all steps.
fn step_seconds(found: &Value) -> String {
    let seconds = found["report"]["steps"].as_array().map(|steps| {
        steps
            .iter()
            .filter_map(|step| step["seconds"].as_f64())
            .sum::<f64>()
    });
    seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_show_what_was_found_and_what_failed() {
        let found = json!({
            "kl": 0.04812, "kl_codes": 0.0443, "perplexity": 31.63, "perplexity_increase": 0.039, "top1": 0.878, "bytes": 100_500_000, "prefill": 1990.4,
            "decode": 310.2, "peak_bytes": 2_100_000_000_u64, "report": { "steps": [{ "seconds": 100.0 }, { "seconds": 61.0 }] },
        });
        let row = Row {
            name: "int4 best",
            is_task: false,
            outcome: Ok(found),
        };
        assert_eq!(
            row.cells(),
            [
                "int4 best",
                "0.0481 (0.0443)",
                "31.63 (3.9 %)",
                "87.8 %",
                "100.5 MB",
                "1990",
                "310",
                "161",
                "2.1 GB"
            ]
        );
        assert_eq!(row.object()["way"], "int4 best");
        let row = Row {
            name: "int4 best",
            is_task: false,
            outcome: Err("no room\nmore".into()),
        };
        assert_eq!(row.cells()[1], "no room");
        assert_eq!(row.object()["error"], "no room\nmore");
    }

    #[test]
    fn detectors_and_encoders_have_figures_of_their_own() {
        let found = json!({
            "agreement": 0.91234, "recall": 0.9, "bytes": 17_000_000, "run_ms": 9.871, "original_run_ms": 25.0, "speedup": 2.53,
            "report": { "steps": [{ "seconds": 40.4 }] },
        });
        let mut row = Row {
            name: "detector int8 static",
            is_task: true,
            outcome: Ok(found),
        };
        let expected = [
            "detector int8 static",
            "0.9123",
            "0.900",
            "17.0 MB",
            "9.87",
            "25.00",
            "2.53",
            "40",
            "–",
        ];
        assert_eq!(row.task_cells(), expected);
        row.outcome = Ok(json!({ "agreement": 0.995, "ranking": 0.98765 }));
        assert_eq!(row.task_cells()[1..3], ["0.9950", "0.9877"]);
    }
}
