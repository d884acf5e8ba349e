//! Reads `gate:`.

use std::collections::BTreeMap;
use std::time::Duration;

use llmasos_nodes::contract::TopicContract;

use super::findings::{At, Findings};
use super::gate_table::{
    ACTIONS, ALLOW, BELOW_DURATION, BELOW_LENGTH, CONFIRM, GATE, GATE_INPUT, MODES, RULE, SPEED,
};
use super::graph::{Confirmer, GateInput, GateSpec, RefuseRule, RefuseWhen};
use super::node::outputs;
use super::shape::Fields;
use super::units::Dimension;
use super::yaml::{Entry, Node};

/// Most rules of a gate; bounds the time of a decision.
const MAX_RULES: usize = 8;
/// Longest rule name: `GateVerdict.rule` is `string<=48`.
const MAX_RULE_NAME_BYTES: usize = 48;
/// Highest speed bound, m/s: beyond any road vehicle, so a unit was mistaken.
const MAX_SPEED_MPS: f64 = 100.0;
/// Steepest slew, m/s²: beyond what tyres can do.
const MAX_SLEW_MPS2: f64 = 12.0;
/// Longest time a gate may be told.
const MAX_TIME: Duration = Duration::from_secs(60);

/// Reads a gate that was held against its table; `topics` give the freshness that the inputs do not name.
pub(super) fn read(
    node: &Node,
    topics: &[TopicContract],
    findings: &mut Findings,
) -> Option<GateSpec> {
    let fields = Fields::of(node, &GATE);
    let speed = fields.fields("max_speed", &SPEED)?;
    let confirm = fields.fields("confirm", &CONFIRM);
    let (allow, allow_in_mode) = allow(fields.get("allow")?, findings);
    let rules = fields.entries("refuse_when");
    if rules.len() > MAX_RULES {
        let at = rules.get(MAX_RULES).map_or(node.at, |e| e.key_at);
        findings.error(
            at,
            format!("{} rules, at most {MAX_RULES} are judged", rules.len()),
        );
    }
    let spec = GateSpec {
        inputs: fields
            .entries("in")
            .iter()
            .filter_map(|e| Some((e.key.clone(), input(&e.node, topics)?)))
            .collect(),
        outputs: outputs(&fields),
        allow,
        allow_in_mode,
        max_speed_mps: bounded(&speed, "max", Dimension::Speed, MAX_SPEED_MPS, findings)? as f32,
        accelerate_mps2: bounded(
            &speed,
            "accelerate",
            Dimension::Acceleration,
            MAX_SLEW_MPS2,
            findings,
        )? as f32,
        decelerate_mps2: bounded(
            &speed,
            "decelerate",
            Dimension::Acceleration,
            MAX_SLEW_MPS2,
            findings,
        )? as f32,
        refuse_when: rules.iter().filter_map(|e| rule(e, findings)).collect(),
        confirm: confirm.map(|c| confirmers(&c)).unwrap_or_default(),
        confirm_timeout: confirm.and_then(|c| time(&c, "timeout", findings)),
        velocity_limit: fields.truth("velocity_limit").unwrap_or(false),
        min_confidence: fields
            .quantity("min_confidence", Dimension::Ratio)
            .map(|r| r as f32),
        hold: time(&fields, "hold", findings),
        advice_validity: time(&fields, "advice_validity", findings),
        at: node.at,
    };
    for action in spec.confirm.keys().filter(|a| !spec.allows(a)) {
        let at = confirm
            .and_then(|c| c.get(action))
            .map_or(node.at, |n| n.at);
        findings.warning(
            at,
            format!("{action} waits for a confirmation but is never allowed"),
        );
    }
    Some(spec)
}

impl GateSpec {
    /// Whether an action may pass in some mode.
    pub fn allows(&self, action: &str) -> bool {
        self.allow
            .iter()
            .chain(self.allow_in_mode.values().flatten())
            .any(|a| a == action)
    }
}

fn input(node: &Node, topics: &[TopicContract]) -> Option<GateInput> {
    let (topic, own, at) = match node.text() {
        Some(topic) => (topic.to_owned(), None, node.at),
        None => {
            let fields = Fields::of(node, &GATE_INPUT);
            (
                fields.text("topic")?,
                fields.duration("max_age"),
                fields.get("topic")?.at,
            )
        }
    };
    let contract = topics.iter().find(|t| t.topic == topic);
    let max_age = own.or_else(|| contract.and_then(|c| c.max_age.or(c.lifespan)));
    Some(GateInput { topic, max_age, at })
}

