//! The whole reader on whole files: good ones pass, each kind of fault is found at its place, and no edit makes it panic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::arguments::Overrides;
use super::check::{DEFAULT_TOKENS_PER_S, Facts, ModelFacts};
use super::findings::Severity;
use super::graph::{Clock, FaultKind, FaultTarget, Feed, NodeKind, Params, Restart};
use super::shape::{Key, Shape, Table};
use super::tables::ROOT;
use super::{Loaded, load};

/// A small graph without faults; the cases of [`super::fault_tests`] each break one thing.
pub(super) const GOOD: &str = "\
llmasos: launch/v1
name: small
duration: 10s
models:
  asr: { use: moonshine-tiny-en }
  vad: { use: silero-vad }
  detector: { use: ssd-mobilenet-v2-coco }
  language: { use: smollm2, context: 1024, kv: 48MiB }
compute: { threads: 2, memory: 400MiB }
topics:
  audio: { type: audio_common_msgs/AudioStamped, rate: 50Hz, max_age: 200ms }
  image: { type: sensor_msgs/Image, rate: 2Hz, max_age: 800ms }
  odometry: { type: nav_msgs/Odometry, rate: 20Hz, max_age: 150ms }
  command: { type: llmasos_msgs/SpeechCommand, event: true, queue: fifo(10) }
  summary: { type: llmasos_msgs/PerceptionSummary, lifespan: 2s }
  advice: { type: llmasos_msgs/PlannerAdvice, event: true, lifespan: 3s }
  verdict: { type: llmasos_msgs/GateVerdict, rate: 10Hz }
nodes:
  speech:
    kind: speech-command
    models: { asr: asr, vad: vad }
    in: { audio: audio }
    out: { command: command }
    budget: { response: 600ms }
  summary:
    kind: perception-summary
    models: { detector: detector, language: language }
    in: { image: image, ego: odometry }
    out: { summary: summary }
    budget: { response: 900ms, tokens: 32 }
  advisor:
    kind: planner-advisor
    models: { language: language }
    start_after: { speech: ready }
    in: { command: command, summary: { topic: summary, queue: latest }, ego: odometry }
    out: { advice: advice }
    budget: { response: 1200ms, tokens: 40 }
gate:
  in: { advice: advice, command: command, summary: summary, ego: odometry }
  out: { verdict: verdict }
  allow: [KEEP, STOP]
  max_speed: { max: 13.9 m/s, accelerate: 1.5 m/s2, decelerate: 3.0 m/s2 }
  refuse_when:
    red_light: { traffic_light: RED, actions: [KEEP] }
sources:
  - { topic: audio, wav: a.wav, at: 1s }
  - { topic: image, images: { catalogue: street-images }, rate: 2Hz }
  - { topic: odometry, jsonl: o.jsonl }
expect:
  - { at: 2s..5s, topic: verdict, where: { verdict: ACCEPTED } }
";

fn catalogue() -> BTreeMap<String, ModelFacts> {
    let model = |name: &str, role: &str, present| {
        (
            name.to_owned(),
            ModelFacts {
                role: role.to_owned(),
                present,
                bytes: 60 << 20,
            },
        )
    };
    BTreeMap::from([
        model("smollm2", "language", true),
        model("moonshine-tiny-en", "speech-recognition", true),
        model("silero-vad", "voice-activity", true),
        model("ssd-mobilenet-v2-coco", "detector", true),
        model("street-images", "data", true),
        model("human-speech", "data", true),
        model("absent", "voice-activity", false),
    ])
}

fn read_with(
    path: &Path,
    words: &[&str],
    profiles: &[&str],
    exists: &dyn Fn(&Path) -> bool,
) -> Result<Loaded, Vec<String>> {
    let own = |list: &[&str]| -> Vec<String> { list.iter().map(|w| (*w).to_owned()).collect() };
    let overrides = Overrides::parse(&own(words), &own(profiles)).unwrap();
    let facts = Facts {
        catalogue: Some(catalogue()),
        tokens_per_s: DEFAULT_TOKENS_PER_S,
        exists,
    };
    load(path, &overrides, &|_| None, &facts)
        .map_err(|rejected| rejected.findings.lines(&rejected.files))
}

/// Reads a text as `small.yaml`; findings without the folder they were in.
pub(super) fn read(text: &str) -> Result<Loaded, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.yaml");
    std::fs::write(&path, text).unwrap();
    let prefix = format!("{}/", folder.path().display());
    read_with(&path, &[], &[], &|p| !p.ends_with("none.wav"))
        .map_err(|lines| lines.iter().map(|l| l.replace(&prefix, "")).collect())
}

fn launch_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("launch")
        .join(name)
}

#[test]
fn the_small_graph_is_good() {
    let Loaded { findings, .. } = read(GOOD).unwrap();
    assert_eq!(
        findings.iter().collect::<Vec<_>>(),
        Vec::<&super::findings::Finding>::new()
    );
}

