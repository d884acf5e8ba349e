//! The sentence: one line about the scene that can only name what is in the list.
//!
//! The scene is first told as a few phrases ("a pedestrian crossing 12 m ahead", "2 cars ahead, nearest 30 m"). The language model
//! chooses among the sentences that these phrases make, and nothing else, so a sampled sentence is grounded by construction; then it is
//! checked all the same, because a choice can be cut short by the token limit and a constraint can be wrong. What is missing and
//! vulnerable is added (`CORRECTED`); without an answer the template speaks (`TEMPLATE`).

use llmasos_msgs::llmasos_msgs::{PerceptionSummary, SceneObject};

use super::{scene::Scene, sighting::is_vulnerable};
use crate::wording::{article, noun};

/// Phrases offered at most; the rest is in the object list.
pub const PHRASES_MAX: usize = 5;
/// Phrases in one sentence at most, so that it stays a line.
pub const PHRASES_SAID_MAX: usize = 3;
/// Longest sentence, in bytes (the message's bound).
pub const SENTENCE_BYTES_MAX: usize = 512;

/// One thing that can be said.
#[derive(Clone, Debug, PartialEq)]
pub struct Phrase {
    /// Its words.
    pub text: String,
    /// Whether leaving it out is an omission: vulnerable and near, or about to be met.
    pub must: bool,
}

/// How near somebody vulnerable must be named, in m.
const MUST_NAME_WITHIN_M: f32 = 30.0;

/// The phrases of a scene, most important first: objects of one kind in one zone share a phrase.
pub fn phrases(scene: &Scene) -> Vec<Phrase> {
    let mut groups: Vec<(u8, u8, Vec<&SceneObject>)> = Vec::new();
    for object in &scene.objects {
        match groups
            .iter_mut()
            .find(|(label, zone, _)| *label == object.label && *zone == object.zone)
        {
            Some((_, _, members)) => members.push(object),
            None => groups.push((object.label, object.zone, vec![object])),
        }
    }
    groups
        .iter()
        .take(PHRASES_MAX)
        .map(|(label, zone, members)| phrase(*label, *zone, members))
        .collect()
}

fn phrase(label: u8, zone: u8, members: &[&SceneObject]) -> Phrase {
    let nearest = members
        .iter()
        .map(|object| object.distance)
        .fold(f32::INFINITY, f32::min);
    let metres = nearest.round().clamp(0.0, 999.0) as u32;
    let noun = noun(label);
    let text = match (members.len(), zone) {
        (1, SceneObject::CROSSING) => format!("{} {noun} crossing {metres} m ahead", article(noun)),
        (1, _) => format!("{} {noun} {metres} m {}", article(noun), place(zone)),
        (count, SceneObject::CROSSING) => format!("{count} {}s crossing, nearest {metres} m", noun),
        (count, _) => format!(
            "{count} {} {}, nearest {metres} m",
            plural(noun),
            place(zone)
        ),
    };
    Phrase {
        text,
        must: is_vulnerable(label) && nearest <= MUST_NAME_WITHIN_M,
    }
}

fn plural(noun: &str) -> String {
    if noun.ends_with('s') {
        format!("{noun}es")
    } else {
        format!("{noun}s")
    }
}

fn place(zone: u8) -> &'static str {
    match zone {
        SceneObject::LEFT => "to the left",
        SceneObject::RIGHT => "to the right",
        SceneObject::BEHIND => "behind",
        _ => "ahead",
    }
}

/// How the sentence ends: what the lights show.
fn light(scene: &Scene) -> &'static str {
    match scene.traffic_light {
        PerceptionSummary::RED => "; the light is red.",
        PerceptionSummary::AMBER => "; the light is amber.",
        PerceptionSummary::GREEN => "; the light is green.",
        _ => ".",
    }
}

/// What is said when there is nothing to choose: blind, or a clear road.
pub fn only_sentence(scene: &Scene) -> Option<String> {
    match (scene.sensor_state, scene.objects.is_empty()) {
        (PerceptionSummary::BLIND, _) => Some("No usable sensor data.".to_owned()),
        (PerceptionSummary::OK, true) => Some(format!("The road is clear{}", light(scene))),
        (_, true) => Some(format!(
            "Nothing is seen, but a sensor is missing{}",
            light(scene)
        )),
        (_, false) => None,
    }
}

