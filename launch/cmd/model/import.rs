//! `llmasos model import`: a model that somebody has on the disk, without a catalogue.
//!
//! A `.gguf` file or a Hugging Face folder becomes a model folder beside it, whole or not at all. Nothing is guessed about what may
//! be done with the weights: a licence is written down only if the user states one. The folder is checked like a pulled one
//! (`llmasos model verify FOLDER`).
//!
//! ```text
//! PATH ─ file.gguf | folder with config.json ─► forge::import ─► DIR/NAME/ llmasos.json, model.onnx, fused.onnx, tokenizer.json …
//! ```

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use llmasos_forge::{ForgeError, ImportOptions, ModelFolderSummary, WeightFormat, import};
use serde_json::json;

use crate::bench::model::peak_bytes;
use crate::models::{Cancel, Console, Event, Reporter, size_words};

/// Longest name of a model, as in the catalogue.
const MAX_NAME_CHARS: usize = 128;

/// What stands below the help.
pub(super) const EXAMPLES: &str = "Examples:
  llmasos model import SmolLM2-135M-Instruct.Q4_K_M.gguf --license Apache-2.0
  llmasos model import ./Qwen3-0.6B -o models --name qwen3 --weights int8
  llmasos model verify models/qwen3

A folder appears whole or not at all; one that is there already is never replaced.";

/// Arguments of `llmasos model import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A .gguf file, or a folder with config.json, tokenizer.json and *.safetensors
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Where to put the new folder
    #[arg(short, long = "out", value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Name of the model and of its folder [default: after PATH]
    #[arg(long)]
    name: Option<String>,
    /// How the matrices of the layers are stored
    #[arg(long, value_enum, default_value_t = Format::Int4)]
    weights: Format,
    /// How the embedding and the output head are stored
    #[arg(long, value_enum, default_value_t = Format::Int8)]
    head: Format,
    /// Licence of the weights, to be written into llmasos.json
    #[arg(long, value_name = "TEXT")]
    license: Option<String>,
}

/// The forge's formats as words of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// 4 bits and a zero point per block of 32: smallest
    Int4,
    /// 4 bits per block of 32, as llama.cpp's Q4_0
    Int4Symmetric,
    /// 4 bits and a minimum per block of 32: a tenth larger, keeps a GGUF file's Q4_1 without loss
    Int4Minima,
    /// 8 bits per block of 32
    Int8,
    /// 32-bit floats: the reference
    Fp32,
}

