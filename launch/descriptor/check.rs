//! What can be proven about a graph before anything starts: models, memory, answer times, order, timeline. The wiring has its own
//! file (`wiring.rs`).
//!
//! A check reports what it can prove and nothing else; what depends on the running system (does the camera send?) is a note at most.
//! Facts about the computer come in as data, so that the same checks run in tests, in an editor and before a launch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::findings::{At, Findings};
use super::graph::{FaultTarget, Feed, Fetch, Graph, NodeKind, NodeSpec, PictureFolder, Recording};
use super::units::show;
use super::wiring;

/// Decode rate assumed when nothing was measured, tokens/s: the floor that `llmasos bench nodes` holds on two cores.
pub const DEFAULT_TOKENS_PER_S: f64 = 115.0;

/// What is known about this computer.
pub struct Facts<'a> {
    /// Entries of the model catalogue by name; `None` = no catalogue at hand, nothing is said about models then.
    pub catalogue: Option<BTreeMap<String, ModelFacts>>,
    /// Measured decode rate of the language model, tokens/s.
    pub tokens_per_s: f64,
    /// Whether a file or folder is there.
    pub exists: &'a dyn Fn(&Path) -> bool,
}

/// What is known about an entry of the model catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// `language`, `speech-recognition`, `voice-activity`, `detector`, `encoder`, or a kind of data.
    pub role: String,
    /// Whether it is in the cache.
    pub present: bool,
    /// Bytes when loaded, about the size of its files.
    pub bytes: u64,
}

/// Runs all checks.
pub fn check(graph: &Graph, facts: &Facts<'_>, findings: &mut Findings) {
    wiring::check(graph, findings);
    for node in &graph.nodes {
        ports(node, findings);
        roles(graph, node, facts, findings);
        budget(graph, node, facts, findings);
        order(graph, node, findings);
    }
    cycles(graph, findings);
    models(graph, facts, findings);
    memory(graph, facts, findings);
    supervised(graph, findings);
    sources(graph, facts, findings);
    timeline(graph, findings);
}

/// Ports that only make sense together.
fn ports(node: &NodeSpec, findings: &mut Findings) {
    let has = |port: &str| node.inputs.contains_key(port);
    let needs = |role: &str, port: &str, findings: &mut Findings| {
        if has(port) && node.model(role).is_none() {
            findings.error_with(
                node.at,
                format!("{} has the port {port} but no model for {role}", node.name),
                format!("add {role} under models"),
            );
        }
    };
    match node.kind {
        NodeKind::SpeechCommand => {
            if !has("audio") && !has("text") {
                findings.error(
                    node.at,
                    format!(
                        "{} hears nothing: it needs the port audio or text",
                        node.name
                    ),
                );
            }
            if node.model("language").is_some() {
                findings.note(
                    node.at,
                    format!(
                        "{} understands by rules, it asks no language model",
                        node.name
                    ),
                );
            }
            needs("asr", "audio", findings);
            needs("vad", "audio", findings);
        }
        NodeKind::PerceptionSummary => {
            if !has("image") && !has("objects") {
                findings.error(
                    node.at,
                    format!(
                        "{} sees nothing: it needs the port image or objects",
                        node.name
                    ),
                );
            }
            needs("detector", "image", findings);
        }
        NodeKind::PlannerAdvisor => {}
    }
}

/// Every model of a node is in the graph and in the catalogue, with the role the node needs.
fn roles(graph: &Graph, node: &NodeSpec, facts: &Facts<'_>, findings: &mut Findings) {
    for (role, (name, at)) in &node.models {
        let Some(model) = graph.models.get(name) else {
            findings.unknown(*at, "model", name, graph.models.keys().map(String::as_str));
            continue;
        };
        let entry = facts
            .catalogue
            .as_ref()
            .and_then(|c| c.get(&model.catalogue));
        if let (Some(needed), Some(entry)) = (node.kind.model_role(role), entry)
            && entry.role != needed
        {
            let (user, is) = (&node.name, &entry.role);
            findings.error(
                *at,
                format!(
                    "{user} needs a model with the role {needed} as {role}, {name} ({}) is {is}",
                    model.catalogue
                ),
            );
        }
    }
}

