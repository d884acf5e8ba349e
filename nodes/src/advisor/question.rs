//! What the model is asked: a command in a scene, and a schema whose every answer is an advice that can be explained.
//!
//! The schema offers only actions that answer the command, speeds inside the bounds, and reasons that are true of this scene; the model
//! decides among them. So the answer is bounded before the gate sees it, and its reason is never invented. What the model may not
//! decide (nothing to decide, or no time) is written by [`Question::rule`] and says so.
//!
//! ```text
//! command + scene + ego ─▶ Question { actions, speeds, reasons } ─▶ schema ─▶ model ─▶ Answer { action, max_speed, reason }
//! ```

use llmasos_msgs::llmasos_msgs::{PerceptionSummary, PlannerAdvice, SceneObject, SpeechCommand};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::wording::{article, noun};

/// Longest reason, in bytes (the message's bound is 200).
pub const REASON_BYTES_MAX: usize = 200;
/// Reasons offered at most.
pub const REASONS_MAX: usize = 5;
/// Speeds offered at most.
pub const SPEEDS_MAX: usize = 6;
/// Step between offered speeds, in km/h: what a driver would say.
const SPEED_STEP_KMH: f32 = 5.0;

/// What bounds every advice; from the descriptor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Highest speed ever advised, in m/s.
    pub max_speed_mps: f32,
}

/// The scene as far as an advice needs it.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// The summary, if a fresh one is there.
    pub summary: Option<PerceptionSummary>,
    /// Forward speed, in m/s.
    pub speed_mps: f32,
}

/// One question to the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Actions that answer the command.
    pub actions: Vec<Action>,
    /// Speeds offered, in km/h, ascending; empty: no speed belongs to this advice.
    pub speeds_kmh: Vec<u32>,
    /// Reasons that are true, the most important first, each with the object it speaks of.
    pub reasons: Vec<Reason>,
}

/// A true sentence about the command or the scene.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// Its words.
    pub text: String,
    /// The object it is about.
    pub object_id: Option<[u8; 16]>,
}

/// An action of the advice; the numbers are those of `PlannerAdvice`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // the names are the message's own constants, explained there
pub enum Action {
    None,
    Keep,
    SlowDown,
    Stop,
    PullOver,
    LaneLeft,
    LaneRight,
}

impl Action {
    /// Number in the message.
    pub fn number(self) -> u8 {
        match self {
            Action::None => PlannerAdvice::NONE,
            Action::Keep => PlannerAdvice::KEEP,
            Action::SlowDown => PlannerAdvice::SLOW_DOWN,
            Action::Stop => PlannerAdvice::STOP,
            Action::PullOver => PlannerAdvice::PULL_OVER,
            Action::LaneLeft => PlannerAdvice::LANE_LEFT,
            Action::LaneRight => PlannerAdvice::LANE_RIGHT,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Action::None => "NONE",
            Action::Keep => "KEEP",
            Action::SlowDown => "SLOW_DOWN",
            Action::Stop => "STOP",
            Action::PullOver => "PULL_OVER",
            Action::LaneLeft => "LANE_LEFT",
            Action::LaneRight => "LANE_RIGHT",
        }
    }
}

/// What a command needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// The model decides.
    Model(Question),
    /// There is nothing to decide: the rule's answer.
    Rule(Answer),
    /// Not for the advisor: stops and pull-overs go straight to the gate, a cancel or a confirmation concerns the gate alone.
    Nothing,
}

/// An advice before it is stamped and published.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What to do.
    pub action: Action,
    /// In m/s; NaN when no speed belongs to it.
    pub max_speed_mps: f32,
    /// Why.
    pub reason: String,
    /// Ids of the objects the reason speaks of.
    pub evidence: Vec<[u8; 16]>,
}

/// Turns a command in a situation into a question, or into nothing.
pub fn ask(command: &SpeechCommand, situation: &Situation, bounds: &Bounds) -> Asked {
    let speed_kmh = situation.speed_mps * 3.6;
    let (actions, speeds_kmh) = match command.intent {
        _ if command.negated => return Asked::Nothing,
        SpeechCommand::SLOW_DOWN => (vec![Action::SlowDown], slower(speed_kmh)),
        SpeechCommand::SPEED_UP => (vec![Action::Keep], faster(speed_kmh, bounds)),
        SpeechCommand::SET_SPEED => return set_speed(command, situation, bounds),
        SpeechCommand::LANE_LEFT => (vec![Action::LaneLeft, Action::None], Vec::new()),
        SpeechCommand::LANE_RIGHT => (vec![Action::LaneRight, Action::None], Vec::new()),
        SpeechCommand::KEEP | SpeechCommand::NAVIGATE => {
            (vec![Action::Keep, Action::SlowDown], Vec::new())
        }
        _ => return Asked::Nothing,
    };
    Asked::Model(Question {
        actions,
        speeds_kmh,
        reasons: reasons(command, situation),
    })
}

