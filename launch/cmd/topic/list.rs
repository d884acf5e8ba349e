//! `llmasos topic list`: the keys on which something is published while it listens, with type, count and rate.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use llmasos_msgs::sniff;
use llmasos_nodes::bus::Arrival;
use serde_json::json;

use super::{
    super::usage::wrong, Reach, TypesFrom, close, declared, line, payload::Types, stopped,
};

/// Longest listening, in seconds.
const SECONDS_MAX: f64 = 86_400.0;
/// Most keys that are told apart.
const KEYS_MAX: usize = 10_000;

/// Arguments of `llmasos topic list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llmasos topic list --namespace ego --seconds 3

Topics on which nothing was published meanwhile do not show.")]
pub(super) struct Args {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    types: TypesFrom,
    /// How long to listen
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// What was seen of one key.
struct Row {
    type_name: String,
    count: u64,
    bytes: u64,
    first: Instant,
    last: Instant,
}

#[derive(Default)]
struct Board {
    rows: BTreeMap<String, Row>,
    left_out: u64,
}

/// Runs the verb.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    if !(args.seconds > 0.0 && args.seconds <= SECONDS_MAX) {
        return Err(wrong(format!(
            "--seconds: expected more than 0 and at most {SECONDS_MAX}, found {}",
            args.seconds
        )));
    }
    let types = args.types.load()?;
    let bus = args.reach.open().await?;
    let board: Arc<Mutex<Board>> = Arc::default();
    let into = Arc::clone(&board);
    let on = move |arrival| {
        into.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .see(&types, &arrival)
    };
    let subscription = declared(bus.subscribe("**", on).await)?;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(args.seconds)) => {}
        stop = stopped() => stop?,
    }
    drop(subscription);
    close(bus).await;
    let board = board.lock().unwrap_or_else(PoisonError::into_inner);
    print(&board, args)?;
    Ok(ExitCode::SUCCESS)
}

impl Board {
    fn see(&mut self, types: &Types, arrival: &Arrival) {
        if self.rows.len() >= KEYS_MAX && !self.rows.contains_key(&arrival.key) {
            self.left_out += 1;
            return;
        }
        let now = Instant::now();
        let row = self.rows.entry(arrival.key.clone()).or_insert_with(|| Row {
            type_name: types
                .of(&arrival.key, &arrival.encoding)
                .unwrap_or_else(|| form(arrival).to_owned()),
            count: 0,
            bytes: 0,
            first: now,
            last: now,
        });
        row.count += 1;
        row.bytes += arrival.payload.len() as u64;
        row.last = now;
    }
}

/// What a payload without a known type is.
fn form(arrival: &Arrival) -> &'static str {
    match sniff::classify(&arrival.encoding, &arrival.payload.to_bytes()) {
        Ok(sniff::Form::Cdr) => "CDR",
        Ok(sniff::Form::Json(_)) => "JSON",
        Ok(sniff::Form::Text(_)) => "text",
        Err(_) => "bytes",
    }
}

impl Row {
    /// Rate between the first and the last message; unknown from fewer than two.
    fn rate_hz(&self) -> Option<f64> {
        let seconds = self.last.duration_since(self.first).as_secs_f64();
        (self.count > 1 && seconds > 0.0)
            .then(|| ((self.count - 1) as f64 / seconds * 10.0).round() / 10.0)
    }
}

fn print(board: &Board, args: &Args) -> Result<()> {
    if args.json {
        for (key, row) in &board.rows {
            line(&json!({ "topic": key, "type": row.type_name, "count": row.count, "rate_hz": row.rate_hz(), "bytes": row.bytes }).to_string())?;
        }
    } else if board.rows.is_empty() {
        eprintln!("note: nothing was published within {} s", args.seconds);
    } else {
        let width = |of: &dyn Fn(&String, &Row) -> usize| {
            board
                .rows
                .iter()
                .map(|(key, row)| of(key, row))
                .max()
                .unwrap_or(0)
                .max(5)
        };
        let (keys, types) = (
            width(&|key, _| key.len()),
            width(&|_, row| row.type_name.len()),
        );
        line(&format!(
            "{:<keys$}  {:<types$}  {:>6}  {:>8}  {:>10}",
            "topic", "type", "count", "rate/Hz", "bytes"
        ))?;
        for (key, row) in &board.rows {
            let rate = row
                .rate_hz()
                .map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
            line(&format!(
                "{key:<keys$}  {:<types$}  {:>6}  {rate:>8}  {:>10}",
                row.type_name, row.count, row.bytes
            ))?;
        }
    }
    if board.left_out > 0 {
        eprintln!(
            "note: {} messages on more than {KEYS_MAX} topics are left out",
            board.left_out
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_messages() {
        let first = Instant::now();
        let row = |count, seconds| Row {
            type_name: String::new(),
            count,
            bytes: 0,
            first,
            last: first + Duration::from_secs(seconds),
        };
        assert_eq!(row(1, 0).rate_hz(), None);
        assert_eq!(row(11, 1).rate_hz(), Some(10.0), "ten periods in a second");
        assert_eq!(row(3, 0).rate_hz(), None, "no time passed");
    }
}
