//! What a launch tells whoever asks: its nodes, topics, ledgers and models, as JSON under `@llmasos/<namespace>/`.
//!
//! ```text
//! zenoh get -s '@llmasos/**'
//!   @llmasos/ego/graph    nodes with their topics and services, and the contracts
//!   @llmasos/ego/ledger   what became of every message, by edge; they balance
//!   @llmasos/ego/models   models in use and what they are doing
//!   @llmasos/ego/gate     last decision and counters, told by the gate itself
//! ```
//!
//! The chunk with `@` keeps these out of `**`: nobody who listens to everything meets them.

use std::sync::Arc;

use anyhow::Result;
use llmasos_nodes::{
    advisor::node::ASK_SERVICE,
    bus::{Answering, Bus, key_of},
    contract::{Accept, TopicContract},
    gate::{
        autoware::{CLEAR_VELOCITY_LIMIT_TOPIC, VELOCITY_LIMIT_TOPIC},
        node::REARM_SERVICE,
    },
    health::{DIAGNOSTICS_TOPIC, Health},
    ros2::PROCESS_NODE,
    speech::node::SAY_SERVICE,
};
use serde_json::{Value, json};
use zenoh::bytes::Encoding;

use super::system::GATE;
use crate::descriptor::graph::{Graph, NodeKind, NodeSpec};

/// Answers while it is held.
pub struct Described {
    _answering: Vec<Answering>,
}

/// Starts to answer.
///
/// # Errors
/// When the session is gone.
pub async fn describe(graph: &Arc<Graph>, bus: &Bus, health: &Health) -> Result<Described> {
    let prefix = match bus.namespace() {
        "" => "/@llmasos".to_owned(),
        namespace => format!("/@llmasos/{namespace}"),
    };
    let (of_graph, of_models) = (Arc::clone(graph), Arc::clone(graph));
    let (states, edges, models) = (health.clone(), health.clone(), health.clone());
    let answering = vec![
        bus.answer(&format!("{prefix}/graph"), move || {
            answer(&graph_json(&of_graph, &states))
        })
        .await?,
        bus.answer(&format!("{prefix}/ledger"), move || {
            answer(&ledger_json(&edges))
        })
        .await?,
        bus.answer(&format!("{prefix}/models"), move || {
            answer(&models_json(&of_models, &models))
        })
        .await?,
    ];
    Ok(Described {
        _answering: answering,
    })
}

fn answer(value: &Value) -> Option<(zenoh::bytes::ZBytes, Encoding)> {
    Some((value.to_string().into(), Encoding::APPLICATION_JSON))
}

/// Names and types of endpoints, in the words of the bridge's admin space.
#[derive(Default)]
struct Endpoints {
    publishers: Vec<Value>,
    subscribers: Vec<Value>,
    services: Vec<Value>,
}

fn graph_json(graph: &Graph, health: &Health) -> Value {
    let mut nodes: Vec<Value> = graph
        .nodes
        .iter()
        .map(|node| node_json(graph, health, &node.name, endpoints(graph, node)))
        .collect();
    if graph.gate.is_some() {
        nodes.push(node_json(graph, health, GATE, gate_endpoints(graph)));
    }
    let own = Endpoints {
        publishers: vec![named(
            graph,
            DIAGNOSTICS_TOPIC,
            "diagnostic_msgs/msg/DiagnosticArray",
        )],
        ..Endpoints::default()
    };
    nodes.push(node_json(graph, health, PROCESS_NODE, own));
    json!({
        "launch": graph.name,
        "namespace": format!("/{}", graph.namespace),
        "nodes": nodes,
        "topics": graph.topics.iter().map(|topic| contract_json(graph, topic)).collect::<Vec<_>>(),
    })
}

fn node_json(graph: &Graph, health: &Health, name: &str, endpoints: Endpoints) -> Value {
    let (state, detail) = match health.state(name) {
        Some((state, detail)) => (state.name(), detail),
        None => ("ready", String::new()),
    };
    json!({
        "name": full_name(graph, name),
        "state": state,
        "detail": detail,
        "publishers": endpoints.publishers,
        "subscribers": endpoints.subscribers,
        "service_servers": endpoints.services,
    })
}

