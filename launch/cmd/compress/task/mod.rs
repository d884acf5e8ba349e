//! Detectors and encoders: models that are one graph, quantized as a whole and judged by what they are for.
//!
//! ```text
//!   MODEL ─ source ─► folder ─┬─ quantize (ranges from pictures or sentences) ─► folder ─┬─ judge ─► agreement ─┐
//!                             │   (an encoder may lose layers first: shorter)            ├─ beside ─► speed ────┴─► report ─► DIR
//!                             └──────────────── the original ────────────────────────────┘
//! ```
//!
//! Recipe, work folder, report and the form of the result are those of language models.

mod inputs;
mod judge;
mod shorter;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use llmasos_engine::{ModelFolder, Runtime, text::Encoder};
use llmasos_forge::{
    ForgeError,
    compress::{
        self, Ready, ReadyTools, finish_graph, graph_parameters,
        recipe::{CompressRecipe, CompressStep, ModelKind, QuantizeStep},
        report::{
            Agreement, Beside, CompressReport, Measured, REPORT_FORMAT, SourceReport, StepReport,
        },
    },
    corpus::Part,
    static_int8::{NewModel, Samples, StaticError, detector_samples, encoder_samples},
};
use serde::Deserialize;
use serde_json::json;

use super::recipe_file::DataPaths;
use super::{Args, Texts, Work, print, run};
use crate::bench::{compress::beside, model::peak_bytes};
use crate::cmd::{output, progress::watch, usage::wrong};
use crate::models::{Event, Models, Reporter};
pub(crate) use inputs::{Inputs, PictureFlags, PictureSets, SentenceSets, views};
pub(crate) use judge::{agreement, answers};
use shorter::Whole;
pub(crate) use source::Source;

/// Names of the graph's files.
const GRAPH: &str = "model.onnx";

/// What was asked for.
pub(super) struct Order<'a> {
    pub(super) args: &'a Args,
    pub(super) recipe: CompressRecipe,
    pub(super) paths: DataPaths,
    pub(super) source: Source,
}

/// What is known before the first step.
struct Job<'a> {
    order: Order<'a>,
    step: QuantizeStep,
    work: Work,
    /// sha256 over the source.
    sha256: String,
    /// The original.
    folder: PathBuf,
    runtime: Runtime,
    inputs: Inputs,
}

/// Does everything.
///
/// # Errors
/// What went wrong, with the next step.
pub(super) fn compress(
    order: Order<'_>,
    models: Models,
    begun: Instant,
    reporter: &mut dyn Reporter,
) -> Result<ExitCode> {
    let mut models = models;
    let job = Job::prepare(order, &mut models, reporter)?;
    let whole = job.shorten(&mut models, reporter)?;
    let (made, step) = job.quantize(&whole, reporter)?;
    let found = job.judge(&made.summary.dir, reporter)?;
    let measured = job.measure(&made, begun, reporter)?;
    let least = job.order.recipe.evaluate.min_agreement;
    let is_close = least.is_none_or(|least| found.figure() >= least);
    let steps = [whole.steps, vec![step]].concat();
    let report = job.report(steps, found, measured, made.is_met && is_close)?;
    compress::attach(&made.summary.dir, &report)?;
    let args = job.order.args;
    if !report.is_within_budget {
        show(args, &report, &made.summary.dir)?;
        bail!(too_far(&report, made.is_met));
    }
    let dir = job.work.publish(&made.summary.dir, args.keep_work)?;
    show(args, &report, &dir)?;
    Ok(ExitCode::SUCCESS)
}

