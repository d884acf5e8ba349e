//! perception-summary: camera images or the vehicle's own object lists in, a short, grounded summary out.
//!
//! ```text
//! camera/image ▸ detector ▸ tracks ─┐
//! objects ──────────────────────────┼▸ scene ▸ phrases ▸ language model under a grammar ▸ check ─┬▸ llmasos/perception/summary
//! traffic lights, ego ──────────────┘      └──────────── template, when there is no time ────────┘
//! ```

pub mod camera;
pub mod node;
pub mod scene;
pub mod sentence;
pub mod sighting;

use std::time::{Duration, Instant};

use llmasos_engine::text::{CancelToken, ChatMessage, Grammar, Role};
use llmasos_msgs::{
    autoware_perception_msgs::TrafficLightGroupArray, builtin_interfaces::Time,
    llmasos_msgs::PerceptionSummary, std_msgs::Header, unique_identifier_msgs::UUID,
};

use self::{
    camera::CameraModel,
    scene::{Limits, Scene},
    sighting::{Ego, ObjectList, Sighting},
};
use crate::{
    contract::{Budget, OnMiss},
    language::{LanguageClient, LanguageJob},
    model::ModelClient,
    workers::DetectWork,
};

/// How a summary is made; from the descriptor.
#[derive(Clone, Debug)]
pub struct SummaryOptions {
    /// Answer time and tokens of the sentence.
    pub budget: Budget,
    /// Priority at the model servers.
    pub priority: u8,
    /// Pause between two summaries.
    pub period: Duration,
    /// Geometry of the camera.
    pub camera: CameraModel,
    /// How much of the world is looked at.
    pub limits: Limits,
}

/// The models it asks; without a language model the template speaks.
#[derive(Clone)]
pub struct SummaryModels {
    /// Object detection, if images come in.
    pub detector: Option<ModelClient<DetectWork>>,
    /// The sentence.
    pub language: Option<LanguageClient>,
}

/// One source as it is known now, with its stamp.
#[derive(Clone, Debug)]
pub struct Seen<T> {
    /// Stamp in ns since the epoch.
    pub stamp_ns: i64,
    /// What it said.
    pub value: T,
}

/// Everything fresh that a summary can be made of. `None`: expected, but missing or stale; what a node has no port for is not expected.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The vehicle's own list, if there is a port for it.
    pub objects: Option<Option<Seen<ObjectList>>>,
    /// What the camera saw.
    pub camera: Option<Option<Seen<Vec<Sighting>>>>,
    /// Traffic lights.
    pub lights: Option<Option<Seen<TrafficLightGroupArray>>>,
    /// The vehicle itself.
    pub ego: Option<Option<Seen<Ego>>>,
}

impl Sources {
    /// The scene, and the stamp of the oldest source used.
    pub fn scene(&self, limits: &Limits) -> (Scene, Option<i64>) {
        let ego = self.ego.as_ref().and_then(Option::as_ref);
        let objects = self.objects.as_ref().and_then(Option::as_ref);
        let camera = self.camera.as_ref().and_then(Option::as_ref);
        let lights = self.lights.as_ref().and_then(Option::as_ref);
        let listed = objects.and_then(|seen| seen.value.in_own_frame(ego.map(|ego| &ego.value)));
        let eyes = [
            self.objects.as_ref().map(|_| listed.is_some()),
            self.camera.as_ref().map(|_| camera.is_some()),
        ];
        let others = [
            self.lights.as_ref().map(Option::is_some),
            self.ego.as_ref().map(Option::is_some),
        ];
        let open = eyes.iter().flatten().filter(|open| **open).count();
        let sensor_state = if open == 0 {
            PerceptionSummary::BLIND
        } else if eyes.iter().chain(&others).flatten().all(|good| *good) {
            PerceptionSummary::OK
        } else {
            PerceptionSummary::DEGRADED
        };
        let stamps = [
            listed.as_ref().and(objects).map(|seen| seen.stamp_ns),
            camera.map(|seen| seen.stamp_ns),
            lights.map(|seen| seen.stamp_ns),
        ];
        let mut sightings = listed.unwrap_or_default();
        if let Some(seen) = camera {
            camera::complete(&mut sightings, seen.value.clone());
        }
        let light = lights.map_or(0, |seen| scene::strictest_light(&seen.value));
        (
            scene::scene(
                &sightings,
                ego.map(|ego| &ego.value),
                light,
                sensor_state,
                limits,
            ),
            stamps.into_iter().flatten().min(),
        )
    }
}

