//! `llmasos graph`: draws a descriptor's nodes and topics.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::check::{DescriptorArgs, EXIT_USAGE, environment, usage};
use crate::descriptor::check::{DEFAULT_TOKENS_PER_S, Facts};
use crate::descriptor::draw::{Form, draw, links};
use crate::descriptor::{self, Loaded};

/// Arguments of `llmasos graph`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos graph launch/demo.yaml
  llmasos graph launch/demo.yaml --dot | dot -Tsvg > demo.svg")]
pub struct Args {
    #[command(flatten)]
    descriptor: DescriptorArgs,
    /// Print Graphviz DOT
    #[arg(long, conflicts_with_all = ["mermaid", "json"])]
    dot: bool,
    /// Print a Mermaid flowchart
    #[arg(long, conflicts_with = "json")]
    mermaid: bool,
    /// Print one JSON object a topic and line
    #[arg(long)]
    json: bool,
}

/// Runs the verb. Models need not be there to draw their users.
///
/// # Errors
/// When nothing can be printed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let overrides = match args.descriptor.overrides() {
        Ok(overrides) => overrides,
        Err(message) => return usage(&message),
    };
    let facts = Facts {
        catalogue: None,
        tokens_per_s: DEFAULT_TOKENS_PER_S,
        exists: &|path: &Path| path.exists(),
    };
    match descriptor::load(&args.descriptor.file, &overrides, &environment, &facts) {
        Ok(Loaded { graph, .. }) => {
            let mut out = io::stdout().lock();
            if args.json {
                for link in links(&graph) {
                    writeln!(
                        out,
                        "{}",
                        json!({ "topic": link.topic, "type": link.type_name, "from": link.from, "to": link.to })
                    )?;
                }
            } else {
                let form = if args.dot {
                    Form::Dot
                } else if args.mermaid {
                    Form::Mermaid
                } else {
                    Form::Text
                };
                out.write_all(draw(&graph, form).as_bytes())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(rejected) => {
            writeln!(io::stderr(), "{rejected}")?;
            Ok(ExitCode::from(EXIT_USAGE))
        }
    }
}
