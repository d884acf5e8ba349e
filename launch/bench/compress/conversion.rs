//! The largest memory of a conversion: a source of 32-bit floats to a model folder, without calibration, in a process of its own.
//!
//! Who converts a model need not have a computer on which it fits in floats: tensors are read, stored and forgotten one at a time. The
//! pages of the source count while they are mapped, so they are let go as well.
//!
//! ```text
//!   MODEL ─► original-f32.gguf ─ model import --weights int8 | int4, a process each ─► its largest memory ≤ half the source + 300 MB
//! ```

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use llmasos_forge::Checkpoint;
use serde_json::{Value, json};

use super::{Plan, Row, llama_cpp::write_floats};
use crate::bench::child;
use crate::models::{Models, Reporter, size_words};

/// The name of these ways in `--only`.
pub const CONVERSION: &str = "conversion memory";
/// Storages that are measured, with their names in the table.
const STORAGES: [(&str, &str); 2] = [
    ("int8", "conversion memory int8"),
    ("int4", "conversion memory int4"),
];
/// Memory that a conversion may have besides half of its source.
const ALLOWED_BYTES: u64 = 300_000_000;

/// Converts and measures. A conversion that fails or takes too much is a line of the table.
///
/// # Errors
/// When the source cannot be made.
pub(super) fn rows(
    models: &mut Models,
    plan: &Plan<'_>,
    original: &Path,
    reporter: &mut dyn Reporter,
) -> Result<Vec<Row>> {
    let floats = plan.dir.join("original-f32.gguf");
    if !floats.is_file() {
        write_floats(
            models,
            plan,
            &Checkpoint::open(original)?,
            &floats,
            reporter,
        )?;
    }
    let rows = STORAGES.map(|(storage, name)| Row {
        name,
        is_task: false,
        outcome: one(plan, &floats, storage, reporter).map_err(|error| format!("{error:#}")),
    });
    Ok(rows.into())
}

fn one(
    plan: &Plan<'_>,
    floats: &Path,
    storage: &str,
    reporter: &mut dyn Reporter,
) -> Result<Value> {
    let source = fs::metadata(floats)
        .with_context(|| format!("inspecting {}", floats.display()))?
        .len();
    let name = format!("converted-{storage}");
    let out = plan.dir.join(&name);
    if out.is_dir() {
        fs::remove_dir_all(&out).with_context(|| format!("removing {}", out.display()))?;
    }
    let begun = Instant::now();
    let mut command = child::this_program()?;
    command.args(["model", "--json", "import"]).arg(floats);
    command.arg("-o").arg(&plan.dir).args(["--name", &name]);
    command.args(["--weights", storage]);
    let (status, text) = child::run(&mut command, reporter)?;
    ensure!(
        status.success(),
        "model import ended with {status}; what it said is above"
    );
    let said: Value = text
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
        .with_context(|| format!("model import printed {text:?}"))?;
    let peak = said["peak_bytes"]
        .as_u64()
        .context("this system does not tell the largest memory of a process")?;
    let seconds = begun.elapsed().as_secs_f64();
    fs::remove_dir_all(&out).with_context(|| format!("removing {}", out.display()))?;
    let allowed = allowed(source);
    ensure!(
        peak <= allowed,
        "{} of memory for a source of {}, expected at most {}",
        size_words(peak),
        size_words(source),
        size_words(allowed)
    );
    Ok(json!({
        "peak_bytes": peak,
        "source_bytes": source,
        "allowed_bytes": allowed,
        "report": { "steps": [{ "step": "import", "seconds": seconds }] },
    }))
}

fn allowed(source: u64) -> u64 {
    source / 2 + ALLOWED_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_source_and_a_fixed_part_are_allowed() {
        assert_eq!(allowed(538_000_000), 569_000_000);
        let row = Row {
            name: STORAGES[0].1,
            is_task: false,
            outcome: Ok(json!({
                "peak_bytes": 250_000_000_u64,
                "report": { "steps": [{ "seconds": 9.4 }] },
            })),
        };
        let cells = row.cells();
        assert_eq!((cells[7].as_str(), cells[8].as_str()), ("9", "250.0 MB"));
        assert!(
            STORAGES
                .iter()
                .all(|(_, name)| name.starts_with(CONVERSION))
        );
    }
}
