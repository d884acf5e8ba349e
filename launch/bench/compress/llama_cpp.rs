//! llama.cpp's quantizer on the same weights, judged on the same text.
//!
//! Its files are read back as 32-bit floats and walked through like the original, so that what is compared is the choice of codes alone:
//! activations stay floats, where our fused graph rounds them to 8 bits.
//!
//! ```text
//!   original ─► F32 GGUF ─ llama-quantize ─► Q4_K_M.gguf ─► checkpoint ─ walk ─► KL, perplexity, agreement
//! ```

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use llmasos_forge::{
    Checkpoint, compress::write_gguf, decoder::Options, import_checkpoint, mapped::MappedFile,
};
use serde_json::{Value, json};

use super::jury::Jury;
use super::{Plan, Row};
use crate::bench::model::Quantizer;
use crate::cmd::compress::{Candidate, Given, Work, runtime};
use crate::cmd::progress::watch;
use crate::models::{Event, FetchPolicy, Models, Reporter};

/// Formats, by llama-quantize's names, with their names in the table.
const KINDS: [(&str, &str); 4] = [
    ("Q4_0", "llama.cpp Q4_0"),
    ("Q4_1", "llama.cpp Q4_1"),
    ("Q4_K_M", "llama.cpp Q4_K_M"),
    ("Q8_0", "llama.cpp Q8_0"),
];

/// Quantizes and judges all formats. A format that fails is a line of the table.
///
/// # Errors
/// When llama.cpp cannot be had, or the original cannot be read.
pub(super) fn rows(
    models: &mut Models,
    plan: &Plan<'_>,
    original: &Path,
    reporter: &mut dyn Reporter,
) -> Result<Vec<Row>> {
    let quantizer = Quantizer::prepare(models, plan.threads, reporter)?;
    let floats = plan.dir.join("original-f32.gguf");
    let jury = Jury::new(models, plan, original, reporter)?;
    if !floats.is_file() {
        write_floats(models, plan, &jury.original, &floats, reporter)?;
    }
    let bench = Bench {
        plan,
        quantizer,
        floats: &floats,
        jury,
    };
    let mut rows = Vec::new();
    for (kind, name) in KINDS {
        reporter.event(Event::Note { text: name });
        let outcome = bench.one(kind, reporter);
        rows.push(Row {
            name,
            is_task: false,
            outcome: outcome.map_err(|error| format!("{error:#}")),
        });
    }
    Ok(rows)
}

/// The original as llama.cpp reads it.
///
/// # Errors
/// When the model does not come from a single GGUF file, or it cannot be read or written.
pub(super) fn write_floats(
    models: &mut Models,
    plan: &Plan<'_>,
    checkpoint: &Checkpoint,
    to: &Path,
    reporter: &mut dyn Reporter,
) -> Result<()> {
    let unpacked = plan.dir.join("unpacked");
    let files = match Given::read(models, plan.model)? {
        Given::Path(path) => vec![path],
        _ => models.unpack_sources(plan.model, FetchPolicy::Auto, &unpacked, reporter)?,
    };
    let [source] = files.as_slice() else {
        anyhow::bail!(
            "{} is not made from a single GGUF file, so llama.cpp cannot quantize the same weights. Next: leave `--against` out.",
            plan.model
        );
    };
    let mapped =
        MappedFile::open(source).with_context(|| format!("opening {}", source.display()))?;
    let part = to.with_extension("part");
    let writing = || format!("writing {}", part.display());
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&part).with_context(writing)?);
    write_gguf(mapped.bytes(), checkpoint, &mut out).with_context(writing)?;
    out.flush().with_context(writing)?;
    fs::rename(&part, to).with_context(writing)?;
    // Only space.
    let _ = fs::remove_dir_all(&unpacked);
    Ok(())
}

struct Bench<'b> {
    plan: &'b Plan<'b>,
    quantizer: Quantizer,
    floats: &'b Path,
    jury: Jury<'b>,
}

impl Bench<'_> {
    fn one(&self, kind: &str, reporter: &mut dyn Reporter) -> Result<Value> {
        let dir = &self.plan.dir;
        let file = dir.join(format!("llama-{kind}.gguf"));
        let begun = Instant::now();
        if !file.is_file() {
            let part = file.with_extension("part");
            self.quantizer
                .quantize(self.floats, &part, kind, reporter)?;
            fs::rename(&part, &file).with_context(|| format!("renaming {}", part.display()))?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let runtime = runtime(NonZeroUsize::new(self.plan.threads))?;
        let work = Work::open(&dir.join(format!("llama-{kind}")))?;
        let found = (|| {
            let place = work.place("source", kind);
            let mut seen = watch(reporter, kind);
            let candidate = import_checkpoint(&file, kind, "", &place, &mut seen)?;
            drop(seen);
            let candidate = Candidate::Stored(&candidate, &Options::FP32);
            self.jury.judge(&work, &candidate, &runtime, reporter)
        })();
        work.discard();
        let found = found?;
        Ok(json!({
            "kl": found.kl,
            "perplexity": found.perplexity,
            "perplexity_increase": found.perplexity_increase,
            "top1": found.top1,
            "bytes": fs::metadata(&file)?.len(),
            "report": { "steps": [{ "step": "quantize", "seconds": seconds }] },
        }))
    }
}