#[test]
fn the_demo_passes_and_means_what_it_says() {
    let Loaded { graph, findings } =
        read_with(&launch_file("demo.yaml"), &[], &[], &|p| p.exists()).unwrap();
    assert_eq!(
        (
            findings.count(Severity::Error),
            findings.count(Severity::Warning)
        ),
        (0, 0),
        "{:#?}",
        findings.lines(&graph.files)
    );
    assert_eq!(
        (graph.name.as_str(), graph.namespace.as_str(), &graph.clock),
        ("demo", "ego", &Clock::Wall)
    );
    assert_eq!(graph.duration, Some(Duration::from_secs(46)));
    let advisor = graph.node("advisor").unwrap();
    assert_eq!(
        (advisor.kind, advisor.model("language"), advisor.priority),
        (NodeKind::PlannerAdvisor, Some("language"), 60)
    );
    let Params::Speech(speech) = &graph.node("speech").unwrap().params else {
        panic!("speech has the parameters of speech")
    };
    assert_eq!(
        speech.pull_over_words.as_deref(),
        Some(&["pull over".to_owned()][..])
    );
    let gate = graph.gate.as_ref().unwrap();
    assert_eq!(
        (gate.max_speed_mps, gate.inputs["ego"].max_age),
        (13.9, Some(Duration::from_millis(300)))
    );
    assert_eq!(
        (
            graph.restart("gate").restart,
            graph.restart("gate").max_count
        ),
        (Restart::Always, None)
    );
    assert_eq!(graph.restart("speech").max_count, Some(5));
    let stall = graph
        .sources
        .iter()
        .find(|s| {
            matches!(
                s.feed,
                Feed::Fault {
                    kind: FaultKind::Stall { .. },
                    ..
                }
            )
        })
        .unwrap();
    let hold = Duration::from_secs(3);
    assert_eq!(
        stall.feed,
        Feed::Fault {
            kind: FaultKind::Stall { hold },
            target: FaultTarget::Model("language".into())
        }
    );
    assert_eq!(graph.expect.len(), 13);
    assert_eq!(
        graph.expect[2].describe(),
        "6s..11s llmasos/gate/verdict verdict is ACCEPTED or is CLIPPED, action is SLOW_DOWN"
    );
}

#[test]
fn the_demo_takes_arguments() {
    let Loaded { graph, .. } = read_with(
        &launch_file("demo.yaml"),
        &["vehicle:=ego2", "summary:=false", "threads:=1"],
        &[],
        &|p| p.exists(),
    )
    .unwrap();
    assert_eq!(
        (
            graph.namespace.as_str(),
            graph.compute.threads,
            graph.nodes.len()
        ),
        ("ego2", 1, 2)
    );
    let Loaded { graph, .. } = read_with(
        &launch_file("demo.yaml"),
        &["__ns:=/fleet/car7"],
        &[],
        &|p| p.exists(),
    )
    .unwrap();
    assert_eq!(graph.namespace, "fleet/car7");
}

#[test]
fn the_vehicle_passes_and_fetches_nothing() {
    let Loaded { graph, findings } = read_with(
        &launch_file("vehicle.yaml"),
        &["router:=tcp/10.0.0.1:7447"],
        &[],
        &|_| false,
    )
    .unwrap();
    assert_eq!(
        (
            findings.count(Severity::Error),
            findings.count(Severity::Warning)
        ),
        (0, 0),
        "{:#?}",
        findings.lines(&graph.files)
    );
    assert!(
        graph
            .models
            .values()
            .all(|m| m.fetch == super::graph::Fetch::Never)
    );
    assert!(
        graph.zenoh.client
            && !graph.zenoh.multicast
            && graph.zenoh.connect == ["tcp/10.0.0.1:7447"]
    );
    for topic in graph
        .topics
        .iter()
        .filter(|t| t.topic != "llmasos/speech/text")
    {
        assert_eq!(
            topic.accept,
            [llmasos_nodes::contract::Accept::Cdr],
            "{}",
            topic.topic
        );
    }
}

#[test]
fn the_flat_form_reads_back_to_the_same_graph() {
    for name in ["demo.yaml", "vehicle.yaml"] {
        let overrides = Overrides::default();
        let mut flat = super::flatten(&launch_file(name), &overrides, &|_| None).unwrap();
        let shape = Shape::Fields(&ROOT);
        let shape: &'static Shape = Box::leak(Box::new(shape));
        super::emit::absolute_paths(&mut flat.root, shape, &flat.files);
        let text = super::emit::emit(&flat.root);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flat.yaml");
        std::fs::write(&path, &text).unwrap();
        let first = read_with(&launch_file(name), &[], &[], &|_| true)
            .unwrap()
            .graph;
        let second = read_with(&path, &[], &[], &|_| true)
            .unwrap_or_else(|lines| panic!("{lines:#?}\n{text}"))
            .graph;
        assert_eq!(first.topics, second.topics);
        assert_eq!(
            first.models.keys().collect::<Vec<_>>(),
            second.models.keys().collect::<Vec<_>>()
        );
        let describe = |g: &super::graph::Graph| -> Vec<String> {
            g.expect
                .iter()
                .map(super::expect::Expect::describe)
                .collect()
        };
        assert_eq!(describe(&first), describe(&second));
        let feeds = |g: &super::graph::Graph| -> Vec<Feed> {
            g.sources.iter().map(|s| s.feed.clone()).collect()
        };
        assert_eq!(
            feeds(&first),
            feeds(&second),
            "paths mean the same elsewhere"
        );
        assert_eq!(super::draw::links(&first), super::draw::links(&second));
    }
}

