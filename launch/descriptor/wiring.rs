//! Checks of the wiring: every port leads somewhere, both ends of a topic agree, and nobody speaks or listens where he must not.

use std::collections::BTreeMap;

use llmasos_nodes::contract::{Accept, OnStale};

use super::findings::{At, Findings};
use super::gate_table::{gate_input_types, gate_output_type};
use super::graph::{Clock, Feed, Graph, NodeKind};

const ADVICE: &str = "llmasos_msgs/msg/PlannerAdvice";
const VERDICT: &str = "llmasos_msgs/msg/GateVerdict";

/// One end of a topic.
struct End<'a> {
    /// `node summary, port image`.
    who: String,
    topic: &'a str,
    /// Types it takes or carries; empty = any.
    types: Vec<&'static str>,
    at: At,
    /// Belongs to the gate.
    gate: bool,
    /// Is a source, or an expectation.
    player: bool,
    /// Its owner works without it.
    optional: bool,
}

/// Runs all checks of this file.
pub(super) fn check(graph: &Graph, findings: &mut Findings) {
    let (writers, readers) = (writers(graph), readers(graph));
    for end in writers.iter().chain(&readers) {
        known(graph, end, findings);
        types(graph, end, findings);
    }
    one_writer(graph, &writers, findings);
    fed(graph, &writers, &readers, findings);
    used(graph, &writers, &readers, findings);
    advice(graph, &writers, &readers, findings);
    gate(graph, findings);
    sensible_contracts(graph, findings);
}

fn writers(graph: &Graph) -> Vec<End<'_>> {
    let mut ends = Vec::new();
    for node in &graph.nodes {
        for (port, out) in &node.outputs {
            let types = node.kind.output_type(port).into_iter().collect();
            let who = format!("port {port} of {}", node.name);
            ends.push(End {
                who,
                topic: &out.topic,
                types,
                at: out.at,
                gate: false,
                player: false,
                optional: false,
            });
        }
    }
    for (port, out) in graph.gate.iter().flat_map(|g| &g.outputs) {
        let types = gate_output_type(port).into_iter().collect();
        ends.push(End {
            who: format!("port {port} of the gate"),
            topic: &out.topic,
            types,
            at: out.at,
            gate: true,
            player: false,
            optional: false,
        });
    }
    for source in &graph.sources {
        let (Some(topic), types) = (source.topic(), source_types(&source.feed)) else {
            continue;
        };
        ends.push(End {
            who: "this source".into(),
            topic,
            types,
            at: source.site,
            gate: false,
            player: true,
            optional: false,
        });
    }
    ends
}

fn source_types(feed: &Feed) -> Vec<&'static str> {
    match feed {
        Feed::Wav { .. } => NodeKind::SpeechCommand.input_types("audio").to_vec(),
        Feed::Images { .. } => NodeKind::PerceptionSummary.input_types("image").to_vec(),
        Feed::Text { .. } => NodeKind::SpeechCommand.input_types("text").to_vec(),
        Feed::JsonLines { .. } | Feed::Fault { .. } => Vec::new(),
    }
}

fn readers(graph: &Graph) -> Vec<End<'_>> {
    let mut ends = Vec::new();
    for node in &graph.nodes {
        for (port, input) in &node.inputs {
            let types = node.kind.input_types(port).to_vec();
            let (who, optional) = (
                format!("port {port} of {}", node.name),
                input.on_stale == OnStale::RunWithout,
            );
            ends.push(End {
                who,
                topic: &input.topic,
                types,
                at: input.at,
                gate: false,
                player: false,
                optional,
            });
        }
    }
    for (port, input) in graph.gate.iter().flat_map(|g| &g.inputs) {
        let types = gate_input_types(port).to_vec();
        let (who, optional) = (
            format!("port {port} of the gate"),
            !["advice", "command", "ego"].contains(&port.as_str()),
        );
        ends.push(End {
            who,
            topic: &input.topic,
            types,
            at: input.at,
            gate: true,
            player: false,
            optional,
        });
    }
    for expect in &graph.expect {
        let who = "this expectation".into();
        ends.push(End {
            who,
            topic: &expect.topic,
            types: Vec::new(),
            at: expect.at,
            gate: false,
            player: true,
            optional: false,
        });
    }
    ends
}