/// A sentence and who wrote it (`PerceptionSummary` sentence_source).
#[derive(Clone, Debug, PartialEq)]
pub struct Sentence {
    /// The words.
    pub text: String,
    /// MODEL, CORRECTED or TEMPLATE.
    pub source: u8,
}

/// The sentence about a scene: sampled under its grammar and checked, or the template's. `None` when the budget was missed and the
/// descriptor wants nothing then.
pub async fn describe(
    scene: &Scene,
    models: &SummaryModels,
    options: &SummaryOptions,
    cancel: CancelToken,
) -> Option<Sentence> {
    let template = || Sentence {
        text: sentence::template(scene),
        source: PerceptionSummary::TEMPLATE,
    };
    let (Some(language), None) = (&models.language, sentence::only_sentence(scene)) else {
        return Some(template());
    };
    let job = LanguageJob {
        class: "summary",
        messages: vec![
            ChatMessage::new(Role::System, sentence::SYSTEM),
            ChatMessage::new(Role::User, sentence::prompt(scene)),
        ],
        grammar: Some(Grammar::Choice(sentence::sentences(scene))),
        tokens_max: options.budget.tokens as usize,
    };
    let answer = language
        .ask(
            job,
            options.priority,
            Instant::now() + options.budget.response,
            cancel,
        )
        .await;
    match answer {
        Ok(answer) => Some(match sentence::check(&answer.text, scene) {
            Some((text, false)) => Sentence {
                text,
                source: PerceptionSummary::MODEL,
            },
            Some((text, true)) => Sentence {
                text,
                source: PerceptionSummary::CORRECTED,
            },
            None => template(),
        }),
        Err(error) => {
            tracing::debug!(%error, "no sampled sentence");
            (options.budget.on_miss == OnMiss::Template).then(template)
        }
    }
}

/// The message, written at `now_ns` from sources the oldest of which has the stamp `stamp_ns`.
pub fn message(
    scene: &Scene,
    sentence: Sentence,
    stamp_ns: Option<i64>,
    now_ns: i64,
) -> PerceptionSummary {
    PerceptionSummary {
        header: Header {
            stamp: Time::from_nanos(stamp_ns.unwrap_or(now_ns)),
            frame_id: "base_link".to_owned(),
        },
        id: UUID {
            uuid: uuid::Uuid::new_v4().into_bytes(),
        },
        generated_at: Time::from_nanos(now_ns),
        sensor_state: scene.sensor_state,
        traffic_light: scene.traffic_light,
        sentence_source: sentence.source,
        objects_total: u16::try_from(scene.total).unwrap_or(u16::MAX),
        objects: scene.objects.clone(),
        sentence: sentence.text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_shows_in_the_sensor_state() {
        let list = |stamp_ns| {
            Some(Seen {
                stamp_ns,
                value: ObjectList {
                    stamp_ns,
                    frame: "base_link".into(),
                    objects: Vec::new(),
                    total: 0,
                },
            })
        };
        let camera = |stamp_ns| {
            Some(Seen {
                stamp_ns,
                value: Vec::new(),
            })
        };
        for (sources, state, stamp, why) in [
            (
                Sources {
                    objects: Some(list(5)),
                    camera: Some(camera(3)),
                    ..Default::default()
                },
                PerceptionSummary::OK,
                Some(3),
                "the oldest stamp counts",
            ),
            (
                Sources {
                    objects: Some(list(5)),
                    camera: Some(None),
                    ..Default::default()
                },
                PerceptionSummary::DEGRADED,
                Some(5),
                "the camera is stale",
            ),
            (
                Sources {
                    objects: Some(None),
                    camera: Some(None),
                    ..Default::default()
                },
                PerceptionSummary::BLIND,
                None,
                "nothing is seen",
            ),
            (
                Sources {
                    objects: Some(list(5)),
                    lights: Some(None),
                    ..Default::default()
                },
                PerceptionSummary::DEGRADED,
                Some(5),
                "the lights are stale",
            ),
            (
                Sources::default(),
                PerceptionSummary::BLIND,
                None,
                "no eyes at all",
            ),
        ] {
            let (scene, oldest) = sources.scene(&Limits::default());
            assert_eq!((scene.sensor_state, oldest), (state, stamp), "{why}");
        }
    }
}