fn endpoints(graph: &Graph, node: &NodeSpec) -> Endpoints {
    let known = |topic: &str| of_topic(graph, topic);
    let services = match node.kind {
        NodeKind::SpeechCommand if node.inputs.contains_key("text") => {
            vec![named(graph, SAY_SERVICE, "llmasos_msgs/srv/Say")]
        }
        NodeKind::PlannerAdvisor => vec![named(graph, ASK_SERVICE, "llmasos_msgs/srv/Ask")],
        NodeKind::SpeechCommand | NodeKind::PerceptionSummary => Vec::new(),
    };
    Endpoints {
        publishers: node
            .outputs
            .values()
            .filter_map(|output| known(&output.topic))
            .collect(),
        subscribers: node
            .inputs
            .values()
            .filter_map(|input| known(&input.topic))
            .collect(),
        services,
    }
}

fn gate_endpoints(graph: &Graph) -> Endpoints {
    let Some(gate) = &graph.gate else {
        return Endpoints::default();
    };
    let mut publishers: Vec<Value> = gate
        .outputs
        .values()
        .filter_map(|output| of_topic(graph, &output.topic))
        .collect();
    if gate.velocity_limit {
        let package = "autoware_internal_planning_msgs/msg";
        for (topic, message) in [
            (VELOCITY_LIMIT_TOPIC, "VelocityLimit"),
            (CLEAR_VELOCITY_LIMIT_TOPIC, "VelocityLimitClearCommand"),
        ] {
            publishers.push(named(graph, topic, &format!("{package}/{message}")));
        }
    }
    Endpoints {
        publishers,
        subscribers: gate
            .inputs
            .values()
            .filter_map(|input| of_topic(graph, &input.topic))
            .collect(),
        services: vec![named(graph, REARM_SERVICE, "std_srvs/srv/Trigger")],
    }
}

fn of_topic(graph: &Graph, topic: &str) -> Option<Value> {
    let contract = graph.topic(topic)?;
    Some(named(graph, topic, &contract.type_name))
}

fn named(graph: &Graph, topic: &str, type_name: &str) -> Value {
    json!({ "name": full_name(graph, topic), "type": type_name })
}

fn full_name(graph: &Graph, name: &str) -> String {
    format!("/{}", key_of(&graph.namespace, name))
}

fn contract_json(graph: &Graph, topic: &TopicContract) -> Value {
    let accept: Vec<&str> = topic
        .accept
        .iter()
        .map(|form| match form {
            Accept::Cdr => "cdr",
            Accept::Json => "json",
            Accept::Text => "text",
        })
        .collect();
    json!({
        "name": full_name(graph, &topic.topic),
        "type": topic.type_name,
        "rate_hz": topic.rate_hz,
        "event": topic.event,
        "max_age_ms": topic.max_age.map(|age| age.as_millis() as u64),
        "lifespan_ms": topic.lifespan.map(|span| span.as_millis() as u64),
        "accept": accept,
    })
}

fn ledger_json(health: &Health) -> Value {
    let edges = health.edges().into_iter().map(|(node, edge, count)| {
        json!({
            "node": node,
            "edge": edge,
            "received": count.received,
            "handled": count.handled,
            "lost": count.lost,
            "expired": count.expired,
            "superseded": count.superseded,
            "refused": count.refused,
            "waiting": count.waiting(),
        })
    });
    edges.collect()
}

fn models_json(graph: &Graph, health: &Health) -> Value {
    let models = graph.models.iter().map(|(name, model)| {
        let (state, detail) = health.state(name).map_or_else(
            || ("loading", String::new()),
            |(state, detail)| (state.name(), detail),
        );
        json!({ "name": name, "model": model.catalogue, "state": state, "detail": detail })
    });
    models.collect()
}
