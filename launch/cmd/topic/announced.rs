//! `llmasos topic info` and `llmasos topic type`: what is announced of one topic.
//!
//! A topic that nobody announces is listened to until its first message tells what it can.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, anyhow};
use llmasos_msgs::rmw_zenoh::{Durability, History, QosProfile, Reliability};
use llmasos_nodes::bus::Arrival;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    super::{
        connect::{Connect, Reached, Stop, close},
        network::{Endpoint, Network, Role, Route, routes_text},
        output::line,
        types::form,
        usage::wrong,
    },
    listen::{Patience, listen, pause, silence},
    name::{Keyed, Name},
    typing::{TypeSources, Types},
};

/// Arguments of `llmasos topic info`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llmasos topic info -v /ego/llmasos/gate/verdict")]
pub(super) struct InfoArgs {
    #[command(flatten)]
    look: Look,
    /// Show every endpoint with its node, QoS and type hash
    #[arg(short, long)]
    verbose: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `llmasos topic type`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llmasos topic type /ego/llmasos/gate/verdict")]
pub(super) struct TypeArgs {
    #[command(flatten)]
    look: Look,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How a topic is looked up.
#[derive(Debug, clap::Args)]
struct Look {
    /// The topic
    #[arg(value_name = "TOPIC")]
    topic: String,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    types: TypeSources,
    #[command(flatten)]
    connect: Connect,
}

/// What was found of a topic.
struct Found {
    name: String,
    network: Network,
    /// Types that are told, or that the first message tells.
    types: Vec<String>,
    /// Route of the first message, where nobody announces the topic.
    heard: Option<Route>,
    /// What its payload is, where its type is unknown.
    form: Option<&'static str>,
}

impl Look {
    async fn find(&self) -> Result<Found> {
        let mut types = self.types.load()?;
        self.patience.limit(true)?;
        let reached = self.connect.open().await?;
        let found = self.find_at(&reached, &mut types).await;
        close(reached.bus).await;
        found
    }

