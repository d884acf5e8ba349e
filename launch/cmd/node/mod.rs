//! `llmasos node`: the nodes on the network, ROS 2's and ours, and one node of a descriptor in this process.
//!
//! Nodes of rmw_zenoh show themselves by liveliness tokens, those behind zenoh-bridge-ros2dds in its admin space, ours in the answer of
//! their launch.

mod look;
mod run;

use std::process::ExitCode;

use anyhow::Result;

use super::{output::piped, topic::on_bus, usage::settle};

/// Arguments of `llmasos node`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos node list
  llmasos node info /ego/gate
  llmasos node run launch/vehicle.yaml --only summary")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// The nodes on the network
    List(look::ListArgs),
    /// Topics, services and actions of a node
    Info(look::InfoArgs),
    /// Run one node until told to end
    Run(run::RunArgs),
}

/// Runs the verb.
///
/// # Errors
/// When nobody answers at the address, or a node's models cannot be had.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::List(args) => settle(piped(on_bus(look::list(args)))),
        Verb::Info(args) => settle(piped(on_bus(look::info(args)))),
        Verb::Run(args) => run::run(args),
    }
}
