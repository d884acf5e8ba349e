//! The running system: bus, models, nodes and gate under one supervisor, from the checked graph.
//!
//! ```text
//! launcher process                                  gate process
//! supervisor ─┬─ model servers (own threads)          supervised by an actor here,
//!             ├─ nodes                                finds the graph by the descriptor alone
//!             └─ gate watcher ─────────────────────▶
//! ```

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use llmasos_engine::Runtime;
use llmasos_nodes::{
    advisor::node::AdvisorNode,
    bus::Bus,
    contract::Supersede,
    health::{Health, NodeState},
    speech::{SpeechModels, node::SpeechNode},
    summary::{SummaryModels, node::SummaryNode},
    supervise::{Child, Start, SuperviseMessage, Supervisor},
};
use ractor::{Actor, ActorRef};
use tokio::task::JoinHandle;

use super::{
    child_process::ChildProcess,
    configure,
    describe::{self, Described},
    environment::RosEnvironment,
    last_word::LastWord,
    lone,
    models::{Folders, Ground, Servers, manifest_sha256},
};
use crate::descriptor::graph::{Graph, NodeKind, NodeSpec};

/// Name of the gate among the children.
pub const GATE: &str = "gate";
/// How long stopping everything may take.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What is running.
pub struct System {
    /// The session; observers share it.
    pub bus: Bus,
    /// Health of everything in this process.
    pub health: Health,
    /// Model servers, for faults.
    pub servers: Servers,
    supervisor: ActorRef<SuperviseMessage>,
    ended: JoinHandle<()>,
    publishing: JoinHandle<()>,
    names: Vec<String>,
    _described: Option<Described>,
}

/// How a part of the graph gets a process of its own: this executable, and the arguments that lead to the same graph.
#[derive(Clone, Debug)]
pub struct Fork {
    /// This executable.
    pub executable: PathBuf,
    /// The descriptor with its assignments and profiles.
    pub descriptor: Vec<String>,
}

impl System {
    /// Opens the bus and starts everything. Returns before the models are loaded.
    ///
    /// # Errors
    /// When the runtime or the bus cannot be opened, or the graph asks for what is not there.
    ///
    /// `parent` is the address of the launcher whose child this process is.
    pub async fn start(
        graph: &Graph,
        folders: &Folders,
        fork: &Fork,
        parent: Option<&str>,
        environment: &RosEnvironment,
    ) -> Result<System> {
        let bus = Bus::open(&configure::bus(graph, parent, environment)).await?;
        let health = Health::default();
        let runtime = if graph
            .nodes
            .iter()
            .all(|node| node.own_process && parent.is_none())
        {
            None
        } else {
            Some(Runtime::start(&configure::runtime(graph)?)?)
        };
        let mut servers = Servers::default();
        let mut children = Vec::new();
        if let Some(runtime) = &runtime {
            let ground = Ground {
                graph,
                folders,
                runtime,
                health: &health,
            };
            for node in &graph.nodes {
                if !(node.own_process && parent.is_none()) {
                    children.push(child(&ground, node, &mut servers, &bus)?);
                }
            }
        }
        // Whoever has a parent is such a process already.
        for node in graph
            .nodes
            .iter()
            .filter(|node| node.own_process && parent.is_none())
        {
            let after = node
                .start_after
                .iter()
                .map(|(name, _)| name.clone())
                .collect();
            let watcher = process(&node.name, fork, &["node", "run"], &bus, &health);
            children.push(watched(graph, &node.name, after, watcher));
        }
        children.append(&mut servers.children);
        if let Some(gate) = &graph.gate {
            let mut watcher = process(GATE, fork, &["gate"], &bus, &health);
            if gate.velocity_limit {
                watcher.last_word = Some(LastWord::open(&bus).await?);
            }
            children.push(watched(graph, GATE, Vec::new(), watcher));
        }
        let names: Vec<String> = children.iter().map(|child| child.name.clone()).collect();
        let publishing = tokio::spawn({
            let (health, bus) = (health.clone(), bus.clone());
            async move {
                if let Err(error) = health.publish(bus).await {
                    tracing::error!(%error, "diagnostics are no longer published");
                }
            }
        });
        // The launcher speaks for the whole graph; its children only for themselves, in the diagnostics.
        let described = match parent {
            None => Some(describe::describe(&Arc::new(graph.clone()), &bus, &health).await?),
            Some(_) => None,
        };
        let (supervisor, ended) =
            Supervisor::spawn(None, Supervisor::new(health.clone()), children)
                .await
                .context("starting the supervisor")?;
        Ok(System {
            bus,
            health,
            servers,
            supervisor,
            ended,
            publishing,
            names,
            _described: described,
        })
    }

    /// Waits until every child is ready.
    ///
    /// # Errors
    /// When `limit` passes first or a child was given up; names it and its state.
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        lone::until_ready(&self.health, &self.names, limit).await
    }

    /// A critical child that was given up, and why.
    pub fn lost(&self, critical: &[String]) -> Option<String> {
        critical
            .iter()
            .find_map(|name| match self.health.state(name) {
                Some((NodeState::Failed, detail)) if detail.starts_with("given up") => {
                    Some(format!("{name} is critical: {detail}"))
                }
                _ => None,
            })
    }

    /// Fault injection: kills a node or the gate as a crash would.
    pub fn kill(&self, name: &str) {
        if self
            .supervisor
            .cast(SuperviseMessage::Kill(name.to_owned()))
            .is_err()
        {
            tracing::warn!(name, "cannot be killed: the supervisor is gone");
        }
    }

    /// Stops everything: nodes and gate first, then the session.
    pub async fn stop(self) {
        self.publishing.abort();
        if self.supervisor.cast(SuperviseMessage::StopAll).is_err() {
            tracing::warn!("the supervisor had ended already");
        }
        if tokio::time::timeout(STOP_LIMIT, self.ended).await.is_err() {
            tracing::warn!("the supervisor did not end in time");
        }
        self.bus.close(STOP_LIMIT).await;
    }
}

