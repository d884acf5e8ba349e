//! Draws the graph: as text for a terminal, as DOT for Graphviz, as Mermaid for a page.
//!
//! All three come from the same list of edges, writer → topic → reader.

use super::graph::{Feed, GateSpec, Graph};

/// A picture's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines for a terminal.
    Text,
    /// Graphviz.
    Dot,
    /// Mermaid.
    Mermaid,
}

/// Draws the graph.
pub fn draw(graph: &Graph, form: Form) -> String {
    let edges = links(graph);
    match form {
        Form::Text => text(graph, &edges),
        Form::Dot => dot(graph, &edges),
        Form::Mermaid => mermaid(graph, &edges),
    }
}

/// A topic with its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// Its name.
    pub topic: &'a str,
    /// What it carries.
    pub type_name: &'a str,
    /// Who writes: nodes, `gate`, kinds of sources, `outside`.
    pub from: Vec<String>,
    /// Who reads: nodes, `gate`, `outside`.
    pub to: Vec<String>,
}

/// All topics in use with their ends.
pub fn links(graph: &Graph) -> Vec<Link<'_>> {
    graph
        .topics
        .iter()
        .map(|topic| {
            let name = topic.topic.as_str();
            let mut from: Vec<String> = graph
                .sources
                .iter()
                .filter(|s| s.topic() == Some(name))
                .map(|s| source(&s.feed).to_owned())
                .collect();
            from.dedup();
            let mut to = Vec::new();
            for node in &graph.nodes {
                from.extend(
                    node.outputs
                        .values()
                        .filter(|o| o.topic == name)
                        .map(|_| node.name.clone()),
                );
                to.extend(
                    node.inputs
                        .values()
                        .filter(|i| i.topic == name)
                        .map(|_| node.name.clone()),
                );
            }
            if let Some(gate) = &graph.gate {
                from.extend(
                    gate.outputs
                        .values()
                        .filter(|o| o.topic == name)
                        .map(|_| "gate".to_owned()),
                );
                to.extend(
                    gate.inputs
                        .values()
                        .filter(|i| i.topic == name)
                        .map(|_| "gate".to_owned()),
                );
            }
            if from.is_empty() && !to.is_empty() {
                from.push("outside".into());
            }
            if to.is_empty() && !from.is_empty() {
                to.push("outside".into());
            }
            Link {
                topic: name,
                type_name: &topic.type_name,
                from,
                to,
            }
        })
        .filter(|e| !e.from.is_empty())
        .collect()
}

fn source(feed: &Feed) -> &'static str {
    match feed {
        Feed::Wav { .. } => "recording",
        Feed::Images { .. } => "pictures",
        Feed::JsonLines { .. } => "lines",
        Feed::Text { .. } => "text",
        Feed::Fault { .. } => "fault",
    }
}

fn text(graph: &Graph, edges: &[Link<'_>]) -> String {
    let mut out = format!("{} in /{}\n\n", graph.name, graph.namespace);
    let width = |f: &dyn Fn(&Link<'_>) -> usize| edges.iter().map(f).max().unwrap_or(0);
    let (from, topic) = (
        width(&|e| e.from.join(", ").len()),
        width(&|e| e.topic.len()),
    );
    for e in edges {
        let (left, right) = (e.from.join(", "), e.to.join(", "));
        out.push_str(&format!("{left:from$} ─ {:topic$} ─▶ {right}\n", e.topic));
    }
    out.push('\n');
    for node in &graph.nodes {
        let models: Vec<String> = node
            .models
            .iter()
            .map(|(role, (name, _))| format!("{role}={name}"))
            .collect();
        let place = if node.own_process {
            ", own process"
        } else {
            ""
        };
        let (name, kind, models) = (&node.name, node.kind.word(), models.join(" "));
        out.push_str(&format!(
            "{name}: {kind} · {models} · within {:?}, priority {}{place}\n",
            node.budget.response, node.priority
        ));
    }
    if let Some(gate) = &graph.gate {
        let rules: Vec<&str> = gate.refuse_when.iter().map(|r| r.name.as_str()).collect();
        let rules = if rules.is_empty() {
            "none".to_owned()
        } else {
            rules.join(", ")
        };
        out.push_str(&format!(
            "gate: own process · no model · 10 Hz · allows {} · rules {rules}\n",
            allowed(gate)
        ));
    }
    out
}

/// `KEEP STOP`, or `AUTONOMOUS: KEEP STOP; else: STOP`.
fn allowed(gate: &GateSpec) -> String {
    let mut parts: Vec<String> = gate
        .allow_in_mode
        .iter()
        .map(|(mode, actions)| format!("{mode}: {}", actions.join(" ")))
        .collect();
    if parts.is_empty() {
        return gate.allow.join(" ");
    }
    parts.push(format!("else: {}", gate.allow.join(" ")));
    parts.join("; ")
}

fn dot(graph: &Graph, edges: &[Link<'_>]) -> String {
    let mut out = format!("digraph \"{}\" {{\n  rankdir=LR;\n", graph.name);
    for node in &graph.nodes {
        out.push_str(&format!(
            "  \"{}\" [shape=box, label=\"{}\\n{}\"];\n",
            node.name,
            node.name,
            node.kind.word()
        ));
    }
    if graph.gate.is_some() {
        out.push_str("  \"gate\" [shape=box, peripheries=2];\n");
    }
    for e in edges {
        for (from, to) in e.from.iter().flat_map(|f| e.to.iter().map(move |t| (f, t))) {
            out.push_str(&format!(
                "  \"{from}\" -> \"{to}\" [label=\"{}\\n{}\"];\n",
                e.topic, e.type_name
            ));
        }
    }
    out.push_str("}\n");
    out
}

fn mermaid(graph: &Graph, edges: &[Link<'_>]) -> String {
    let id = |name: &str| format!("n_{}", name.replace('-', "_"));
    let mut out = String::from("flowchart LR\n");
    for node in &graph.nodes {
        out.push_str(&format!(
            "  {}[\"{}<br/>{}\"]\n",
            id(&node.name),
            node.name,
            node.kind.word()
        ));
    }
    if graph.gate.is_some() {
        out.push_str("  n_gate{{gate}}\n");
    }
    for outside in ["recording", "pictures", "lines", "text", "outside"] {
        if edges
            .iter()
            .any(|e| e.from.iter().chain(&e.to).any(|n| n == outside))
        {
            out.push_str(&format!("  {}([{outside}])\n", id(outside)));
        }
    }
    for e in edges {
        for (from, to) in e.from.iter().flat_map(|f| e.to.iter().map(move |t| (f, t))) {
            out.push_str(&format!("  {} -->|{}| {}\n", id(from), e.topic, id(to)));
        }
    }
    out
}
