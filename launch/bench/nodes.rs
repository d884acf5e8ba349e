//! The nodes of a descriptor, measured as they run: the same models on the same servers, asked by the same functions.
//!
//! Each figure is the median of several rounds after one that is not counted. The overhead of a node is measured without a model: a text
//! goes over the bus to a speech-command node and its command comes back.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use llmasos_engine::{
    Runtime,
    text::{CancelToken, ChatMessage, Role},
    vision::Picture,
};
use llmasos_msgs::{
    Message,
    llmasos_msgs::{PerceptionSummary, SceneObject, SpeechCommand},
    sensor_msgs::Image,
    std_msgs,
};
use llmasos_nodes::{
    advisor::{Basis, advise, question::Situation},
    bus::{Bus, BusOptions, Qos},
    clock,
    contract::{Accept, Budget, QueuePolicy, TopicContract, TopicQos},
    frame::Frame,
    health::Health,
    language::{LanguageClient, LanguageJob},
    model::ModelClient,
    speech::{SpeechModels, hearing::Hearing, node::SpeechNode, recognise, sound::Sound},
};
use ractor::Actor;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    descriptor::graph::{Graph, NodeKind, NodeSpec},
    observe::{play::read_wav, report::percentile},
    run::{
        configure,
        lone::Lone,
        models::{Folders, Ground, Servers},
        system::model_sha256,
    },
};

/// Longest time for one answer: a benchmark measures, it does not give up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time until models answer.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Tokens of the decode measurement.
const DECODE_TOKENS: usize = 64;
/// Messages of the overhead measurement, per counted round.
const OVERHEAD_MESSAGES: usize = 50;
/// Full HD.
const WIDTH: usize = 1920;
/// See `WIDTH`.
const HEIGHT: usize = 1080;

/// What to measure with.
pub struct Material<'a> {
    /// The graph whose nodes are measured.
    pub graph: &'a Graph,
    /// Models.
    pub folders: &'a Folders,
    /// An utterance of two to three seconds.
    pub utterance: &'a Path,
    /// A picture of a street.
    pub picture: &'a Path,
    /// Counted rounds.
    pub rounds: usize,
}

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Median of the rounds.
    pub median: f64,
    /// The slowest round, or the lowest rate.
    pub worst: f64,
    /// What it was to be, in words.
    pub target: &'static str,
    /// Whether the median keeps it.
    pub kept: bool,
}

impl Figure {
    fn time(name: &'static str, samples_ms: &[f64], target: &'static str, limit_ms: f64) -> Figure {
        let median = percentile(samples_ms, 0.5).unwrap_or(f64::NAN);
        let worst = percentile(samples_ms, 1.0).unwrap_or(f64::NAN);
        Figure {
            name,
            unit: "ms",
            median,
            worst,
            target,
            kept: median <= limit_ms,
        }
    }

    fn rate(name: &'static str, samples: &[f64], target: &'static str, least: f64) -> Figure {
        let median = percentile(samples, 0.5).unwrap_or(f64::NAN);
        let worst = samples.iter().copied().fold(f64::INFINITY, f64::min);
        Figure {
            name,
            unit: "tokens/s",
            median,
            worst,
            target,
            kept: median >= least,
        }
    }