fn known(graph: &Graph, end: &End<'_>, findings: &mut Findings) {
    if !graph.topic_sites.contains_key(end.topic) {
        findings.unknown(
            end.at,
            "topic",
            end.topic,
            graph.topic_sites.keys().map(String::as_str),
        );
    }
}

fn types(graph: &Graph, end: &End<'_>, findings: &mut Findings) {
    let Some(contract) = graph.topic(end.topic) else {
        return;
    };
    if end.types.is_empty() || end.types.contains(&contract.type_name.as_str()) {
        return;
    }
    let site = graph
        .topic_sites
        .get(end.topic)
        .copied()
        .unwrap_or_default();
    let (who, topic, found, expected) = (
        &end.who,
        end.topic,
        &contract.type_name,
        end.types.join(" or "),
    );
    let message = format!(
        "{who} expects {expected}, the topic {topic} carries {found}, declared at {}",
        graph.files.place(site)
    );
    let fitting: Vec<&str> = graph
        .topics
        .iter()
        .filter(|t| end.types.contains(&t.type_name.as_str()))
        .map(|t| t.topic.as_str())
        .collect();
    if fitting.is_empty() {
        findings.error(end.at, message);
    } else {
        findings.error_with(
            end.at,
            message,
            format!("topics that fit: {}", fitting.join(", ")),
        );
    }
}