#[test]
fn drawings_hold_every_node_and_topic() {
    let graph = read(GOOD).unwrap().graph;
    for form in [
        super::draw::Form::Text,
        super::draw::Form::Dot,
        super::draw::Form::Mermaid,
    ] {
        let drawing = super::draw::draw(&graph, form);
        for word in [
            "speech", "summary", "advisor", "gate", "advice", "verdict", "odometry",
        ] {
            assert!(drawing.contains(word), "{form:?} lacks {word}:\n{drawing}");
        }
    }
}

/// Walks all tables and calls `see` with each key and where it stands.
fn walk(table: &'static Table, path: &str, see: &mut dyn FnMut(&'static Key, &str)) {
    for key in table.keys() {
        let path = format!("{path}/{}", key.name);
        see(key, &path);
        walk_shape(&key.shape, &path, see);
    }
}

fn walk_shape(shape: &'static Shape, path: &str, see: &mut dyn FnMut(&'static Key, &str)) {
    match shape {
        Shape::Fields(table) | Shape::Input(_, table) => walk(table, path, see),
        Shape::List(inner) | Shape::Map(inner) => walk_shape(inner, path, see),
        Shape::Either(shapes) => shapes.iter().for_each(|s| walk_shape(s, path, see)),
        Shape::Kinds(kinds) => kinds
            .iter()
            .for_each(|(kind, table)| walk(table, &format!("{path}:{kind}"), see)),
        _ => {}
    }
}

#[test]
fn the_schema_has_every_key_with_its_help() {
    let schema = super::schema::schema().to_string();
    let mut keys = 0;
    walk(&ROOT, "", &mut |key, path| {
        keys += 1;
        assert!(
            schema.contains(&format!("\"{}\":", key.name)),
            "{path} is not in the schema"
        );
        assert!(
            schema.contains(&serde_json::Value::from(key.help).to_string()),
            "{path} has no help in the schema"
        );
    });
    assert!(keys > 150, "the tables hold {keys} keys");
}

#[test]
fn every_message_type_of_a_port_exists() {
    walk(&ROOT, "", &mut |key, path| match &key.shape {
        Shape::Input(types, _) => {
            for name in *types {
                assert_eq!(
                    super::wire::canonical(name).as_deref(),
                    Some(*name),
                    "{path}"
                );
            }
        }
        Shape::Output(name) => assert_eq!(
            super::wire::canonical(name).as_deref(),
            Some(*name),
            "{path}"
        ),
        _ => {}
    });
}

/// Pieces that edits put into files: what people and fuzzers write.
const PIECES: &[&str] = &[
    "",
    " ",
    "\n",
    "\t",
    ":",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!!str ",
    "<<: ",
    "~",
    "''",
    "\"",
    "#",
    "|\n",
    ">",
    "? ",
    "%",
    "@",
    "${arg.x}",
    "${env.HOME}",
    "${",
    "null",
    "true",
    "-1",
    "1e999",
    "99999999999999999999",
    ".nan",
    "0x",
    "800",
    "800ms",
    "-5 m/s",
    "fifo(9999999999999999999999)",
    "..",
    "6s..",
    "\u{0}",
    "\u{feff}",
    "é",
    "\u{1F697}",
    "if: false",
    "include: small.yaml",
    "a: &a [*a]",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever somebody does to a file: an answer, never a panic, and every finding points into the file.
    #[test]
    fn no_edit_makes_it_panic(edits in prop::collection::vec((0usize..3000, 0usize..40, 0usize..PIECES.len()), 1..6)) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, length, piece) in edits {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, PIECES[piece].chars());
        }
        let text: String = text.into_iter().collect();
        let lines = u32::try_from(text.lines().count()).unwrap() + 2;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.yaml");
        std::fs::write(&path, &text).unwrap();
        let facts = Facts { catalogue: Some(catalogue()), tokens_per_s: DEFAULT_TOKENS_PER_S, exists: &|_| true };
        if let Err(rejected) = load(&path, &Overrides::default(), &|_| None, &facts) {
            prop_assert!(rejected.findings.has_errors());
            for finding in rejected.findings.iter() {
                prop_assert!(finding.at.line <= lines, "{:?} in {} lines", finding, lines);
            }
        }
    }

    /// Bytes that are no descriptor at all.
    #[test]
    fn no_text_makes_it_panic(text in "[ -~\\n\\t]{0,400}|\\PC{0,200}") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.yaml");
        std::fs::write(&path, &text).unwrap();
        let facts = Facts { catalogue: None, tokens_per_s: 0.0, exists: &|_| true };
        prop_assert!(load(&path, &Overrides::default(), &|_| None, &facts).is_err());
    }
}
