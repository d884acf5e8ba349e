//! The kinds of nodes: their ports with the message types they take, the models they need, their parameters.
//!
//! A port's types stand here and nowhere else; the checks, the drawing and the JSON Schema read them from these tables.

use super::shape::{Key, Shape, Table};
use super::tables::{DURATION, RATE, key, must, table};
use super::units::Dimension;

/// Kind of a node, by the word of the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeKind {
    /// Hears: audio or text in, commands out.
    SpeechCommand,
    /// Sees: pictures, objects and lights in, a summary of the scene out.
    PerceptionSummary,
    /// Advises: command, summary and ego state in, advice for the gate out.
    PlannerAdvisor,
}

impl NodeKind {
    /// All kinds.
    pub const ALL: [NodeKind; 3] = [
        NodeKind::SpeechCommand,
        NodeKind::PerceptionSummary,
        NodeKind::PlannerAdvisor,
    ];

    /// The word of the descriptor.
    pub const fn word(self) -> &'static str {
        match self {
            NodeKind::SpeechCommand => "speech-command",
            NodeKind::PerceptionSummary => "perception-summary",
            NodeKind::PlannerAdvisor => "planner-advisor",
        }
    }

    /// The kind of a word.
    pub fn of(word: &str) -> Option<NodeKind> {
        NodeKind::ALL.into_iter().find(|k| k.word() == word)
    }

    /// The table of its nodes.
    pub fn table(self) -> &'static Table {
        match self {
            NodeKind::SpeechCommand => &SPEECH,
            NodeKind::PerceptionSummary => &SUMMARY,
            NodeKind::PlannerAdvisor => &ADVISOR,
        }
    }

    /// Priority when the descriptor gives none; higher runs first. Speech before planner before summary.
    pub const fn priority(self) -> u8 {
        match self {
            NodeKind::SpeechCommand => 80,
            NodeKind::PlannerAdvisor => 60,
            NodeKind::PerceptionSummary => 20,
        }
    }

    /// The fields under `in`, `out`, `models` or `params`.
    pub fn section(self, name: &str) -> Option<&'static Table> {
        section(self.table(), name)
    }

    /// Message types an input takes.
    pub fn input_types(self, port: &str) -> &'static [&'static str] {
        input_types(self.table(), port)
    }

    /// Message type of an output.
    pub fn output_type(self, port: &str) -> Option<&'static str> {
        output_type(self.table(), port)
    }

    /// Catalogue role a model must have for a role of the node.
    pub fn model_role(self, role: &str) -> Option<&'static str> {
        match self.section("models")?.key(role)?.shape {
            Shape::Role(role) => Some(role),
            _ => None,
        }
    }
}

fn section(table: &Table, name: &str) -> Option<&'static Table> {
    match table.key(name)?.shape {
        Shape::Fields(table) => Some(table),
        _ => None,
    }
}

pub(super) fn input_types(table: &Table, port: &str) -> &'static [&'static str] {
    match section(table, "in")
        .and_then(|t| t.key(port))
        .map(|k| &k.shape)
    {
        Some(Shape::Input(types, _)) => types,
        _ => &[],
    }
}

pub(super) fn output_type(table: &Table, port: &str) -> Option<&'static str> {
    match section(table, "out")?.key(port)?.shape {
        Shape::Output(name) => Some(name),
        _ => None,
    }
}

/// What `nodes:` may hold.
pub static NODES: &[(&str, &Table)] = &[
    ("speech-command", &SPEECH),
    ("perception-summary", &SUMMARY),
    ("planner-advisor", &ADVISOR),
];

const AUDIO: &[&str] = &[
    "audio_common_msgs/msg/AudioStamped",
    "audio_common_msgs/msg/AudioData",
    "audio_common_msgs/msg/AudioDataStamped",
];
const TEXT: &[&str] = &["std_msgs/msg/String"];
pub(super) const COMMAND: &str = "llmasos_msgs/msg/SpeechCommand";
pub(super) const SUMMARY_TYPE: &str = "llmasos_msgs/msg/PerceptionSummary";
pub(super) const ADVICE: &str = "llmasos_msgs/msg/PlannerAdvice";
pub(super) const VERDICT: &str = "llmasos_msgs/msg/GateVerdict";
const IMAGE: &[&str] = &["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"];
const OBJECTS: &[&str] = &[
    "autoware_perception_msgs/msg/PredictedObjects",
    "autoware_perception_msgs/msg/TrackedObjects",
    "autoware_perception_msgs/msg/DetectedObjects",
    "vision_msgs/msg/Detection3DArray",
];
const LIGHTS: &[&str] = &["autoware_perception_msgs/msg/TrafficLightGroupArray"];
pub(super) const EGO: &[&str] = &["nav_msgs/msg/Odometry"];

