//! Answers to questions: one of the facts that are true now, or none.
//!
//! A small language model that may answer freely invents. So the facts are written first, from the last summary, the ego state and the
//! last advice; the words of the question say which of them it is about; and the model only chooses between those, under a grammar that
//! offers nothing else. A question that touches no fact is not answered.
//!
//! ```text
//! summary, ego, advice ─▶ facts ─┬─▶ those the words touch ─┬─ none ─▶ "I do not know."
//! question ──────────────────────┘                          ├─ one ──▶ it
//!                                                           └─ more ─▶ language model under a choice
//! ```

use llmasos_engine::text::{ChatMessage, Grammar, Role};
use llmasos_msgs::{
    autoware_perception_msgs::ObjectClassification as Class,
    llmasos_msgs::{PerceptionSummary, PlannerAdvice, SceneObject},
};

use super::question::Situation;
use crate::{
    language::LanguageJob,
    wording::{article, noun},
};

/// Objects that become a fact each; more are only told by number.
const OBJECTS_MAX: usize = 6;
/// Tokens of the longest fact: a bounded reason of 200 bytes and its opening.
const ANSWER_TOKENS_MAX: usize = 96;
/// Longest answer, in bytes: the message's bound.
const ANSWER_BYTES_MAX: usize = 512;
/// Speed below which a car stands, m/s: odometry is never exactly zero.
const STANDING_MPS: f32 = 0.2;

/// What is said when no fact answers.
pub const UNKNOWN: &str = "I do not know.";

const SYSTEM: &str = "You answer a passenger's questions with one of the given sentences.";

/// A question with its sentences and its answer: a small model sees from it that the question decides, not the order.
const EXAMPLE: (&[&str], &str, &str) = (
    &[
        "There is a bus 20 m to the left.",
        "There is a truck 8 m ahead.",
        "There are 2 road users around.",
    ],
    "What is in front of the car?",
    "There is a truck 8 m ahead.",
);

/// What a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Reason,
    Light,
    Speed,
    Sensors,
    /// An object by label and zone.
    Object(u8, u8),
    /// All objects together.
    Objects,
}

/// A sentence that is true now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    about: About,
    text: String,
}

/// How a question is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answering {
    /// With this sentence; nobody needs to choose.
    Known(String),
    /// With nothing.
    Unknown,
    /// With one of these.
    Choice(Vec<String>),
}

/// The sentences that are true now.
pub fn facts(situation: &Situation, advice: Option<&PlannerAdvice>) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |about: About, text: String| {
        if text.len() <= ANSWER_BYTES_MAX {
            facts.push(Fact { about, text });
        }
    };
    if let Some(advice) = advice.filter(|advice| !advice.reason.trim().is_empty()) {
        let reason = advice.reason.trim().trim_end_matches('.');
        add(About::Reason, format!("Because {reason}."));
    }
    add(
        About::Speed,
        match situation.speed_mps {
            speed_mps if speed_mps < STANDING_MPS => "We are standing.".to_owned(),
            speed_mps => format!("We are driving at {:.0} km/h.", speed_mps * 3.6),
        },
    );
    if let Some(summary) = &situation.summary {
        of_summary(summary, &mut add);
    }
    facts
}

fn of_summary(summary: &PerceptionSummary, add: &mut impl FnMut(About, String)) {
    match summary.sensor_state {
        PerceptionSummary::OK => add(About::Sensors, "All sensors work.".to_owned()),
        PerceptionSummary::DEGRADED => add(About::Sensors, "Some sensors give no data.".to_owned()),
        _ => {
            // What was seen before is no fact any more.
            add(About::Sensors, "The sensors give no data.".to_owned());
            return;
        }
    }
    match summary.traffic_light {
        PerceptionSummary::RED => add(About::Light, "The light is red.".to_owned()),
        PerceptionSummary::AMBER => add(About::Light, "The light is amber.".to_owned()),
        PerceptionSummary::GREEN => add(About::Light, "The light is green.".to_owned()),
        _ => {}
    }
    for object in summary.objects.iter().take(OBJECTS_MAX) {
        add(About::Object(object.label, object.zone), of_object(object));
    }
    match summary.objects_total {
        // An empty list means a clear road only when all sensors work.
        0 if summary.sensor_state == PerceptionSummary::OK => {
            add(About::Objects, "The road is clear.".to_owned());
        }
        0 | 1 => {}
        many => add(
            About::Objects,
            format!("There are {many} road users around."),
        ),
    }
}