/// Speeds below the present one, down to walking pace.
fn slower(speed_kmh: f32) -> Vec<u32> {
    let mut speeds: Vec<u32> = Vec::new();
    let mut next = (speed_kmh / SPEED_STEP_KMH).ceil() * SPEED_STEP_KMH - SPEED_STEP_KMH;
    while next >= SPEED_STEP_KMH && speeds.len() < SPEEDS_MAX {
        speeds.push(next as u32);
        next -= SPEED_STEP_KMH;
    }
    if speeds.is_empty() {
        speeds.push(0);
    }
    speeds.reverse();
    speeds
}

/// Speeds above the present one, up to the bound.
fn faster(speed_kmh: f32, bounds: &Bounds) -> Vec<u32> {
    let top = (bounds.max_speed_mps * 3.6).floor();
    let mut next = ((speed_kmh / SPEED_STEP_KMH).floor() + 1.0) * SPEED_STEP_KMH;
    let mut speeds = Vec::new();
    while next <= top && speeds.len() < SPEEDS_MAX {
        speeds.push(next as u32);
        next += SPEED_STEP_KMH;
    }
    if speeds.is_empty() {
        speeds.push(top.max(0.0) as u32);
    }
    speeds
}

fn set_speed(command: &SpeechCommand, situation: &Situation, bounds: &Bounds) -> Asked {
    if !command.target_speed.is_finite() || command.target_speed < 0.0 {
        return Asked::Nothing;
    }
    let target = command.target_speed.min(bounds.max_speed_mps);
    let action = if target < situation.speed_mps {
        Action::SlowDown
    } else {
        Action::Keep
    };
    // The number was spoken: there is nothing for a model to decide.
    let reason = if command.target_speed > bounds.max_speed_mps {
        format!(
            "the driver asked for {:.0} km/h, the limit is {:.0} km/h",
            command.target_speed * 3.6,
            bounds.max_speed_mps * 3.6
        )
    } else {
        format!("the driver asked for {:.0} km/h", target * 3.6)
    };
    Asked::Rule(Answer {
        action,
        max_speed_mps: target,
        reason,
        evidence: Vec::new(),
    })
}

/// What is true and matters: the driver's wish, the light, whoever is near.
fn reasons(command: &SpeechCommand, situation: &Situation) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let Some(summary) = &situation.summary {
        if let Some(object) = summary.objects.iter().find(|object| object.vulnerable) {
            reasons.push(about(object));
        }
        match summary.traffic_light {
            PerceptionSummary::RED => reasons.push(Reason {
                text: "the light is red".into(),
                object_id: None,
            }),
            PerceptionSummary::AMBER => reasons.push(Reason {
                text: "the light is amber".into(),
                object_id: None,
            }),
            _ => {}
        }
        if let Some(object) = summary
            .objects
            .iter()
            .find(|object| !object.vulnerable && object.zone == SceneObject::AHEAD)
        {
            reasons.push(about(object));
        }
        if summary.objects.is_empty() && summary.sensor_state == PerceptionSummary::OK {
            reasons.push(Reason {
                text: "the road ahead is clear".into(),
                object_id: None,
            });
        }
    }
    let wish = match command.intent {
        SpeechCommand::SLOW_DOWN => "the driver asked to slow down",
        SpeechCommand::SPEED_UP => "the driver asked to go faster",
        SpeechCommand::LANE_LEFT => "the driver asked for the left lane",
        SpeechCommand::LANE_RIGHT => "the driver asked for the right lane",
        SpeechCommand::NAVIGATE => "the driver gave a destination",
        _ => "the driver asked to go on",
    };
    reasons.truncate(REASONS_MAX - 1);
    reasons.push(Reason {
        text: wish.into(),
        object_id: None,
    });
    reasons
}

fn about(object: &SceneObject) -> Reason {
    let noun = noun(object.label);
    let a = article(noun);
    let metres = object.distance.round().clamp(0.0, 999.0) as u32;
    let text = match object.zone {
        SceneObject::CROSSING => format!("{a} {noun} is crossing {metres} m ahead"),
        SceneObject::LEFT => format!("{a} {noun} is {metres} m to the left"),
        SceneObject::RIGHT => format!("{a} {noun} is {metres} m to the right"),
        SceneObject::BEHIND => format!("{a} {noun} is {metres} m behind"),
        _ => format!("{a} {noun} is {metres} m ahead"),
    };
    Reason {
        text,
        object_id: Some(object.object_id.uuid),
    }
}

