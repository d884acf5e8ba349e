//! `llmasos bench compress`: each way of making a model smaller beside the others.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::bench::compress::{Against, CONVERSION, Plan, Row, WAYS, Way, measure};
use crate::cmd::output::{self, Column, table};
use crate::cmd::stoppable::stoppable;
use crate::cmd::usage::{settle, wrong};
use crate::models::{Cancel, Console, Models};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A name of the catalogue, a .gguf file, or a Hugging Face folder
    #[arg(value_name = "MODEL", default_value = "smollm2")]
    model: String,
    /// Only these ways, by the names of the table; also those of the detector and the encoder: "detector int8 static", "minilm int8 static"
    #[arg(long, value_name = "WAY,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Measure other people's quantizers on the same weights and text
    #[arg(long, value_enum, value_name = "WHOSE,…", value_delimiter = ',')]
    against: Vec<Against>,
    /// Sequences of 512 tokens that each is judged on
    #[arg(long, value_name = "N", default_value_t = 8)]
    sequences: usize,
    /// Tokens that each is calibrated with
    #[arg(long, value_name = "N", default_value = "32k", value_parser = crate::cmd::compress::count)]
    calibration_tokens: u64,
    /// Largest graph of the way that mixes 4 and 8 bits
    #[arg(long, value_name = "SIZE", default_value = "111MB")]
    budget: String,
    /// Threads; all processors by default
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Where everything is put [default: bench-compress in the cache]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object a way
    #[arg(long)]
    json: bool,
    /// Add the entries of this catalogue file; may be given several times, later ones win
    #[arg(long, value_name = "FILE")]
    catalogue: Vec<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// What kept the original from being made.
pub(super) fn run(args: Args) -> Result<ExitCode> {
    stoppable("bench", move |cancel| {
        settle(output::piped(bench(&args, cancel)))
    })
}

fn bench(args: &Args, cancel: Cancel) -> Result<ExitCode> {
    let mut reporter = Console::new(cancel);
    let mut models = Models::from_environment(&args.catalogue)?;
    let dir = match &args.dir {
        Some(dir) => std::path::absolute(dir).with_context(|| format!("{}", dir.display()))?,
        None => models.store().root().join("bench-compress"),
    };
    let all = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let plan = Plan {
        model: &args.model,
        ways: ways(&args.only)?,
        converts: args.only.is_empty() || args.only.iter().any(|name| name == CONVERSION),
        sequences: args.sequences,
        calibration_tokens: args.calibration_tokens,
        budget: &args.budget,
        threads: args.threads.map_or_else(all, NonZeroUsize::get),
        against: args.against.clone(),
        catalogues: &args.catalogue,
        dir,
    };
    let rows = measure(&mut models, &plan, &mut reporter)?;
    drop(reporter);
    if args.json {
        for row in &rows {
            output::line(&row.object().to_string())?;
        }
    } else {
        const HEADING: [(&str, Column); 9] = [
            ("way", Column::Left),
            ("KL", Column::Right),
            ("perplexity", Column::Right),
            ("same word", Column::Right),
            ("size", Column::Right),
            ("prefill", Column::Right),
            ("decode", Column::Right),
            ("seconds", Column::Right),
            ("memory", Column::Right),
        ];
        const TASK_HEADING: [(&str, Column); 9] = [
            ("way", Column::Left),
            ("agreement", Column::Right),
            ("recall, ranking", Column::Right),
            ("size", Column::Right),
            ("ms", Column::Right),
            ("original ms", Column::Right),
            ("speedup", Column::Right),
            ("seconds", Column::Right),
            ("memory", Column::Right),
        ];
        let (tasks, others): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.is_task);
        let others: Vec<[String; 9]> = others.iter().map(|row| row.cells()).collect();
        let tasks: Vec<[String; 9]> = tasks.iter().map(|row| row.task_cells()).collect();
        for (heading, cells) in [(HEADING, others), (TASK_HEADING, tasks)] {
            if cells.is_empty() {
                continue;
            }
            for line in table(heading, &cells) {
                output::line(&line)?;
            }
        }
        if args.against.contains(&Against::LlamaCpp) {
            output::line(
                "KL in parentheses, and all of llama.cpp's: of the codes alone, activations in 32-bit floats",
            )?;
        }
    }
    let is_whole = rows.iter().all(|row| row.outcome.is_ok());
    Ok(match is_whole {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The ways asked for; all of language models without being asked.
fn ways(only: &[String]) -> Result<Vec<&'static Way>> {
    if only.is_empty() {
        return Ok(WAYS.iter().filter(|way| way.model.is_none()).collect());
    }
    let one = |name: &String| {
        WAYS.iter().find(|way| way.name == name).ok_or_else(|| {
            let names = WAYS.iter().map(|way| way.name).chain([CONVERSION]);
            let names: Vec<&str> = names.collect();
            wrong(format!("--only: '{name}' is none of {}", names.join(", ")))
        })
    };
    let ways = only.iter().filter(|name| *name != CONVERSION);
    ways.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_by_their_names() {
        let of = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(ToString::to_string).collect();
            ways(&only).map(|ways| ways.iter().map(|way| way.name).collect::<Vec<_>>())
        };
        let of_language = WAYS.iter().filter(|way| way.model.is_none()).count();
        assert_eq!(of(&[]).unwrap().len(), of_language);
        assert_eq!(of(&["int8", CONVERSION]).unwrap(), ["int8"]);
        let error = of(&["int3"]).unwrap_err().to_string();
        assert!(error.contains("'int3' is none of int4 rtn") && error.contains(CONVERSION));
    }
}