/// `{ topic, queue, on_stale, supersede }` of a node's input.
pub static INPUT: Table = table(
    "an input",
    &[&[
        must("topic", Shape::Topic, "the topic it reads"),
        key(
            "queue",
            Shape::Queue,
            "how messages wait; the topic's own queue by default",
        ),
        key(
            "on_stale",
            Shape::Word("stale policy", &["skip", "run-without"]),
            "what to do when it is too old; skip by default",
        ),
        key(
            "supersede",
            Shape::Word("supersede policy", &["finish", "cancel"]),
            "what a newer message does to work in progress; finish by default",
        ),
    ]],
);

const fn input(name: &'static str, types: &'static [&'static str], help: &'static str) -> Key {
    key(name, Shape::Input(types, &INPUT), help)
}

pub(super) const fn ports(what: &'static str, keys: &'static [&'static [Key]]) -> Table {
    Table {
        what,
        noun: "port",
        keys,
        one_of: &[],
    }
}

const fn roles(what: &'static str, keys: &'static [&'static [Key]]) -> Table {
    Table {
        what,
        noun: "role",
        keys,
        one_of: &[],
    }
}

const fn params(what: &'static str, keys: &'static [&'static [Key]]) -> Table {
    Table {
        what,
        noun: "parameter",
        keys,
        one_of: &[],
    }
}

/// Keys that every kind of node has.
const NODE: &[Key] = &[
    must(
        "kind",
        Shape::Word(
            "kind",
            &["speech-command", "perception-summary", "planner-advisor"],
        ),
        "what the node does",
    ),
    must(
        "budget",
        Shape::Fields(&BUDGET),
        "how long an answer may take",
    ),
    key(
        "priority",
        Shape::Int(0, 100),
        "who runs first on the shared threads; higher first",
    ),
    key(
        "start_after",
        Shape::Map(&Shape::Word("state", &["ready"])),
        "nodes that must be ready before this one starts",
    ),
    key(
        "process",
        Shape::Word("process", &["shared", "own"]),
        "own: a process of its own, for what cannot be interrupted",
    ),
    key(
        "critical",
        Shape::Bool,
        "whether the whole graph ends when this node is given up",
    ),
];

/// `budget:`.
pub static BUDGET: Table = table(
    "a budget",
    &[&[
        must(
            "response",
            DURATION,
            "from the input's arrival to the answer",
        ),
        key("tokens", Shape::Int(1, 4096), "most tokens of one answer"),
        key(
            "on_miss",
            Shape::Word("miss policy", &["drop", "template", "no-advice"]),
            "what happens when the time does not suffice",
        ),
    ]],
);

static SPEECH: Table = table(
    "a speech-command node",
    &[
        NODE,
        &[
            must("models", Shape::Fields(&SPEECH_MODELS), "models by role"),
            must("in", Shape::Fields(&SPEECH_IN), "inputs"),
            must("out", Shape::Fields(&SPEECH_OUT), "outputs"),
            key("params", Shape::Fields(&SPEECH_PARAMS), "parameters"),
        ],
    ],
);

static SPEECH_MODELS: Table = roles(
    "a speech-command node",
    &[&[
        key(
            "asr",
            Shape::Role("speech-recognition"),
            "speech recognition; needed when there is an audio port",
        ),
        key(
            "vad",
            Shape::Role("voice-activity"),
            "voice activity; needed when there is an audio port",
        ),
        key(
            "language",
            Shape::Role("language"),
            "for what no rule understands",
        ),
    ]],
);

static SPEECH_IN: Table = ports(
    "a speech-command node",
    &[&[
        input("audio", AUDIO, "microphone"),
        input("text", TEXT, "what was typed"),
    ]],
);

static SPEECH_OUT: Table = ports(
    "a speech-command node",
    &[&[must(
        "command",
        Shape::Output(COMMAND),
        "what was understood",
    )]],
);

/// Parameters of speech-command.
pub static SPEECH_PARAMS: Table = params(
    "a speech-command node",
    &[&[
        key(
            "min_confidence",
            Shape::Quantity(Dimension::Ratio),
            "below it a command is UNKNOWN; 0.6 by default",
        ),
        key(
            "fast_words",
            Shape::Fields(&FAST_WORDS),
            "words that leave at once, without a language model",
        ),
        key(
            "vad_threshold",
            Shape::Quantity(Dimension::Ratio),
            "speech probability that opens an utterance; 0.5 by default",
        ),
        key(
            "hangover",
            DURATION,
            "silence that closes an utterance; 480ms by default",
        ),
        key(
            "max_utterance",
            DURATION,
            "longest utterance; 15s by default",
        ),
        key(
            "speaker",
            Shape::Word("speaker", SPEAKERS),
            "who sits at this microphone; unknown when not given",
        ),
    ]],
);

/// Words of `speaker`, at their wire value less one (SpeechCommand.msg).
pub const SPEAKERS: &[&str] = &["DRIVER", "PASSENGER", "REMOTE"];

static FAST_WORDS: Table = params(
    "a list of fast words",
    &[&[
        key(
            "STOP",
            Shape::List(&Shape::Text(60)),
            "phrases that stop the vehicle",
        ),
        key(
            "PULL_OVER",
            Shape::List(&Shape::Text(60)),
            "phrases that make it pull over",
        ),
    ]],
);

static SUMMARY: Table = table(
    "a perception-summary node",
    &[
        NODE,
        &[
            must("models", Shape::Fields(&SUMMARY_MODELS), "models by role"),
            must("in", Shape::Fields(&SUMMARY_IN), "inputs"),
            must("out", Shape::Fields(&SUMMARY_OUT), "outputs"),
            key("params", Shape::Fields(&SUMMARY_PARAMS), "parameters"),
        ],
    ],
);

static SUMMARY_MODELS: Table = roles(
    "a perception-summary node",
    &[&[
        key(
            "detector",
            Shape::Role("detector"),
            "finds objects in pictures; needed when there is an image port",
        ),
        key(
            "language",
            Shape::Role("language"),
            "writes the sentence; without it the template does",
        ),
    ]],
);

static SUMMARY_IN: Table = ports(
    "a perception-summary node",
    &[&[
        input("image", IMAGE, "camera"),
        input("objects", OBJECTS, "the vehicle's own object list"),
        input("traffic_lights", LIGHTS, "traffic lights"),
        input("ego", EGO, "the vehicle's own motion"),
    ]],
);

static SUMMARY_OUT: Table = ports(
    "a perception-summary node",
    &[&[must(
        "summary",
        Shape::Output(SUMMARY_TYPE),
        "what is there",
    )]],
);

/// Parameters of perception-summary.
pub static SUMMARY_PARAMS: Table = params(
    "a perception-summary node",
    &[&[
        key(
            "min_score",
            Shape::Quantity(Dimension::Ratio),
            "detections below it are dropped; 0.4 by default",
        ),
        key(
            "max_objects",
            Shape::Int(1, 32),
            "most objects of a summary; 8 by default",
        ),
        key(
            "range",
            Shape::Quantity(Dimension::Length),
            "objects farther away are left out; 80 m by default",
        ),
        key("rate", RATE, "most summaries a second; 1Hz by default"),
    ]],
);

static ADVISOR: Table = table(
    "a planner-advisor node",
    &[
        NODE,
        &[
            must("models", Shape::Fields(&ADVISOR_MODELS), "models by role"),
            must("in", Shape::Fields(&ADVISOR_IN), "inputs"),
            must("out", Shape::Fields(&ADVISOR_OUT), "outputs"),
        ],
    ],
);

static ADVISOR_MODELS: Table = roles(
    "a planner-advisor node",
    &[&[must(
        "language",
        Shape::Role("language"),
        "writes the advice",
    )]],
);

static ADVISOR_IN: Table = ports(
    "a planner-advisor node",
    &[&[
        must("command", Shape::Input(&[COMMAND], &INPUT), "what was said"),
        input("summary", &[SUMMARY_TYPE], "what is there"),
        must("ego", Shape::Input(EGO, &INPUT), "the vehicle's own motion"),
    ]],
);

static ADVISOR_OUT: Table = ports(
    "a planner-advisor node",
    &[&[must("advice", Shape::Output(ADVICE), "for the gate only")]],
);