impl From<Format> for WeightFormat {
    fn from(format: Format) -> WeightFormat {
        match format {
            Format::Int4 => WeightFormat::Int4,
            Format::Int4Symmetric => WeightFormat::Int4Symmetric,
            Format::Int4Minima => WeightFormat::Int4Minima,
            Format::Int8 => WeightFormat::Int8,
            Format::Fp32 => WeightFormat::Fp32,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// What the path, the folder or the files have wrong, with the next step.
pub(super) fn run(args: &Args, is_json: bool, cancel: Cancel) -> anyhow::Result<ExitCode> {
    check_source(&args.path)?;
    let name = match &args.name {
        Some(name) => checked_name(name)?.to_owned(),
        None => name_after(&args.path)?,
    };
    let out = args.out.join(&name);
    if out.symlink_metadata().is_ok() {
        bail!(
            "{} is there already. Next: remove it, or choose another name with --name or another place with -o.",
            out.display()
        );
    }
    let options = ImportOptions {
        weights: args.weights.into(),
        head: args.head.into(),
        // With 32-bit floats everywhere a step with 8-bit activations would be no reference any more.
        accuracy_level: if args.weights == Format::Fp32 { 0 } else { 4 },
        license: args.license.clone(),
    };
    let mut reporter = Console::new(cancel);
    let summary = forge(&args.path, &options, &out, &name, &mut reporter)?;
    let mut stdout = std::io::stdout().lock();
    if is_json {
        writeln!(
            stdout,
            "{}",
            json!({"name": name, "state": "ready", "dir": summary.dir, "role": summary.role, "family": summary.family, "bytes_on_disk": summary.bytes, "peak_bytes": peak_bytes()})
        )?;
    } else {
        writeln!(
            stdout,
            "{name} {} ({})",
            summary.dir.display(),
            size_words(summary.bytes)
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn forge(
    path: &Path,
    options: &ImportOptions,
    out: &Path,
    name: &str,
    reporter: &mut Console,
) -> anyhow::Result<ModelFolderSummary> {
    let mut watch = |progress: llmasos_forge::Progress<'_>| {
        reporter.event(Event::Building {
            name,
            step: progress.step.word(),
            done: progress.done,
            total: progress.total,
        });
        if reporter.is_cancelled() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let result = import(path, options, out, &mut watch);
    if let Ok(summary) = &result {
        reporter.event(Event::Ready {
            name,
            dir: &summary.dir,
            is_new: true,
        });
    }
    result.map_err(|error| match error {
        ForgeError::Cancelled => anyhow!("stopped; {} was not made", out.display()),
        error @ ForgeError::Io { .. } => anyhow!(
            "{error}; {} was not made. Next: see that the files can be read and that there is room, and run the same command again.",
            out.display()
        ),
        error => anyhow!(
            "{} cannot be imported: {error}; nothing was written. Next: `llmasos model import --help` says what can.",
            path.display()
        ),
    })
}

/// Says at once what is not a model, instead of after minutes, and what would be one.
pub(crate) fn check_source(path: &Path) -> anyhow::Result<()> {
    let meta = std::fs::metadata(path).map_err(|error| {
        anyhow!(
            "{}: {error}. Next: give a .gguf file, or a folder with config.json.",
            path.display()
        )
    })?;
    if meta.is_file() {
        return Ok(());
    }
    for name in ["config.json", "tokenizer.json"] {
        if !path.join(name).is_file() {
            let gguf = std::fs::read_dir(path)
                .into_iter()
                .flatten()
                .flatten()
                .map(|item| item.path())
                .find(|item| item.extension().is_some_and(|end| end == "gguf"));
            match gguf {
                Some(file) => bail!(
                    "{} has no {name}. Next: import the file in it, `llmasos model import {}`.",
                    path.display(),
                    file.display()
                ),
                None => bail!(
                    "{} has no {name}. Next: give a .gguf file, or a folder with config.json, tokenizer.json and *.safetensors.",
                    path.display()
                ),
            }
        }
    }
    Ok(())
}

/// A name as the catalogue allows them, so that a launch file could name it.
fn checked_name(name: &str) -> anyhow::Result<&str> {
    let is_good = name.len() <= MAX_NAME_CHARS
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'));
    if is_good {
        return Ok(name);
    }
    bail!(
        "'{name}' is no name of a model: lower-case letters, digits, '-' and '.', at most {MAX_NAME_CHARS}, the first a letter or digit. \
         Next: choose one with --name."
    )
}

/// `Qwen2.5_0.5B.Q4_K_M.gguf` → `qwen2.5-0.5b.q4-k-m`.
fn name_after(path: &Path) -> anyhow::Result<String> {
    let full = path
        .canonicalize()
        .with_context(|| format!("reading {}", path.display()))?;
    let last = full
        .file_name()
        .map(|name| name.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    let stem = last.strip_suffix(".gguf").unwrap_or(&last);
    let name: String = stem
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(MAX_NAME_CHARS)
        .collect();
    checked_name(&name).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            (
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                Some("smollm2-135m-instruct.q4-1"),
            ),
            ("_Qwen 2", Some("qwen-2")),
            ("日本", None),
        ];
        for (file, expected) in cases {
            let path = folder.path().join(file);
            std::fs::write(&path, b"").unwrap();
            match (name_after(&path), expected) {
                (Ok(name), Some(expected)) => assert_eq!(name, expected),
                (Err(error), None) => assert!(error.to_string().contains("--name"), "{error}"),
                (found, expected) => panic!("{file}: expected {expected:?}, found {found:?}"),
            }
        }
        for bad in [
            "",
            "A",
            "a/b",
            "../a",
            "-a",
            &"a".repeat(MAX_NAME_CHARS + 1),
        ] {
            assert!(checked_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_model_is_said_before_any_work() {
        let folder = tempfile::tempdir().unwrap();
        let said = |path: &Path| format!("{:#}", check_source(path).unwrap_err());
        assert!(said(&folder.path().join("none")).contains("give a .gguf file"));
        assert!(said(folder.path()).contains("has no config.json. Next:"));
        std::fs::write(folder.path().join("m.gguf"), b"").unwrap();
        assert!(said(folder.path()).contains("m.gguf`"));
        std::fs::write(folder.path().join("config.json"), b"{}").unwrap();
        assert!(said(folder.path()).contains("has no tokenizer.json"));
    }
}
