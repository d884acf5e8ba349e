//! `llmasos try`: one node of a descriptor on files, without a bus.
//!
//! The models it needs for these inputs, and no others, are fetched and started; what the node would publish is printed.

mod trial;
mod value;

use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use llmasos_engine::Runtime;
use llmasos_nodes::{health::Health, speech::SpeechModels, summary::SummaryModels};

use self::{
    trial::{Clients, Published, Trial},
    value::Input,
};
use super::{
    check::{EXIT_USAGE, environment},
    launch::fetch,
    usage::{settle, wrong},
};
use crate::{
    descriptor::{
        self,
        arguments::Overrides,
        check::Facts,
        findings::nearest,
        graph::{Fetch, Graph, NodeKind, NodeSpec},
    },
    observe::{story, watch::Seen},
    run::{
        configure,
        lone::Lone,
        models::{Folders, Ground, Servers},
        system::{GATE, model_sha256},
    },
};

/// Longest time until the models are loaded; a slow disk is no reason to give up.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// Arguments of `llmasos try`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos try speech --in audio=launch/demo/synthetic/slow-down.wav
  llmasos try speech --in text=\"pull over\"
  llmasos try summary --in image=street.jpg
  llmasos try summary --in objects=o.json --in traffic_lights=l.json --in ego=e.json --json
  llmasos try advisor --in command=\"slow down\" --in summary=s.json --in ego=e.json