impl<'a> Job<'a> {
    fn prepare(
        order: Order<'a>,
        models: &mut Models,
        reporter: &mut dyn Reporter,
    ) -> Result<Job<'a>> {
        let recipe = &order.recipe;
        let kind = order.source.kind();
        recipe
            .check_for(kind)
            .map_err(|error| wrong(error.to_string()))?;
        let Some(step) = recipe.quantize().cloned() else {
            return Err(wrong(
                "a detector or an encoder needs to be told how its weights are stored. Next: `--quantize int8-static`.",
            ));
        };
        let args = order.args;
        let out = args
            .out
            .as_deref()
            .context("no place for the model was given")?;
        let work = Work::open(&std::path::absolute(out)?)?;
        let sha256 = order.source.sha256(reporter)?;
        let license = args.license.as_deref();
        let folder = order
            .source
            .folder(models, (&work, &sha256), license, reporter)?;
        let runtime = run::runtime(args.threads)?;
        let is_calibrated = CompressStep::Quantize(step.clone()).reads_calibration();
        let inputs = match kind {
            ModelKind::Detector => {
                let from = (&args.pictures, &order.paths.pictures);
                let rules = (is_calibrated, args.texts.same_data);
                Inputs::Pictures(PictureSets::read(models, from, rules, reporter)?)
            }
            ModelKind::Encoder | ModelKind::Language => {
                let paths = order.paths.texts.clone();
                let texts = Texts::new(models, &args.texts, paths, recipe.seed);
                let with = (folder.as_path(), &runtime);
                let sets = SentenceSets::read(texts, with, recipe, is_calibrated, reporter)?;
                Inputs::Sentences(sets)
            }
        };
        Ok(Job {
            step,
            work,
            sha256,
            folder,
            runtime,
            inputs,
            order,
        })
    }

    /// The new folder; an earlier run's, if it was finished.
    fn quantize(&self, whole: &Whole, reporter: &mut dyn Reporter) -> Result<(Ready, StepReport)> {
        let step = CompressStep::Quantize(self.step.clone());
        let key = compress::key(&whole.key, &step, &self.inputs.key_of(Part::Calibration));
        let dir = self.work.place("result", &key);
        if let Some(noted) = self.work.noted::<StepReport>("result", &key)
            && let Some(made) = again(&dir, &noted)
        {
            let text = "quantize: done by an earlier run";
            reporter.event(Event::Note { text });
            let noted = StepReport {
                is_resumed: true,
                ..noted
            };
            return Ok((made, noted));
        }
        let begun = Instant::now();
        // The result, and float and 8-bit constants together while it is made.
        self.work.require_room(3 * graph_bytes(&self.folder)?)?;
        let args = self.order.args;
        let name = args.out.as_deref().and_then(Path::file_name);
        let name = name.unwrap_or_default().to_string_lossy();
        let recipe = json!({
            "kind": "compress",
            "steps": self.order.recipe.steps,
            "quantize": self.step,
            "pictures": self.inputs.pictures(),
            "texts": self.inputs.texts(),
        });
        let new = NewModel {
            name: &name,
            license: args.license.as_deref(),
            recipe,
        };
        let scratch = self.work.scratch();
        let mut samples = samples(&self.inputs, &self.folder, &self.runtime)?;
        let samples = samples
            .as_mut()
            .map(|samples| &mut **samples as &mut dyn Samples);
        let tools = ReadyTools {
            runtime: &self.runtime,
            scratch: &scratch,
            samples,
        };
        let mut watch = watch(reporter, "quantize");
        let made = finish_graph(&self.step, &whole.folder, tools, new, &dir, &mut watch);
        let made = made.map_err(explained).context("quantize")?;
        drop(watch);
        let report = StepReport {
            step: "quantize".into(),
            parameters: graph_parameters(&whole.folder)?,
            seconds: begun.elapsed().as_secs_f64(),
            is_resumed: false,
            detail: with_met(&made),
        };
        self.work.finished("result", &key, &report)?;
        if args.json {
            output::line(&serde_json::to_string(&report)?)?;
        }
        Ok((made, report))
    }

    fn judge(&self, dir: &Path, reporter: &mut dyn Reporter) -> Result<Agreement> {
        let (inputs, runtime) = (&self.inputs, &self.runtime);
        let original = answers(&self.folder, inputs, runtime, "the original", reporter)?;
        let found = answers(dir, inputs, runtime, "what came out", reporter)?;
        agreement(&original, &found)
    }

    fn measure(
        &self,
        made: &Ready,
        begun: Instant,
        reporter: &mut dyn Reporter,
    ) -> Result<Measured> {
        reporter.event(Event::Note { text: "measuring" });
        let threads = run::threads(self.order.args.threads);
        let dir = &made.summary.dir;
        let found = beside::in_child(dir, &self.folder, threads)?;
        Ok(Measured {
            bytes: made.summary.bytes,
            graph_bytes: graph_bytes(dir)?,
            resident_bytes: Some(found.resident_bytes),
            threads,
            seconds: begun.elapsed().as_secs_f64(),
            peak_bytes: peak_bytes(),
            beside: Some(Beside {
                original_bytes: graph_bytes(&self.folder)?,
                run_ms: found.run_ms,
                original_run_ms: found.original_run_ms,
                speedup: found.speedup,
            }),
            ..Measured::default()
        })
    }

    fn report(
        &self,
        steps: Vec<StepReport>,
        agreement: Agreement,
        measured: Measured,
        is_within_budget: bool,
    ) -> Result<CompressReport> {
        Ok(CompressReport {
            format: REPORT_FORMAT.into(),
            source: SourceReport {
                name: self.order.source.name(),
                sha256: self.sha256.clone(),
                parameters: graph_parameters(&self.folder)?,
            },
            recipe: self.order.recipe.clone(),
            texts: self.inputs.texts(),
            pictures: self.inputs.pictures(),
            steps,
            evaluation: None,
            codes: None,
            agreement: Some(agreement),
            measured,
            is_within_budget,
        })
    }
}

/// Inputs of calibration, if there are any.
pub(crate) fn samples<'i>(
    inputs: &'i Inputs,
    folder: &Path,
    runtime: &Runtime,
) -> Result<Option<Box<dyn Samples + 'i>>> {
    /// The part of a detector's settings that pictures have to fit.
    #[derive(Deserialize)]
    struct Settings {
        input: u32,
    }
    let folder = ModelFolder::open(folder)?;
    match inputs {
        Inputs::Pictures(sets) if sets.calibration.count() > 0 => {
            let settings: Settings = folder.config()?;
            let samples = detector_samples(views(&sets.calibration), settings.input);
            Ok(Some(Box::new(samples)))
        }
        Inputs::Sentences(sets) if !sets.calibration.is_empty() => {
            let encoder = Encoder::load(runtime, &folder)?;
            let texts: Vec<&str> = sets.calibration.iter().map(String::as_str).collect();
            Ok(Some(Box::new(encoder_samples(&encoder, &texts)?)))
        }
        Inputs::Pictures(_) | Inputs::Sentences(_) => Ok(None),
    }
}

