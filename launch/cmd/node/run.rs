//! `llmasos node run`: one node of a descriptor in this process. The launcher starts it for `process: own`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::getppid,
};
use tokio::signal::unix::{SignalKind, signal};

use super::super::check::{DescriptorArgs, EXIT_USAGE, environment, usage};
use crate::{
    descriptor::{self, check::Facts, findings::nearest, graph::Graph},
    models::Cancel,
    run::{
        environment::RosEnvironment,
        models::{ensure, needed},
        system::{Fork, System},
    },
};

/// Arguments of `llmasos node run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llmasos node run launch/vehicle.yaml --only summary")]
pub(super) struct RunArgs {
    #[command(flatten)]
    descriptor: DescriptorArgs,
    /// The node
    #[arg(long, value_name = "NAME")]
    only: String,
    /// Also connect to this Zenoh address
    #[arg(long, value_name = "ADDRESS")]
    connect: Option<String>,
    /// End when this parent process ends
    #[arg(long, value_name = "PID")]
    parent: Option<u32>,
}

/// How often it looks whether its parent still is its parent: the signal comes once, and may come before it is asked for.
const PARENT_PERIOD: Duration = Duration::from_millis(200);

/// Runs the verb until it is told to end.
///
/// # Errors
/// When the node's models cannot be had or the bus cannot be opened.
pub(super) fn run(args: &RunArgs) -> Result<ExitCode> {
    if args.parent.is_some() {
        set_pdeathsig(Signal::SIGKILL).context("asking to end with the parent")?;
    }
    let overrides = match args.descriptor.overrides() {
        Ok(overrides) => overrides,
        Err(message) => return usage(&message),
    };
    let facts = Facts {
        catalogue: None,
        tokens_per_s: descriptor::check::DEFAULT_TOKENS_PER_S,
        exists: &|_| true,
    };
    let mut graph = match descriptor::load(&args.descriptor.file, &overrides, &environment, &facts)
    {
        Ok(loaded) => loaded.graph,
        Err(rejected) => {
            for line in rejected.findings.lines(&rejected.files) {
                eprintln!("{line}");
            }
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    if graph.node(&args.only).is_none() {
        let known = graph.nodes.iter().map(|node| node.name.as_str());
        let hint = nearest(&args.only, known)
            .map_or(String::new(), |name| format!(" (did you mean {name:?}?)"));
        return usage(&format!(
            "{}: there is no node {:?}{hint}",
            args.descriptor.file.display(),
            args.only
        ));
    }
    let variables = match RosEnvironment::read(environment) {
        Ok(variables) => variables,
        Err(error) => return usage(&error.to_string()),
    };
    reduce(&mut graph, &args.only);
    let folders = ensure(&needed(&graph, false), &Cancel::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let fork = Fork { executable: std::env::current_exe()?, descriptor: args.descriptor.words() };
        let system = System::start(&graph, &folders, &fork, Some(args.connect.as_deref().unwrap_or_default()), &variables).await?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut look = tokio::time::interval(PARENT_PERIOD);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = look.tick() => {
                    if args.parent.is_some_and(|parent| u32::try_from(getppid().as_raw()) != Ok(parent)) {
                        break;
                    }
                }
            }
        }
        system.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Leaves one node and its models in the graph.
fn reduce(graph: &mut Graph, name: &str) {
    graph.nodes.retain(|node| node.name == name);
    for node in &mut graph.nodes {
        // Its predecessors are not in this process; the launcher waited for them.
        node.start_after.clear();
    }
    let used: Vec<String> = graph
        .nodes
        .iter()
        .flat_map(|node| node.models.values().map(|(model, _)| model.clone()))
        .collect();
    graph.models.retain(|model, _| used.contains(model));
    graph.gate = None;
    graph.sources.clear();
    graph.expect.clear();
}