/// The sentence of the template: the first phrases in order.
pub fn template(scene: &Scene) -> String {
    only_sentence(scene).unwrap_or_else(|| {
        let said: Vec<String> = phrases(scene)
            .into_iter()
            .take(PHRASES_SAID_MAX)
            .map(|phrase| phrase.text)
            .collect();
        join(&said, scene)
    })
}

fn join(said: &[String], scene: &Scene) -> String {
    let body = match said {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    };
    let mut sentence = format!("There is {body}{}", light(scene));
    if said
        .first()
        .is_some_and(|phrase| phrase.starts_with(|c: char| c.is_ascii_digit()))
    {
        sentence.replace_range(..8, "There are");
    }
    sentence.truncate(SENTENCE_BYTES_MAX);
    sentence
}

/// Every sentence that may be said about this scene: one to three of its phrases in any order, those that must be named among them,
/// then the lights. At most 85: ordered choices of three from five.
pub fn sentences(scene: &Scene) -> Vec<String> {
    let phrases = phrases(scene);
    let must = phrases
        .iter()
        .filter(|phrase| phrase.must)
        .take(PHRASES_SAID_MAX);
    let must: Vec<&str> = must.map(|phrase| phrase.text.as_str()).collect();
    let mut sentences = Vec::new();
    let mut said: Vec<String> = Vec::new();
    extend(&phrases, &must, &mut said, scene, &mut sentences);
    sentences
}

/// Adds the sentences that begin with what is `said` already.
fn extend(
    phrases: &[Phrase],
    must: &[&str],
    said: &mut Vec<String>,
    scene: &Scene,
    sentences: &mut Vec<String>,
) {
    if !said.is_empty() && must.iter().all(|text| said.iter().any(|one| one == text)) {
        sentences.push(join(said, scene));
    }
    if said.len() == PHRASES_SAID_MAX {
        return;
    }
    for phrase in phrases {
        if !said.contains(&phrase.text) {
            said.push(phrase.text.clone());
            extend(phrases, must, said, scene, sentences);
            said.pop();
        }
    }
}

/// What the model is told: the facts, nearest danger first.
pub fn prompt(scene: &Scene) -> String {
    let facts: Vec<String> = phrases(scene)
        .into_iter()
        .map(|phrase| phrase.text)
        .collect();
    format!(
        "Facts: {}{}\nSay in one sentence what the driver must know first.",
        facts.join("; "),
        light(scene)
    )
}

/// What the model is told about its task, with one example of the form.
pub const SYSTEM: &str =
    "You tell a driver what is around the car. Name the danger first. Use only the given facts.";

