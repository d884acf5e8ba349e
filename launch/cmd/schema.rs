//! `llmasos schema`: the JSON Schema of launch descriptors, for editors.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::descriptor::schema::schema;

/// Arguments of `llmasos schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llmasos schema > llmasos-launch.schema.json

An editor with a YAML language server takes it from the first line of a descriptor:
  # yaml-language-server: $schema=./llmasos-launch.schema.json")]
pub struct Args {
    /// Print it on one line
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When nothing can be printed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", schema())?
    } else {
        writeln!(out, "{:#}", schema())?
    }
    Ok(ExitCode::SUCCESS)
}