A file is told by its extension: .wav, .jpg, .png, .json, .jsonl (its first line), .txt. Anything else that begins with { is JSON, the
rest is text. A stamp that is missing is now. Answers may take as long as this computer needs; token limits hold.
Exit code 0 when the node did what it does, also when that is nothing; 2 for a node or port that is not there, 1 for a file that cannot be used.")]
pub struct Args {
    /// The node, by its name in the descriptor
    #[arg(value_name = "NODE")]
    node: String,
    /// What a port gets; may be given several times
    #[arg(long = "in", value_name = "PORT=FILE_OR_VALUE", required = true)]
    inputs: Vec<String>,
    /// The descriptor
    #[arg(long, value_name = "FILE", default_value = "launch/demo.yaml")]
    launch: PathBuf,
    /// Arguments of the descriptor, name:=value
    #[arg(value_name = "NAME:=VALUE")]
    assignments: Vec<String>,
    /// Print the JSON form of each message, one a line
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When a file cannot be used, models cannot be had or one gives no answer.
pub fn run(args: &Args) -> Result<ExitCode> {
    settle(attempt(args))
}

fn attempt(args: &Args) -> Result<ExitCode> {
    let overrides = Overrides::parse(&args.assignments, &[]).map_err(wrong)?;
    // Whether the other nodes' models and files are there is not this one's business.
    let facts = Facts {
        catalogue: None,
        tokens_per_s: descriptor::check::DEFAULT_TOKENS_PER_S,
        exists: &|_| true,
    };
    let graph = match descriptor::load(&args.launch, &overrides, &environment, &facts) {
        Ok(loaded) => loaded.graph,
        Err(rejected) => {
            for line in rejected.findings.lines(&rejected.files) {
                eprintln!("{line}");
            }
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let node = find(&graph, args)?;
    let inputs = inputs(node, &args.inputs)?;
    let trial = Trial::prepare(&graph, node, &inputs, &mut |text| eprintln!("note: {text}"))?;
    if let Trial::Silent(reason) = &trial {
        eprintln!("note: {reason}");
        return Ok(ExitCode::SUCCESS);
    }
    let needed = needed(&graph, node, trial.roles())?;
    let folders = if needed.is_empty() {
        Folders::new()
    } else {
        fetch(needed)?
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let messages = runtime.block_on(operate(&graph, node, trial, &folders))?;
    // Threads of models may still be inside a run: they are not waited for.
    runtime.shutdown_timeout(Duration::from_millis(500));
    if messages.is_empty() {
        eprintln!(
            "note: node {} publishes nothing: it heard no words",
            node.name
        );
    }
    for message in &messages {
        print(args, node, message)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn find<'a>(graph: &'a Graph, args: &Args) -> Result<&'a NodeSpec> {
    if let Some(node) = graph.node(&args.node) {
        return Ok(node);
    }
    let file = args.launch.display();
    if args.node == GATE {
        return Err(wrong(format!(
            "the gate decides ten times a second on what came before, not on one message: start {file} and watch its verdicts"
        )));
    }
    let names: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
    Err(wrong(format!(
        "{file} has no node {}; {}",
        args.node,
        suggestion(&args.node, &names)
    )))
}

fn inputs(node: &NodeSpec, texts: &[String]) -> Result<BTreeMap<String, Input>> {
    let ports: Vec<&str> = node.inputs.keys().map(String::as_str).collect();
    let mut inputs = BTreeMap::new();
    for text in texts {
        // A port that is not there is said before its file is read.
        let port = text.split_once('=').map_or("", |(port, _)| port.trim());
        if !port.is_empty() && !node.inputs.contains_key(port) {
            return Err(wrong(format!(
                "node {} has no input {port}; {}",
                node.name,
                suggestion(port, &ports)
            )));
        }
        let input = Input::read(text)?;
        if let Some(first) = inputs.insert(input.port.clone(), input) {
            return Err(wrong(format!("port {} is given twice", first.port)));
        }
    }
    Ok(inputs)
}

/// "did you mean x?", or all there are.
fn suggestion(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("it has {}", known.join(", ")),
    }
}

/// Catalogue names of the models of some roles; a role the node does without is left out.
fn needed(graph: &Graph, node: &NodeSpec, roles: &[&str]) -> Result<BTreeMap<String, Fetch>> {
    let mut names = BTreeMap::new();
    for name in roles.iter().filter_map(|role| node.model(role)) {
        let spec = graph
            .models
            .get(name)
            .with_context(|| format!("model {name} is not in the descriptor"))?;
        names.insert(spec.catalogue.clone(), spec.fetch);
    }
    Ok(names)
}

async fn operate(
    graph: &Graph,
    node: &NodeSpec,
    trial: Trial,
    folders: &Folders,
) -> Result<Vec<Published>> {
    let roles = trial.roles();
    if roles.is_empty() {
        return trial.run(Clients::default()).await;
    }
    let (health, runtime) = (
        Health::default(),
        Runtime::start(&configure::runtime(graph)?)?,
    );
    let ground = Ground {
        graph,
        folders,
        runtime: &runtime,
        health: &health,
    };
    let mut servers = Servers::default();
    let clients = clients(&ground, node, &mut servers, roles)?;
    let lone = Lone::start(health.clone(), std::mem::take(&mut servers.children)).await?;
    let outcome = match lone.ready(READY_LIMIT).await {
        Ok(()) => trial.run(clients).await,
        Err(error) => Err(error),
    };
    lone.stop().await;
    outcome
}

fn clients(
    ground: &Ground<'_>,
    node: &NodeSpec,
    servers: &mut Servers,
    roles: &[&str],
) -> Result<Clients> {
    let mut clients = Clients::default();
    match node.kind {
        NodeKind::SpeechCommand => {
            clients.speech = Some(SpeechModels {
                voice: servers.voice(ground, node)?,
                recogniser: servers.recogniser(ground, node)?,
            });
        }
        NodeKind::PerceptionSummary => {
            let detector = if roles.contains(&"detector") {
                servers.detector(ground, node)?
            } else {
                None
            };
            clients.summary = Some(SummaryModels {
                detector,
                language: servers.language(ground, node)?,
            });
        }
        NodeKind::PlannerAdvisor => {
            let language = servers
                .language(ground, node)?
                .with_context(|| format!("node {} has no language model", node.name))?;
            clients.advisor = Some((language, model_sha256(ground, node)?));
        }
    }
    Ok(clients)
}

fn print(args: &Args, node: &NodeSpec, message: &Published) -> Result<()> {
    let text = if args.json {
        message.data.to_string()
    } else {
        let seen = Seen {
            topic: node.name.clone(),
            type_name: message.type_name.to_owned(),
            arrived: Instant::now(),
            stamp_ns: None,
            age: None,
            latency: None,
            data: message.data.clone(),
            problem: None,
        };
        match story::line(&seen) {
            Some(line) => format!("{}  {}", line.chapter.name(), line.text),
            None => message.data.to_string(),
        }
    };
    writeln!(std::io::stdout().lock(), "{text}").context("printing")
}
