//! Compressed models, measured: each way of making one smaller beside the others, on the same weights and the same text.
//!
//! ```text
//!   MODEL ─► float32, off its grid: the original ─┬─ compress, a process a way ─► report ─┐
//!                                                 └─ other people's quantizers ───────────┴─► table, JSON
//! ```
//!
//! A way is a process of its own, so that its largest memory is its own too. What the original predicts is computed once.

pub mod beside;
mod llama_cpp;
pub mod measure;
mod ways;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::models::{Event, Models, Reporter, size_words};
pub use ways::{WAYS, Way};

/// Pause between two looks at a child.
const POLL: std::time::Duration = std::time::Duration::from_millis(200);

/// What to measure.
#[derive(Debug)]
pub struct Plan<'a> {
    /// A name of the catalogue, a file or a folder, as `compress` takes them.
    pub model: &'a str,
    /// Which ways.
    pub ways: Vec<&'static Way>,
    /// Sequences that each is judged on.
    pub sequences: usize,
    /// Tokens that each is calibrated with.
    pub calibration_tokens: u64,
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
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    /// The way.
    pub name: &'static str,
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
    let original = original(plan, reporter)?;
    let mut rows = Vec::new();
    for way in &plan.ways {
        reporter.event(Event::Note {
            text: &format!("{}: {}", way.name, way.flags.join(" ")),
        });
        let out = plan.dir.join(way.name.replace(' ', "-"));
        if out.is_dir() {
            fs::remove_dir_all(&out).with_context(|| format!("removing {}", out.display()))?;
        }
        let outcome = compress(plan, &original, &out, way.flags, reporter);
        if reporter.is_cancelled() {
            bail!("stopped after {} of {} ways", rows.len(), plan.ways.len());
        }
        rows.push(Row {
            name: way.name,
            outcome: outcome.map_err(|error| format!("{error:#}")),
        });
    }
    if plan.against.contains(&Against::LlamaCpp) {
        rows.extend(llama_cpp::rows(models, plan, &original, reporter)?);
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

/// One run of `compress` in a process of its own; what it says last.
fn compress(
    plan: &Plan<'_>,
    model: &Path,
    out: &Path,
    flags: &[&str],
    reporter: &mut dyn Reporter,
) -> Result<Value> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command
        .arg("compress")
        .arg(model)
        .arg("-o")
        .arg(out)
        .args(flags);
    command.args(["--json", "--threads", &plan.threads.to_string()]);
    command.args(["--sequences", &plan.sequences.to_string()]);
    command.args(["--calibration-tokens", &plan.calibration_tokens.to_string()]);
    command.arg("--records").arg(&plan.dir);
    for catalogue in plan.catalogues {
        command.arg("--catalogue").arg(catalogue);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("starting this program")?;
    // Its lines are few, so that the pipe never fills before it ends.
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for compress")? {
            break status;
        }
        if reporter.is_cancelled() {
            // Already gone is as good as killed; waiting reaps it either way.
            let _ = child.kill();
            let _ = child.wait();
            bail!("stopped");
        }
        std::thread::sleep(POLL);
    };
    let done = child
        .wait_with_output()
        .context("reading what compress said")?;
    ensure!(
        status.success(),
        "compress ended with {status}; what it said is above"
    );
    let text = String::from_utf8_lossy(&done.stdout);
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

    /// The cells of the table: way, KL, perplexity, agreement, size, prefill, decode, seconds, memory.
    pub fn cells(&self) -> [String; 9] {
        let found = match &self.outcome {
            Ok(found) => found,
            Err(problem) => {
                let mut cells = [const { String::new() }; 9];
                cells[0] = self.name.to_owned();
                cells[1] = problem
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(40)
                    .collect();
                return cells;
            }
        };
        let number = |field: &str, digits: usize| match found[field].as_f64() {
            Some(value) => format!("{value:.digits$}"),
            None => "–".to_owned(),
        };
        let size = |field: &str| match found[field].as_u64() {
            Some(bytes) => size_words(bytes),
            None => "–".to_owned(),
        };
        let share = |field: &str| match found[field].as_f64() {
            Some(value) => format!("{:.1} %", value * 100.0),
            None => "–".to_owned(),
        };
        let seconds = found["report"]["steps"].as_array().map(|steps| {
            steps
                .iter()
                .filter_map(|step| step["seconds"].as_f64())
                .sum::<f64>()
        });
        [
            self.name.to_owned(),
            number("kl", 4),
            format!(
                "{} ({})",
                number("perplexity", 2),
                share("perplexity_increase")
            ),
            share("top1"),
            size("bytes"),
            number("prefill", 0),
            number("decode", 0),
            seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.0}")),
            size("peak_bytes"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_show_what_was_found_and_what_failed() {
        let found = json!({
            "kl": 0.04812, "perplexity": 31.63, "perplexity_increase": 0.039, "top1": 0.878, "bytes": 100_500_000, "prefill": 1990.4,
            "decode": 310.2, "peak_bytes": 2_100_000_000_u64, "report": { "steps": [{ "seconds": 100.0 }, { "seconds": 61.0 }] },
        });
        let row = Row {
            name: "int4 best",
            outcome: Ok(found),
        };
        assert_eq!(
            row.cells(),
            [
                "int4 best",
                "0.0481",
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
            outcome: Err("no room\nmore".into()),
        };
        assert_eq!(row.cells()[1], "no room");
        assert_eq!(row.object()["error"], "no room\nmore");
    }
}