impl Question {
    /// The JSON schema of the answer.
    pub fn schema(&self) -> Value {
        let mut properties = serde_json::Map::new();
        let names: Vec<&str> = self.actions.iter().map(|action| action.name()).collect();
        properties.insert("action".into(), json!({ "enum": names }));
        if !self.speeds_kmh.is_empty() {
            properties.insert("max_speed_kmh".into(), json!({ "enum": self.speeds_kmh }));
        }
        let reasons: Vec<&str> = self
            .reasons
            .iter()
            .map(|reason| reason.text.as_str())
            .collect();
        properties.insert("reason".into(), json!({ "enum": reasons }));
        let required: Vec<&String> = properties.keys().collect();
        json!({ "type": "object", "required": required, "additionalProperties": false, "properties": properties })
    }

    /// What the model is told about its task.
    pub const SYSTEM: &'static str = "You advise the planner of a car. Answer in JSON: the action, the highest speed in km/h if asked for, and the most important reason. Near people and at red lights choose low speeds.";

    /// The question in words.
    pub fn prompt(&self, command: &SpeechCommand, situation: &Situation) -> String {
        let scene = situation
            .summary
            .as_ref()
            .map_or("unknown", |summary| summary.sentence.as_str());
        let facts: Vec<&str> = self
            .reasons
            .iter()
            .map(|reason| reason.text.as_str())
            .collect();
        format!(
            "Speed: {:.0} km/h. Scene: {scene} Known: {}. The driver said: \"{}\"",
            situation.speed_mps * 3.6,
            facts.join("; "),
            spoken(command)
        )
    }

    /// Reads the model's answer and holds it to the question.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn read(&self, text: &str) -> Result<Answer, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            action: Action,
            max_speed_kmh: Option<u32>,
            reason: String,
        }
        let raw: Raw = serde_json::from_str(text)
            .map_err(|error| format!("expected the answer's JSON, found {text:?}: {error}"))?;
        if !self.actions.contains(&raw.action) {
            return Err(format!(
                "expected one of {:?}, found action {:?}",
                self.actions, raw.action
            ));
        }
        let max_speed_mps = match raw.max_speed_kmh {
            Some(speed) if self.speeds_kmh.contains(&speed) => speed as f32 / 3.6,
            Some(speed) => {
                return Err(format!(
                    "expected a speed of {:?} km/h, found {speed}",
                    self.speeds_kmh
                ));
            }
            None if self.speeds_kmh.is_empty() => f32::NAN,
            None => return Err("expected max_speed_kmh, found none".to_owned()),
        };
        let reason = self
            .reasons
            .iter()
            .find(|reason| reason.text == raw.reason)
            .ok_or_else(|| format!("expected one of the given reasons, found {:?}", raw.reason))?;
        Ok(Answer {
            action: raw.action,
            max_speed_mps,
            reason: reason.text.clone(),
            evidence: reason.object_id.into_iter().collect(),
        })
    }

    /// The rule's answer to the same question, for when the model cannot be asked: the most careful of what was offered.
    pub fn rule(&self) -> Answer {
        let action = *self.actions.last().unwrap_or(&Action::None);
        let speed = match action {
            Action::Keep => self.speeds_kmh.first(),
            _ => self.speeds_kmh.last(),
        };
        let reason = self.reasons.last();
        Answer {
            action,
            max_speed_mps: speed.map_or(f32::NAN, |speed| *speed as f32 / 3.6),
            reason: reason.map_or_else(String::new, |reason| reason.text.clone()),
            evidence: Vec::new(),
        }
    }
}

