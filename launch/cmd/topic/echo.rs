//! `llmasos topic echo`: the messages of a topic as they arrive.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::Result;
use llmasos_nodes::{bus::Arrival, clock};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{BACKLOG, Reach, TypesFrom, close, declared, line, payload, payload::Types, stopped};
use crate::observe::watch::Seen;

/// Arguments of `llmasos topic echo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos topic echo ego/llmasos/gate/verdict --field verdict_name
  llmasos topic echo --namespace ego odometry --type nav_msgs/Odometry --once
  llmasos topic echo 'ego/**' --launch launch/demo.yaml --json

Wildcards of Zenoh are allowed. JSON and text are shown as they are; what cannot be decoded is told by its size, and the listening goes on;
with --once the exit code is then 1. Ctrl-C ends it.")]
pub(super) struct Args {
    /// The topic
    #[arg(value_name = "TOPIC")]
    topic: String,
    #[command(flatten)]
    reach: Reach,
    /// Its type, such as nav_msgs/Odometry
    #[arg(long = "type", value_name = "TYPE")]
    type_name: Option<String>,
    #[command(flatten)]
    types: TypesFrom,
    /// End after the first message
    #[arg(long)]
    once: bool,
    /// Show one field, such as twist.twist.linear.x or objects.0.label
    #[arg(long, value_name = "A.B")]
    field: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let fixed = args
        .type_name
        .as_deref()
        .map(payload::type_named)
        .transpose()?;
    let types = args.types.load()?;
    let bus = args.reach.open().await?;
    let (sender, mut messages) = mpsc::channel::<Arrival>(BACKLOG);
    let missed = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&missed);
    let on = move |arrival| {
        if sender.try_send(arrival).is_err() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    };
    let subscription = declared(bus.subscribe(&args.topic, on).await)?;
    let ended = follow(args, fixed, &types, &mut messages).await;
    drop(subscription);
    close(bus).await;
    match missed.load(Ordering::Relaxed) {
        0 => {}
        missed => eprintln!("note: {missed} messages came faster than they could be printed"),
    }
    Ok(if ended? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints until it is told to end. `false` when the one message that was wanted could not be read.
async fn follow(
    args: &Args,
    fixed: Option<&'static str>,
    types: &Types,
    messages: &mut mpsc::Receiver<Arrival>,
) -> Result<bool> {
    let stop = stopped();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            stopped = &mut stop => return stopped.map(|()| true),
            Some(arrival) = messages.recv() => {
                let type_name = fixed.map(str::to_owned).or_else(|| types.of(&arrival.key, &arrival.encoding));
                let readable = show(args, type_name.as_deref(), &arrival)?;
                if args.once {
                    return Ok(readable);
                }
            }
        }
    }
}

/// Prints a message, or what is wrong with it; `false` then.
fn show(args: &Args, type_name: Option<&str>, arrival: &Arrival) -> Result<bool> {
    match payload::content(type_name, arrival) {
        Ok(data) => {
            let shown = match &args.field {
                Some(path) => payload::field(&data, path)?,
                None => &data,
            };
            if args.json {
                line(&seen(type_name, arrival, &data, shown.clone(), None).to_string())?;
            } else if args.field.is_some() {
                line(&plain(shown))?;
            } else {
                line(&format!("{}\n---", plain(shown)))?;
            }
            Ok(true)
        }
        Err(problem) => {
            if args.json {
                line(
                    &seen(
                        type_name,
                        arrival,
                        &Value::Null,
                        json!({ "bytes": arrival.payload.len() }),
                        Some(problem),
                    )
                    .to_string(),
                )?;
            } else {
                eprintln!(
                    "{}: {} bytes: {problem}",
                    arrival.key,
                    arrival.payload.len()
                );
            }
            Ok(false)
        }
    }
}

/// Text as it is, everything else as a person reads it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => payload::view(other),
    }
}

/// The line of `--json`: that of `launch --json`, with the key as topic.
fn seen(
    type_name: Option<&str>,
    arrival: &Arrival,
    data: &Value,
    shown: Value,
    problem: Option<String>,
) -> Value {
    let stamp_ns = payload::stamp_ns(data);
    Seen {
        topic: arrival.key.clone(),
        type_name: type_name.unwrap_or_default().to_owned(),
        arrived: Instant::now(),
        stamp_ns,
        age: stamp_ns.and_then(|stamp_ns| clock::age(stamp_ns, clock::wall_ns(arrival.received))),
        latency: arrival
            .sent
            .and_then(|sent| arrival.received.duration_since(sent).ok()),
        data: shown,
        problem,
    }
    .json()
}
