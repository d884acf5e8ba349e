//! Reads one entry of `nodes:`.

use std::collections::BTreeMap;
use std::time::Duration;

use llmasos_nodes::contract::{Budget, OnMiss, OnStale, Supersede};

use super::build::queue;
use super::findings::Findings;
use super::graph::{
    AdvisorParams, InputSpec, NodeKind, NodeSpec, OutputSpec, Params, SpeechParams, SummaryParams,
};
use super::kinds::{BUDGET, INPUT, SPEAKERS, SPEECH_PARAMS, SUMMARY_PARAMS};
use super::shape::{Fields, Table};
use super::units::Dimension;
use super::yaml::{Entry, Node};

/// Tokens of one answer when the budget names none, by kind: an intent, a sentence, an advice.
const fn default_tokens(kind: NodeKind) -> u32 {
    match kind {
        NodeKind::SpeechCommand => 24,
        NodeKind::PerceptionSummary => 32,
        NodeKind::PlannerAdvisor => 40,
    }
}

/// Reads a node that was held against its table; `None` when a required part was missing, which has been reported.
pub(super) fn read(entry: &Entry, findings: &mut Findings) -> Option<NodeSpec> {
    let kind = NodeKind::of(entry.node.get("kind")?.text()?)?;
    let fields = Fields::of(&entry.node, kind.table());
    if entry.key == "gate" || entry.key == "default" {
        findings.error(
            entry.key_at,
            format!(
                "\"{}\" cannot be the name of a node, supervise: gives it another meaning",
                entry.key
            ),
        );
    }
    let budget_fields = fields.fields("budget", &BUDGET)?;
    let models = fields
        .entries("models")
        .iter()
        .filter_map(|e| Some((e.key.clone(), (e.node.text()?.to_owned(), e.node.at))));
    let inputs = fields
        .entries("in")
        .iter()
        .filter_map(|e| Some((e.key.clone(), input(&e.node)?)));
    let after = fields
        .entries("start_after")
        .iter()
        .map(|e| (e.key.clone(), e.key_at));
    Some(NodeSpec {
        name: entry.key.clone(),
        kind,
        models: models.collect(),
        inputs: inputs.collect(),
        outputs: outputs(&fields),
        budget: budget(kind, &budget_fields, findings)?,
        tokens_at: budget_fields
            .get("tokens")
            .map_or(budget_fields.at(), |n| n.at),
        priority: fields.int("priority").unwrap_or(kind.priority()),
        start_after: after.collect(),
        params: params(kind, &fields, findings),
        own_process: fields.text("process").as_deref() == Some("own"),
        critical: fields.truth("critical").unwrap_or(false),
        at: entry.key_at,
    })
}

/// The topics under `out`.
pub(super) fn outputs(fields: &Fields<'_>) -> BTreeMap<String, OutputSpec> {
    let read = |e: &Entry| {
        Some((
            e.key.clone(),
            OutputSpec {
                topic: e.node.text()?.to_owned(),
                at: e.node.at,
            },
        ))
    };
    fields.entries("out").iter().filter_map(read).collect()
}

fn input(node: &Node) -> Option<InputSpec> {
    if let Some(topic) = node.text() {
        let (on_stale, supersede) = (OnStale::Skip, Supersede::Finish);
        return Some(InputSpec {
            topic: topic.to_owned(),
            queue: None,
            on_stale,
            supersede,
            at: node.at,
        });
    }
    let fields = Fields::of(node, &INPUT);
    Some(InputSpec {
        topic: fields.text("topic")?,
        queue: queue(&fields),
        on_stale: match fields.text("on_stale").as_deref() {
            Some("run-without") => OnStale::RunWithout,
            _ => OnStale::Skip,
        },
        supersede: match fields.text("supersede").as_deref() {
            Some("cancel") => Supersede::Cancel,
            _ => Supersede::Finish,
        },
        at: fields.get("topic")?.at,
    })
}