/// What was said, short and without what could be taken for the template's own marks.
fn spoken(command: &SpeechCommand) -> String {
    command
        .transcript
        .chars()
        .filter(|c| !c.is_control() && !"<|>\"{}".contains(*c))
        .take(120)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(intent: u8) -> SpeechCommand {
        SpeechCommand {
            intent,
            transcript: "Please go.".into(),
            target_speed: f32::NAN,
            ..Default::default()
        }
    }

    fn question(intent: u8, situation: &Situation) -> Question {
        match ask(
            &command(intent),
            situation,
            &Bounds {
                max_speed_mps: 13.9,
            },
        ) {
            Asked::Model(question) => question,
            other => panic!("expected a question, found {other:?}"),
        }
    }

    #[test]
    fn what_is_offered_answers_the_command_inside_the_bounds() {
        let situation = Situation {
            summary: None,
            speed_mps: 8.0,
        };
        let slow = question(SpeechCommand::SLOW_DOWN, &situation);
        assert_eq!(slow.speeds_kmh, [5, 10, 15, 20, 25], "28.8 km/h now");
        let fast = question(SpeechCommand::SPEED_UP, &situation);
        assert_eq!(fast.speeds_kmh, [30, 35, 40, 45, 50], "13.9 m/s is 50 km/h");
        let at_top = question(
            SpeechCommand::SPEED_UP,
            &Situation {
                summary: None,
                speed_mps: 13.9,
            },
        );
        assert_eq!(at_top.speeds_kmh, [50], "never above the bound");
        let standing = question(SpeechCommand::SLOW_DOWN, &Situation::default());
        assert_eq!(standing.speeds_kmh, [0], "a standing car can only stand");
    }

    #[test]
    fn stops_and_negations_are_not_for_the_advisor() {
        for (command, why) in [
            (command(SpeechCommand::STOP), "the gate has it already"),
            (command(SpeechCommand::PULL_OVER), "likewise"),
            (
                SpeechCommand {
                    negated: true,
                    ..command(SpeechCommand::SLOW_DOWN)
                },
                "nothing was asked for",
            ),
            (command(SpeechCommand::UNKNOWN), "nothing was understood"),
            (
                command(SpeechCommand::SET_SPEED),
                "a speed of NaN is no speed",
            ),
        ] {
            assert_eq!(
                ask(
                    &command,
                    &Situation::default(),
                    &Bounds {
                        max_speed_mps: 13.9
                    }
                ),
                Asked::Nothing,
                "{why}"
            );
        }
    }

    #[test]
    fn a_spoken_speed_is_a_rule_and_is_cut_to_the_bound() {
        let command = SpeechCommand {
            target_speed: 30.0,
            ..command(SpeechCommand::SET_SPEED)
        };
        let Asked::Rule(answer) = ask(
            &command,
            &Situation {
                summary: None,
                speed_mps: 8.0,
            },
            &Bounds {
                max_speed_mps: 13.9,
            },
        ) else {
            panic!("a rule")
        };
        assert_eq!((answer.action, answer.max_speed_mps), (Action::Keep, 13.9));
        assert!(answer.reason.contains("limit is 50"), "{}", answer.reason);
    }

    #[test]
    fn reasons_are_true_of_the_scene() {
        let pedestrian = SceneObject {
            label: 7,
            vulnerable: true,
            zone: SceneObject::CROSSING,
            distance: 12.2,
            ..Default::default()
        };
        let summary = PerceptionSummary {
            traffic_light: PerceptionSummary::RED,
            objects: vec![pedestrian],
            ..Default::default()
        };
        let with = question(
            SpeechCommand::SLOW_DOWN,
            &Situation {
                summary: Some(summary),
                speed_mps: 8.0,
            },
        );
        let texts: Vec<&str> = with
            .reasons
            .iter()
            .map(|reason| reason.text.as_str())
            .collect();
        assert_eq!(
            texts,
            [
                "a pedestrian is crossing 12 m ahead",
                "the light is red",
                "the driver asked to slow down"
            ]
        );
        let without = question(
            SpeechCommand::SLOW_DOWN,
            &Situation {
                summary: None,
                speed_mps: 8.0,
            },
        );
        assert_eq!(
            without.reasons.len(),
            1,
            "nothing is known of the scene, so nothing is said of it"
        );
    }

    #[test]
    fn answers_are_held_to_the_question() {
        let question = question(
            SpeechCommand::SLOW_DOWN,
            &Situation {
                summary: None,
                speed_mps: 8.0,
            },
        );
        let good =
            r#"{"action":"SLOW_DOWN","max_speed_kmh":15,"reason":"the driver asked to slow down"}"#;
        assert!((question.read(good).unwrap().max_speed_mps - 15.0 / 3.6).abs() < 1e-6);
        for (bad, why) in [
            (
                r#"{"action":"KEEP","max_speed_kmh":15,"reason":"the driver asked to slow down"}"#,
                "not an answer to the command",
            ),
            (
                r#"{"action":"SLOW_DOWN","max_speed_kmh":90,"reason":"the driver asked to slow down"}"#,
                "not offered",
            ),
            (
                r#"{"action":"SLOW_DOWN","max_speed_kmh":15,"reason":"aliens"}"#,
                "not true",
            ),
            (
                r#"{"action":"SLOW_DOWN","reason":"the driver asked to slow down"}"#,
                "no speed",
            ),
            ("stop", "not JSON"),
        ] {
            assert!(question.read(bad).is_err(), "{why}");
        }
        assert_eq!(question.rule().action, Action::SlowDown);
    }
}