fn of_object(object: &SceneObject) -> String {
    let noun = noun(object.label);
    let place = match object.zone {
        SceneObject::AHEAD => " ahead",
        SceneObject::LEFT => " to the left",
        SceneObject::RIGHT => " to the right",
        SceneObject::BEHIND => " behind",
        SceneObject::CROSSING => " ahead, crossing",
        _ => " away",
    };
    match object.distance.is_finite() {
        true => format!(
            "There is {} {noun} {:.0} m{place}.",
            article(noun),
            object.distance
        ),
        false => format!("There is {} {noun}.", article(noun)),
    }
}

/// Words that make a question one about a subject.
const REASON_WORDS: &[&str] = &["why", "reason", "because"];
const LIGHT_WORDS: &[&str] = &["light", "lights", "signal", "red", "green", "amber"];
const SPEED_WORDS: &[&str] = &["fast", "speed", "kmh", "km", "standing", "moving", "slow"];
const SENSOR_WORDS: &[&str] = &["sensor", "sensors", "camera", "blind", "data"];
const ALL_WORDS: &[&str] = &[
    "around", "see", "near", "danger", "hazard", "obstacle", "clear", "road", "traffic", "many",
];
const AHEAD: &[u8] = &[SceneObject::AHEAD, SceneObject::CROSSING];
const ZONE_WORDS: &[(&[&str], &[u8])] = &[
    (&["ahead", "front", "before"], AHEAD),
    (&["left"], &[SceneObject::LEFT]),
    (&["right"], &[SceneObject::RIGHT]),
    (&["behind", "back", "rear"], &[SceneObject::BEHIND]),
    (&["crossing", "cross", "crosses"], &[SceneObject::CROSSING]),
];
const PEOPLE: &[u8] = &[Class::PEDESTRIAN, Class::BICYCLE, Class::MOTORCYCLE];
const NOUN_WORDS: &[(&[&str], &[u8])] = &[
    (
        &["pedestrian", "pedestrians", "person", "people", "child"],
        &[Class::PEDESTRIAN],
    ),
    (&["anybody", "somebody", "anyone", "someone"], PEOPLE),
    (
        &["cyclist", "cyclists", "bike", "bicycle"],
        &[Class::BICYCLE],
    ),
    (&["motorcycle", "motorbike"], &[Class::MOTORCYCLE]),
    (&["car", "cars"], &[Class::CAR]),
    (&["truck", "trucks", "lorry"], &[Class::TRUCK]),
    (&["bus", "buses"], &[Class::BUS]),
    (&["animal", "animals", "dog", "deer"], &[Class::ANIMAL]),
];

