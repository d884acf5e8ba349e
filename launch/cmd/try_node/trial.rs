//! One node's work on given inputs, through the functions its actor calls: what is printed is what would be published.
//!
//! ```text
//! inputs ─▶ prepare (pure: which models are needed at all?) ─▶ models ─▶ run ─▶ messages, or why there are none
//! ```

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use llmasos_engine::{audio::EndpointOptions, text::CancelToken};
use llmasos_msgs::{
    Message,
    autoware_perception_msgs::TrafficLightGroupArray,
    llmasos_msgs::{PerceptionSummary, SpeechCommand},
    nav_msgs::Odometry,
};
use llmasos_nodes::{
    advisor::{
        AdvisorOptions, Basis, advise,
        question::{Asked, Situation, ask},
    },
    clock::{self, Clock},
    contract::OnStale,
    frame::Frame,
    language::LanguageClient,
    speech::{
        SpeechModels, SpeechOptions, command::command, commands_of, intent::FastWords,
        sound::Sound, typed,
    },
    summary::{
        Seen, Sources, SummaryModels, SummaryOptions,
        camera::Tracker,
        describe, message as summary_of,
        sighting::{Ego, ObjectList},
    },
};
use serde_json::Value;

use super::super::usage::wrong;
use super::value::{Given, Input};
use crate::{
    descriptor::graph::{Graph, NodeKind, NodeSpec},
    run::configure,
};

/// Time for one answer: somebody who tries a node on a slow computer wants the answer, not the deadline of a vehicle.
const PATIENCE: Duration = Duration::from_secs(60);

/// A message a node publishes.
pub(super) struct Published {
    /// ROS type.
    pub type_name: &'static str,
    /// Its JSON form.
    pub data: Value,
}

impl Published {
    fn of<M: Message>(message: &M) -> Published {
        Published {
            type_name: M::TYPE,
            data: message.to_json(),
        }
    }
}

/// The models a trial asks; only those it needs are there.
#[derive(Default)]
pub(super) struct Clients {
    /// Voice activity and recognition.
    pub speech: Option<SpeechModels>,
    /// Detector and language model of the summary.
    pub summary: Option<SummaryModels>,
    /// Language model of the advisor, and the hash of its manifest.
    pub advisor: Option<(LanguageClient, [u8; 32])>,
}

/// A node's work, with its inputs read and checked.
pub(super) enum Trial {
    /// speech-command.
    Speech {
        sounds: Vec<Sound>,
        text: Option<String>,
        options: SpeechOptions,
    },
    /// perception-summary; `sources` without the camera.
    Summary {
        sources: Box<Sources>,
        frame: Option<(Frame, i64)>,
        options: SummaryOptions,
    },
    /// planner-advisor.
    Advisor {
        command: Box<SpeechCommand>,
        situation: Box<Situation>,
        basis: Basis,
        options: AdvisorOptions,
        asks_model: bool,
    },
    /// The node would publish nothing, and why.
    Silent(String),
}

impl Trial {
    /// Reads the inputs of a node. `note` is told what a person should know about them.
    ///
    /// # Errors
    /// Wrong usage for a port that takes something else or is needed; else what is wrong with a file.
    pub(super) fn prepare(
        graph: &Graph,
        node: &NodeSpec,
        inputs: &BTreeMap<String, Input>,
        note: &mut dyn FnMut(String),
    ) -> Result<Trial> {
        let ports = Ports {
            graph,
            node,
            inputs,
        };
        match node.kind {
            NodeKind::SpeechCommand => speech(&ports),
            NodeKind::PerceptionSummary => summary(&ports, note),
            NodeKind::PlannerAdvisor => advisor(&ports, note),
        }
    }