fn allow(node: &Node, findings: &mut Findings) -> (Vec<String>, BTreeMap<String, Vec<String>>) {
    let list = |node: &Node| -> Vec<String> {
        node.items()
            .iter()
            .filter_map(|n| n.text().map(str::to_owned))
            .collect()
    };
    if node.entries().is_empty() {
        let actions = list(node);
        if actions.is_empty() {
            findings.error_with(
                node.at,
                "no action is allowed: the gate would only ever say no",
                format!("known: {}", ACTIONS.join(", ")),
            );
        }
        return (actions, BTreeMap::new());
    }
    let fields = Fields::of(node, &ALLOW);
    let modes = MODES
        .iter()
        .filter_map(|m| Some(((*m).to_owned(), list(fields.get(m)?))));
    (fields.texts("otherwise"), modes.collect())
}

fn rule(entry: &Entry, findings: &mut Findings) -> Option<RefuseRule> {
    let fields = Fields::of(&entry.node, &RULE);
    if entry.key.len() > MAX_RULE_NAME_BYTES {
        let (found, most) = (entry.key.len(), MAX_RULE_NAME_BYTES);
        findings.error(
            entry.key_at,
            format!("a rule name of {found} bytes, at most {most} fit the verdict"),
        );
    }
    if fields.texts("actions").is_empty() {
        findings.error(entry.key_at, "this rule refuses nothing: actions is empty");
    }
    let light = fields.text("traffic_light");
    let (ttc, distance) = (
        fields.fields("time_to_contact", &BELOW_DURATION),
        fields.fields("distance", &BELOW_LENGTH),
    );
    let object = fields.get("zone").is_some() || ttc.is_some() || distance.is_some();
    let when = match (light, object) {
        (Some(light), false) => RefuseWhen::TrafficLight(light),
        (None, true) => RefuseWhen::Vulnerable {
            zone: fields.text("zone"),
            time_to_contact_below_s: ttc
                .and_then(|t| t.duration("below"))
                .map(|d| d.as_secs_f32()),
            distance_below_m: distance
                .and_then(|d| d.quantity("below", Dimension::Length))
                .map(|m| m as f32),
        },
        (Some(_), true) => {
            let message = "a rule is about a light or about an object, not both";
            findings.error_with(entry.key_at, message, "write two rules: either one refuses");
            return None;
        }
        (None, false) => {
            let message = "this rule has no condition: it would always refuse";
            findings.error_with(
                entry.key_at,
                message,
                "add traffic_light, zone, time_to_contact or distance",
            );
            return None;
        }
    };
    Some(RefuseRule {
        name: entry.key.clone(),
        when,
        actions: fields.texts("actions"),
    })
}

fn confirmers(fields: &Fields<'_>) -> BTreeMap<String, Confirmer> {
    let who = |action: &&str| {
        let who = if *action == "timeout" {
            None
        } else {
            fields.text(action)
        }?;
        Some((
            (*action).to_owned(),
            if who == "anyone" {
                Confirmer::Anyone
            } else {
                Confirmer::Driver
            },
        ))
    };
    CONFIRM
        .keys()
        .map(|k| k.name)
        .filter_map(|k| who(&k))
        .collect()
}

fn bounded(
    fields: &Fields<'_>,
    key: &str,
    dimension: Dimension,
    most: f64,
    findings: &mut Findings,
) -> Option<f64> {
    let value = fields.quantity(key, dimension)?;
    if value <= 0.0 || value > most {
        let unit = dimension.units().first().map_or("", |(u, _)| u);
        findings.error(
            place(fields, key),
            format!("{key} is {value} {unit}, expected more than 0 and at most {most} {unit}"),
        );
    }
    Some(value)
}

fn time(fields: &Fields<'_>, key: &str, findings: &mut Findings) -> Option<Duration> {
    let value = fields.duration(key)?;
    if value.is_zero() || value > MAX_TIME {
        findings.error(
            place(fields, key),
            format!("{key} is {value:?}, expected more than 0s and at most {MAX_TIME:?}"),
        );
    }
    Some(value)
}

fn place(fields: &Fields<'_>, key: &str) -> At {
    fields.get(key).map_or(fields.at(), |n| n.at)
}
