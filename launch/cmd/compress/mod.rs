//! `llmasos compress`: a model in, a smaller one out, with a report of what it cost.
//!
//! ```text
//!   MODEL ─ source ─► checkpoint ─ step ─► checkpoint ─ … ─ quantize ─► folder ─ judge, measure ─► report ─► DIR
//!   flags, recipe_file ─► recipe          text ─► sequences of tokens       work: what is finished waits there
//!
//!   detectors, encoders: task             a folder's graph ─► quantize ─► folder, beside its original in pictures or sentences
//! ```
//!
//! Results go to standard output, progress to standard error. DIR appears whole or not at all; Ctrl-C or a full disk leaves the finished
//! steps in the work folder beside it, and the same command goes on from there.

mod activations;
mod flags;
mod judge;
mod print;
mod pruned;
mod quantity;
mod recipe_file;
mod run;
mod search;
mod source;
mod task;
mod text;
mod work;
mod zip;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use llmasos_engine::text::GraphChoice;

pub(crate) use judge::{Candidate, judge, load, record};
pub(crate) use print::evaluation;
pub(crate) use quantity::count;
pub(crate) use recipe_file::{PicturePaths, TextPaths};
pub(crate) use run::runtime;
pub(crate) use source::{Given, tokenizer};
pub(crate) use task::{
    Inputs, PictureFlags, PictureSets, SentenceSets, agreement, answers, graph_bytes, samples,
};
pub(crate) use text::{SAMPLE, TextFlags, Texts};
pub(crate) use work::Work;

use super::{output, stoppable::stoppable, usage::settle};
use crate::bench::compress::{beside, measure};

/// What stands below the help.
const EXAMPLES: &str = "Examples:
  llmasos compress smollm2 -o models/small --quantize int4
  llmasos compress smollm2 -o models/mixed --degrid --quantize mixed --budget 110MB --kv int8
  llmasos compress ./Qwen3-0.6B -o models/fast --prune neurons=25% --distil tokens=200k --quantize int8 --json
  llmasos compress ssd-mobilenet-v2-coco -o models/eyes --quantize int8-static --images street/ --calibrate percentile
  llmasos compress minilm-l6-v2-fp32 -o models/words --quantize int8-static --text notes/
  llmasos compress model.gguf -o models/mine --recipe recipe.yaml --calibration notes/ --test book.txt

Exit codes: 0 done, 1 failed or a budget was not kept (what was found is reported), 2 wrong usage. A stopped run goes on where it stopped.";

/// Arguments of `llmasos compress`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A name of the catalogue, a .gguf file, a Hugging Face folder, a checkpoint, or the model folder of a detector or encoder
    #[arg(value_name = "MODEL", required_unless_present = "measure")]
    model: Option<String>,
    /// The new model folder
    #[arg(short, long, value_name = "DIR", required_unless_present = "measure")]
    out: Option<PathBuf>,
    #[command(flatten)]
    steps: flags::StepFlags,
    #[command(flatten)]
    texts: TextFlags,
    #[command(flatten)]
    pictures: task::PictureFlags,
    /// Licence of the weights, if their source does not state one
    #[arg(long, value_name = "TEXT")]
    license: Option<String>,
    /// Threads; all processors by default
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Judge a second time with activations in 32-bit floats: what the codes alone cost, which comparisons of formats mostly state; for
    /// language models, but int8-dynamic
    #[arg(long)]
    float_activations: bool,
    /// Leave the work folder, .DIR.work, where it is
    #[arg(long)]
    keep_work: bool,
    /// Print one JSON object a line; the last one is the report
    #[arg(long)]
    json: bool,
    /// Add the entries of this catalogue file; may be given several times, later ones win
    #[arg(long, value_name = "FILE")]
    catalogue: Vec<PathBuf>,
    /// Where to keep what the original predicts, for several runs on the same weights and text
    #[arg(long, hide = true, value_name = "DIR")]
    records: Option<PathBuf>,
    /// Measure a model folder and print what was found: the child of the others
    #[arg(long, hide = true, value_name = "DIR", conflicts_with = "out")]
    measure: Option<PathBuf>,
    /// Measure a detector or encoder beside this one, its original
    #[arg(long, hide = true, value_name = "DIR", requires = "measure")]
    beside: Option<PathBuf>,
    /// Measure the portable graph
    #[arg(long, hide = true, requires = "measure")]
    portable: bool,
}

/// Runs the verb.
///
/// # Errors
/// What kept the model from being made, with the next step.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(dir) = &args.measure {
        let graph = match args.portable {
            true => GraphChoice::Portable,
            false => GraphChoice::Best,
        };
        let threads = run::threads(args.threads);
        if let Some(original) = &args.beside {
            let found = beside::here(dir, original, threads)?;
            output::line(&serde_json::to_string(&found)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let found = measure::here(dir, threads, graph)?;
        output::line(&serde_json::to_string(&found)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    stoppable("compress", move |cancel| {
        settle(output::piped(run::compress(&args, cancel)))
    })
}
