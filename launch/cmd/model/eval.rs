//! `llmasos model eval`: how well a language model predicts a text, and how far its predictions are from another model's.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use llmasos_engine::{Runtime, text::GraphChoice};
use llmasos_forge::{
    Checkpoint, ForgeError,
    compress::report::CompressReport,
    corpus::{Corpus, Part, TextNeed},
    evaluate::{self, Evaluation, Live, Loaded, evaluate, perplexity},
};
use serde_json::{Value, json};

use super::is_folder;
use crate::cmd::compress::{
    Candidate, Given, TextFlags, TextPaths, Texts, Work, evaluation, judge, load, record, runtime,
    tokenizer,
};
use crate::cmd::{output, progress::watch};
use crate::models::{Cancel, Console, FetchPolicy, Models, Reporter, Role};

/// What stands below the help.
pub(super) const EXAMPLES: &str = "Examples:
  llmasos model eval smollm2 --self
  llmasos model eval models/small --reference smollm2 --json
  llmasos model eval models/small --text book.txt

Without a reference only perplexity is told. The text is the test part of the catalogue's wikipedia-sample, or all of --text.";

/// Largest manifest read.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Most sequences.
const SEQUENCES_MAX: usize = 4096;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A name of the catalogue, or a model folder
    #[arg(value_name = "NAME|DIR")]
    model: String,
    /// The original: a name of the catalogue, a .gguf file, a Hugging Face folder or a checkpoint, taken in 32-bit floats; or a model folder
    #[arg(long, value_name = "MODEL")]
    reference: Option<String>,
    /// The original is what the model was made of, in 32-bit floats
    #[arg(long = "self", conflicts_with = "reference")]
    own: bool,
    /// Text files, a folder of them or a MediaWiki dump
    #[arg(long, value_name = "PATH")]
    text: Option<PathBuf>,
    /// Judge a model on text that it was made with
    #[arg(long)]
    same_data: bool,
    /// Sequences
    #[arg(long, value_name = "N", default_value_t = 8)]
    sequences: usize,
    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = evaluate::LENGTH)]
    length: usize,
    /// Which of the folder's graphs runs
    #[arg(long, value_enum, default_value = "best")]
    graph: Graph,
    /// Threads; all processors by default
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Graph {
    /// The fused one if there is one
    Best,
    /// The one of our own operators
    Fused,
    /// The one of ONNX Runtime's operators: a token at a time
    Portable,
}

/// Runs the verb.
///
/// # Errors
/// A model or text that cannot be had, read or compared.
pub(super) fn run(
    models: &mut Models,
    args: &Args,
    is_json: bool,
    cancel: Cancel,
) -> Result<ExitCode> {
    let mut reporter = Console::new(cancel);
    ensure!(
        (1..=SEQUENCES_MAX).contains(&args.sequences),
        "--sequences: expected 1..={SEQUENCES_MAX}, found {}",
        args.sequences
    );
    let dir = folder(models, &args.model, &mut reporter)?;
    let report = report(&dir)?;
    let runtime = runtime(args.threads)?;
    let mut candidate = load(&dir, args.graph(), args.length, &runtime)
        .with_context(|| format!("{} cannot be judged", args.model))?;
    let sequences = sequences(models, args, report.as_ref(), &candidate, &mut reporter)?;
    let (found, name) = match args.reference()? {
        None => {
            let mut watch = watch(&mut reporter, &args.model);
            let found = perplexity(&mut candidate, &sequences, &mut watch)?;
            return alone(args, found, sequences.len(), is_json);
        }
        Some(name) if Path::new(&name).join("llmasos.json").is_file() => {
            let mut reference = load(Path::new(&name), GraphChoice::Best, args.length, &runtime)?;
            let found = {
                let mut watch = watch(&mut reporter, &name);
                let mut live = Live(&mut reference);
                evaluate(&mut live, &mut candidate, &sequences, &mut watch)?
            };
            (found, name)
        }
        Some(name) => {
            drop(candidate);
            let beside = beside_floats(
                models,
                args,
                &name,
                (&dir, &sequences, &runtime),
                &mut reporter,
            );
            (beside?, name)
        }
    };
    drop(reporter);
    tell(args, &name, &found, is_json)?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn graph(&self) -> GraphChoice {
        match self.graph {
            Graph::Best => GraphChoice::Best,
            Graph::Fused => GraphChoice::Fused,
            Graph::Portable => GraphChoice::Portable,
        }
    }

    /// What to compare with.
    fn reference(&self) -> Result<Option<String>> {
        match (&self.reference, self.own) {
            (Some(name), _) => Ok(Some(name.clone())),
            (None, false) => Ok(None),
            (None, true) if !is_folder(&self.model) => Ok(Some(self.model.clone())),
            (None, true) => bail!(
                "--self needs a name of the catalogue: where the weights of {} came from is not on this computer. Next: --reference MODEL.",
                self.model
            ),
        }
    }
}

/// The folder of a name or path.
fn folder(models: &mut Models, word: &str, reporter: &mut dyn Reporter) -> Result<PathBuf> {
    if is_folder(word) {
        return Ok(PathBuf::from(word));
    }
    let role = models.catalogue().get(word)?.role;
    ensure!(
        role == Role::Language,
        "{word} is for {}, and only language models are judged here. Next: `llmasos model list` shows what each is for.",
        role.name()
    );
    Ok(models.ensure(word, FetchPolicy::Auto, reporter)?)
}

