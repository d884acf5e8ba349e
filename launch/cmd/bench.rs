//! `llmasos bench`: measures, and says against what.

use std::process::ExitCode;

use anyhow::Result;

mod bus;
mod cdr;
mod compress;
mod nodes;

/// Arguments of `llmasos bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llmasos bench nodes --rounds 9 --json")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// The nodes of a descriptor: speech, picture, advice, decoding, and what a node itself costs
    #[command(after_help = "Example: cargo run --release -- bench nodes

Medians over the rounds; one round before them is not counted. Nothing else should run. Threads and spinning are the descriptor's.")]
    Nodes(nodes::Args),
    /// Encoding and decoding of messages beside the crate cdr and a plain copy
    #[command(after_help = "Example: cargo run --release -- bench cdr

Medians over the rounds; one round before them is not counted. `copies` says how many times a plain copy of the same bytes into a new
buffer a way takes.")]
    Cdr(cdr::Args),
    /// A node's typed publisher and subscriber beside plain Zenoh, between two processes
    #[command(after_help = "Example: cargo run --release -- bench bus --assert

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a target was missed and --assert was given. Nothing else should run.")]
    Bus(bus::Args),
    /// Ways of making a model smaller, on the same weights and inputs: loss, size, speed, time
    #[command(after_help = "Examples:
  cargo run --release -- bench compress smollm2 --json
  cargo run --release -- bench compress --only \"detector int8 static,minilm int8 static\" --against ort

Takes tens of minutes, and some GB in the cache while it runs. Nothing else should run.")]
    Compress(compress::Args),
    /// The other process of `bench bus`
    #[command(hide = true)]
    BusEcho(bus::EchoArgs),
}

/// Runs the verb.
///
/// # Errors
/// What the measurement met.
pub fn run(args: Args) -> Result<ExitCode> {
    match args.verb {
        Verb::Nodes(args) => nodes::run(&args),
        Verb::Cdr(args) => cdr::run(&args),
        Verb::Bus(args) => bus::run(&args),
        Verb::Compress(args) => compress::run(args),
        Verb::BusEcho(args) => bus::run_echo(&args),
    }
}
