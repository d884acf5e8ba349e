//! From arguments to a folder: the order in which things happen, what is kept between two runs, and the report.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use llmasos_engine::{ModelFolder, Runtime, RuntimeOptions, Spin, text::GraphChoice};
use llmasos_forge::{
    Checkpoint, ForgeError, Provenance,
    compress::{
        self, Chosen, Tools,
        recipe::{Bits, CompressRecipe, CompressStep, ModelKind, QuantizeStep},
        report::{CompressReport, Measured, REPORT_FORMAT, SourceReport, StepReport, TextReport},
    },
    corpus::Part,
    decoder::FloatActivations,
    evaluate::Evaluation,
};
use serde_json::json;

use super::text::Texts;
use super::work::Work;
use super::zip::zipped_bytes;
use super::{Args, Candidate, Given, TextPaths, judge, print, record, source, task};
use crate::bench::{compress::measure, model::peak_bytes};
use crate::cmd::{output, progress::watch, usage::wrong};
use crate::models::{Cancel, Console, Event, Models, Reporter, size_words};
use crate::run::configure;

/// Digits of the source's hash in names.
const KEY_DIGITS: usize = 16;

/// Threads asked for, or all processors.
pub(super) fn threads(asked: Option<NonZeroUsize>) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    asked.map_or_else(all, NonZeroUsize::get)
}

/// The runtime for long work.
///
/// # Errors
/// When there is no ONNX Runtime.
pub(crate) fn runtime(asked: Option<NonZeroUsize>) -> Result<Runtime> {
    Ok(Runtime::start(&RuntimeOptions {
        library: configure::onnx_runtime_library()?,
        threads: threads(asked),
        spin: Spin::Short,
        isa: configure::isa()?,
        profile: None,
    })?)
}

/// What is known before the first step.
pub(super) struct Job<'a> {
    args: &'a Args,
    pub(super) recipe: CompressRecipe,
    given: Given,
    pub(super) work: Work,
    source: String,
    original: Checkpoint,
    runtime: Runtime,
    calibration: Vec<Vec<u32>>,
    train: Vec<Vec<u32>>,
    test: Vec<Vec<u32>>,
    texts: Vec<TextReport>,
}

/// Does everything.
///
/// # Errors
/// What went wrong, with the next step.
pub(super) fn compress(args: &Args, cancel: Cancel) -> Result<ExitCode> {
    let begun = Instant::now();
    let mut reporter = Console::new(cancel);
    let outcome = start(args, begun, &mut reporter);
    drop(reporter);
    let out = args.out.as_deref().unwrap_or(Path::new(""));
    outcome.map_err(|error| said(error, out))
}

/// Divides by what the model is for.
fn start(args: &Args, begun: Instant, reporter: &mut Console) -> Result<ExitCode> {
    let (recipe, paths) = args.steps.recipe()?;
    let word = args.model.as_deref().context("no model was given")?;
    let models = Models::from_environment(&args.catalogue)?;
    if let Some(source) = task::Source::find(&models, word)? {
        let order = task::Order {
            args,
            recipe,
            paths,
            source,
        };
        return task::compress(order, models, begun, reporter);
    }
    recipe
        .check_for(ModelKind::Language)
        .map_err(|error| wrong(error.to_string()))?;
    let job = prepare(args, recipe, paths.texts, models, reporter)?;
    make(job, begun, reporter)
}