/// A topic has one writer: two would interleave two truths. Sources may share one with each other (one clip after another).
fn one_writer(graph: &Graph, writers: &[End<'_>], findings: &mut Findings) {
    let mut first: BTreeMap<&str, &End<'_>> = BTreeMap::new();
    for end in writers
        .iter()
        .filter(|w| !w.player)
        .chain(writers.iter().filter(|w| w.player))
    {
        match first.get(end.topic) {
            Some(other) if !(other.player && end.player) => {
                let message = format!(
                    "two publishers on {}: {} and {} at {}",
                    end.topic,
                    end.who,
                    other.who,
                    graph.files.place(other.at)
                );
                findings.error(end.at, message);
            }
            Some(_) => {}
            None => {
                first.insert(end.topic, end);
            }
        }
    }
}

/// Every reader has a writer, or its messages come from outside.
fn fed(graph: &Graph, writers: &[End<'_>], readers: &[End<'_>], findings: &mut Findings) {
    for end in readers
        .iter()
        .filter(|r| graph.topic_sites.contains_key(r.topic))
    {
        if writers.iter().any(|w| w.topic == end.topic) {
            continue;
        }
        let from_people = graph
            .topic(end.topic)
            .is_some_and(|t| t.accept.iter().any(|a| *a != Accept::Cdr));
        let (who, topic) = (&end.who, end.topic);
        if end.topic.starts_with('/') || graph.sources.is_empty() || from_people {
            findings.note(
                end.at,
                format!("{who} reads {topic}, which comes from outside this graph"),
            );
        } else if end.optional {
            findings.warning(
                end.at,
                format!("{who} reads {topic}, which nobody publishes; it works without"),
            );
        } else {
            let message =
                format!("{who} reads {topic}, which nobody publishes: no node, no source");
            findings.error_with(
                end.at,
                message,
                "add a source, or write /topic if the vehicle publishes it",
            );
        }
    }
}

/// Every topic of the descriptor is used.
fn used(graph: &Graph, writers: &[End<'_>], readers: &[End<'_>], findings: &mut Findings) {
    for (topic, at) in &graph.topic_sites {
        let read = readers.iter().any(|e| e.topic == topic);
        let written = writers.iter().find(|e| e.topic == topic);
        let clock = matches!(&graph.clock, Clock::Topic(t) if t == topic);
        match written {
            _ if read || clock => {}
            None => findings.warning(*at, format!("the topic {topic} is used by nobody")),
            Some(end) if end.player => findings.warning(
                end.at,
                format!("{} plays onto {topic}, which nobody reads", end.who),
            ),
            Some(_) => {} // an output of the graph is read outside
        }
    }
}

/// Raw advice goes to the gate and nowhere else; a planner-advisor without a gate would go unchecked.
fn advice(graph: &Graph, writers: &[End<'_>], readers: &[End<'_>], findings: &mut Findings) {
    let carries =
        |end: &End<'_>, name: &str| graph.topic(end.topic).is_some_and(|t| t.type_name == name);
    for end in readers
        .iter()
        .filter(|r| !r.gate && !r.player && carries(r, ADVICE))
    {
        let message = format!(
            "{} reads raw advice from {}; only the gate may",
            end.who, end.topic
        );
        findings.error_with(end.at, message, "read the gate's verdict");
    }
    for end in writers.iter().filter(|w| w.player) {
        for (name, owner) in [(ADVICE, "planner-advisor"), (VERDICT, "gate")] {
            if carries(end, name) {
                findings.error(
                    end.at,
                    format!("{} publishes {name}; only the {owner} may", end.who),
                );
            }
        }
    }
    for node in graph
        .nodes
        .iter()
        .filter(|n| n.kind == NodeKind::PlannerAdvisor)
    {
        let Some(out) = node.outputs.get("advice") else {
            continue;
        };
        match &graph.gate {
            None => {
                let message = format!(
                    "{} is a planner-advisor without a gate: nothing would check its advice",
                    node.name
                );
                findings.error_with(
                    node.at,
                    message,
                    format!("add gate: {{ in: {{ advice: {} }} }}", out.topic),
                );
            }
            Some(gate) => match gate.inputs.get("advice") {
                Some(input) if input.topic == out.topic => {}
                Some(input) => {
                    let message = format!(
                        "the gate reads {}, {} publishes its advice on {}",
                        input.topic, node.name, out.topic
                    );
                    findings.error_with(input.at, message, format!("write advice: {}", out.topic));
                }
                None => {
                    let message = format!("the gate does not read the advice of {}", node.name);
                    findings.error_with(
                        gate.at,
                        message,
                        format!("add advice: {} under gate.in", out.topic),
                    );
                }
            },
        }
    }
}

/// What the gate is told must be what it can see.
fn gate(graph: &Graph, findings: &mut Findings) {
    let Some(gate) = &graph.gate else { return };
    if !gate.inputs.contains_key("summary") {
        for rule in &gate.refuse_when {
            findings.error(
                gate.at,
                format!(
                    "the rule {} can never apply: the gate has no input summary",
                    rule.name
                ),
            );
        }
    }
    if !gate.allow_in_mode.is_empty() && !gate.inputs.contains_key("operation_mode") {
        findings.error(
            gate.at,
            "actions are allowed by mode, but the gate has no input operation_mode",
        );
    }
    for speech in graph
        .nodes
        .iter()
        .filter(|n| n.kind == NodeKind::SpeechCommand)
    {
        let (Some(input), Some(topic)) = (gate.inputs.get("command"), speech.output("command"))
        else {
            continue;
        };
        if input.topic != topic {
            let message = format!(
                "the gate reads commands from {}, {} publishes them on {topic}",
                input.topic, speech.name
            );
            findings.error_with(
                input.at,
                message,
                "a spoken stop has to reach the gate directly",
            );
        }
    }
}

/// Contracts that would refuse their own messages.
fn sensible_contracts(graph: &Graph, findings: &mut Findings) {
    for topic in &graph.topics {
        let at = graph
            .topic_sites
            .get(&topic.topic)
            .copied()
            .unwrap_or_default();
        if let (Some(rate), Some(age)) = (topic.rate_hz, topic.max_age)
            && rate > 0.0
            && age.as_secs_f64() < 1.0 / rate
        {
            let period_ms = 1000.0 / rate;
            let message = format!(
                "max_age {age:?} is shorter than the period at {rate}Hz ({period_ms:.0}ms): stale before the next one comes"
            );
            findings.warning(at, message);
        }
        if let Some(age) = topic
            .max_age
            .or(topic.lifespan)
            .filter(std::time::Duration::is_zero)
        {
            findings.error(
                at,
                format!("max_age or lifespan is {age:?}: nothing would ever be used"),
            );
        }
    }
}