    /// One object of `--json`.
    pub fn json(&self) -> Value {
        json!({ "name": self.name, "unit": self.unit, "median": round(self.median), "worst": round(self.worst), "target": self.target, "kept": self.kept })
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let mark = if self.kept { "kept" } else { "MISSED" };
        format!(
            "{:<52}{:>9.2} {:<9}worst {:>8.2}   target {:<14}{mark}",
            self.name, self.median, self.unit, self.worst, self.target
        )
    }
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Runs every measurement.
///
/// # Errors
/// When a model is missing or an answer fails.
pub async fn measure(material: &Material<'_>, mut tell: impl FnMut(&Figure)) -> Result<()> {
    tell(&overhead(material.rounds).await?);
    let health = Health::default();
    let runtime = Runtime::start(&configure::runtime(material.graph)?)?;
    let ground = Ground {
        graph: material.graph,
        folders: material.folders,
        runtime: &runtime,
        health: &health,
    };
    let node = |kind: NodeKind| {
        material
            .graph
            .nodes
            .iter()
            .find(|node| node.kind == kind)
            .with_context(|| format!("the descriptor has no {kind:?} node"))
    };
    let (speech, summary, advisor) = (
        node(NodeKind::SpeechCommand)?,
        node(NodeKind::PerceptionSummary)?,
        node(NodeKind::PlannerAdvisor)?,
    );
    let mut servers = Servers::default();
    let ears = SpeechModels {
        voice: servers.voice(&ground, speech)?,
        recogniser: servers.recogniser(&ground, speech)?,
    };
    let detector = servers
        .detector(&ground, summary)?
        .context("the summary node has no detector")?;
    let language = servers
        .language(&ground, advisor)?
        .context("the advisor node has no language model")?;
    let lone = Lone::start(health.clone(), std::mem::take(&mut servers.children)).await?;
    lone.ready(READY_LIMIT).await?;
    for figure in hear(material, speech, &ears).await? {
        tell(&figure);
    }
    tell(&look(material, &detector).await?);
    for figure in advice(material, &ground, advisor, &language).await? {
        tell(&figure);
    }
    tell(&decode(material, &language, &health, advisor).await?);
    lone.stop().await;
    Ok(())
}

/// Last speech sample to command, and the hang-over apart.
async fn hear(
    material: &Material<'_>,
    node: &NodeSpec,
    models: &SpeechModels,
) -> Result<Vec<Figure>> {
    let mut options = configure::speech(node)?;
    options.budget.response = PATIENCE;
    let (rate_hz, samples) = read_wav(material.utterance)?;
    let mut times = Vec::new();
    for round in 0..=material.rounds {
        let mut hearing = Hearing::new(&options.endpoint)?;
        let sound = Sound {
            stamp_ns: clock::now_ns(),
            frame_id: String::new(),
            rate_hz,
            samples: samples
                .iter()
                .map(|sample| f32::from(*sample) / 32768.0)
                .collect(),
        };
        let utterances = hearing
            .listen(&sound, &models.voice, options.priority, true)
            .await?;
        let utterance = utterances
            .first()
            .with_context(|| format!("{}: nobody speaks", material.utterance.display()))?;
        let begun = Instant::now();
        let heard = recognise(utterance, "", models, &options).await?;
        let command =
            llmasos_nodes::speech::command::command(&heard, &options.fast, options.min_confidence);
        if command.transcript.is_empty() {
            bail!("{}: nothing was understood", material.utterance.display());
        }
        if round > 0 {
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    let hang_over = f64::from(options.endpoint.hang_over_ms);
    Ok(vec![
        Figure::time("end of speech found → command", &times, "≤ 400 ms", 400.0),
        Figure {
            name: "hang-over before that (a setting, waited for)",
            unit: "ms",
            median: hang_over,
            worst: hang_over,
            target: "-",
            kept: true,
        },
    ])
}

/// A full-HD raw image to objects.
async fn look(
    material: &Material<'_>,
    detector: &ModelClient<llmasos_nodes::workers::DetectWork>,
) -> Result<Figure> {
    let bytes = std::fs::read(material.picture)
        .with_context(|| format!("reading {}", material.picture.display()))?;
    let picture = Picture::from_compressed(&bytes)?;
    let frame = Arc::new(Frame::Raw(full_hd(&picture)));
    let mut times = Vec::new();
    for round in 0..=material.rounds {
        let begun = Instant::now();
        detector
            .ask(
                Arc::clone(&frame),
                10,
                Instant::now() + PATIENCE,
                CancelToken::new(),
            )
            .await?;
        if round > 0 {
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(Figure::time(
        "1080p image → objects",
        &times,
        "≤ 90 ms",
        90.0,
    ))
}

/// The picture as a 1920 × 1080 rgb8 message, by nearest neighbour: the detector's time depends on the size, not on the beauty.
fn full_hd(picture: &Picture<'_>) -> Image {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (pixels, layout) = (picture.pixels(), picture.layout());
    let (bytes, offsets) = (layout.bytes(), layout.rgb_offsets());
    let mut data = Vec::with_capacity(WIDTH * HEIGHT * 3);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let at = ((y * height / HEIGHT) * width + x * width / WIDTH) * bytes;
            data.extend(offsets.iter().map(|offset| pixels[at + offset]));
        }
    }
    Image {
        width: WIDTH as u32,
        height: HEIGHT as u32,
        encoding: "rgb8".into(),
        step: (WIDTH * 3) as u32,
        data,
        ..Default::default()
    }
}

/// A command to an advice, sampled by the model; alternately two scenes, so that no answer comes from the last one's cache alone.
async fn advice(
    material: &Material<'_>,
    ground: &Ground<'_>,
    node: &NodeSpec,
    language: &LanguageClient,
) -> Result<Vec<Figure>> {
    let mut options = configure::advisor(ground.graph, node, model_sha256(ground, node)?)?;
    options.budget.response = PATIENCE;
    let command = SpeechCommand {
        intent: SpeechCommand::SLOW_DOWN,
        transcript: "Please slow down.".into(),
        target_speed: f32::NAN,
        ..Default::default()
    };
    let (mut times, mut tokens) = (Vec::new(), Vec::new());
    for round in 0..=material.rounds {
        let situation = Situation {
            summary: Some(street(round)),
            speed_mps: 8.0 + round as f32,
        };
        let begun = Instant::now();
        let made = advise(
            &command,
            &situation,
            &Basis::default(),
            language,
            &options,
            begun + PATIENCE,
            CancelToken::new(),
        )
        .await?;
        if round > 0 {
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            tokens.push(f64::from(made.tokens_out));
        }
    }
    let most = percentile(&tokens, 1.0).unwrap_or(f64::NAN);
    Ok(vec![
        Figure::time("command → advice", &times, "≤ 800 ms", 800.0),
        Figure {
            name: "tokens of the longest of these advices",
            unit: "tokens",
            median: percentile(&tokens, 0.5).unwrap_or(f64::NAN),
            worst: most,
            target: "≤ 40",
            kept: most <= 40.0,
        },
    ])
}

fn street(round: usize) -> PerceptionSummary {
    let pedestrian = SceneObject {
        label: 7,
        vulnerable: true,
        zone: SceneObject::CROSSING,
        distance: 10.0 + round as f32,
        ..Default::default()
    };
    let sentence = format!(
        "There is a pedestrian crossing {} m ahead; the light is green.",
        10 + round
    );
    PerceptionSummary {
        sensor_state: PerceptionSummary::OK,
        traffic_light: PerceptionSummary::GREEN,
        objects: vec![pedestrian],
        sentence,
        ..Default::default()
    }
}

/// Tokens per second of a free answer.
async fn decode(
    material: &Material<'_>,
    language: &LanguageClient,
    health: &Health,
    node: &NodeSpec,
) -> Result<Figure> {
    let mut rates = Vec::new();
    for round in 0..=material.rounds {
        let question = format!(
            "Explain in {} sentences why a car should slow down near a school.",
            8 + round
        );
        let job = LanguageJob {
            class: "bench",
            messages: vec![ChatMessage::new(Role::User, question)],
            grammar: None,
            tokens_max: DECODE_TOKENS,
        };
        let answer = language
            .ask(job, 10, Instant::now() + PATIENCE, CancelToken::new())
            .await?;
        if answer.tokens_out as usize >= DECODE_TOKENS / 2 && round > 0 {
            rates.push(answer.tokens_out as f64 / answer.decode.as_secs_f64());
        }
    }
    if rates.is_empty() {
        bail!(
            "the model's answers were too short to measure a rate; state of {}: {:?}",
            node.name,
            health.state(&node.name)
        );
    }
    Ok(Figure::rate(
        "decode, free answer of 64 tokens",
        &rates,
        "≥ 115/s",
        115.0,
    ))
}

/// Text in, command out, over the bus and through the node, without a model.
async fn overhead(rounds: usize) -> Result<Figure> {
    let options = BusOptions {
        namespace: "bench".into(),
        listen: vec!["tcp/127.0.0.1:0".into()],
        ..Default::default()
    };
    let bus = Bus::open(&options).await?;
    let event = |topic: &str, type_name: &str| TopicContract {
        topic: topic.to_owned(),
        type_name: type_name.to_owned(),
        rate_hz: None,
        event: true,
        max_age: None,
        lifespan: None,
        accept: vec![Accept::Cdr],
        queue: QueuePolicy::Fifo(16),
        qos: TopicQos::default(),
    };
    let health = Health::default();
    let node = SpeechNode {
        bus: bus.clone(),
        health: health.node("speech"),
        audio: None,
        text: Some(event("text", std_msgs::String::TYPE)),
        command: "command".into(),
        options: Arc::new(text_options()),
        models: None,
    };
    let (actor, _) = SpeechNode::spawn(None, node, ()).await?;
    let (sender, mut back) = mpsc::channel(4);
    let _subscription = bus
        .subscribe("command", move |arrival| {
            let _ = sender.try_send(arrival.payload.len());
        })
        .await?;
    let publisher = bus.raw_publisher("text", Qos::EVENT).await?;
    let text = std_msgs::String {
        data: "please slow down".into(),
    }
    .encode()?;
    let mut times = Vec::new();
    for round in 0..=rounds * OVERHEAD_MESSAGES {
        let begun = Instant::now();
        publisher.put(text.clone()).await?;
        tokio::time::timeout(PATIENCE, back.recv())
            .await
            .context("no command came back")?;
        if round > 0 {
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    actor.stop(None);
    bus.close(Duration::from_secs(1)).await;
    Ok(Figure::time(
        "node without a model: text → command, one session",
        &times,
        "≤ 1 ms",
        1.0,
    ))
}

fn text_options() -> llmasos_nodes::speech::SpeechOptions {
    use llmasos_nodes::{contract::OnMiss, speech::SpeechOptions};
    SpeechOptions {
        min_confidence: 0.5,
        fast: Default::default(),
        endpoint: Default::default(),
        budget: Budget {
            response: PATIENCE,
            tokens: 1,
            on_miss: OnMiss::Drop,
        },
        priority: 100,
        speaker: SpeechCommand::DRIVER,
        language: "en".into(),
    }
}
