//! `llmasos`: the one binary. Every verb is one file in `cmd`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use llmasos::cmd;
use tracing_subscriber::EnvFilter;

/// Language models on a vehicle's own computer.
#[derive(Debug, Parser)]
#[command(
    name = "llmasos",
    version,
    after_help = "Example: llmasos launch launch/demo.yaml

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 an expectation was missed, 4 incomplete data. LLMASOS_LOG=info shows what happens inside."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a descriptor
    Launch(cmd::launch::Args),
    /// Find what is wrong with a descriptor before anything starts
    Check(cmd::check::Args),
    /// Print a descriptor with everything resolved
    Expand(cmd::expand::Args),
    /// Draw a descriptor
    Graph(cmd::graph::Args),
    /// Print the JSON Schema of descriptors, for editors
    Schema(cmd::schema::Args),
    /// Models: list, pull, verify, info, import, bench, eval
    Model(cmd::model::Args),
    /// Make a model smaller, and say what it cost
    Compress(Box<cmd::compress::Args>),
    /// Measure
    Bench(cmd::bench::Args),
    /// Nodes: list, info, run
    Node(cmd::node::Args),
    /// Run one node of a descriptor on files, without a bus
    Try(cmd::try_node::Args),
    /// Message types: list, show, hash, decode, encode
    Msg(cmd::msg::Args),
    /// Topics: list, info, type, find, echo, hz, bw, delay, pub
    Topic(cmd::topic::Args),
    /// Run the gate of a descriptor in this process
    Gate(cmd::gate::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Standard output carries results; what happens inside goes to standard error, and only when it matters.
    let filter = EnvFilter::try_from_env("LLMASOS_LOG")
        .unwrap_or_else(|_| EnvFilter::new("error,onnxruntime=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let outcome = match cli.verb {
        Verb::Launch(args) => cmd::launch::run(&args),
        Verb::Check(args) => cmd::check::run(&args),
        Verb::Expand(args) => cmd::expand::run(&args),
        Verb::Graph(args) => cmd::graph::run(&args),
        Verb::Schema(args) => cmd::schema::run(&args),
        Verb::Model(args) => model(args),
        Verb::Compress(args) => cmd::compress::run(*args),
        Verb::Bench(args) => cmd::bench::run(args),
        Verb::Node(args) => cmd::node::run(&args),
        Verb::Try(args) => cmd::try_node::run(&args),
        Verb::Msg(args) => cmd::msg::run(&args),
        Verb::Topic(args) => cmd::topic::run(&args),
        Verb::Gate(args) => cmd::gate::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Downloads wait for Ctrl-C beside them.
fn model(args: cmd::model::Args) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(cmd::model::run(args))
}
