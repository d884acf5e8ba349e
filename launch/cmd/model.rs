//! `llmasos model`: what the catalogue has, what is in the cache, and getting one into the other.
//!
//! Results go to standard output, one object a line with `--json`; progress goes to standard error. Ctrl-C during `pull` ends at the next
//! chunk and leaves a part that the next `pull` continues.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::model_import;
use crate::models::{
    Cancel, Console, Distribution, Entry, FetchPolicy, ModelError, Models, Reporter, Silent,
    Source, State, size_words, verify_folder,
};

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
    Pull(PullArgs),
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
    #[command(after_help = model_import::EXAMPLES)]
    Import(model_import::Args),
}

#[derive(Debug, clap::Args)]
struct PullArgs {
    /// Models
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<String>,
    /// Every model of the catalogue
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Use no network: only what is downloaded or was placed by hand
    #[arg(long)]
    offline: bool,
    /// Build again what is ready, from the files already downloaded
    #[arg(long)]
    rebuild: bool,
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
        Verb::List | Verb::Import(_) => Vec::new(),
        Verb::Pull(pull) => pull.names.iter().collect(),
        Verb::Verify { names } => names.iter().filter(|name| !is_folder(name)).collect(),
        Verb::Info { name } => vec![name],
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
        Verb::List => list(models, args.json),
        Verb::Pull(pull) => fetch_all(models, pull, args.json, cancel),
        Verb::Verify { names } => verify(models, names, args.json, cancel),
        Verb::Info { name } => info(models, name, args.json),
        Verb::Import(import) => model_import::run(import, args.json, cancel),
    }
}

/// Whether an argument is a path and not a name: names have no `/`.
fn is_folder(argument: &str) -> bool {
    argument.contains('/') || Path::new(argument).join("llmasos.json").is_file()
}

