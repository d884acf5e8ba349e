//! `llmasos bench bus`: what a node costs on the bus.

use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::sys::{prctl::set_pdeathsig, signal::Signal};

use crate::{
    bench::bus::{Figure, echo, measure},
    cmd::output,
};

/// A target was missed and `--assert` was given.
const EXIT_MISSED: u8 = 3;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Counted rounds of the largest payload; small ones get more
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rounds: u16,
    /// Exit with 3 when a target is missed
    #[arg(long)]
    assert: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Arguments of the other process.
#[derive(Debug, clap::Args)]
pub(super) struct EchoArgs {
    /// Address of the process that measures
    #[arg(long, value_name = "ENDPOINT")]
    connect: String,
}

/// Runs the verb.
///
/// # Errors
/// When the two processes do not meet.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let runtime = runtime()?;
    if !args.json {
        output::line(
            "two processes, TCP on loopback; median and 99th percentile; what a node adds to plain Zenoh",
        )?;
    }
    let (mut all_kept, mut printed) = (true, Ok(()));
    runtime.block_on(measure(usize::from(args.rounds), |figure| {
        all_kept &= figure.kept();
        let text = match args.json {
            true => figure.json().to_string(),
            false => line(&figure),
        };
        if printed.is_ok() {
            printed = output::line(&text);
        }
    }))?;
    printed?;
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    Ok(match args.assert && !all_kept {
        true => ExitCode::from(EXIT_MISSED),
        false => ExitCode::SUCCESS,
    })
}

/// Runs the other process until the first one ends.
///
/// # Errors
/// When the first process is not there.
pub(super) fn run_echo(args: &EchoArgs) -> Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL).context("asking to end with the parent")?;
    runtime()?.block_on(echo(&args.connect))?;
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")
}

fn line(figure: &Figure) -> String {
    let [p50, p99] = figure.overhead().map(|part| part * 100.0);
    let mark = if figure.kept() { "kept" } else { "MISSED" };
    let limit = match figure.limit {
        [Some(p50), Some(p99)] => format!("{:.0}/{:.0} %", p50 * 100.0, p99 * 100.0),
        [Some(p50), None] => format!("{:.0} %", p50 * 100.0),
        [None, _] => "-".to_owned(),
    };
    format!(
        "{:<14}{:>8} B   plain {:>8.1}/{:>8.1} µs   node {:>8.1}/{:>8.1} µs   {p50:>+6.1}/{p99:>+6.1} %   target {limit:<9} {mark}",
        figure.name,
        figure.bytes,
        figure.plain_us[0],
        figure.plain_us[1],
        figure.node_us[0],
        figure.node_us[1],
    )
}