/// Which facts a question is about.
pub fn answering(question: &str, facts: &[Fact]) -> Answering {
    let lower = question.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let says = |any: &[&str]| words.iter().any(|word| any.contains(word));
    let matching = |table: &[(&[&str], &'static [u8])]| -> Vec<u8> {
        let hits = table.iter().filter(|(any, _)| says(any));
        hits.flat_map(|(_, values)| values.iter().copied())
            .collect()
    };
    let (zones, labels) = (matching(ZONE_WORDS), matching(NOUN_WORDS));
    let particular = !(zones.is_empty() && labels.is_empty());
    let touched = |fact: &&Fact| match fact.about {
        About::Reason => says(REASON_WORDS),
        About::Light => says(LIGHT_WORDS),
        About::Speed => says(SPEED_WORDS) && !says(REASON_WORDS),
        About::Sensors => says(SENSOR_WORDS),
        About::Object(label, zone) if particular => {
            (zones.is_empty() || zones.contains(&zone))
                && (labels.is_empty() || labels.contains(&label))
        }
        About::Object(..) => says(ALL_WORDS),
        About::Objects => !particular && says(ALL_WORDS),
    };
    let mut texts: Vec<String> = Vec::new();
    for fact in facts.iter().filter(touched) {
        if !texts.contains(&fact.text) {
            texts.push(fact.text.clone());
        }
    }
    match texts.len() {
        0 => Answering::Unknown,
        1 => Answering::Known(texts.remove(0)),
        _ => Answering::Choice(texts),
    }
}

/// The question as the model gets it.
pub fn job(question: &str, choice: &[String]) -> LanguageJob {
    let (sentences, asked_before, answered) = EXAMPLE;
    LanguageJob {
        class: "answer",
        messages: vec![
            ChatMessage::new(Role::System, SYSTEM),
            ChatMessage::new(Role::User, asked(sentences, asked_before)),
            ChatMessage::new(Role::Assistant, answered),
            ChatMessage::new(Role::User, asked(choice, question.trim())),
        ],
        grammar: Some(Grammar::Choice(choice.to_vec())),
        tokens_max: ANSWER_TOKENS_MAX,
    }
}

fn asked<S: AsRef<str>>(sentences: &[S], question: &str) -> String {
    let list: Vec<String> = sentences
        .iter()
        .map(|sentence| format!("- {}", sentence.as_ref()))
        .collect();
    format!("{}\nQuestion: {question}", list.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(label: u8, zone: u8, distance: f32) -> SceneObject {
        SceneObject {
            label,
            zone,
            distance,
            ..Default::default()
        }
    }

    fn street() -> Situation {
        Situation {
            summary: Some(PerceptionSummary {
                sensor_state: PerceptionSummary::OK,
                traffic_light: PerceptionSummary::RED,
                objects_total: 3,
                objects: vec![
                    object(Class::PEDESTRIAN, SceneObject::CROSSING, 12.4),
                    object(Class::CAR, SceneObject::AHEAD, 30.0),
                    object(Class::ANIMAL, 0, f32::NAN),
                ],
                ..Default::default()
            }),
            speed_mps: 8.33,
        }
    }

    fn advice() -> PlannerAdvice {
        PlannerAdvice {
            reason: "a pedestrian is crossing".into(),
            ..Default::default()
        }
    }

    #[test]
    fn questions_are_answered_with_what_they_are_about() {
        const PEDESTRIAN: &str = "There is a pedestrian 12 m ahead, crossing.";
        const CAR: &str = "There is a car 30 m ahead.";
        let facts = facts(&street(), Some(&advice()));
        let known = |text: &str| Answering::Known(text.to_owned());
        for (question, expected) in [
            (
                "How fast are we driving?",
                known("We are driving at 30 km/h."),
            ),
            ("what colour is the LIGHT", known("The light is red.")),
            (
                "Why are we going so slow?",
                known("Because a pedestrian is crossing."),
            ),
            ("is anybody crossing?", known(PEDESTRIAN)),
            ("is there a car?", known(CAR)),
            ("any animals?", known("There is an animal.")),
            ("is there a bus?", Answering::Unknown),
            ("what is to the left", Answering::Unknown),
            ("do all sensors work?", known("All sensors work.")),
            ("Who wrote Hamlet?", Answering::Unknown),
            ("Tell me a joke.", Answering::Unknown),
            ("", Answering::Unknown),
            (
                "what is ahead?",
                Answering::Choice(vec![PEDESTRIAN.into(), CAR.into()]),
            ),
        ] {
            assert_eq!(answering(question, &facts), expected, "{question}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let texts = |situation: &Situation| -> Vec<String> {
            facts(situation, None)
                .into_iter()
                .map(|fact| fact.text)
                .collect()
        };
        let blind = Situation {
            summary: street().summary.map(|summary| PerceptionSummary {
                sensor_state: PerceptionSummary::BLIND,
                ..summary
            }),
            speed_mps: 0.0,
        };
        assert_eq!(
            texts(&blind),
            ["We are standing.", "The sensors give no data."]
        );
        let nothing = Situation {
            summary: None,
            speed_mps: 0.0,
        };
        assert_eq!(texts(&nothing), ["We are standing."]);
    }

    #[test]
    fn only_facts_are_on_offer() {
        let choice = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(job("what?", &choice).grammar, Some(Grammar::Choice(choice)));
    }
}