fn child(ground: &Ground<'_>, node: &NodeSpec, servers: &mut Servers, bus: &Bus) -> Result<Child> {
    let (graph, health) = (ground.graph, ground.health.node(&node.name));
    let out = |port: &str| {
        node.output(port)
            .map(str::to_owned)
            .with_context(|| format!("node {} has no output {port}", node.name))
    };
    let start = match node.kind {
        NodeKind::SpeechCommand => {
            let models = match node.inputs.contains_key("audio") {
                true => Some(SpeechModels {
                    voice: servers.voice(ground, node)?,
                    recogniser: servers.recogniser(ground, node)?,
                }),
                false => None,
            };
            let parts = (
                configure::port(graph, node, "audio")?,
                configure::port(graph, node, "text")?,
                out("command")?,
                Arc::new(configure::speech(node)?),
            );
            let bus = bus.clone();
            actor(move || SpeechNode {
                bus: bus.clone(),
                health: health.clone(),
                audio: parts.0.clone(),
                text: parts.1.clone(),
                command: parts.2.clone(),
                options: Arc::clone(&parts.3),
                models: models.clone(),
            })
        }
        NodeKind::PerceptionSummary => {
            let models = SummaryModels {
                detector: servers.detector(ground, node)?,
                language: servers.language(ground, node)?,
            };
            let port = |name: &str| configure::port(graph, node, name);
            let inputs = (
                port("image")?,
                port("objects")?,
                port("traffic_lights")?,
                port("ego")?,
            );
            let (summary, options, bus) = (
                out("summary")?,
                Arc::new(configure::summary(node)?),
                bus.clone(),
            );
            actor(move || SummaryNode {
                bus: bus.clone(),
                health: health.clone(),
                image: inputs.0.clone(),
                objects: inputs.1.clone(),
                lights: inputs.2.clone(),
                ego: inputs.3.clone(),
                summary: summary.clone(),
                options: Arc::clone(&options),
                models: models.clone(),
            })
        }
        NodeKind::PlannerAdvisor => {
            let language = servers
                .language(ground, node)?
                .with_context(|| format!("node {} has no language model", node.name))?;
            let options = Arc::new(configure::advisor(
                graph,
                node,
                model_sha256(ground, node)?,
            )?);
            let command = configure::port(graph, node, "command")?
                .with_context(|| format!("node {} has no input command", node.name))?;
            let supersede = node
                .inputs
                .get("command")
                .map_or(Supersede::Finish, |input| input.supersede);
            let summary = configure::advisor_context(graph, node, "summary")?;
            let ego = configure::advisor_context(graph, node, "ego")?
                .with_context(|| format!("node {} has no input ego", node.name))?;
            let (advice, bus) = (out("advice")?, bus.clone());
            actor(move || AdvisorNode {
                bus: bus.clone(),
                health: health.clone(),
                command: command.clone(),
                supersede,
                summary: summary.clone(),
                ego: ego.clone(),
                advice: advice.clone(),
                options: Arc::clone(&options),
                language: language.clone(),
            })
        }
    };
    let after = node
        .start_after
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    Ok(Child {
        name: node.name.clone(),
        policy: configure::restart(graph, &node.name),
        after,
        start,
    })
}

/// A start function from one that makes the behaviour.
fn actor<A: Actor<Arguments = ()>>(behaviour: impl Fn() -> A + Send + Sync + 'static) -> Start {
    Arc::new(move |supervisor| {
        let behaviour = behaviour();
        Box::pin(async move {
            A::spawn_linked(None, behaviour, (), supervisor)
                .await
                .map(|(actor, _)| actor.get_cell())
        })
    })
}

/// Hash of the manifest of a node's language model.
pub fn model_sha256(ground: &Ground<'_>, node: &NodeSpec) -> Result<[u8; 32]> {
    let folder = node
        .model("language")
        .and_then(|name| ground.graph.models.get(name))
        .and_then(|spec| ground.folders.get(&spec.catalogue))
        .with_context(|| format!("node {} has no language model", node.name))?;
    manifest_sha256(folder)
}

/// The watcher of a part of the graph in a process of its own.
fn process(name: &str, fork: &Fork, verb: &[&str], bus: &Bus, health: &Health) -> ChildProcess {
    let mut arguments: Vec<String> = verb.iter().map(|word| (*word).to_owned()).collect();
    arguments.extend(fork.descriptor.iter().cloned());
    if name != GATE {
        arguments.extend(["--only".to_owned(), name.to_owned()]);
    }
    if let Some(address) = bus.listening().first() {
        arguments.extend(["--connect".to_owned(), address.clone()]);
    }
    arguments.extend(["--parent".to_owned(), std::process::id().to_string()]);
    ChildProcess {
        bus: bus.clone(),
        executable: fork.executable.clone(),
        arguments,
        health: health.node(name),
        last_word: None,
    }
}

fn watched(graph: &Graph, name: &str, after: Vec<String>, watcher: ChildProcess) -> Child {
    Child {
        name: name.to_owned(),
        policy: configure::restart(graph, name),
        after,
        start: actor(move || watcher.clone()),
    }
}
