//! ONNX Runtime's own Python quantizer on the same graph, with the same calibration inputs, judged and measured like ours.
//!
//! ```text
//!   model folder ─ model.onnx ──┐
//!   our samples ─ samples.bin ──┴─► ort.py (pinned onnxruntime, a venv beside the cache) ─► .onnx ─► model folder ─► judge, beside
//! ```
//!
//! A language model's way is in `language`.

mod language;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use llmasos_engine::{ModelFolder, Runtime};
use llmasos_forge::compress::recipe::{CompressRecipe, ModelKind};
use llmasos_forge::compress::report::Agreement;
use llmasos_forge::onnx_file::OnnxFile;
use llmasos_forge::static_int8::{Elements, NewModel, Samples, write_folder};
use serde_json::{Value, json};

use super::{Plan, Row, beside};
use crate::bench::model::tools;
use crate::cmd::compress::{
    Inputs, PictureFlags, PicturePaths, PictureSets, SentenceSets, TextFlags, TextPaths, Texts,
    agreement, answers, graph_bytes, runtime, samples,
};
use crate::cmd::progress::watch;
use crate::models::{Event, FetchPolicy, Models, Reporter};

/// What is installed.
const PACKAGES: [&str; 4] = [
    "onnxruntime==1.32.0",
    "onnx==1.23.2",
    "onnx-ir==1.1.0",
    "numpy==2.4.6",
];
const VERSION: &str = "1.32.0";
const SCRIPT: &str = include_str!("ort.py");
/// Most samples written for it: all of them lie in its memory at once.
const MAX_SAMPLES: usize = 512;

/// Ways of the quantizer, by model: name in the table, form, width of weights.
const DETECTOR: [[&str; 3]; 2] = [
    ["onnxruntime detector static", "static", "full"],
    ["onnxruntime detector static, 7 bits", "static", "reduced"],
];
const ENCODER: [[&str; 3]; 3] = [
    ["onnxruntime minilm static", "static", "full"],
    ["onnxruntime minilm static, 7 bits", "static", "reduced"],
    ["onnxruntime minilm dynamic", "dynamic", "full"],
];

/// Quantizes and judges the models of the catalogue that are in the plan. A way that fails is a line of the table.
///
/// # Errors
/// When the quantizer cannot be installed, or a model or its inputs cannot be had.
pub(super) fn rows(
    models: &mut Models,
    plan: &Plan<'_>,
    original: Option<&Path>,
    reporter: &mut dyn Reporter,
) -> Result<Vec<Row>> {
    let python = install(models, reporter)?;
    let mut rows = match original {
        Some(original) => language::rows(models, (plan, original), &python, reporter)?,
        None => Vec::new(),
    };
    let mut names: Vec<&str> = plan.ways.iter().filter_map(|way| way.model).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let bench = Bench::prepare(models, plan, (name, python.as_path()), reporter)?;
        let ways = match bench.kind {
            ModelKind::Detector => &DETECTOR[..],
            ModelKind::Encoder | ModelKind::Language => &ENCODER[..],
        };
        for &[title, form, width] in ways {
            reporter.event(Event::Note { text: title });
            let outcome = bench.one(title, [form, width], reporter);
            rows.push(Row {
                name: title,
                is_task: true,
                outcome: outcome.map_err(|error| format!("{error:#}")),
            });
        }
    }
    Ok(rows)
}

/// The Python of a virtual environment with the quantizer.
fn install(models: &Models, reporter: &mut dyn Reporter) -> Result<PathBuf> {
    let id = format!("ort-{VERSION}");
    let peer = ("onnxruntime's quantizer", id.as_str());
    let dir = tools::python_peer(models, peer, &PACKAGES, reporter)?;
    Ok(dir.join("venv/bin/python"))
}

struct Bench<'b> {
    plan: &'b Plan<'b>,
    python: &'b Path,
    kind: ModelKind,
    /// The original.
    folder: PathBuf,
    /// Where samples, script and results are.
    dir: PathBuf,
    runtime: Runtime,
    inputs: Inputs,
}

