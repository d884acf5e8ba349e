//! `llmasos topic`: what is on the bus, and a message onto it. No daemon: each verb opens a session, does its work and ends.
//!
//! It works on keys as they are, so it sees bridges and other programs as well as a launch. A session here is a client of the address
//! it is given: the launch, or a router.

mod echo;
mod list;
pub(super) mod payload;
mod publish;

use std::{
    io::{ErrorKind, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use llmasos_nodes::bus::{Bus, BusError, BusMode, BusOptions, LOCAL_ROUTER};
use tokio::signal::unix::{SignalKind, signal};

use self::payload::Types;
use super::usage::{settle, wrong};

/// How long closing the session may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Messages that may wait to be printed; more are dropped and counted.
const BACKLOG: usize = 4096;

/// Arguments of `llmasos topic`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos topic list --namespace ego
  llmasos topic echo ego/llmasos/gate/verdict --field verdict_name
  llmasos topic pub ego/llmasos/speech/text std_msgs/String \"pull over\" --once

A launch prints its address at the end, and with LLMASOS_LOG=info; a router listens on tcp/127.0.0.1:7447.")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Topics on which something is published
    List(list::Args),
    /// Print the messages of a topic
    Echo(echo::Args),
    /// Publish a message
    Pub(publish::Args),
}

/// How the bus is reached.
#[derive(Debug, clap::Args)]
struct Reach {
    /// Zenoh address of a launch or a router
    #[arg(long, value_name = "ADDR", default_value = LOCAL_ROUTER)]
    connect: String,
    /// Prefix of topics without a leading slash
    #[arg(long, value_name = "NS", default_value = "")]
    namespace: String,
}

/// Where types are looked up besides the key itself.
#[derive(Debug, clap::Args)]
struct TypesFrom {
    /// Take the types of topics from this descriptor
    #[arg(long, value_name = "FILE")]
    launch: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// When nobody answers at the address, or a topic is no valid key.
pub fn run(args: &Args) -> Result<ExitCode> {
    // Messages arrive on Zenoh's threads; here they are only printed.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        match &args.verb {
            Verb::List(args) => list::run(args).await,
            Verb::Echo(args) => echo::run(args).await,
            Verb::Pub(args) => publish::run(args).await,
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(500));
    settle(match outcome {
        // `llmasos topic echo ... | head` is an ordinary way to end.
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|io| io.kind() == ErrorKind::BrokenPipe) =>
        {
            Ok(ExitCode::SUCCESS)
        }
        other => other,
    })
}

impl Reach {
    async fn open(&self) -> Result<Bus> {
        let options = BusOptions {
            namespace: self.namespace.clone(),
            mode: BusMode::Client,
            connect: vec![self.connect.clone()],
            ..BusOptions::default()
        };
        Bus::open(&options).await.map_err(|error| {
            tracing::info!(%error, "no session");
            let address = &self.connect;
            if address.contains('/') {
                anyhow!("nobody answers at {address}: start the launch, it prints its address; then --connect ADDRESS")
            } else {
                wrong(format!("--connect: expected an address such as {LOCAL_ROUTER}, found {address}"))
            }
        })
    }
}

impl TypesFrom {
    fn load(&self) -> Result<Types> {
        self.launch
            .as_deref()
            .map_or_else(|| Ok(Types::default()), Types::of_descriptor)
    }
}

/// A topic that is no key is wrong usage; Zenoh's reason ends with a place in its source, which helps nobody here.
fn declared<T>(outcome: Result<T, BusError>) -> Result<T> {
    outcome.map_err(|error| match error {
        BusError::Topic { topic, reason } => wrong(format!(
            "topic {topic}: {}",
            reason.split(" at /").next().unwrap_or_default()
        )),
        other => other.into(),
    })
}

/// Waits for Ctrl-C or SIGTERM.
async fn stopped() -> Result<()> {
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Ends a session after its last message has left.
async fn close(bus: Bus) {
    bus.close(CLOSE_LIMIT).await;
}

/// Prints one line, or several.
fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush().context("printing")
}
