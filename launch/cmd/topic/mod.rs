//! `llmasos topic`: what is on the bus, and a message onto it. No daemon: each verb opens a session, does its work and ends.
//!
//! Flags and output are those of ros2's topic verbs. A topic is heard on its plain key (a launch, zenoh-bridge-ros2dds, any Zenoh
//! program) and on its rmw_zenoh key alike; who is there is asked of everybody who announces something.
//!
//! ```text
//! list · info · type · find     who announces what, and what is heard meanwhile      gather
//! echo · hz · bw · delay        the messages of one topic                            listen, typing, measure
//! pub                           a message, on every route where somebody is          value, outlet
//! ```

mod announced;
mod bandwidth;
mod delay;
mod echo;
mod gather;
mod list;
mod listen;
mod measure;
mod name;
mod outlet;
mod payload;
mod publish;
mod rate;
mod series;
mod typing;
pub(super) mod value;
mod view;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use super::{output::piped, usage::settle};

/// Messages that may wait to be printed; more are dropped and counted.
const BACKLOG: usize = 4096;

/// Arguments of `llmasos topic`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos topic list -t
  llmasos topic echo /ego/llmasos/gate/verdict --field verdict_name
  llmasos topic hz /ego/llmasos/gate/verdict --assert 9..11 --duration 5
  llmasos topic pub /ego/llmasos/speech/text std_msgs/String \"pull over\" --once

A launch prints its address at the end, and with LLMASOS_LOG=info; a router listens on tcp/127.0.0.1:7447. ZENOH_SESSION_CONFIG_URI,
ZENOH_CONFIG_OVERRIDE and ROS_DOMAIN_ID are honoured.")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// The topics that somebody announces or publishes
    List(list::Args),
    /// Type, publishers and subscriptions of a topic
    Info(announced::InfoArgs),
    /// The type of a topic
    Type(announced::TypeArgs),
    /// The topics of a type
    Find(list::FindArgs),
    /// Print the messages of a topic
    Echo(echo::Args),
    /// Rate of a topic
    Hz(rate::Args),
    /// Bandwidth of a topic
    Bw(bandwidth::Args),
    /// Age of a topic's messages, from header.stamp to arrival
    Delay(delay::Args),
    /// Publish a message
    Pub(publish::Args),
}

/// Runs the verb.
///
/// # Errors
/// When nobody answers at the address, nothing is heard in time, or a topic is no valid key.
pub fn run(args: &Args) -> Result<ExitCode> {
    settle(piped(on_bus(async {
        match &args.verb {
            Verb::List(args) => list::run(args).await,
            Verb::Info(args) => announced::info(args).await,
            Verb::Type(args) => announced::type_of(args).await,
            Verb::Find(args) => list::find(args).await,
            Verb::Echo(args) => echo::run(args).await,
            Verb::Hz(args) => rate::run(args).await,
            Verb::Bw(args) => bandwidth::run(args).await,
            Verb::Delay(args) => delay::run(args).await,
            Verb::Pub(args) => publish::run(args).await,
        }
    })))
}

/// Runs what uses the bus: messages arrive on Zenoh's threads, here they are only printed.
///
/// # Errors
/// Those of the work, or when there can be no runtime.
pub(super) fn on_bus(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}
