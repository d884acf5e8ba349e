//! Answers to questions: the model chooses which of the facts answers a question; it cannot say what is not one.
//!
//! A person asks "why are we slowing down?" or "what is ahead?", and a small language model would invent the rest of a free answer.
//! So the facts are written first, from the last summary, the ego state and the last advice, and the grammar offers exactly these.

use llmasos_engine::text::{ChatMessage, Grammar, Role};
use llmasos_msgs::llmasos_msgs::{PerceptionSummary, PlannerAdvice, SceneObject};

use super::question::Situation;
use crate::{
    wording::{article, noun},
    workers::LanguageJob,
};

/// Objects that become a fact each; more would only be told by number.
const OBJECTS_MAX: usize = 6;
/// Tokens of the longest fact: a bounded reason of 200 bytes and its opening.
const ANSWER_TOKENS_MAX: usize = 96;
/// Longest answer, in bytes: the message's bound.
const ANSWER_BYTES_MAX: usize = 512;
/// Speed below which a car stands, m/s: odometry is never exactly zero.
const STANDING_MPS: f32 = 0.2;

/// What is said when no fact answers.
pub const UNKNOWN: &str = "I do not know.";

const SYSTEM: &str =
    "You answer a passenger's question about this drive with the one sentence that answers it.";

/// The sentences that are true now, the most useful first.
pub fn facts(situation: &Situation, advice: Option<&PlannerAdvice>) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some(advice) = advice.filter(|advice| !advice.reason.trim().is_empty()) {
        facts.push(format!(
            "Because {}.",
            advice.reason.trim().trim_end_matches('.')
        ));
    }
    if let Some(summary) = &situation.summary {
        of_summary(summary, &mut facts);
    }
    facts.push(match situation.speed_mps {
        speed_mps if speed_mps < STANDING_MPS => "We are standing.".to_owned(),
        speed_mps => format!("We are driving at {:.0} km/h.", speed_mps * 3.6),
    });
    facts.push(UNKNOWN.to_owned());
    let mut kept: Vec<String> = Vec::new();
    for fact in facts {
        if fact.len() <= ANSWER_BYTES_MAX && !kept.contains(&fact) {
            kept.push(fact);
        }
    }
    kept
}

fn of_summary(summary: &PerceptionSummary, facts: &mut Vec<String>) {
    match summary.sensor_state {
        PerceptionSummary::OK => {}
        PerceptionSummary::DEGRADED => facts.push("Some sensors give no data.".to_owned()),
        _ => {
            // What was seen before is no fact any more.
            facts.push("The sensors give no data.".to_owned());
            return;
        }
    }
    match summary.traffic_light {
        PerceptionSummary::RED => facts.push("The light is red.".to_owned()),
        PerceptionSummary::AMBER => facts.push("The light is amber.".to_owned()),
        PerceptionSummary::GREEN => facts.push("The light is green.".to_owned()),
        _ => {}
    }
    facts.extend(summary.objects.iter().take(OBJECTS_MAX).map(of_object));
    match summary.objects_total {
        0 if summary.sensor_state == PerceptionSummary::OK => {
            facts.push("The road is clear.".to_owned());
        }
        0 | 1 => {}
        many => facts.push(format!("There are {many} road users around.")),
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
        _ => "",
    };
    match object.distance.is_finite() {
        true => format!(
            "There is {} {noun} {:.0} m{}.",
            article(noun),
            object.distance,
            if place.is_empty() { " away" } else { place }
        ),
        false => format!("There is {} {noun}{place}.", article(noun)),
    }
}

/// The question as the model gets it.
pub fn job(question: &str, facts: &[String]) -> LanguageJob {
    let list: Vec<String> = facts.iter().map(|fact| format!("- {fact}")).collect();
    LanguageJob {
        class: "answer",
        messages: vec![
            ChatMessage::new(Role::System, SYSTEM),
            ChatMessage::new(
                Role::User,
                format!(
                    "Sentences:\n{}\nQuestion: {}\nWhich sentence answers it?",
                    list.join("\n"),
                    question.trim()
                ),
            ),
        ],
        grammar: Some(Grammar::Choice(facts.to_vec())),
        tokens_max: ANSWER_TOKENS_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmasos_msgs::autoware_perception_msgs::ObjectClassification as Class;

    fn summary() -> PerceptionSummary {
        PerceptionSummary {
            sensor_state: PerceptionSummary::OK,
            traffic_light: PerceptionSummary::RED,
            objects_total: 2,
            objects: vec![
                SceneObject {
                    label: Class::PEDESTRIAN,
                    zone: SceneObject::CROSSING,
                    distance: 12.4,
                    ..Default::default()
                },
                SceneObject {
                    label: Class::ANIMAL,
                    zone: 0,
                    distance: f32::NAN,
                    ..Default::default()
                },
            ],
            ..Default::default()
        }
    }

    #[test]
    fn every_fact_is_true_of_the_situation() {
        let situation = Situation {
            summary: Some(summary()),
            speed_mps: 8.33,
        };
        let advice = PlannerAdvice {
            reason: "a pedestrian is crossing".into(),
            ..Default::default()
        };
        assert_eq!(
            facts(&situation, Some(&advice)),
            [
                "Because a pedestrian is crossing.",
                "The light is red.",
                "There is a pedestrian 12 m ahead, crossing.",
                "There is an animal.",
                "There are 2 road users around.",
                "We are driving at 30 km/h.",
                UNKNOWN,
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let blind = Situation {
            summary: Some(PerceptionSummary {
                sensor_state: PerceptionSummary::BLIND,
                ..summary()
            }),
            speed_mps: 0.0,
        };
        assert_eq!(
            facts(&blind, None),
            ["The sensors give no data.", "We are standing.", UNKNOWN]
        );
        let nothing = Situation {
            summary: None,
            speed_mps: 0.0,
        };
        assert_eq!(facts(&nothing, None), ["We are standing.", UNKNOWN]);
    }

    #[test]
    fn only_facts_are_on_offer() {
        let facts = vec!["The light is red.".to_owned(), UNKNOWN.to_owned()];
        let job = job("what colour is the light?", &facts);
        assert_eq!(job.grammar, Some(Grammar::Choice(facts)));
    }
}