/// How the model was compressed, if it was.
fn report(dir: &Path) -> Result<Option<CompressReport>> {
    let path = dir.join("llmasos.json");
    let reading = || format!("reading {}", path.display());
    let size = std::fs::metadata(&path).with_context(reading)?.len();
    ensure!(
        size <= MANIFEST_BYTES_MAX,
        "{}: expected at most {MANIFEST_BYTES_MAX} bytes, found {size}",
        path.display()
    );
    let manifest: Value = serde_json::from_slice(&std::fs::read(&path).with_context(reading)?)
        .with_context(reading)?;
    match manifest.get("report") {
        None => Ok(None),
        Some(report) => CompressReport::parse(report)
            .map(Some)
            .map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display())),
    }
}

/// The sequences that the model is judged on, in its own tokens.
fn sequences(
    models: &mut Models,
    args: &Args,
    report: Option<&CompressReport>,
    candidate: &Loaded,
    reporter: &mut dyn Reporter,
) -> Result<Vec<Vec<u32>>> {
    // The division that the model was made with: with another seed the test text would be another part of the sample.
    let seed = report.map_or(1, |report| report.recipe.seed);
    let paths = TextPaths {
        test: args.text.clone(),
        ..TextPaths::default()
    };
    let mut texts = Texts::new(models, &TextFlags::default(), paths, seed);
    let (corpus, _) = texts.corpus(Part::Test, reporter)?;
    if let Some(report) = report
        && !args.same_data
    {
        refuse_its_own(&mut texts, report, &corpus, reporter)?;
    }
    let begin = candidate.model.begin();
    let need = TextNeed {
        purpose: "test".to_owned(),
        sequences: args.sequences,
        at_least: args.sequences,
        length: args.length,
        seed,
    };
    let mut tokenize = |text: &str| Ok::<_, ForgeError>(candidate.model.tokenize(text)?);
    let mut watch = watch(reporter, "test text");
    let found = corpus.sequences(&need, begin, &mut tokenize, &mut watch)?;
    Ok(found.tokens)
}

/// Refuses text that the model was made with: the same collection, or an article of the sample's parts that it read.
fn refuse_its_own(
    texts: &mut Texts<'_>,
    report: &CompressReport,
    corpus: &Corpus,
    reporter: &mut dyn Reporter,
) -> Result<()> {
    for part in [Part::Calibration, Part::Train] {
        let read = report
            .texts
            .iter()
            .filter(|text| text.purpose == part.name());
        for text in read {
            if text.sha256 == corpus.sha256() {
                bail!(
                    "the model was made with this very text ({}, {}). Next: give another one, or --same-data if that is what you want.",
                    text.from,
                    text.purpose
                );
            }
            if text.from == crate::cmd::compress::SAMPLE {
                let (theirs, _) = texts.corpus(part, reporter)?;
                theirs.expect_apart(corpus, part.name(), "test")?;
            }
        }
    }
    Ok(())
}

/// Beside the original in 32-bit floats, which is walked through in a folder that goes away again.
fn beside_floats(
    models: &mut Models,
    args: &Args,
    name: &str,
    (dir, sequences, runtime): (&Path, &[Vec<u32>], &Runtime),
    reporter: &mut dyn Reporter,
) -> Result<Evaluation> {
    let given = Given::read(models, name)?;
    let place = models
        .store()
        .root()
        .join("scratch")
        .join(format!("eval-{}", std::process::id()));
    let work = Work::open(&place)?;
    let outcome = (|| {
        work.require_room(given.checkpoint_bytes())?;
        let scratch = work.scratch();
        let at = work.place("source", "original");
        let original = given.checkpoint(models, None, (&at, &scratch), reporter)?;
        expect_same_words(&original, dir)?;
        let mut reference = record((&work, None), name, &original, sequences, runtime, reporter)?;
        let candidate = Candidate::Folder(dir, args.graph());
        judge(
            &mut reference,
            &candidate,
            sequences,
            (runtime, &scratch),
            reporter,
        )
    })();
    work.discard();
    outcome
}

/// Both must divide texts alike, or positions mean nothing.
fn expect_same_words(original: &Checkpoint, dir: &Path) -> Result<()> {
    const PROBE: &str = "The quick brown fox, 12 dogs — and naïve ideas.\n\nNext line.";
    let (ours, _) = tokenizer(original)?;
    let path = dir.join("tokenizer.json");
    let json = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let theirs = llmasos_engine::text::Tokenizer::new("candidate", &json, original.spec().vocab)?;
    let (ours, theirs) = (ours.encode_prompt(PROBE)?, theirs.encode_prompt(PROBE)?);
    let is_same = ours.ends_with(&theirs) || theirs.ends_with(&ours);
    ensure!(
        is_same,
        "the two models divide text differently: only models with the same tokenizer can be compared"
    );
    Ok(())
}

fn alone(args: &Args, found: f64, sequences: usize, is_json: bool) -> Result<ExitCode> {
    if is_json {
        let object = json!({ "model": args.model, "perplexity": found, "sequences": sequences, "length": args.length });
        output::line(&object.to_string())?;
    } else {
        output::line(&format!(
            "perplexity      {found:.2}   ({sequences} sequences of {} tokens; --self or --reference MODEL tells what it lost)",
            args.length
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(args: &Args, reference: &str, found: &Evaluation, is_json: bool) -> Result<()> {
    if is_json {
        let mut object = serde_json::to_value(found)?;
        object["model"] = json!(args.model);
        object["reference"] = json!(reference);
        return output::line(&object.to_string());
    }
    evaluation(found)
        .iter()
        .try_for_each(|line| output::line(line))
}