    /// The roles of the models it needs.
    pub(super) fn roles(&self) -> &'static [&'static str] {
        match self {
            Trial::Speech { sounds, .. } if !sounds.is_empty() => &["vad", "asr"],
            Trial::Summary { frame: Some(_), .. } => &["detector", "language"],
            Trial::Summary { .. }
            | Trial::Advisor {
                asks_model: true, ..
            } => &["language"],
            Trial::Speech { .. } | Trial::Advisor { .. } | Trial::Silent(_) => &[],
        }
    }

    /// Does the work.
    ///
    /// # Errors
    /// What a model says, or that it gave no answer.
    pub(super) async fn run(self, clients: Clients) -> Result<Vec<Published>> {
        match self {
            Trial::Speech {
                sounds,
                text,
                options,
            } => {
                let mut commands = match &clients.speech {
                    Some(models) => commands_of(&sounds, models, &options)
                        .await
                        .map_err(|reason| anyhow!("{reason}"))?,
                    None => Vec::new(),
                };
                // The node keeps to itself what the recogniser found no word in.
                commands.retain(|command| !command.transcript.trim().is_empty());
                commands.extend(text.map(|text| understood(&text, &options)));
                Ok(commands.iter().map(Published::of).collect())
            }
            Trial::Summary {
                sources,
                frame,
                options,
            } => summarise(*sources, frame, &options, clients.summary).await,
            Trial::Advisor {
                command,
                situation,
                basis,
                mut options,
                ..
            } => {
                // A rule's advice asks no model; its client is then one without a server.
                let (language, model_sha256) = clients
                    .advisor
                    .unwrap_or_else(|| (LanguageClient::new("language"), [0; 32]));
                options.model_sha256 = model_sha256;
                let advice = advise(
                    &command,
                    &situation,
                    &basis,
                    &language,
                    &options,
                    Instant::now() + PATIENCE,
                    CancelToken::new(),
                )
                .await
                .context("no advice")?;
                Ok(vec![Published::of(&advice)])
            }
            Trial::Silent(_) => Ok(Vec::new()),
        }
    }
}

/// The inputs as a node's ports see them.
struct Ports<'a> {
    graph: &'a Graph,
    node: &'a NodeSpec,
    inputs: &'a BTreeMap<String, Input>,
}

impl Ports<'_> {
    fn given(&self, port: &str) -> Option<&Input> {
        self.inputs.get(port)
    }

    /// ROS type of the port's topic.
    fn type_name(&self, port: &str) -> Result<&str> {
        let topic = self.node.inputs.get(port).map(|input| input.topic.as_str());
        let contract = topic
            .and_then(|topic| self.graph.topic(topic))
            .with_context(|| format!("port {port} has no topic"))?;
        Ok(&contract.type_name)
    }

    /// What the source says; the outer `None` when the node has no such port, the inner one when nothing was given.
    fn source<T>(
        &self,
        port: &str,
        read: impl Fn(&Input, &str) -> Result<(T, i64)>,
    ) -> Result<Option<Option<Seen<T>>>> {
        if !self.node.inputs.contains_key(port) {
            return Ok(None);
        }
        let seen = |(value, stamp_ns)| Seen { stamp_ns, value };
        Ok(Some(match self.given(port) {
            Some(input) => Some(read(input, self.type_name(port)?).map(seen)?),
            None => None,
        }))
    }

    fn needed(&self, port: &str, example: &str) -> Result<&Input> {
        self.given(port).ok_or_else(|| {
            wrong(format!(
                "node {} says nothing without {port}: add --in {port}={example}",
                self.node.name
            ))
        })
    }
}

fn speech(ports: &Ports<'_>) -> Result<Trial> {
    let mut options = configure::speech(ports.node)?;
    options.budget.response = PATIENCE;
    let sounds = match ports.given("audio") {
        Some(input) => input.sounds(ports.type_name("audio")?)?,
        None => Vec::new(),
    };
    let text = ports
        .given("text")
        .map(|input| input.text(ports.type_name("text")?))
        .transpose()?;
    Ok(Trial::Speech {
        sounds,
        text,
        options,
    })
}

fn understood(text: &str, options: &SpeechOptions) -> SpeechCommand {
    command(
        &typed(text, clock::now_ns(), options),
        &options.fast,
        options.min_confidence,
    )
}