/// Says what stays after Ctrl-C and on a full disk.
fn said(error: anyhow::Error, out: &Path) -> anyhow::Error {
    let is = |wanted: fn(&ForgeError) -> bool| {
        error
            .chain()
            .any(|cause| cause.downcast_ref::<ForgeError>().is_some_and(wanted))
    };
    if is(|error| matches!(error, ForgeError::Cancelled)) {
        return anyhow!(
            "stopped; {} was not made. Next: the same command goes on behind the last finished step.",
            out.display()
        );
    }
    if is(|error| matches!(error, ForgeError::Io { source, .. } if is_full(source))) {
        return error.context(format!(
            "the disk is full; {} was not made. Next: free some room, and the same command goes on behind the last finished step",
            out.display()
        ));
    }
    error
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn prepare<'a>(
    args: &'a Args,
    recipe: CompressRecipe,
    paths: TextPaths,
    mut models: Models,
    reporter: &mut Console,
) -> Result<Job<'a>> {
    let word = args.model.as_deref().context("no model was given")?;
    let out = args
        .out
        .clone()
        .context("no place for the model was given")?;
    let given = Given::read(&models, word)?;
    let work = Work::open(&std::path::absolute(&out)?)?;
    let changes = recipe.steps.len() as u64;
    work.require_room(given.checkpoint_bytes().saturating_mul(1 + changes))?;
    let source = given.sha256(reporter)?;
    let place = work.place("source", &source[..KEY_DIGITS]);
    let scratch = work.scratch();
    let license = args.license.as_deref();
    let original = given.checkpoint(&mut models, license, (&place, &scratch), reporter)?;
    let (tokenizer, begin) = source::tokenizer(&original)?;
    let mut texts = Texts::new(&mut models, &args.texts, paths, recipe.seed);
    let context = original.spec().context;
    let mut sequences = |part: Part, tokens: u64, length: usize| -> Result<Vec<Vec<u32>>> {
        anyhow::ensure!(
            length <= context,
            "sequences of {length} tokens are longer than the model reads, {context}. Next: give a shorter --length."
        );
        let count = usize::try_from(tokens)?.div_ceil(length);
        texts.sequences(part, count, length, (&tokenizer, begin), reporter)
    };
    // All texts first: one that is too short is said before hours of work.
    let length = recipe.evaluate.length;
    let test = sequences(
        Part::Test,
        (recipe.evaluate.sequences * length) as u64,
        length,
    )?;
    let mut calibration = Vec::new();
    if recipe.steps.iter().any(CompressStep::reads_calibration) {
        let wanted = recipe.calibration;
        calibration = sequences(Part::Calibration, wanted.tokens, wanted.length)?;
    }
    let mut train = Vec::new();
    if let Some(tokens) = train_tokens(&recipe) {
        train = sequences(Part::Train, tokens, recipe.calibration.length)?;
    }
    let reports = texts.reports();
    Ok(Job {
        args,
        runtime: runtime(args.threads)?,
        recipe,
        given,
        work,
        source,
        original,
        calibration,
        train,
        test,
        texts: reports,
    })
}

/// Tokens of given text that distillation reads at most, over all its steps.
fn train_tokens(recipe: &CompressRecipe) -> Option<u64> {
    let steps = recipe.steps.iter();
    let tokens = steps.filter_map(|step| match step {
        CompressStep::Distil(step) if step.generated.is_none() => Some(step.tokens),
        _ => None,
    });
    tokens.max()
}

fn make(job: Job<'_>, begun: Instant, reporter: &mut Console) -> Result<ExitCode> {
    let mut reports = Vec::new();
    let (changed, key) = job.changes(&mut reports, reporter)?;
    let last = changed.as_ref().unwrap_or(&job.original);
    let (result, evaluation) = match job.searched_limit() {
        Some(limit) => job.search(limit, last, &key, &mut reports, reporter)?,
        None => {
            let result = job.quantize(last, &key, &mut reports, reporter)?;
            let evaluation = job.judge(&result, last, reporter)?;
            (result, evaluation)
        }
    };
    // Dynamic codes have no float activations to be judged with: rounding them is what they are.
    let codes = match job.args.float_activations && !result.chosen.is_dynamic() {
        true => Some(job.judge_codes(&result, last, reporter)?),
        false => None,
    };
    let measured = job.measure(&result, begun, reporter)?;
    let report = CompressReport {
        codes,
        ..job.report(reports, evaluation, measured)
    };
    compress::attach(&result.dir, &report)?;
    let is_within_budget = report.is_within_budget;
    let dir = if is_within_budget {
        let keep = job.args.keep_work;
        let Job { args, work, .. } = job;
        let dir = work.publish(&result.dir, keep)?;
        show(args, &report, &dir)?;
        dir
    } else {
        show(job.args, &report, &result.dir)?;
        result.dir
    };
    drop(dir);
    if is_within_budget {
        return Ok(ExitCode::SUCCESS);
    }
    bail!(over_budget(&report))
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
    let (found, measured) = (report.evaluation.as_ref(), &report.measured);
    Ok(json!({
        "dir": dir,
        "is_within_budget": report.is_within_budget,
        "kl": found.map(|found| found.kl),
        "kl_codes": report.codes.as_ref().map(|found| found.kl),
        "perplexity": found.map(|found| found.perplexity),
        "perplexity_increase": found.map(|found| found.perplexity_increase),
        "top1": found.map(|found| found.top1),
        "bytes": measured.graph_bytes,
        "resident_bytes": measured.resident_bytes,
        "prefill": measured.prefill,
        "decode": measured.decode,
        "seconds": measured.seconds,
        "peak_bytes": measured.peak_bytes,
        "report": serde_json::to_value(report)?,
    }))
}