    async fn find_at(&self, reached: &Reached, types: &mut Types) -> Result<Found> {
        let name = Name::of(&self.topic, reached.bus.namespace(), reached.domain)?;
        if !name.is_single() {
            return Err(wrong(format!(
                "expected one topic, found the pattern {}",
                name.shown
            )));
        }
        let network = Network::look(reached).await?;
        types.learn(&network);
        let mut found = Found {
            types: network.types(&name.shown),
            network,
            name: name.shown.clone(),
            heard: None,
            form: None,
        };
        if found.network.knows(&name.shown) {
            return Ok(found);
        }
        let limit = self.patience.limit(false)?;
        let Some(arrival) = first(reached, &name, limit).await? else {
            return Err(silence(&name, false, limit.unwrap_or_default(), reached));
        };
        found.heard = Some(match Keyed::of(&arrival.key).rmw {
            Some(_) => Route::RmwZenoh,
            None => Route::Plain,
        });
        match types.of(&arrival.key, &arrival.encoding) {
            Some(told) => found.types.push(told.name),
            None => found.form = Some(form(&arrival.encoding, &arrival.payload.to_bytes())),
        }
        Ok(found)
    }
}

/// The first message of a topic; `None` when it takes too long or somebody stops the waiting.
async fn first(reached: &Reached, name: &Name, limit: Option<Duration>) -> Result<Option<Arrival>> {
    let mut stop = Stop::listen()?;
    let (sender, mut messages) = mpsc::channel(1);
    let on = move |arrival| {
        // Only the first is wanted.
        let _full = sender.try_send(arrival);
    };
    let _subscriptions = listen(&reached.bus, name, None, on).await?;
    tokio::select! {
        arrival = messages.recv() => Ok(arrival),
        () = pause(limit) => Ok(None),
        () = stop.asked() => Ok(None),
    }
}

/// Runs `type`.
pub(super) async fn type_of(args: &TypeArgs) -> Result<ExitCode> {
    let found = args.look.find().await?;
    if found.types.is_empty() {
        let form = found.form.unwrap_or("bytes");
        return Err(anyhow!(
            "{} carries {form} of a type that nobody tells; a descriptor (--launch FILE) or its publisher may know it",
            found.name
        ));
    }
    if args.json {
        line(&json!({ "topic": found.name, "types": found.types }).to_string())?;
    } else {
        for type_name in &found.types {
            line(type_name)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `info`.
pub(super) async fn info(args: &InfoArgs) -> Result<ExitCode> {
    let found = args.look.find().await?;
    if args.json {
        line(&as_json(&found).to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let types = match (found.types.as_slice(), found.form) {
        ([], form) => form.unwrap_or("unknown").to_owned(),
        ([one], _) => one.clone(),
        (several, _) => format!("[{}]", several.join(", ")),
    };
    line(&format!("Type: {types}"))?;
    if let Some(route) = found.heard {
        line(&format!("Heard on its {route} key; nobody announces it"))?;
    }
    for (title, role) in [
        ("Publisher", Role::Publisher),
        ("Subscription", Role::Subscription),
    ] {
        if args.verbose {
            line("")?;
        }
        line(&format!(
            "{title} count: {}",
            found.network.count(&found.name, role)
        ))?;
        let endpoints = found
            .network
            .of_name(&found.name)
            .filter(|endpoint| endpoint.role == role);
        for endpoint in endpoints.filter(|_| args.verbose) {
            line(&format!("\n{}", described(endpoint).join("\n")))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The lines of an endpoint, as ros2 prints them.
fn described(endpoint: &Endpoint) -> Vec<String> {
    let (namespace, node) = match endpoint
        .node
        .as_deref()
        .and_then(|node| node.rsplit_once('/'))
    {
        Some(("", node)) => ("/", node),
        Some((namespace, node)) => (namespace, node),
        None => ("?", "behind a bridge"),
    };
    let mut lines = vec![
        format!("Node name: {node}"),
        format!("Node namespace: {namespace}"),
        format!("Topic type: {}", endpoint.type_name),
    ];
    if let Some(hash) = &endpoint.hash {
        lines.push(format!("Topic type hash: {hash}"));
    }
    lines.push(format!("Endpoint type: {}", word(endpoint.role)));
    lines.push(format!("Route: {}", routes_text(&endpoint.routes)));
    if let Some(gid) = endpoint.gid {
        let parts: Vec<String> = gid.0.iter().map(|byte| format!("{byte:02x}")).collect();
        lines.push(format!("GID: {}", parts.join(".")));
    }
    if let Some(qos) = endpoint.qos {
        let (reliability, history, durability) = words(qos);
        lines.push("QoS profile:".to_owned());
        lines.push(format!("  Reliability: {reliability}"));
        lines.push(format!("  History (Depth): {history} ({})", qos.depth));
        lines.push(format!("  Durability: {durability}"));
    }
    lines
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Publisher => "PUBLISHER",
        Role::Subscription => "SUBSCRIPTION",
        Role::Service => "SERVICE",
        Role::Client => "CLIENT",
        Role::ActionServer => "ACTION_SERVER",
        Role::ActionClient => "ACTION_CLIENT",
    }
}

fn words(qos: QosProfile) -> (&'static str, &'static str, &'static str) {
    let reliability = match qos.reliability {
        Reliability::Reliable => "RELIABLE",
        Reliability::BestEffort => "BEST_EFFORT",
    };
    let history = match qos.history {
        History::KeepLast => "KEEP_LAST",
        History::KeepAll => "KEEP_ALL",
    };
    let durability = match qos.durability {
        Durability::Volatile => "VOLATILE",
        Durability::TransientLocal => "TRANSIENT_LOCAL",
    };
    (reliability, history, durability)
}

fn as_json(found: &Found) -> Value {
    let endpoints = |role: Role| -> Vec<Value> {
        let all = found
            .network
            .of_name(&found.name)
            .filter(|endpoint| endpoint.role == role);
        all.map(endpoint_json).collect()
    };
    json!({
        "topic": found.name, "types": found.types, "form": found.form, "heard": found.heard.map(|route| route.to_string()),
        "publishers": endpoints(Role::Publisher), "subscriptions": endpoints(Role::Subscription),
    })
}

fn endpoint_json(endpoint: &Endpoint) -> Value {
    let routes: Vec<String> = endpoint.routes.iter().map(ToString::to_string).collect();
    let qos = endpoint.qos.map(|qos| {
        let (reliability, history, durability) = words(qos);
        json!({ "reliability": reliability, "history": history, "depth": qos.depth, "durability": durability })
    });
    let gid = endpoint.gid.map(|gid| {
        gid.0
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    });
    json!({ "node": endpoint.node, "type": endpoint.type_name, "hash": endpoint.hash, "routes": routes, "gid": gid, "qos": qos })
}
