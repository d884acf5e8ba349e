//! `llmasos node list` and `llmasos node info`.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use super::super::{
    connect::{Connect, Reached, close},
    network::{Network, Node, Role, is_hidden, routes_text},
    output::{Column, line, table},
};
use crate::descriptor::findings::nearest;

/// Arguments of `llmasos node list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos node list
  llmasos node list -v         routes and states")]
pub(super) struct ListArgs {
    /// Show nodes that ROS hides, too
    #[arg(short, long)]
    all: bool,
    /// Show by which routes each was found, and the state of those of a launch
    #[arg(short, long)]
    verbose: bool,
    /// Print only how many there are
    #[arg(short, long)]
    count_nodes: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `llmasos node info`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llmasos node info /ego/gate")]
pub(super) struct InfoArgs {
    /// Full name of the node; without a slash it stands under --namespace
    #[arg(value_name = "NODE")]
    node: String,
    /// Show topics and services that ROS hides, too
    #[arg(long)]
    include_hidden: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// The lists of a node, as ros2 titles them.
const LISTS: [(&str, &str, Role); 6] = [
    ("Subscribers", "subscribers", Role::Subscription),
    ("Publishers", "publishers", Role::Publisher),
    ("Service Servers", "service_servers", Role::Service),
    ("Service Clients", "service_clients", Role::Client),
    ("Action Servers", "action_servers", Role::ActionServer),
    ("Action Clients", "action_clients", Role::ActionClient),
];

async fn looked(connect: &Connect) -> Result<(Reached, Network)> {
    let reached = connect.open().await?;
    let network = Network::look(&reached).await?;
    Ok((reached, network))
}

/// Runs `list`.
pub(super) async fn list(args: &ListArgs) -> Result<ExitCode> {
    let (reached, mut network) = looked(&args.connect).await?;
    let (domain, address) = (reached.domain, reached.address.clone());
    close(reached.bus).await;
    if !args.all {
        network.nodes.retain(|name, _| !is_hidden(name));
    }
    if args.count_nodes {
        line(&network.nodes.len().to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let same: Vec<&String> = network
        .nodes
        .iter()
        .filter(|(_, node)| node.count > 1)
        .map(|(name, _)| name)
        .collect();
    if !same.is_empty() {
        let names: Vec<&str> = same.into_iter().map(String::as_str).collect();
        eprintln!("note: several nodes have the name {}", names.join(", "));
    }
    if args.json {
        for (name, node) in &network.nodes {
            let routes: Vec<String> = node.routes.iter().map(ToString::to_string).collect();
            line(&json!({ "node": name, "routes": routes, "state": node.state, "count": node.count }).to_string())?;
        }
    } else if network.nodes.is_empty() {
        let bridges = match network.bridges {
            0 => String::new(),
            count => format!(", though {count} bridges are there"),
        };
        eprintln!(
            "note: no node in domain {domain} at {address}{bridges}; a plain Zenoh program shows no nodes"
        );
    } else if args.verbose {
        let rows: Vec<[String; 3]> = network
            .nodes
            .iter()
            .map(|(name, node)| {
                [
                    name.clone(),
                    routes_text(&node.routes),
                    node.state.clone().unwrap_or_default(),
                ]
            })
            .collect();
        let heading = [
            ("node", Column::Left),
            ("route", Column::Left),
            ("state", Column::Left),
        ];
        for row in table(heading, &rows) {
            line(&row)?;
        }
    } else {
        for name in network.nodes.keys() {
            line(name)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `info`.
pub(super) async fn info(args: &InfoArgs) -> Result<ExitCode> {
    let (reached, network) = looked(&args.connect).await?;
    let name = format!("/{}", reached.bus.key(&args.node));
    close(reached.bus).await;
    let Some(node) = network.nodes.get(&name) else {
        let near = nearest(&name, network.nodes.keys().map(String::as_str));
        return Err(match near {
            Some(near) => anyhow!("there is no node {name}; did you mean {near}?"),
            None => anyhow!("there is no node {name}; `llmasos node list` shows those that are"),
        });
    };
    if args.json {
        line(&as_json(&name, node).to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    line(&name)?;
    line(&format!("  Route: {}", routes_text(&node.routes)))?;
    if let Some(state) = &node.state {
        line(&format!("  State: {state}"))?;
    }
    for (title, _, role) in LISTS {
        line(&format!("  {title}:"))?;
        for (_, topic, type_name) in
            of_role(node, role).filter(|(_, name, _)| args.include_hidden || !is_hidden(name))
        {
            line(&format!("    {topic}: {type_name}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn of_role(node: &Node, role: Role) -> impl Iterator<Item = &(Role, String, String)> {
    let mut found: Vec<_> = node
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.0 == role)
        .collect();
    found.sort();
    found.into_iter()
}

fn as_json(name: &str, node: &Node) -> Value {
    let routes: Vec<String> = node.routes.iter().map(ToString::to_string).collect();
    let mut value =
        json!({ "node": name, "routes": routes, "state": node.state, "count": node.count });
    for (_, key, role) in LISTS {
        let list = of_role(node, role)
            .map(|(_, name, type_name)| json!({ "name": name, "type": type_name }));
        value[key] = list.collect();
    }
    value
}