/// Why the result is not put in its place.
fn over_budget(report: &CompressReport) -> String {
    let mut reasons = Vec::new();
    let most = report.recipe.evaluate.max_perplexity_increase;
    if let (Some(most), Some(found)) = (most, &report.evaluation)
        && found.perplexity_increase > most
    {
        reasons.push(format!(
            "perplexity grows by {:.2} %, at most {:.2} % were asked for",
            found.perplexity_increase * 100.0,
            most * 100.0
        ));
    }
    let budget = report.recipe.quantize().and_then(|step| step.budget_bytes);
    if let Some(budget) = budget
        && report.measured.graph_bytes > budget
    {
        reasons.push(format!(
            "the smallest found has {}, at most {} were asked for",
            size_words(report.measured.graph_bytes),
            size_words(budget)
        ));
    }
    format!(
        "{}: the best found is reported above and stays in the work folder. Next: allow more, or change the recipe.",
        reasons.join("; ")
    )
}

/// The written model.
pub(super) struct Made {
    pub(super) dir: PathBuf,
    pub(super) chosen: Chosen,
    has_fused: bool,
    /// The graph that runs here.
    graph: &'static str,
    bytes: u64,
    pub(super) graph_bytes: u64,
}

impl Job<'_> {
    /// All steps that make a checkpoint of a checkpoint; those that an earlier run has finished are opened. None if there are none.
    fn changes(
        &self,
        reports: &mut Vec<StepReport>,
        reporter: &mut Console,
    ) -> Result<(Option<Checkpoint>, String)> {
        let mut key = self.source.clone();
        let mut last: Option<Checkpoint> = None;
        for step in &self.recipe.steps {
            let texts = self.texts_of(step);
            key = compress::key(&key, step, &texts);
            if matches!(step, CompressStep::Quantize(_)) {
                break;
            }
            let place = self.work.place("step", &key);
            if let Some(noted) = self.work.noted::<StepReport>("step", &key) {
                let text = format!("{}: done by an earlier run", step.word());
                reporter.event(Event::Note { text: &text });
                last = Some(Checkpoint::open(&place)?);
                reports.push(StepReport {
                    is_resumed: true,
                    ..noted
                });
                continue;
            }
            let input = last.as_ref().unwrap_or(&self.original);
            self.work.require_room(source::weight_bytes(input))?;
            let begun = Instant::now();
            let scratch = self.work.scratch();
            let kept = self.work.place("kept", &key);
            let tools = self.tools(&scratch, &kept);
            let (made, detail) = compress::change(
                step,
                input,
                &tools,
                &place,
                &mut watch(reporter, step.word()),
            )
            .with_context(|| step.word().to_owned())?;
            let report = StepReport {
                step: step.word().to_owned(),
                parameters: compress::parameters(&made),
                seconds: begun.elapsed().as_secs_f64(),
                is_resumed: false,
                detail,
            };
            self.work.finished("step", &key, &report)?;
            self.tell(&report)?;
            reports.push(report);
            last = Some(made);
        }
        Ok((last, key))
    }

    /// Writes the model folder. Without a step that quantizes, in 32-bit floats.
    fn quantize(
        &self,
        input: &Checkpoint,
        key: &str,
        reports: &mut Vec<StepReport>,
        reporter: &mut Console,
    ) -> Result<Made> {
        let floats = QuantizeStep {
            weights: Bits::Fp32,
            ..QuantizeStep::default()
        };
        let step = self.recipe.quantize().unwrap_or(&floats);
        let begun = Instant::now();
        let scratch = self.work.scratch();
        let kept = self.work.place("kept", key);
        let tools = self.tools(&scratch, &kept);
        let mut seen = watch(reporter, "quantize");
        let chosen = Chosen::new(step, input, &tools, &mut seen).context("quantize")?;
        drop(seen);
        let made = self.folder((step, chosen), input, key, reporter)?;
        if self.recipe.quantize().is_some() {
            let report = StepReport {
                step: "quantize".into(),
                parameters: compress::parameters(input),
                seconds: begun.elapsed().as_secs_f64(),
                is_resumed: false,
                detail: made.chosen.detail().clone(),
            };
            self.tell(&report)?;
            reports.push(report);
        }
        Ok(made)
    }

    /// Writes the folder of what was chosen, in the work folder.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn folder(
        &self,
        (step, chosen): (&QuantizeStep, Chosen),
        input: &Checkpoint,
        key: &str,
        reporter: &mut Console,
    ) -> Result<Made> {
        let dir = self.work.place("result", key);
        let name = self.args.out.as_deref().and_then(Path::file_name);
        let about = Provenance {
            name: name.map_or_else(
                || self.given.name(),
                |name| name.to_string_lossy().into_owned(),
            ),
            license: self.original.about().license.clone(),
            sources: source::sources(&self.given, &self.original),
        };
        self.work.require_room(source::weight_bytes(input))?;
        let mut seen = watch(reporter, "quantize");
        let summary = compress::folder((&chosen, step), input, &about, &dir, &mut seen)
            .context("quantize")?;
        drop(seen);
        let has_fused = summary.files.contains_key("fused.onnx");
        let graph = match has_fused && !chosen.is_dynamic() {
            true => "fused.onnx",
            false => "model.onnx",
        };
        let files = summary.files.iter();
        let graph_bytes = files
            .filter(|(name, _)| name.starts_with(graph))
            .map(|(_, file)| file.bytes)
            .sum();
        Ok(Made {
            dir,
            has_fused,
            graph,
            bytes: summary.bytes,
            graph_bytes,
            chosen,
        })
    }

    /// What it cost, on text that no step has read.
    pub(super) fn judge(
        &self,
        made: &Made,
        last: &Checkpoint,
        reporter: &mut Console,
    ) -> Result<Evaluation> {
        // The portable graph gives scores of one position a run: there the same operators are walked through instead.
        let candidate = match made.has_fused && !made.chosen.is_dynamic() {
            true => Candidate::Folder(&made.dir, GraphChoice::Fused),
            false => Candidate::Stored(made.chosen.checkpoint(last), made.chosen.coding()),
        };
        self.judge_candidate(&candidate, reporter)
    }

    /// What the codes alone cost: the same with activations in 32-bit floats.
    fn judge_codes(
        &self,
        made: &Made,
        last: &Checkpoint,
        reporter: &mut Console,
    ) -> Result<Evaluation> {
        let coding = FloatActivations(made.chosen.coding());
        let candidate = Candidate::Stored(made.chosen.checkpoint(last), &coding);
        self.judge_candidate(&candidate, reporter)
    }

    fn judge_candidate(
        &self,
        candidate: &Candidate<'_>,
        reporter: &mut Console,
    ) -> Result<Evaluation> {
        let (work, source, runtime) = (&self.work, &self.source, &self.runtime);
        let mut reference = record(
            (work, self.args.records.as_deref()),
            source,
            &self.original,
            &self.test,
            runtime,
            reporter,
        )?;
        let scratch = work.scratch();
        judge(
            &mut reference,
            candidate,
            &self.test,
            (runtime, &scratch),
            reporter,
        )
    }

    fn measure(&self, made: &Made, begun: Instant, reporter: &mut Console) -> Result<Measured> {
        reporter.event(Event::Note { text: "measuring" });
        ModelFolder::open(&made.dir)?;
        let threads = threads(self.args.threads);
        let is_portable = !made.has_fused || made.chosen.is_dynamic();
        let found = measure::in_child(&made.dir, threads, is_portable)?;
        let mut steps = self.recipe.steps.iter();
        let has_mask =
            steps.any(|step| matches!(step, CompressStep::Prune(step) if step.is_mask()));
        let zipped_bytes = has_mask.then(|| zipped_bytes(&made.dir, made.graph));
        Ok(Measured {
            bytes: made.bytes,
            graph_bytes: made.graph_bytes,
            zipped_bytes: zipped_bytes.transpose()?,
            resident_bytes: Some(found.resident_bytes),
            kv_bytes_per_token: Some(found.kv_bytes_per_token),
            prefill: Some(found.prefill),
            decode: Some(found.decode),
            threads,
            seconds: begun.elapsed().as_secs_f64(),
            peak_bytes: peak_bytes(),
            beside: None,
        })
    }

    fn report(
        &self,
        steps: Vec<StepReport>,
        evaluation: Evaluation,
        measured: Measured,
    ) -> CompressReport {
        let most = self.recipe.evaluate.max_perplexity_increase;
        let is_close = most.is_none_or(|most| evaluation.perplexity_increase <= most);
        let budget = self.recipe.quantize().and_then(|step| step.budget_bytes);
        let is_small = budget.is_none_or(|budget| measured.graph_bytes <= budget);
        CompressReport {
            format: REPORT_FORMAT.into(),
            source: SourceReport {
                name: self.given.name(),
                sha256: self.source.clone(),
                parameters: compress::parameters(&self.original),
            },
            recipe: self.recipe.clone(),
            texts: self
                .texts
                .iter()
                .cloned()
                .chain(steps.iter().filter_map(written))
                .collect(),
            pictures: Vec::new(),
            steps,
            evaluation: Some(evaluation),
            codes: None,
            agreement: None,
            measured,
            is_within_budget: is_close && is_small,
        }
    }

    pub(super) fn tools<'t>(&'t self, scratch: &'t Path, kept: &'t Path) -> Tools<'t> {
        Tools {
            runtime: &self.runtime,
            original: &self.original,
            scratch,
            kept,
            calibration: &self.calibration,
            train: &self.train,
            seed: self.recipe.seed,
        }
    }

    /// sha256 and amount of the texts that a step reads: with others it is another step.
    fn texts_of(&self, step: &CompressStep) -> Vec<String> {
        let reads = |purpose: &str| match step {
            CompressStep::Distil(step) => step.generated.is_none() && purpose == Part::Train.name(),
            step => step.reads_calibration() && purpose == Part::Calibration.name(),
        };
        let texts = self.texts.iter().filter(|text| reads(&text.purpose));
        let mut named: Vec<String> = texts
            .map(|text| format!("{} {}", text.sha256, text.tokens))
            .collect();
        // The order of training, and what the original writes, depend on it too.
        if matches!(step, CompressStep::Distil(_)) {
            named.push(format!("seed {}", self.recipe.seed));
        }
        named
    }

    pub(super) fn tell(&self, report: &StepReport) -> Result<()> {
        match self.args.json {
            true => output::line(&serde_json::to_string(report)?),
            false => Ok(()),
        }
    }
}

/// The text that the original wrote for a step, as a text that was read.
fn written(step: &StepReport) -> Option<TextReport> {
    let about = step.detail.get("generated")?;
    let number = |field: &str| usize::try_from(about[field].as_u64()?).ok();
    Some(TextReport {
        purpose: Part::Train.name().to_owned(),
        from: "written by the original".to_owned(),
        sha256: about["sha256"].as_str()?.to_owned(),
        articles: number("texts")?,
        tokens: number("tokens")?,
    })
}