/// Models are in the catalogue, can be had, and are used.
fn models(graph: &Graph, facts: &Facts<'_>, findings: &mut Findings) {
    let used: BTreeSet<&str> = graph
        .nodes
        .iter()
        .flat_map(|n| n.models.values())
        .map(|(name, _)| name.as_str())
        .collect();
    for (name, model) in &graph.models {
        if !used.contains(name.as_str()) {
            findings.warning(model.at, format!("the model {name} is used by no node"));
        }
        let Some(catalogue) = &facts.catalogue else {
            continue;
        };
        match catalogue.get(&model.catalogue) {
            None => findings.unknown(
                model.at,
                "catalogue entry",
                &model.catalogue,
                catalogue.keys().map(String::as_str),
            ),
            Some(entry) if !entry.present => {
                absent(&model.catalogue, model.fetch, model.at, findings)
            }
            Some(_) => {}
        }
    }
}

fn absent(entry: &str, fetch: Fetch, at: At, findings: &mut Findings) {
    match fetch {
        Fetch::Never => {
            let message = format!("{entry} is not in the cache and fetch is never");
            findings.error_with(
                at,
                message,
                format!("run llmasos model pull {entry} while there is a network"),
            );
        }
        Fetch::IfAbsent => findings.note(
            at,
            format!("{entry} is not in the cache and will be downloaded"),
        ),
    }
}

