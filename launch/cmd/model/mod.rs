//! `llmasos model`: what the catalogue has, what is in the cache, getting one into the other, and how fast it is. A file a verb.
//!
//! Results go to standard output, one object a line with `--json`; progress goes to standard error. Ctrl-C during `pull` ends at the next
//! chunk and leaves a part that the next `pull` continues.

mod bench;
mod eval;
mod import;
mod info;
mod list;
mod pull;
mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

pub(crate) use import::check_source;

use crate::models::{Cancel, Entry, ModelError, Models, State};

/// How long a running pull may take to stop by itself after Ctrl-C before the process ends anyway.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Exit code of a wrong name or a mistake in a catalogue.
const EXIT_USAGE: u8 = 2;

/// Arguments of `llmasos model`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos model list
  llmasos model pull smollm2 silero-vad
  llmasos model info smollm2 --json
  llmasos model verify
  llmasos model import ./Qwen3-0.6B --license Apache-2.0
  llmasos model bench smollm2 --against gguf
  llmasos model eval smollm2 --self

The cache is $LLMASOS_HOME, else $XDG_CACHE_HOME/llmasos, else ~/.cache/llmasos.")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// Print one JSON object a line
    #[arg(long, global = true)]
    json: bool,
    /// Add the entries of this catalogue file; may be given several times, later ones win
    #[arg(long, global = true, value_name = "FILE")]
    catalogue: Vec<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// All models: name, role, size, state, licence
    #[command(after_help = "Example: llmasos model list --json")]
    List,
    /// Fetch and build models; what is ready is left alone
    #[command(
        after_help = "Example: llmasos model pull --all\n\nAn interrupted pull goes on where it stopped."
    )]
    Pull(pull::PullArgs),
    /// Read every byte of cached models and compare with what was written
    #[command(
        after_help = "Examples:\n  llmasos model verify smollm2\n  llmasos model verify ./my-model\n\nExit code 1 if a model is damaged or missing."
    )]
    Verify {
        /// Models, or folders of models; without names, all that are in the cache
        #[arg(value_name = "NAME|DIR")]
        names: Vec<String>,
    },
    /// Everything about one model: licence, sources, files, where it lies
    #[command(after_help = "Example: llmasos model info smollm2")]
    Info {
        /// Model
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Make a model folder of a GGUF file or a Hugging Face folder
    #[command(after_help = import::EXAMPLES)]
    Import(import::Args),
    /// Measure a language model: speed, waiting, memory; beside llama.cpp with --against gguf
    #[command(after_help = bench::HELP)]
    Bench(bench::BenchArgs),
    /// Judge a language model: perplexity, and how far it is from another one
    #[command(after_help = eval::EXAMPLES)]
    Eval(eval::Args),
}

/// Runs the verb.
///
/// # Errors
/// What kept the verb from running at all; a model that cannot be had is printed and gives exit code 1.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut models = match Models::from_environment(&args.catalogue) {
        Ok(models) => models,
        Err(error @ ModelError::Catalogue { .. }) => return usage(&error),
        Err(error) => return Err(error.into()),
    };
    let names: Vec<&String> = match &args.verb {
        Verb::List | Verb::Import(_) | Verb::Eval(_) => Vec::new(),
        Verb::Pull(pull) => pull.names.iter().collect(),
        Verb::Verify { names } => names.iter().filter(|name| !is_folder(name)).collect(),
        Verb::Info { name } => vec![name],
        Verb::Bench(bench) if is_folder(&bench.name) => Vec::new(),
        Verb::Bench(bench) => vec![&bench.name],
    };
    if let Some(error) = names
        .into_iter()
        .find_map(|name| models.catalogue().get(name).err())
    {
        return usage(&error);
    }
    let cancel = Cancel::default();
    let raised = cancel.clone();
    // A thread of its own, because a blocking task of the async runtime would hold up the exit after Ctrl-C.
    let (done, mut result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("model".into())
        .spawn(move || {
            // Nobody listens any more when the process is already ending.
            let _ = done.send(act(&args, &mut models, raised));
        })
        .context("starting a thread")?;
    tokio::select! {
        outcome = &mut result => outcome.context("the worker ended without a result")?,
        signal = tokio::signal::ctrl_c() => {
            signal.context("listening for Ctrl-C")?;
            cancel.raise();
            match tokio::time::timeout(STOP_GRACE, result).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => Ok(ExitCode::FAILURE),
            }
        }
    }
}

fn usage(error: &ModelError) -> anyhow::Result<ExitCode> {
    writeln!(std::io::stderr(), "error: {error}")?;
    Ok(ExitCode::from(EXIT_USAGE))
}

/// A reader that has seen enough (`| head -1`) is not a failure.
fn act(args: &Args, models: &mut Models, cancel: Cancel) -> anyhow::Result<ExitCode> {
    act_by_verb(args, models, cancel).or_else(|error| {
        match error.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            _ => Err(error),
        }
    })
}

fn act_by_verb(args: &Args, models: &mut Models, cancel: Cancel) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::List => list::list(models, args.json),
        Verb::Pull(pull) => pull::fetch_all(models, pull, args.json, cancel),
        Verb::Verify { names } => verify::verify(models, names, args.json, cancel),
        Verb::Info { name } => info::info(models, name, args.json),
        Verb::Import(arguments) => import::run(arguments, args.json, cancel),
        Verb::Bench(bench) => bench::bench(models, bench, args, cancel),
        Verb::Eval(eval) => eval::run(models, eval, args.json, cancel),
    }
}

fn summary(models: &Models, entry: &Entry, state: &State) -> Value {
    let mut object = json!({
        "name": entry.name, "role": entry.role.name(), "family": entry.family, "about": entry.about, "license": entry.license,
        "state": state.word(), "download_bytes": entry.distributions().map(|d| d.pin.bytes).sum::<u64>(),
        "bytes_on_disk": entry.bytes_on_disk, "dir": models.store().folder(entry),
    });
    match state {
        State::Ready { bytes } => object["bytes_on_disk"] = json!(bytes),
        State::Partial { done, .. } => object["downloaded_bytes"] = json!(done),
        State::Damaged { problem } => object["problem"] = json!(problem),
        State::Absent => {}
    }
    object
}

fn all_names(models: &Models) -> Vec<String> {
    models
        .catalogue()
        .entries()
        .iter()
        .map(|entry| entry.name.clone())
        .collect()
}

/// Whether an argument is a path and not a name: names have no `/`.
fn is_folder(argument: &str) -> bool {
    argument.contains('/') || Path::new(argument).join("llmasos.json").is_file()
}