fn summary(ports: &Ports<'_>, note: &mut dyn FnMut(String)) -> Result<Trial> {
    let mut options = configure::summary(ports.node)?;
    options.budget.response = PATIENCE;
    let frame = ports
        .given("image")
        .map(|input| input.frame(ports.type_name("image")?))
        .transpose()?;
    let ego = |input: &Input, type_name: &str| {
        input
            .message::<Odometry>(type_name)
            .map(|(odometry, stamp_ns)| (Ego::of(&odometry), stamp_ns))
    };
    let sources = Sources {
        objects: ports.source("objects", |input, type_name| {
            input.message::<ObjectList>(type_name)
        })?,
        camera: ports.node.inputs.contains_key("image").then_some(None),
        lights: ports.source("traffic_lights", |input, type_name| {
            input.message::<TrafficLightGroupArray>(type_name)
        })?,
        ego: ports.source("ego", ego)?,
    };
    let absent: Vec<&str> = ports
        .node
        .inputs
        .keys()
        .map(String::as_str)
        .filter(|port| ports.given(port).is_none())
        .collect();
    if !absent.is_empty() {
        note(format!(
            "nothing is given for {}: the summary shows it in its sensor_state",
            absent.join(", ")
        ));
    }
    Ok(Trial::Summary {
        sources: Box::new(sources),
        frame,
        options,
    })
}

async fn summarise(
    mut sources: Sources,
    frame: Option<(Frame, i64)>,
    options: &SummaryOptions,
    models: Option<SummaryModels>,
) -> Result<Vec<Published>> {
    let models = models.context("the models of a summary were not started")?;
    if let (Some((frame, stamp_ns)), Some(detector)) = (frame, &models.detector) {
        let boxes = detector
            .ask(
                Arc::new(frame),
                options.priority,
                Instant::now() + PATIENCE,
                CancelToken::new(),
            )
            .await
            .context("port image")?;
        let value =
            Tracker::default().sightings(&boxes.detections.items, boxes.width, &options.camera, 0);
        sources.camera = Some(Some(Seen { stamp_ns, value }));
    }
    let (scene, stamp_ns) = sources.scene(&options.limits);
    let sentence = describe(&scene, &models, options, CancelToken::new())
        .await
        .context("the language model gave no sentence")?;
    Ok(vec![Published::of(&summary_of(
        &scene,
        sentence,
        stamp_ns,
        clock::now_ns(),
    ))])
}

fn advisor(ports: &Ports<'_>, note: &mut dyn FnMut(String)) -> Result<Trial> {
    let mut options = configure::advisor(ports.graph, ports.node, [0; 32])?;
    options.budget.response = PATIENCE;
    let (command, command_ns) = asked(ports)?;
    if let Some(reason) = not_for_the_advisor(&command) {
        return Ok(Trial::Silent(reason));
    }
    let (ego, ego_ns) = ports
        .needed("ego", "ego.json")?
        .message::<Odometry>(ports.type_name("ego")?)?;
    let speed_mps = ego.twist.twist.linear.x as f32;
    if !speed_mps.is_finite() {
        return Ok(Trial::Silent(format!(
            "the advisor publishes nothing: expected a finite ego speed, found {speed_mps}"
        )));
    }
    let summary = ports
        .source("summary", |input, type_name| {
            input.message::<PerceptionSummary>(type_name)
        })?
        .flatten();
    if summary.is_none()
        && let Some(input) = ports.node.inputs.get("summary")
    {
        if input.on_stale == OnStale::Skip {
            return Ok(Trial::Silent(
                "the advisor publishes nothing: it has no summary, and its on_stale says skip"
                    .to_owned(),
            ));
        }
        note("nothing is given for summary: the advice knows nothing of the scene".to_owned());
    }
    let stamps = [
        Some(command_ns),
        Some(ego_ns),
        summary.as_ref().map(|seen| seen.stamp_ns),
    ];
    let basis = Basis {
        command_id: command.id.uuid,
        summary_id: summary.as_ref().map_or([0; 16], |seen| seen.value.id.uuid),
        stamp_ns: stamps.into_iter().flatten().min().unwrap_or(command_ns),
        certainty: (command.asr_confidence * command.intent_confidence).clamp(0.0, 1.0),
        clock: Clock::wall(),
    };
    let situation = Situation {
        summary: summary.map(|seen| seen.value),
        speed_mps: speed_mps.max(0.0),
    };
    let asks_model = match ask(&command, &situation, &options.bounds) {
        Asked::Nothing => {
            return Ok(Trial::Silent(
                "the advisor publishes nothing: the command asks for nothing it can advise"
                    .to_owned(),
            ));
        }
        Asked::Rule(_) => false,
        Asked::Model(_) => true,
    };
    Ok(Trial::Advisor {
        command: Box::new(command),
        situation: Box::new(situation),
        basis,
        options,
        asks_model,
    })
}