fn budget(kind: NodeKind, fields: &Fields<'_>, findings: &mut Findings) -> Option<Budget> {
    let on_miss = match (fields.text("on_miss").as_deref(), kind) {
        (Some("drop"), _) => OnMiss::Drop,
        (Some("template"), _) => OnMiss::Template,
        (Some(_), _) | (None, NodeKind::PlannerAdvisor) => OnMiss::NoAdvice,
        (None, NodeKind::PerceptionSummary) => OnMiss::Template,
        (None, NodeKind::SpeechCommand) => OnMiss::Drop,
    };
    let fits = match on_miss {
        OnMiss::Drop => true,
        OnMiss::Template => kind == NodeKind::PerceptionSummary,
        OnMiss::NoAdvice => kind == NodeKind::PlannerAdvisor,
    };
    if let (false, Some(node)) = (fits, fields.get("on_miss")) {
        let known = match kind {
            NodeKind::SpeechCommand => "drop",
            NodeKind::PerceptionSummary => "template or drop",
            NodeKind::PlannerAdvisor => "no-advice or drop",
        };
        let message = format!(
            "a {} node cannot answer a missed budget with {}",
            kind.word(),
            node.describe()
        );
        findings.error_with(node.at, message, format!("write {known}"));
    }
    let response = fields.duration("response")?;
    if let (true, Some(node)) = (response.is_zero(), fields.get("response")) {
        findings.error(node.at, "a response within 0s cannot be met");
    }
    Some(Budget {
        response,
        tokens: fields.int("tokens").unwrap_or(default_tokens(kind)),
        on_miss,
    })
}

fn params(kind: NodeKind, node: &Fields<'_>, findings: &mut Findings) -> Params {
    let table: &'static Table = match kind {
        NodeKind::SpeechCommand => &SPEECH_PARAMS,
        NodeKind::PerceptionSummary => &SUMMARY_PARAMS,
        NodeKind::PlannerAdvisor => return Params::Advisor(AdvisorParams),
    };
    let fields = node.fields("params", table);
    let value = |key: &str, dimension, default: f64| {
        fields
            .and_then(|f| f.quantity(key, dimension))
            .unwrap_or(default)
    };
    if kind == NodeKind::PerceptionSummary {
        let rate_hz = value("rate", Dimension::Rate, 1.0);
        if let (true, Some(node)) = (rate_hz == 0.0, fields.and_then(|f| f.get("rate"))) {
            findings.error(node.at, "a rate of 0Hz never sends");
        }
        return Params::Summary(SummaryParams {
            min_score: value("min_score", Dimension::Ratio, 0.4) as f32,
            max_objects: fields.and_then(|f| f.int("max_objects")).unwrap_or(8),
            range_m: value("range", Dimension::Length, 80.0) as f32,
            rate_hz,
        });
    }
    let time = |key: &str, default_ms| {
        fields
            .and_then(|f| f.duration(key))
            .unwrap_or(Duration::from_millis(default_ms))
    };
    let words = fields.and_then(|f| f.get("fast_words"));
    let list = |key: &str| {
        let items = words?.get(key)?.items();
        Some(
            items
                .iter()
                .filter_map(|n| n.text().map(str::to_owned))
                .collect(),
        )
    };
    let speaker = fields.and_then(|f| f.text("speaker"));
    let speaker = SPEAKERS
        .iter()
        .position(|s| Some(*s) == speaker.as_deref())
        .map_or(0, |i| i + 1);
    Params::Speech(SpeechParams {
        min_confidence: value("min_confidence", Dimension::Ratio, 0.6) as f32,
        stop_words: list("STOP"),
        pull_over_words: list("PULL_OVER"),
        vad_threshold: value("vad_threshold", Dimension::Ratio, 0.5) as f32,
        hangover: time("hangover", 480),
        max_utterance: time("max_utterance", 15_000),
        speaker: u8::try_from(speaker).unwrap_or(0),
    })
}
