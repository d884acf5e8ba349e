//! `llmasos expand`: a descriptor as one flat file, with includes, profiles, arguments and conditions resolved.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Map, Value as Json};

use super::check::{DescriptorArgs, EXIT_USAGE, environment, usage};
use crate::descriptor::shape::Shape;
use crate::descriptor::tables::ROOT;
use crate::descriptor::yaml::{Node, Value};
use crate::descriptor::{self, emit};

static WHOLE: Shape = Shape::Fields(&ROOT);

/// Arguments of `llmasos expand`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: llmasos expand launch/demo.yaml summary:=false > flat.yaml

Paths become absolute, so the result means the same wherever it lies."
)]
pub struct Args {
    #[command(flatten)]
    descriptor: DescriptorArgs,
    /// Print JSON, on one line
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When nothing can be printed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let overrides = match args.descriptor.overrides() {
        Ok(overrides) => overrides,
        Err(message) => return usage(&message),
    };
    match descriptor::flatten(&args.descriptor.file, &overrides, &environment) {
        Ok(mut flat) => {
            emit::absolute_paths(&mut flat.root, &WHOLE, &flat.files);
            let mut out = io::stdout().lock();
            if args.json {
                writeln!(out, "{}", json(&flat.root))?;
            } else {
                out.write_all(emit::emit(&flat.root).as_bytes())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(rejected) => {
            writeln!(io::stderr(), "{rejected}")?;
            Ok(ExitCode::from(EXIT_USAGE))
        }
    }
}

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(i) => Json::from(*i),
        Value::Float(f) => Json::from(*f), // infinities become null; no key of the format takes one
        Value::Text(text) => Json::from(text.as_str()),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|e| (e.key.clone(), json(&e.node)))
            .collect::<Map<_, _>>()
            .into(),
    }
}