/// The command and its stamp: a message, or words as the speech node understands them.
fn asked(ports: &Ports<'_>) -> Result<(SpeechCommand, i64)> {
    let given = ports.needed("command", "\"slow down\"")?;
    match &given.given {
        Given::Text(text) => {
            let command = understood(text, &speech_rules(ports.graph, ports.node)?);
            let stamp_ns = command.header.stamp.to_nanos();
            Ok((command, stamp_ns))
        }
        Given::Json(_) | Given::Sound { .. } | Given::Picture { .. } => {
            given.message(ports.type_name("command")?)
        }
    }
}

/// Why the advisor leaves a command alone, whatever the scene is.
fn not_for_the_advisor(command: &SpeechCommand) -> Option<String> {
    let said = &command.transcript;
    let why = match command.intent {
        SpeechCommand::UNKNOWN => format!("\"{said}\" is no known command"),
        _ if command.negated => format!("\"{said}\" is negated and asks for nothing"),
        SpeechCommand::STOP => "the gate takes STOP directly, without any model".to_owned(),
        SpeechCommand::PULL_OVER => {
            "the gate takes PULL_OVER directly, without any model".to_owned()
        }
        SpeechCommand::CONFIRM | SpeechCommand::CANCEL => {
            "a confirmation or a cancel concerns the gate alone".to_owned()
        }
        _ => return None,
    };
    Some(format!("the advisor publishes nothing: {why}"))
}

/// The rules that understand words for this node: those of the descriptor's speech node, else the usual ones.
fn speech_rules(graph: &Graph, node: &NodeSpec) -> Result<SpeechOptions> {
    match graph
        .nodes
        .iter()
        .find(|other| other.kind == NodeKind::SpeechCommand)
    {
        Some(speech) => configure::speech(speech),
        None => Ok(SpeechOptions {
            min_confidence: 0.0,
            fast: FastWords::default(),
            endpoint: EndpointOptions::default(),
            budget: node.budget,
            priority: node.priority,
            speaker: SpeechCommand::DRIVER,
            language: "en".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_advisor_leaves_alone_has_its_reason() {
        let command = |intent, negated| SpeechCommand {
            intent,
            negated,
            transcript: "words".into(),
            ..Default::default()
        };
        for (command, part) in [
            (
                command(SpeechCommand::STOP, false),
                Some("takes STOP directly"),
            ),
            (command(SpeechCommand::STOP, true), Some("negated")),
            (
                command(SpeechCommand::PULL_OVER, false),
                Some("takes PULL_OVER directly"),
            ),
            (
                command(SpeechCommand::CANCEL, false),
                Some("the gate alone"),
            ),
            (
                command(SpeechCommand::UNKNOWN, false),
                Some("\"words\" is no known command"),
            ),
            (command(SpeechCommand::SLOW_DOWN, false), None),
            (command(SpeechCommand::SET_SPEED, false), None),
        ] {
            let reason = not_for_the_advisor(&command);
            assert_eq!(reason.is_some(), part.is_some(), "{reason:?}");
            assert!(
                part.is_none_or(|part| reason.is_some_and(|reason| reason.contains(part))),
                "expected {part:?}"
            );
        }
    }
}
