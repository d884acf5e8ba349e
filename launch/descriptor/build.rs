//! From the validated tree to the [`Graph`]: the raw → checked step.
//!
//! The tree has the right shapes when it comes here ([`super::shape::validate`]); what is added is meaning: types become
//! canonical, defaults are filled in, paths are made to stand alone. What could only be said with the whole graph in view is said by
//! [`super::check`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use llmasos_nodes::contract::{Accept, QueuePolicy, TopicContract};

use super::arguments::Environment;
use super::findings::{At, Files, Findings};
use super::graph::{
    Clock, ComputeSpec, Fetch, Graph, ModelSpec, Restart, RestartSpec, Spin, Supervise, ZenohSpec,
};
use super::shape::{Fields, fifo_depth};
use super::tables::{BACKOFF, CLOCK, COMPUTE, CONNECT, MAX, MODEL, ROOT, SUPERVISE, TOPIC, ZENOH};
use super::units::Dimension;
use super::yaml::{Entry, Node};
use super::{expect, gate, node, ros2, source, wire};

/// Where a peer listens when nothing else is said: loopback, a port of the system's choice.
const LISTEN: &str = "tcp/127.0.0.1:0";
/// The router tried when nothing else is said.
const ROUTER: &str = "tcp/127.0.0.1:7447";
/// Inference threads when nothing else is said.
const THREADS: usize = 2;

/// Builds the graph; `None` when a part that everything hangs on is missing, which has been reported then.
pub(super) fn build(
    root: &Node,
    files: Files,
    environment: Environment<'_>,
    findings: &mut Findings,
) -> Option<Graph> {
    let fields = Fields::of(root, &ROOT);
    let fetch = fetch(&fields).unwrap_or(Fetch::IfAbsent);
    let list = |key: &str| fields.get(key).map_or(&[][..], Node::items);
    let sites = |key: &str| {
        fields
            .entries(key)
            .iter()
            .map(|e| (e.key.clone(), e.key_at))
            .collect()
    };
    let topics: Vec<TopicContract> = fields
        .entries("topics")
        .iter()
        .filter_map(|e| topic(e, findings))
        .collect();
    let type_of = |name: &str| {
        topics
            .iter()
            .find(|t| t.topic == name)
            .map(|t| t.type_name.as_str())
    };
    let topic_type = |n: &Node| n.get("topic").and_then(Node::text).and_then(type_of);
    Some(Graph {
        name: fields.text("name")?,
        namespace: fields
            .text("namespace")
            .unwrap_or_default()
            .trim_matches('/')
            .to_owned(),
        clock: clock(&fields),
        zenoh: zenoh(&fields, &files, findings),
        ros2: ros2::read(&fields, environment, findings),
        models: fields
            .entries("models")
            .iter()
            .filter_map(|e| model(e, fetch))
            .collect(),
        compute: compute(&fields),
        nodes: fields
            .entries("nodes")
            .iter()
            .filter_map(|e| node::read(e, findings))
            .collect(),
        gate: fields
            .get("gate")
            .and_then(|n| gate::read(n, &topics, findings)),
        supervise: supervise(&fields, findings),
        sources: list("sources")
            .iter()
            .filter_map(|n| source::read(n, &files, findings))
            .collect(),
        expect: list("expect")
            .iter()
            .filter_map(|n| expect::read(n, topic_type(n), findings))
            .collect(),
        duration: fields.duration("duration"),
        topic_sites: sites("topics"),
        supervise_sites: sites("supervise"),
        fetch,
        topics,
        files,
        at: fields.get("name").map_or(root.at, |n| n.at),
    })
}

/// A path as the file at `at` means it.
pub(super) fn path(node: &Node, files: &Files) -> PathBuf {
    files.folder(node.at).join(node.text().unwrap_or_default())
}

fn clock(root: &Fields<'_>) -> Clock {
    match root.get("clock") {
        None => Clock::Wall,
        Some(node) => match node.text() {
            Some("recording") => Clock::Recording,
            Some(_) => Clock::Wall,
            None => Fields::of(node, &CLOCK)
                .text("topic")
                .map_or(Clock::Wall, Clock::Topic),
        },
    }
}

