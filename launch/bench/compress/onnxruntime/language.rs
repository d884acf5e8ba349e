//! ONNX Runtime's Python quantizer on the portable graph of the same language model.
//!
//! ```text
//!   original ─ compress --quantize fp32 ─► model.onnx ─ ort.py ─► .onnx ─► model folder ─ engine ─► KL, perplexity, speed
//! ```
//!
//! It leaves the embedding, and a head that shares its matrix, in 32-bit floats where it quantizes to 4 bits. The portable graph scores one
//! position a run, so that dynamic activations have a range of their own for each token, as in decoding; our own `int8 dynamic` is judged
//! on whole sequences, which share one range, as in prefill: that loses more.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use llmasos_engine::text::GraphChoice;
use serde_json::{Value, json};

use super::{quantize, write_script};
use crate::bench::compress::jury::Jury;
use crate::bench::compress::{Plan, Row, compress, measure};
use crate::cmd::compress::{Candidate, Work, graph_bytes, runtime};
use crate::models::{Event, Models, Reporter};

/// Ways of the quantizer: name in the table, form.
const WAYS: [[&str; 2]; 2] = [
    ["onnxruntime int4", "int4"],
    ["onnxruntime int8 dynamic, token by token", "dynamic"],
];

/// Quantizes and judges. A way that fails is a line of the table.
///
/// # Errors
/// When the graph in 32-bit floats cannot be made, or there is no text to judge on.
pub(super) fn rows(
    models: &mut Models,
    (plan, original): (&Plan<'_>, &Path),
    python: &Path,
    reporter: &mut dyn Reporter,
) -> Result<Vec<Row>> {
    let floats = plan.dir.join("ort-floats");
    if !floats.is_dir() {
        compress(plan, original, &floats, &["--quantize", "fp32"], reporter)?;
    }
    let bench = Bench {
        plan,
        python,
        floats,
        dir: plan.dir.join("ort-language"),
        jury: Jury::new(models, plan, original, reporter)?,
    };
    write_script(&bench.dir)?;
    let mut rows = Vec::new();
    for [title, form] in WAYS {
        reporter.event(Event::Note { text: title });
        let outcome = bench.one(title, form, reporter);
        rows.push(Row {
            name: title,
            is_task: false,
            outcome: outcome.map_err(|error| format!("{error:#}")),
        });
    }
    Ok(rows)
}

struct Bench<'b> {
    plan: &'b Plan<'b>,
    python: &'b Path,
    /// The original as a model folder.
    floats: PathBuf,
    /// Where script and results are.
    dir: PathBuf,
    jury: Jury<'b>,
}

impl Bench<'_> {
    fn one(&self, title: &str, form: &str, reporter: &mut dyn Reporter) -> Result<Value> {
        let with = (self.python, self.dir.as_path());
        let (place, seconds) = quantize(with, &self.floats, title, [form, "full"], reporter)?;
        let threads = self.plan.threads;
        let runtime = runtime(NonZeroUsize::new(threads))?;
        let work = Work::open(&self.dir.join("judged"))?;
        let candidate = Candidate::Folder(&place, GraphChoice::Portable);
        let found = self.jury.judge(&work, &candidate, &runtime, reporter);
        work.discard();
        let found = found?;
        let speeds = measure::in_child(&place, threads, true)?;
        let object = json!({
            "kl": found.kl,
            "perplexity": found.perplexity,
            "perplexity_increase": found.perplexity_increase,
            "top1": found.top1,
            "bytes": graph_bytes(&place)?,
            "prefill": speeds.prefill,
            "decode": speeds.decode,
            "report": { "steps": [{ "step": "quantize", "seconds": seconds }] },
        });
        fs::remove_dir_all(&place).with_context(|| format!("removing {}", place.display()))?;
        Ok(object)
    }
}