/// Bytes of a folder's graph with its weights.
pub(crate) fn graph_bytes(dir: &Path) -> Result<u64> {
    let folder = ModelFolder::open(dir)?;
    let files = folder.manifest.files.iter();
    let of_graph = files.filter(|(name, _)| name.starts_with(GRAPH));
    Ok(of_graph.map(|(_, file)| file.bytes).sum())
}

/// What the step says, and whether its own budget was met: a run that goes on must know it again.
fn with_met(made: &Ready) -> serde_json::Value {
    let mut detail = made.detail.clone();
    if let Some(fields) = detail.as_object_mut() {
        fields.insert("is_met".into(), json!(made.is_met));
    }
    detail
}

/// The result of an earlier run, if it is whole.
fn again(dir: &Path, noted: &StepReport) -> Option<Ready> {
    let folder = ModelFolder::open(dir).ok()?;
    folder.verify().ok()?;
    let manifest = folder.manifest;
    Some(Ready {
        summary: llmasos_forge::ModelFolderSummary {
            dir: dir.to_owned(),
            name: manifest.name,
            role: manifest.role,
            family: manifest.family,
            bytes: manifest.files.values().map(|file| file.bytes).sum(),
            files: BTreeMap::new(),
        },
        detail: noted.detail.clone(),
        is_met: noted.detail["is_met"].as_bool()?,
    })
}

/// Says the next step where the forge only knows what is wrong.
fn explained(error: ForgeError) -> anyhow::Error {
    let next = match &error {
        ForgeError::Static(StaticError::NothingToDo) => {
            "its weights are codes already, or none of its operators can have codes. Next: give a model with 32-bit weights; `llmasos model \
             list` shows which those of the catalogue have"
        }
        ForgeError::Static(StaticError::NoSuchNode { .. }) => {
            "Next: the report of a run without it names all nodes"
        }
        _ => return error.into(),
    };
    anyhow::Error::from(error).context(next)
}

/// Why the result is not put in its place.
fn too_far(report: &CompressReport, is_met: bool) -> String {
    let mut reasons = Vec::new();
    let least = report.recipe.evaluate.min_agreement;
    if let (Some(least), Some(found)) = (least, &report.agreement)
        && found.figure() < least
    {
        reasons.push(format!(
            "it agrees with its original to {:.3}, at least {least:.3} were asked for",
            found.figure()
        ));
    }
    if !is_met {
        let options = report
            .recipe
            .quantize()
            .and_then(|step| step.activations.as_ref());
        let most = options
            .and_then(|options| options.max_error)
            .unwrap_or_default();
        let error = report
            .steps
            .last()
            .and_then(|step| step.detail["error"].as_f64());
        reasons.push(format!(
            "the worst output is off by {:.2} %, at most {:.2} % were asked for",
            error.unwrap_or(f64::NAN) * 100.0,
            most * 100.0
        ));
    }
    format!(
        "{}: the best found is reported above and stays in the work folder. Next: allow more, or change the recipe.",
        reasons.join("; ")
    )
}

fn show(args: &Args, report: &CompressReport, dir: &Path) -> Result<()> {
    if args.json {
        return output::line(&summary(report, dir)?.to_string());
    }
    for line in print::lines(report) {
        output::line(&line)?;
    }
    output::line(&dir.display().to_string())
}

/// The report, with the figures that everybody wants on top.
fn summary(report: &CompressReport, dir: &Path) -> Result<serde_json::Value> {
    let measured = &report.measured;
    let beside = measured.beside.as_ref();
    let mut all = json!({
        "dir": dir,
        "is_within_budget": report.is_within_budget,
        "agreement": report.agreement.as_ref().map(Agreement::figure),
        "bytes": measured.graph_bytes,
        "original_bytes": beside.map(|found| found.original_bytes),
        "resident_bytes": measured.resident_bytes,
        "run_ms": beside.map(|found| found.run_ms),
        "original_run_ms": beside.map(|found| found.original_run_ms),
        "speedup": beside.map(|found| found.speedup),
        "seconds": measured.seconds,
        "peak_bytes": measured.peak_bytes,
        "report": serde_json::to_value(report)?,
    });
    match &report.agreement {
        Some(Agreement::Encoder { found }) => {
            all["cosine"] = json!(found.mean_cosine);
            all["ranking"] = json!(found.rank_correlation);
        }
        Some(Agreement::Detector { found, .. }) => {
            all["recall"] = json!(found.recall);
            all["precision"] = json!(found.precision);
        }
        None => {}
    }
    Ok(all)
}