fn zenoh(root: &Fields<'_>, files: &Files, findings: &mut Findings) -> ZenohSpec {
    let mut spec = ZenohSpec {
        client: false,
        listen: vec![LISTEN.to_owned()],
        connect: vec![ROUTER.to_owned()],
        connect_optional: true,
        multicast: false,
        config: None,
    };
    let Some(fields) = root.fields("zenoh", &ZENOH) else {
        return spec;
    };
    spec.client = fields.text("mode").as_deref() == Some("client");
    spec.multicast = fields.truth("multicast").unwrap_or(false);
    spec.config = fields.get("config").map(|n| path(n, files));
    if let (Some(config), true) = (
        fields.get("config"),
        fields.get("listen").or(fields.get("connect")).is_some(),
    ) {
        findings.error_with(
            config.at,
            "config and listen or connect exclude each other",
            "write the endpoints into the file",
        );
    }
    if fields.get("listen").is_some() || spec.client {
        spec.listen = fields.texts("listen");
    }
    if let Some(connect) = fields.get("connect") {
        let list = Fields::of(connect, &CONNECT);
        spec.connect_optional = !connect.entries().is_empty();
        spec.connect = if spec.connect_optional {
            list.texts("try")
        } else {
            fields.texts("connect")
        };
    } else if spec.client {
        spec.connect_optional = false;
    }
    if spec.client && spec.connect.is_empty() {
        let at = fields.get("connect").map_or(fields.at(), |n| n.at);
        findings.error_with(
            at,
            "a client needs a router",
            "write connect: [tcp/ADDRESS:7447]",
        );
    }
    for endpoint in ["listen", "connect"]
        .iter()
        .filter_map(|k| fields.get(k))
        .flat_map(endpoints)
    {
        let text = endpoint.text().unwrap_or_default();
        // Zenoh's form: protocol/address, the protocols that this build carries.
        if !["tcp/", "udp/", "unixsock-stream/"]
            .iter()
            .any(|p| text.len() > p.len() && text.starts_with(p))
        {
            let message = format!("\"{}\" is not an endpoint", super::findings::shorten(text));
            findings.error_with(
                endpoint.at,
                message,
                "write tcp/ADDRESS:PORT, udp/ADDRESS:PORT or unixsock-stream/PATH",
            );
        }
    }
    spec
}

fn endpoints(node: &Node) -> &[Node] {
    node.get("try").unwrap_or(node).items()
}

fn fetch(fields: &Fields<'_>) -> Option<Fetch> {
    Some(if fields.text("fetch")? == "never" {
        Fetch::Never
    } else {
        Fetch::IfAbsent
    })
}

fn model(entry: &Entry, default: Fetch) -> Option<(String, ModelSpec)> {
    let fields = Fields::of(&entry.node, &MODEL);
    let spec = ModelSpec {
        catalogue: fields.text("use")?,
        context: fields.int("context"),
        kv_bytes: fields.quantity("kv", Dimension::Bytes).map(|b| b as u64),
        fetch: fetch(&fields).unwrap_or(default),
        at: fields.get("use")?.at,
    };
    Some((entry.key.clone(), spec))
}

fn compute(root: &Fields<'_>) -> ComputeSpec {
    let fields = root.fields("compute", &COMPUTE);
    let memory = fields.and_then(|f| {
        Some((
            f.quantity("memory", Dimension::Bytes)? as u64,
            f.get("memory")?.at,
        ))
    });
    ComputeSpec {
        threads: fields.and_then(|f| f.int("threads")).unwrap_or(THREADS),
        spin: match fields.and_then(|f| f.text("spin")).as_deref() {
            Some("off") => Spin::Off,
            Some("on") => Spin::On,
            _ => Spin::Short,
        },
        memory_bytes: memory,
    }
}