impl<'b> Bench<'b> {
    /// Writes script and samples.
    fn prepare(
        models: &mut Models,
        plan: &'b Plan<'b>,
        (name, python): (&str, &'b Path),
        reporter: &mut dyn Reporter,
    ) -> Result<Bench<'b>> {
        let folder = models.ensure(name, FetchPolicy::Auto, reporter)?;
        let role = ModelFolder::open(&folder)?.manifest.role;
        let kind = ModelKind::of_role(&role).with_context(|| format!("{name}: {role}"))?;
        let runtime = runtime(NonZeroUsize::new(plan.threads))?;
        let mut recipe = CompressRecipe::default();
        recipe.evaluate.sequences = plan.sequences;
        recipe.calibration.tokens = plan.calibration_tokens;
        let inputs = match kind {
            ModelKind::Detector => {
                let (flags, paths) = (PictureFlags::default(), PicturePaths::default());
                let from = (&flags, &paths);
                Inputs::Pictures(PictureSets::read(models, from, (true, false), reporter)?)
            }
            ModelKind::Encoder | ModelKind::Language => {
                let flags = TextFlags::default();
                let texts = Texts::new(models, &flags, TextPaths::default(), recipe.seed);
                let with = (folder.as_path(), &runtime);
                Inputs::Sentences(SentenceSets::read(texts, with, &recipe, true, reporter)?)
            }
        };
        let dir = plan.dir.join(format!("ort-{name}"));
        write_script(&dir)?;
        let mut all = samples(&inputs, &folder, &runtime)?.context("nothing to calibrate with")?;
        write_samples(&mut *all, &dir)?;
        drop(all);
        Ok(Bench {
            plan,
            python,
            kind,
            folder,
            dir,
            runtime,
            inputs,
        })
    }

    fn one(
        &self,
        title: &str,
        [form, width]: [&str; 2],
        reporter: &mut dyn Reporter,
    ) -> Result<Value> {
        let with = (self.python, self.dir.as_path());
        let (place, seconds) = quantize(with, &self.folder, title, [form, width], reporter)?;
        let (inputs, runtime) = (&self.inputs, &self.runtime);
        let original = answers(&self.folder, inputs, runtime, "the original", reporter)?;
        let found = answers(&place, inputs, runtime, title, reporter)?;
        let found = agreement(&original, &found)?;
        let turns = beside::in_child(&place, &self.folder, self.plan.threads)?;
        let mut object = json!({
            "agreement": found.figure(),
            "bytes": graph_bytes(&place)?,
            "run_ms": turns.run_ms,
            "original_run_ms": turns.original_run_ms,
            "speedup": turns.speedup,
            "report": { "steps": [{ "step": "quantize", "seconds": seconds }] },
        });
        match found {
            Agreement::Detector { found, .. } => object["recall"] = json!(found.recall),
            Agreement::Encoder { found } => object["ranking"] = json!(found.rank_correlation),
        }
        Ok(object)
    }
}

/// Writes the script into a new folder.
fn write_script(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let script = dir.join("ort.py");
    fs::write(&script, SCRIPT).with_context(|| format!("writing {}", script.display()))
}

/// Runs the script on the graph of a model folder: the new model folder, and the seconds that the script took.
fn quantize(
    (python, dir): (&Path, &Path),
    folder: &Path,
    title: &str,
    [form, width]: [&str; 2],
    reporter: &mut dyn Reporter,
) -> Result<(PathBuf, f64)> {
    let begun = Instant::now();
    let (made, place) = (dir.join("made.onnx"), dir.join("made"));
    let mut command = Command::new(python);
    command
        .arg(dir.join("ort.py"))
        .arg(folder.join("model.onnx"))
        .args([dir, &made])
        .args([form, width]);
    let log = dir.join("ort.log");
    tools::new_log(&log)?;
    tools::run(command, title, &log, reporter)?;
    let seconds = begun.elapsed().as_secs_f64();
    let new = NewModel {
        name: "made",
        license: None,
        recipe: json!({ "kind": "onnxruntime", "form": form, "width": width }),
    };
    let graph = OnnxFile::open(&made)?.graph();
    write_folder(folder, graph, new, &place, &mut watch(reporter, title))?;
    Ok((place, seconds))
}

/// Writes samples as the script reads them.
fn write_samples(samples: &mut dyn Samples, dir: &Path) -> Result<()> {
    let path = dir.join("samples.bin");
    let writing = || format!("writing {}", path.display());
    let mut out = BufWriter::new(File::create(&path).with_context(writing)?);
    let (mut runs, mut offset) = (Vec::new(), 0_usize);
    for index in 0..samples.count().min(MAX_SAMPLES) {
        let mut run = Vec::new();
        for tensor in samples.sample(index)? {
            let (kind, bytes): (_, Vec<u8>) = match &tensor.elements {
                Elements::F32(data) => {
                    ("f32", data.iter().flat_map(|it| it.to_le_bytes()).collect())
                }
                Elements::I64(data) => {
                    ("i64", data.iter().flat_map(|it| it.to_le_bytes()).collect())
                }
                _ => anyhow::bail!("{}: elements of its type are not written", tensor.name),
            };
            out.write_all(&bytes).with_context(writing)?;
            run.push(
                json!({ "name": tensor.name, "type": kind, "dims": tensor.dims, "offset": offset }),
            );
            offset += bytes.len();
        }
        runs.push(run);
    }
    ensure!(!runs.is_empty(), "nothing to calibrate with");
    out.flush().with_context(writing)?;
    let list = dir.join("samples.json");
    fs::write(&list, serde_json::to_vec(&runs)?)
        .with_context(|| format!("writing {}", list.display()))
}