fn list(models: &Models, is_json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if !is_json {
        writeln!(
            out,
            "{:<24} {:<20} {:>10} {:>10}  {:<8} LICENCE",
            "NAME", "ROLE", "DOWNLOAD", "ON DISK", "STATE"
        )?;
    }
    for entry in models.catalogue().entries() {
        let state = models.store().state(entry);
        let download_bytes: u64 = entry
            .distributions()
            .map(|distribution| distribution.pin.bytes)
            .sum();
        if is_json {
            writeln!(out, "{}", summary(models, entry, &state))?;
            continue;
        }
        let on_disk = if let State::Ready { bytes } = state {
            bytes
        } else {
            entry.bytes_on_disk
        };
        let (download, on_disk) = (size_words(download_bytes), size_words(on_disk));
        writeln!(
            out,
            "{:<24} {:<20} {download:>10} {on_disk:>10}  {:<8} {}",
            entry.name,
            entry.role.name(),
            state.word(),
            entry.license
        )?;
    }
    if !is_json {
        writeln!(out, "cache: {}", models.store().root().display())?;
        let leftovers = models.store().leftovers(models.catalogue());
        if !leftovers.is_empty() {
            let bytes = leftovers.iter().map(|(_, bytes)| bytes).sum();
            writeln!(
                out,
                "{} folders of older recipes ({}) may be removed, e.g. {}",
                leftovers.len(),
                size_words(bytes),
                leftovers[0].0.display()
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
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

fn fetch_all(
    models: &mut Models,
    pull: &PullArgs,
    is_json: bool,
    cancel: Cancel,
) -> anyhow::Result<ExitCode> {
    let names: Vec<String> = if pull.all {
        all_names(models)
    } else {
        pull.names.clone()
    };
    let policy = if pull.offline {
        FetchPolicy::Never
    } else {
        FetchPolicy::Auto
    };
    let mut reporter = Console::new(cancel);
    if let Some(line) = models.plan(&names)?.announcement() {
        writeln!(std::io::stderr(), "{line}")?;
    }
    let mut is_complete = true;
    for name in &names {
        let was_ready = matches!(
            models.store().state(models.catalogue().get(name)?),
            State::Ready { .. }
        );
        let result = if pull.rebuild {
            models.rebuild(name, policy, &mut reporter)
        } else {
            models.ensure(name, policy, &mut reporter)
        };
        let mut out = std::io::stdout().lock();
        match result {
            Ok(dir) if is_json => writeln!(
                out,
                "{}",
                json!({"name": name, "state": "ready", "dir": dir, "is_new": !was_ready || pull.rebuild})
            )?,
            Ok(dir) => writeln!(out, "{name} {}", dir.display())?,
            Err(error) => {
                is_complete = false;
                if is_json {
                    writeln!(out, "{}", json!({"name": name, "error": error.to_string()}))?;
                }
                writeln!(std::io::stderr(), "error: {error}")?;
                // A full disk or Ctrl-C concerns all that follow; other errors only this one.
                if matches!(
                    error,
                    ModelError::Cancelled | ModelError::NoRoom { .. } | ModelError::DiskFull { .. }
                ) {
                    break;
                }
            }
        }
    }
    Ok(if is_complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn all_names(models: &Models) -> Vec<String> {
    models
        .catalogue()
        .entries()
        .iter()
        .map(|entry| entry.name.clone())
        .collect()
}

fn verify(
    models: &Models,
    names: &[String],
    is_json: bool,
    cancel: Cancel,
) -> anyhow::Result<ExitCode> {
    let mut reporter = Silent { cancel };
    let is_named = !names.is_empty();
    let names = if is_named {
        names.to_vec()
    } else {
        all_names(models)
    };
    let mut is_good = true;
    for name in &names {
        let result = if is_named && is_folder(name) {
            verify_folder(Path::new(name), &mut reporter)
        } else {
            let entry = models.catalogue().get(name)?;
            let state = models.store().state(entry);
            if !is_named && matches!(state, State::Absent | State::Partial { .. }) {
                continue;
            }
            models.store().verify(entry, &mut reporter)
        };
        is_good &= result.is_ok();
        let mut out = std::io::stdout().lock();
        match result {
            Err(ModelError::Cancelled) => return Err(ModelError::Cancelled.into()),
            Ok(bytes) if is_json => writeln!(
                out,
                "{}",
                json!({"name": name, "is_good": true, "bytes": bytes})
            )?,
            Ok(bytes) => writeln!(out, "{name}: every byte as written ({})", size_words(bytes))?,
            Err(error) if is_json => writeln!(
                out,
                "{}",
                json!({"name": name, "is_good": false, "problem": error.to_string()})
            )?,
            Err(error) => writeln!(out, "{error}")?,
        }
        if reporter.is_cancelled() {
            return Err(ModelError::Cancelled.into());
        }
    }
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn info(models: &Models, name: &str, is_json: bool) -> anyhow::Result<ExitCode> {
    let entry = models.catalogue().get(name)?;
    let state = models.store().state(entry);
    let manifest = match state {
        State::Ready { .. } => models.store().manifest(entry)?,
        State::Absent | State::Partial { .. } | State::Damaged { .. } => Value::Null,
    };
    let mut out = std::io::stdout().lock();
    if is_json {
        let mut object = summary(models, entry, &state);
        object["license_note"] = json!(entry.license_note);
        object["sources"] = entry
            .sources
            .iter()
            .map(|source| source_json(models, source))
            .collect();
        object["recipe"] = serde_json::to_value(&entry.recipe)?;
        object["manifest"] = manifest;
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{name}: {}", entry.about)?;
    writeln!(
        out,
        "  role     {} (family {})",
        entry.role.name(),
        entry.family
    )?;
    writeln!(
        out,
        "  licence  {}{}",
        entry.license,
        entry
            .license_note
            .as_ref()
            .map_or_else(String::new, |note| format!(" ({note})"))
    )?;
    writeln!(out, "  state    {}", state_words(&state))?;
    writeln!(out, "  folder   {}", models.store().folder(entry).display())?;
    writeln!(out, "  recipe   {}", serde_json::to_string(&entry.recipe)?)?;
    for source in &entry.sources {
        write_source(&mut out, models, source)?;
    }
    for (file, pin) in manifest["files"].as_object().into_iter().flatten() {
        let (bytes, sha256) = (
            pin["bytes"].as_u64().unwrap_or(0),
            pin["sha256"].as_str().unwrap_or_default(),
        );
        writeln!(out, "  file     {file} {bytes} bytes, sha256 {sha256}")?;
    }
    if let Some(config) = manifest.get("config") {
        writeln!(out, "  config   {config}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn state_words(state: &State) -> String {
    match state {
        State::Ready { bytes } => format!("ready, {}", size_words(*bytes)),
        State::Absent => "absent".into(),
        State::Partial { done, total } => format!(
            "partial, {} of {} downloaded",
            size_words(*done),
            size_words(*total)
        ),
        State::Damaged { problem } => format!("damaged: {problem}"),
    }
}

fn source_json(models: &Models, source: &Source) -> Value {
    let files: Vec<Value> =
        source.leaves().iter().map(|leaf| json!({"path": leaf.path, "as": leaf.name, "bytes": leaf.pin.bytes, "sha256": leaf.pin.sha256})).collect();
    let fetched = |distribution: &Distribution| {
        json!({
            "registry": "pypi", "package": distribution.package, "version": distribution.version, "file": distribution.file,
            "bytes": distribution.pin.bytes, "sha256": distribution.pin.sha256, "download": models.store().download(distribution),
        })
    };
    match source {
        Source::Registry(distribution) => {
            let mut object = fetched(distribution);
            object["members"] = json!(files);
            object
        }
        Source::Joined { parts, .. } => {
            json!({"parts": parts.iter().map(fetched).collect::<Vec<_>>(), "members": files})
        }
        Source::Local { path, .. } => json!({"path": path, "members": files}),
    }
}

fn write_source(out: &mut impl Write, models: &Models, source: &Source) -> std::io::Result<()> {
    for distribution in source.distributions() {
        let pin = &distribution.pin;
        writeln!(
            out,
            "  source   {} {} ({} bytes, sha256 {})",
            distribution.package, distribution.version, pin.bytes, pin.sha256
        )?;
        writeln!(
            out,
            "           by hand: {}",
            models.store().download(distribution).display()
        )?;
    }
    match source {
        Source::Registry(_) => {}
        Source::Joined { .. } => writeln!(out, "           joined to:")?,
        Source::Local { path, .. } => writeln!(out, "  source   {}", path.display())?,
    }
    for leaf in source.leaves() {
        writeln!(
            out,
            "           {} ({} bytes, sha256 {})",
            leaf.path, leaf.pin.bytes, leaf.pin.sha256
        )?;
    }
    Ok(())
}
