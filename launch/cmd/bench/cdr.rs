//! `llmasos bench cdr`: what encoding and decoding cost.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use crate::{
    bench::cdr::{Figure, measure},
    cmd::output::{self, Column},
};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Counted rounds
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rounds: u16,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When two ways disagree about the bytes, or standard output is gone.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut all = Vec::new();
    measure(usize::from(args.rounds), |figures| all.push(figures))?;
    for figures in all {
        if args.json {
            for figure in figures {
                output::line(&figure.json().to_string())?;
            }
            continue;
        }
        if let Some(first) = figures.first() {
            output::line(&format!("{} of {} bytes", first.message, first.bytes))?;
        }
        let heading = [
            ("", Column::Left),
            ("way", Column::Left),
            ("median", Column::Right),
            ("copies", Column::Right),
        ];
        let rows: Vec<[String; 4]> = figures.iter().map(row).collect();
        for line in output::table(heading, &rows) {
            output::line(&format!("  {line}"))?;
        }
        output::line("")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(figure: &Figure) -> [String; 4] {
    [
        figure.operation.to_owned(),
        figure.way.to_owned(),
        time(figure.median),
        format!("{:.2}", figure.copies()),
    ]
}

/// Nanoseconds below a microsecond, milliseconds from one on.
fn time(time: Duration) -> String {
    let ns = time.as_secs_f64() * 1e9;
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}
