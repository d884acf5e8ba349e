//! `llmasos check`: what is wrong with a descriptor, before anything starts.
//!
//! Findings go to standard output because they are the result; with `--json` one object a line and a summary at the end.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::descriptor::arguments::Overrides;
use crate::descriptor::check::{DEFAULT_TOKENS_PER_S, Facts, ModelFacts};
use crate::descriptor::findings::{Files, Findings, Severity};
use crate::descriptor::{self, Loaded};
use crate::models::{Catalogue, State, Store};

/// Exit code of a descriptor that may not be started, and of a wrong argument.
pub const EXIT_USAGE: u8 = 2;

/// What every verb that reads a descriptor takes.
#[derive(Clone, Debug, clap::Args)]
pub struct DescriptorArgs {
    /// The descriptor
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Arguments of the descriptor, name:=value, and __ns:=NAMESPACE
    #[arg(value_name = "NAME:=VALUE")]
    pub assignments: Vec<String>,
    /// Lay a profile of the descriptor over it; may be given several times, later ones win
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
}

impl DescriptorArgs {
    /// The words that lead another process to the same graph.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let profiles = self
            .profile
            .iter()
            .flat_map(|profile| ["--profile".to_owned(), profile.clone()]);
        std::iter::once(self.file.display().to_string())
            .chain(self.assignments.iter().cloned())
            .chain(profiles)
            .collect()
    }

    /// The assignments and profiles as the reader takes them.
    ///
    /// # Errors
    /// A message that shows the form when an assignment has none.
    pub fn overrides(&self) -> Result<Overrides, String> {
        Overrides::parse(&self.assignments, &self.profile)
    }
}

/// Arguments of `llmasos check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos check launch/demo.yaml
  llmasos check launch/demo.yaml vehicle:=ego2 --profile bench --json

Exit code 0 when the graph may be started, 2 when it may not.")]
pub struct Args {
    #[command(flatten)]
    descriptor: DescriptorArgs,
    /// Decode rate of the language model on this computer, for answer times
    #[arg(long, value_name = "TOKENS/S", default_value_t = DEFAULT_TOKENS_PER_S)]
    tokens_per_second: f64,
    /// Add the entries of this model catalogue; may be given several times, later ones win
    #[arg(long, value_name = "FILE")]
    catalogue: Vec<PathBuf>,
    /// Leave notes out
    #[arg(long, short)]
    quiet: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the model catalogue cannot be read, or nothing can be printed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let overrides = match args.descriptor.overrides() {
        Ok(overrides) => overrides,
        Err(message) => return usage(&message),
    };
    if !(args.tokens_per_second.is_finite() && args.tokens_per_second > 0.0) {
        return usage(&format!(
            "--tokens-per-second: expected more than 0, found {}",
            args.tokens_per_second
        ));
    }
    let facts = Facts {
        catalogue: Some(catalogue_facts(&args.catalogue)?),
        tokens_per_s: args.tokens_per_second,
        exists: &|path: &Path| path.exists(),
    };
    let mut out = io::stdout().lock();
    match descriptor::load(&args.descriptor.file, &overrides, &environment, &facts) {
        Ok(Loaded { graph, findings }) => {
            print(&mut out, &findings, &graph.files, args)?;
            if !args.json {
                let (nodes, topics) = (graph.nodes.len(), graph.topics.len());
                let gate = if graph.gate.is_some() {
                    " and a gate"
                } else {
                    ""
                };
                let file = args.descriptor.file.display();
                writeln!(
                    out,
                    "{file}: {} is good: {nodes} nodes{gate} on {topics} topics",
                    graph.name
                )?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(rejected) => {
            print(&mut out, &rejected.findings, &rejected.files, args)?;
            if !args.json {
                let errors = rejected.findings.count(Severity::Error);
                let plural = if errors == 1 { "" } else { "s" };
                writeln!(
                    out,
                    "{}: {errors} error{plural}",
                    args.descriptor.file.display()
                )?;
            }
            Ok(ExitCode::from(EXIT_USAGE))
        }
    }
}

/// The process's environment, for `${env.X}`.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What the catalogue and the cache know about models and data.
///
/// # Errors
/// When a catalogue file is wrong, or there is no folder for the cache.
pub fn catalogue_facts(files: &[PathBuf]) -> anyhow::Result<BTreeMap<String, ModelFacts>> {
    let (catalogue, store) = (Catalogue::load(files)?, Store::from_environment()?);
    let facts = catalogue.entries().iter().map(|entry| {
        let (present, bytes) = match store.state(entry) {
            State::Ready { bytes } => (true, bytes),
            State::Absent | State::Partial { .. } | State::Damaged { .. } => {
                (false, entry.bytes_on_disk)
            }
        };
        (
            entry.name.clone(),
            ModelFacts {
                role: entry.role.name().to_owned(),
                present,
                bytes,
            },
        )
    });
    Ok(facts.collect())
}

fn print(out: &mut impl Write, findings: &Findings, files: &Files, args: &Args) -> io::Result<()> {
    if args.json {
        for finding in findings.iter() {
            writeln!(out, "{}", finding.json(files))?;
        }
        let count = |severity| findings.count(severity);
        let (errors, warnings, notes) = (
            count(Severity::Error),
            count(Severity::Warning),
            count(Severity::Note),
        );
        return writeln!(
            out,
            "{}",
            json!({ "summary": { "errors": errors, "warnings": warnings, "notes": notes } })
        );
    }
    for finding in findings
        .iter()
        .filter(|f| !(args.quiet && f.severity == Severity::Note))
    {
        writeln!(out, "{}", finding.line(files))?;
    }
    Ok(())
}

/// Says what is wrong with the command line; exit code 2.
pub(crate) fn usage(message: &str) -> anyhow::Result<ExitCode> {
    writeln!(io::stderr(), "error: {message}")?;
    Ok(ExitCode::from(EXIT_USAGE))
}
