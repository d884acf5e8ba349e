//! `llmasos gate`: the gate of a descriptor in this process. The launcher starts it; a person may start it alone, beside other nodes.

use std::process::ExitCode;

use llmasos_nodes::gate::process::{GateOptions, Hardening, run_process};

use super::check::{DescriptorArgs, EXIT_USAGE, environment, usage};
use crate::{
    descriptor::{self, check::Facts},
    run::{configure, environment::RosEnvironment, system::GATE},
};

/// Arguments of `llmasos gate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llmasos gate launch/vehicle.yaml")]
pub struct Args {
    #[command(flatten)]
    descriptor: DescriptorArgs,
    /// Also connect to this Zenoh address
    #[arg(long, value_name = "ADDRESS")]
    connect: Option<String>,
    /// End when this parent process ends
    #[arg(long, value_name = "PID")]
    parent: Option<u32>,
}

/// Runs the verb until it is told to end.
///
/// # Errors
/// When the descriptor has no gate, or the bus cannot be opened.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let overrides = match args.descriptor.overrides() {
        Ok(overrides) => overrides,
        Err(message) => return usage(&message),
    };
    // The gate needs no model: whether they are there is not its business.
    let facts = Facts {
        catalogue: None,
        tokens_per_s: descriptor::check::DEFAULT_TOKENS_PER_S,
        exists: &|_| true,
    };
    let graph = match descriptor::load(&args.descriptor.file, &overrides, &environment, &facts) {
        Ok(loaded) => loaded.graph,
        Err(rejected) => {
            for line in rejected.findings.lines(&rejected.files) {
                eprintln!("{line}");
            }
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let Some(gate) = &graph.gate else {
        return usage(&format!(
            "{}: there is no gate",
            args.descriptor.file.display()
        ));
    };
    let variables = match RosEnvironment::read(environment) {
        Ok(variables) => variables,
        Err(error) => return usage(&error.to_string()),
    };
    run_process(GateOptions {
        name: GATE.to_owned(),
        bus: configure::bus(&graph, args.connect.as_deref(), &variables),
        topics: configure::gate_topics(&graph, gate)?,
        policy: configure::policy(&graph, gate)?,
        hardening: Hardening {
            lock_memory: true,
            oom_score: true,
            realtime_priority: None,
            parent: args.parent,
        },
    })?;
    Ok(ExitCode::SUCCESS)
}