fn topic(entry: &Entry, findings: &mut Findings) -> Option<TopicContract> {
    let fields = Fields::of(&entry.node, &TOPIC);
    let named = fields.get("type")?;
    let Some(type_name) = wire::canonical(named.text()?) else {
        let known = wire::known();
        let near = super::findings::nearest(
            &named.text()?.replacen("/msg/", "/", 1),
            known.iter().map(String::as_str),
        );
        // Without a near one, hundreds of names would follow: those of the package will do.
        let package = named.text()?.split('/').next().unwrap_or_default();
        let listed = known
            .iter()
            .map(String::as_str)
            .filter(|k| near.map_or(k.starts_with(&format!("{package}/")), |n| *k == n));
        findings.unknown(named.at, "message type", named.text()?, listed);
        return None;
    };
    let mut accept: Vec<Accept> = Vec::new();
    for item in fields.get("accept").map_or(&[][..], Node::items) {
        let form = match item.text() {
            Some("json") => Accept::Json,
            Some("text") => Accept::Text,
            _ => Accept::Cdr,
        };
        if form == Accept::Text && type_name != "std_msgs/msg/String" {
            findings.error(
                item.at,
                format!("plain text fits std_msgs/msg/String only, this topic carries {type_name}"),
            );
        }
        if accept.contains(&form) {
            findings.error(item.at, "this form stands here twice");
        }
        accept.push(form);
    }
    if fields.get("accept").is_none() {
        accept.push(Accept::Cdr);
    } else if accept.is_empty() {
        findings.error(entry.node.at, "accept is empty: nothing could ever arrive");
    }
    let (rate_hz, event) = (
        fields.quantity("rate", Dimension::Rate),
        fields.truth("event").unwrap_or(false),
    );
    if let (Some(rate), Some(node)) = (rate_hz, fields.get("rate")) {
        if rate == 0.0 {
            findings.error(
                node.at,
                "a rate of 0Hz never sends; leave rate out or write event: true",
            );
        } else if event {
            findings.error(node.at, "a topic has a rate or is an event, not both");
        }
    }
    Some(TopicContract {
        topic: entry.key.clone(),
        qos: ros2::qos(&fields, &type_name, event),
        type_name,
        rate_hz,
        event,
        max_age: fields.duration("max_age"),
        lifespan: fields.duration("lifespan"),
        accept,
        queue: queue(&fields).unwrap_or(QueuePolicy::Latest),
    })
}

/// The queue of a topic or input.
pub(super) fn queue(fields: &Fields<'_>) -> Option<QueuePolicy> {
    let text = fields.text("queue")?;
    Some(fifo_depth(&text).map_or(QueuePolicy::Latest, QueuePolicy::Fifo))
}

fn supervise(root: &Fields<'_>, findings: &mut Findings) -> Supervise {
    let base = RestartSpec {
        restart: Restart::OnFailure,
        max_count: Some(5),
        within: Duration::from_secs(60),
        backoff_min: Duration::from_millis(200),
        backoff_max: Duration::from_secs(5),
        startup: Duration::from_secs(20),
        silent: Duration::from_secs(5),
    };
    let entries = root.entries("supervise");
    let default = entries
        .iter()
        .find(|e| e.key == "default")
        .map_or(base.clone(), |e| restart(&e.node, &base, findings));
    let by_name: BTreeMap<String, RestartSpec> = entries
        .iter()
        .filter(|e| e.key != "default")
        .map(|e| (e.key.clone(), restart(&e.node, &default, findings)))
        .collect();
    Supervise { default, by_name }
}

/// A policy laid over another. A policy that always restarts and names no limit has none: that is what the gate is for.
fn restart(node: &Node, base: &RestartSpec, findings: &mut Findings) -> RestartSpec {
    let fields = Fields::of(node, &SUPERVISE);
    let mut spec = base.clone();
    match fields.text("restart").as_deref() {
        Some("always") => spec.restart = Restart::Always,
        Some("never") => spec.restart = Restart::Never,
        Some(_) => spec.restart = Restart::OnFailure,
        None => {}
    }
    if spec.restart == Restart::Always && base.restart != Restart::Always {
        spec.max_count = None;
    }
    if let Some(max) = fields.fields("max", &MAX) {
        spec.max_count = max.int("count");
        spec.within = max.duration("within").unwrap_or(spec.within);
    }
    if let Some(backoff) = fields.fields("backoff", &BACKOFF) {
        spec.backoff_min = backoff.duration("min").unwrap_or(spec.backoff_min);
        spec.backoff_max = backoff.duration("max").unwrap_or(spec.backoff_max);
        if spec.backoff_min > spec.backoff_max {
            findings.error(
                backoff.at(),
                "the shortest wait (min) is longer than the longest (max)",
            );
        }
    }
    spec.startup = fields.duration("startup").unwrap_or(spec.startup);
    spec.silent = fields.duration("silent").unwrap_or(spec.silent);
    for (name, value) in [
        ("startup", spec.startup),
        ("silent", spec.silent),
        ("backoff", spec.backoff_min),
    ] {
        if value.is_zero()
            && let Some(at) = fields.get(name).map(|n| n.at)
        {
            zero(at, name, findings);
        }
    }
    spec
}

fn zero(at: At, name: &str, findings: &mut Findings) {
    findings.error(at, format!("{name} of 0 would restart without a pause"));
}