/// Memory of all models and their caches against `compute.memory`.
fn memory(graph: &Graph, facts: &Facts<'_>, findings: &mut Findings) {
    let (Some((limit, at)), Some(catalogue)) = (graph.compute.memory_bytes, &facts.catalogue)
    else {
        return;
    };
    let mut entries = BTreeSet::new();
    let mut sum = 0_u64;
    let mut parts = Vec::new();
    for (name, model) in &graph.models {
        let weights = catalogue
            .get(&model.catalogue)
            .filter(|_| entries.insert(&model.catalogue))
            .map_or(0, |e| e.bytes);
        let bytes = weights.saturating_add(model.kv_bytes.unwrap_or(0));
        sum = sum.saturating_add(bytes);
        parts.push(format!("{name} {}", mebibytes(bytes)));
    }
    if sum > limit {
        let message = format!(
            "the models need {} together ({}), compute.memory allows {}",
            mebibytes(sum),
            parts.join(", "),
            mebibytes(limit)
        );
        findings.error(at, message);
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{}MiB", bytes.div_ceil(1 << 20))
}

/// An answer of so many tokens needs so much time, whatever else happens.
fn budget(graph: &Graph, node: &NodeSpec, facts: &Facts<'_>, findings: &mut Findings) {
    let (tokens, response) = (node.budget.tokens, node.budget.response);
    if node.model("language").is_some() && facts.tokens_per_s > 0.0 {
        let least = Duration::try_from_secs_f64(f64::from(tokens) / facts.tokens_per_s)
            .unwrap_or(Duration::MAX);
        if least > response {
            let fit = (response.as_secs_f64() * facts.tokens_per_s) as u64;
            let message = format!(
                "{tokens} tokens take {}ms at {:.0} tokens/s, the response must come within {}",
                least.as_millis(),
                facts.tokens_per_s,
                show(response)
            );
            findings.error_with(node.tokens_at, message, format!("at most {fit} tokens fit"));
        }
    }
    for out in node.outputs.values() {
        if let Some(lifespan) = graph.topic(&out.topic).and_then(|t| t.lifespan)
            && response > lifespan
        {
            let message = format!(
                "an answer may take {}, the topic {} lets it live for {}",
                show(response),
                out.topic,
                show(lifespan)
            );
            findings.warning(out.at, message);
        }
    }
}

/// `start_after` names nodes of the graph.
fn order(graph: &Graph, node: &NodeSpec, findings: &mut Findings) {
    for (name, at) in &node.start_after {
        if graph.node(name).is_none() {
            findings.unknown(
                *at,
                "node",
                name,
                graph.nodes.iter().map(|n| n.name.as_str()),
            );
        }
    }
}

/// Nobody waits for himself. A node that can start is taken away until none is left; what is left waits in a circle.
fn cycles(graph: &Graph, findings: &mut Findings) {
    let mut waiting: Vec<&NodeSpec> = graph.nodes.iter().collect();
    loop {
        let before = waiting.len();
        let names: BTreeSet<&str> = waiting.iter().map(|n| n.name.as_str()).collect();
        waiting.retain(|n| {
            n.start_after
                .iter()
                .any(|(after, _)| names.contains(after.as_str()))
        });
        if waiting.len() == before {
            break;
        }
    }
    let Some(first) = waiting.first() else { return };
    // Walk along the first dependency that waits too: after as many steps as there are nodes it has to close.
    let mut chain: Vec<&str> = vec![&first.name];
    let mut at = first.at;
    while let Some(node) = waiting
        .iter()
        .find(|n| chain.last() == Some(&n.name.as_str()))
    {
        let next = node
            .start_after
            .iter()
            .find(|(after, _)| waiting.iter().any(|w| w.name == *after));
        let Some((next, next_at)) = next else { break };
        at = *next_at;
        let closed = chain.iter().position(|name| *name == next.as_str());
        chain.push(next);
        if let Some(start) = closed {
            chain.drain(..start);
            break;
        }
    }
    findings.error(
        at,
        format!("start_after goes in a circle: {}", chain.join(" after ")),
    );
}

/// Restart policies belong to something.
fn supervised(graph: &Graph, findings: &mut Findings) {
    for name in graph.supervise.by_name.keys() {
        let known = graph
            .nodes
            .iter()
            .map(|n| n.name.as_str())
            .chain(["gate", "default"]);
        if name == "gate" && graph.gate.is_none() {
            findings.warning(graph.at, "supervise names the gate, there is none");
        } else if name != "gate" && graph.node(name).is_none() {
            let at = graph.supervise_sites.get(name).copied().unwrap_or(graph.at);
            findings.unknown(at, "node", name, known);
        }
    }
}

/// What sources play is there, and faults hit something.
fn sources(graph: &Graph, facts: &Facts<'_>, findings: &mut Findings) {
    for source in &graph.sources {
        let (file, entry) = match &source.feed {
            Feed::Wav {
                file: Recording::File(path),
                ..
            }
            | Feed::JsonLines { path, .. } => (Some(path), None),
            Feed::Wav {
                file: Recording::Catalogue { entry, .. },
                ..
            } => (None, Some(entry)),
            Feed::Images { pictures, .. } => match &pictures.from {
                PictureFolder::Folder(path) => (Some(path), None),
                PictureFolder::Catalogue(entry) => (None, Some(entry)),
            },
            Feed::Fault { target, .. } => {
                target_exists(graph, target, source.site, findings);
                (None, None)
            }
            Feed::Text { .. } => (None, None),
        };
        if let Some(path) = file.filter(|p| !(facts.exists)(p)) {
            findings.error(source.site, format!("{} is not there", path.display()));
        }
        if let (Some(entry), Some(catalogue)) = (entry, &facts.catalogue) {
            match catalogue.get(entry) {
                None => findings.unknown(
                    source.site,
                    "catalogue entry",
                    entry,
                    catalogue.keys().map(String::as_str),
                ),
                Some(found) if !found.present => absent(entry, graph.fetch, source.site, findings),
                Some(_) => {}
            }
        }
    }
    if let Some(config) = graph.zenoh.config.as_ref().filter(|p| !(facts.exists)(p)) {
        findings.error(
            graph.at,
            format!("zenoh.config: {} is not there", config.display()),
        );
    }
}

fn target_exists(graph: &Graph, target: &FaultTarget, at: At, findings: &mut Findings) {
    match target {
        FaultTarget::Node(name) if name == "gate" && graph.gate.is_some() => {}
        FaultTarget::Node(name) if graph.node(name).is_none() => {
            findings.unknown(
                at,
                "node",
                name,
                graph.nodes.iter().map(|n| n.name.as_str()).chain(["gate"]),
            );
        }
        FaultTarget::Model(name) if !graph.models.contains_key(name) => {
            findings.unknown(at, "model", name, graph.models.keys().map(String::as_str));
        }
        FaultTarget::Node(_) | FaultTarget::Model(_) => {}
    }
}

/// What is expected or played comes before the end.
fn timeline(graph: &Graph, findings: &mut Findings) {
    let Some(end) = graph.duration else {
        for expect in graph.expect.iter().filter(|e| e.to.is_none()) {
            findings.warning(expect.at, "neither this expectation nor the run has an end: it can be missed only when the run is stopped");
        }
        return;
    };
    for expect in &graph.expect {
        if expect.from >= end || expect.to.is_some_and(|to| to > end) {
            let until = expect.to.map_or_else(String::new, show);
            findings.error(
                expect.at,
                format!(
                    "expected {}..{until}, the run ends at {}",
                    show(expect.from),
                    show(end)
                ),
            );
        }
    }
    for source in graph.sources.iter().filter(|s| s.at >= end) {
        findings.warning(
            source.site,
            format!(
                "starts at {}, the run ends at {}",
                show(source.at),
                show(end)
            ),
        );
    }
}