/// Checks a sampled sentence. `None`: not one of this scene's sentences at all, the template must speak. `Some((sentence, true))`: a
/// phrase that must be named was missing and has been added.
pub fn check(sampled: &str, scene: &Scene) -> Option<(String, bool)> {
    let phrases = phrases(scene);
    let body = sampled.trim().strip_suffix(light(scene))?;
    let body = body
        .strip_prefix("There is ")
        .or_else(|| body.strip_prefix("There are "))?;
    let mut said: Vec<String> = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        // The longest phrase that fits: "a car 3 m ahead" is the beginning of no other phrase, but nobody should have to prove that.
        let phrase = phrases
            .iter()
            .filter(|phrase| rest.starts_with(&phrase.text))
            .max_by_key(|phrase| phrase.text.len())?;
        if !said.contains(&phrase.text) {
            said.push(phrase.text.clone());
        }
        rest = &rest[phrase.text.len()..];
        rest = rest
            .strip_prefix(", ")
            .or_else(|| rest.strip_prefix(" and "))
            .unwrap_or(rest);
    }
    if said.is_empty() {
        return None;
    }
    let missing: Vec<String> = phrases
        .iter()
        .filter(|phrase| phrase.must)
        .take(PHRASES_SAID_MAX)
        .filter(|phrase| !said.contains(&phrase.text))
        .map(|phrase| phrase.text.clone())
        .collect();
    if missing.is_empty() && join(&said, scene) == sampled.trim() {
        return Some((sampled.trim().to_owned(), false));
    }
    let all: Vec<String> = missing.into_iter().chain(said).collect();
    Some((join(&all, scene), true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmasos_msgs::autoware_perception_msgs::ObjectClassification as Class;

    fn object(label: u8, zone: u8, distance: f32) -> SceneObject {
        SceneObject {
            label,
            zone,
            distance,
            vulnerable: is_vulnerable(label),
            ..Default::default()
        }
    }

    fn street() -> Scene {
        let objects = vec![
            object(Class::PEDESTRIAN, SceneObject::CROSSING, 12.4),
            object(Class::CAR, SceneObject::AHEAD, 30.0),
            object(Class::CAR, SceneObject::AHEAD, 45.0),
            object(Class::BUS, SceneObject::LEFT, 9.0),
        ];
        Scene {
            total: 4,
            objects,
            traffic_light: PerceptionSummary::RED,
            sensor_state: PerceptionSummary::OK,
        }
    }

    #[test]
    fn the_template_is_a_sentence() {
        assert_eq!(
            template(&street()),
            "There is a pedestrian crossing 12 m ahead, 2 cars ahead, nearest 30 m and a bus 9 m to the left; the light is red."
        );
        let clear = Scene {
            sensor_state: PerceptionSummary::OK,
            ..Default::default()
        };
        assert_eq!(template(&clear), "The road is clear.");
        let blind = Scene {
            sensor_state: PerceptionSummary::BLIND,
            ..street()
        };
        assert_eq!(
            template(&blind),
            "No usable sensor data.",
            "what is old is not told"
        );
        let degraded = Scene {
            sensor_state: PerceptionSummary::DEGRADED,
            ..Default::default()
        };
        assert!(
            !template(&degraded).contains("clear"),
            "an empty list means a clear road only when OK"
        );
    }

    #[test]
    fn sentences_are_held_to_the_list() {
        let scene = street();
        for (sampled, expected, why) in [
            (
                "There is a pedestrian crossing 12 m ahead; the light is red.",
                Some(false),
                "one fact, the important one",
            ),
            (
                "There is a bus 9 m to the left and a pedestrian crossing 12 m ahead; the light is red.",
                Some(false),
                "any order",
            ),
            (
                "There is a bus 9 m to the left; the light is red.",
                Some(true),
                "the pedestrian must be named",
            ),
            (
                "There is a dragon 3 m ahead; the light is red.",
                None,
                "not in the list",
            ),
            (
                "There is a pedestrian crossing 12 m ahead; the light is green.",
                None,
                "the wrong light",
            ),
            (
                "There is a pedestrian crossing 12 m ahead and a pedestrian crossing 12 m ahead; the light is red.",
                Some(true),
                "said twice",
            ),
            ("", None, "nothing"),
        ] {
            assert_eq!(
                check(sampled, &scene).map(|(_, corrected)| corrected),
                expected,
                "{sampled:?}: {why}"
            );
        }
        let (corrected, _) =
            check("There is a bus 9 m to the left; the light is red.", &scene).unwrap();
        assert_eq!(
            corrected,
            "There is a pedestrian crossing 12 m ahead and a bus 9 m to the left; the light is red."
        );
    }

    #[test]
    fn the_template_passes_its_own_check() {
        let scene = street();
        assert_eq!(
            check(&template(&scene), &scene),
            Some((template(&scene), false))
        );
    }

    #[test]
    fn every_sentence_on_offer_passes_the_check_and_names_who_must_be_named() {
        let scene = street();
        let sentences = sentences(&scene);
        assert_eq!(
            sentences.len(),
            1 + 4 + 6,
            "the pedestrian alone, with one other, with two others"
        );
        for sentence in &sentences {
            assert_eq!(
                check(sentence, &scene),
                Some((sentence.clone(), false)),
                "{sentence}"
            );
            assert!(sentence.contains("pedestrian"), "{sentence}");
        }
    }
}
