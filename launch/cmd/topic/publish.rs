//! `llmasos topic pub`: a message onto a topic, once or at a rate.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use llmasos_nodes::{
    bus::{Bus, Qos, RawPublisher},
    clock,
};
use serde_json::json;
use tokio::time::Instant;

use super::{super::usage::wrong, Reach, close, declared, line, payload, stopped};

/// How long to wait for somebody who listens.
const MATCH_LIMIT: Duration = Duration::from_secs(2);
/// How often to look for somebody who listens.
const MATCH_PERIOD: Duration = Duration::from_millis(10);
/// Highest rate, in Hz.
const RATE_HZ_MAX: f64 = 10_000.0;

/// Arguments of `llmasos topic pub`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos topic pub ego/llmasos/speech/text std_msgs/String \"pull over\" --once
  llmasos topic pub ego/odometry nav_msgs/Odometry '{\"twist\":{\"twist\":{\"linear\":{\"x\":8.0}}}}' --rate 20

A header's stamp that is missing is the time of each publication. Without --once it repeats until Ctrl-C.")]
pub(super) struct Args {
    /// The topic
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Its type
    #[arg(value_name = "TYPE")]
    type_name: String,
    /// The message as JSON; words for std_msgs/String
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    value: String,
    #[command(flatten)]
    reach: Reach,
    /// Messages a second
    #[arg(short, long, value_name = "HZ", default_value_t = 1.0)]
    rate: f64,
    /// Publish one message and end
    #[arg(long, conflicts_with = "rate")]
    once: bool,
    /// Print one JSON object for each message
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    if !(args.rate > 0.0 && args.rate <= RATE_HZ_MAX) {
        return Err(wrong(format!(
            "--rate: expected more than 0 and at most {RATE_HZ_MAX} Hz, found {}",
            args.rate
        )));
    }
    let type_name = payload::type_named(&args.type_name)?;
    // A mistake in the value shows before anything is opened.
    payload::encode(type_name, &args.value, clock::now_ns())?;
    let bus = args.reach.open().await?;
    let outcome = publish(args, type_name, &bus).await;
    close(bus).await;
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn publish(args: &Args, type_name: &str, bus: &Bus) -> Result<()> {
    let publisher = declared(bus.raw_publisher(&args.topic, Qos::EVENT).await)?;
    if !has_listener(&publisher).await {
        eprintln!("note: nobody listens on {}", publisher.key());
    }
    let stop = stopped();
    tokio::pin!(stop);
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / args.rate));
    for count in 1u64.. {
        tokio::select! {
            stopped = &mut stop => return stopped,
            _ = tick.tick() => {}
        }
        let bytes = payload::encode(type_name, &args.value, clock::now_ns())?;
        let length = bytes.len();
        publisher.put(bytes).await?;
        if args.json {
            line(&json!({ "topic": publisher.key(), "type": type_name, "count": count, "bytes": length }).to_string())?;
        } else {
            line(&format!(
                "published {count} on {}: {length} bytes",
                publisher.key()
            ))?;
        }
        if args.once {
            break;
        }
    }
    Ok(())
}

/// Sessions need a moment to tell each other who listens; a message before that would be lost.
async fn has_listener(publisher: &RawPublisher) -> bool {
    let deadline = Instant::now() + MATCH_LIMIT;
    while !publisher.has_listeners().await {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(MATCH_PERIOD).await;
    }
    true
}
