//! The checked graph: the only form of a descriptor that the rest of the program sees.
//!
//! Plain data. Every quantity is SI or a `Duration`, every type name is canonical, every path stands on its own, every name that
//! refers to another part of the graph has been found there. Each part keeps the place it was written at, for findings that come later
//! (a port without a publisher, a model that does not fit).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use llmasos_nodes::contract::{Budget, Distro, OnStale, QueuePolicy, Supersede, TopicContract};

use super::expect::Expect;
use super::findings::{At, Files};
pub use super::kinds::NodeKind;

/// A graph of nodes, ready to be started.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// Prefix of relative topics, without a leading slash; empty for none.
    pub namespace: String,
    /// What stamps are compared with.
    pub clock: Clock,
    /// How the bus is reached.
    pub zenoh: ZenohSpec,
    /// How it shows itself to ROS 2; not at all without.
    pub ros2: Option<Ros2Spec>,
    /// Models by the name the nodes use.
    pub models: BTreeMap<String, ModelSpec>,
    /// The one thread pool.
    pub compute: ComputeSpec,
    /// Topic contracts in the order they were written.
    pub topics: Vec<TopicContract>,
    /// Nodes in the order they were written.
    pub nodes: Vec<NodeSpec>,
    /// The gate; always there when there is a planner-advisor.
    pub gate: Option<GateSpec>,
    /// Restart policies.
    pub supervise: Supervise,
    /// What is played onto the bus.
    pub sources: Vec<Source>,
    /// What must be seen.
    pub expect: Vec<Expect>,
    /// Total run time, from the moment all nodes are ready.
    pub duration: Option<Duration>,
    /// The files it was read from; the first is the one named by the user.
    pub files: Files,
    /// Where the topics were written, by name.
    pub topic_sites: BTreeMap<String, At>,
    /// Where the restart policies were written, by name.
    pub supervise_sites: BTreeMap<String, At>,
    /// Whether missing data entries (pictures, recordings) may be downloaded.
    pub fetch: Fetch,
    /// Where its name was written: the place of findings about the whole.
    pub at: At,
}

impl Graph {
    /// The contract of a topic.
    pub fn topic(&self, name: &str) -> Option<&TopicContract> {
        self.topics.iter().find(|t| t.topic == name)
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeSpec> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// The restart policy of a node or of `gate`.
    pub fn restart(&self, name: &str) -> &RestartSpec {
        self.supervise
            .by_name
            .get(name)
            .unwrap_or(&self.supervise.default)
    }

    /// The queue of a node's input: its own, or the topic's.
    pub fn queue(&self, input: &InputSpec) -> QueuePolicy {
        input
            .queue
            .or_else(|| self.topic(&input.topic).map(|t| t.queue))
            .unwrap_or(QueuePolicy::Latest)
    }
}

/// What stamps are compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The system's clock.
    Wall,
    /// A topic with rosgraph_msgs/Clock.
    Topic(String),
    /// The stamps of what is played.
    Recording,
}

/// How the bus is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZenohSpec {
    /// `true`: talks to a router only.
    pub client: bool,
    /// Endpoints to listen on.
    pub listen: Vec<String>,
    /// Endpoints to connect to.
    pub connect: Vec<String>,
    /// `true`: the graph goes on when none of `connect` answers.
    pub connect_optional: bool,
    /// Multicast scouting.
    pub multicast: bool,
    /// A Zenoh configuration file instead of the above.
    pub config: Option<PathBuf>,
}

/// How the graph shows itself to ROS 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ros2Spec {
    /// The domain, 0 to 232.
    pub domain: u32,
    /// Whose keys are written.
    pub distro: Distro,
}

/// A model and how it may come.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Name in the catalogue.
    pub catalogue: String,
    /// Tokens a language model keeps.
    pub context: Option<usize>,
    /// Memory for keys and values, in bytes.
    pub kv_bytes: Option<u64>,
    /// Whether it may be downloaded when missing.
    pub fetch: Fetch,
    /// Where it was written.
    pub at: At,
}

/// Whether a missing model may be downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// When it is not in the cache.
    IfAbsent,
    /// Never: a missing model is an error.
    Never,
}

/// The one thread pool of all models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputeSpec {
    /// Threads.
    pub threads: usize,
    /// How long an idle thread waits before it sleeps.
    pub spin: Spin,
    /// Most bytes of models and caches together, with the place of the limit.
    pub memory_bytes: Option<(u64, At)>,
}

/// How long an idle thread waits before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spin {
    /// Not at all.
    Off,
    /// A moment.
    Short,
    /// Until there is work.
    On,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: NodeKind,
    /// Model names by role.
    pub models: BTreeMap<String, (String, At)>,
    /// Inputs by port.
    pub inputs: BTreeMap<String, InputSpec>,
    /// Topics by output port.
    pub outputs: BTreeMap<String, OutputSpec>,
    /// How long an answer may take.
    pub budget: Budget,
    /// Where `budget.tokens` was written, or the budget if it was not.
    pub tokens_at: At,
    /// Who runs first; higher first.
    pub priority: u8,
    /// Nodes that must be ready first.
    pub start_after: Vec<(String, At)>,
    /// Parameters of its kind.
    pub params: Params,
    /// A process of its own.
    pub own_process: bool,
    /// The whole graph ends when it is given up.
    pub critical: bool,
    /// Where it was written.
    pub at: At,
}

impl NodeSpec {
    /// The model of a role.
    pub fn model(&self, role: &str) -> Option<&str> {
        self.models.get(role).map(|(name, _)| name.as_str())
    }

    /// The topic of an output port.
    pub fn output(&self, port: &str) -> Option<&str> {
        self.outputs.get(port).map(|o| o.topic.as_str())
    }
}

/// An input of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// The topic it reads.
    pub topic: String,
    /// Its queue, where it differs from the topic's.
    pub queue: Option<QueuePolicy>,
    /// What to do when it is too old.
    pub on_stale: OnStale,
    /// What a newer message does to work in progress.
    pub supersede: Supersede,
    /// Where the topic is named.
    pub at: At,
}

/// An output of a node or the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    /// The topic it writes.
    pub topic: String,
    /// Where the topic is named.
    pub at: At,
}

/// Parameters by kind of node.
#[derive(Clone, Debug, PartialEq)]
pub enum Params {
    /// Of speech-command.
    Speech(SpeechParams),
    /// Of perception-summary.
    Summary(SummaryParams),
    /// Of planner-advisor.
    Advisor(AdvisorParams),
}

/// Parameters of speech-command.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeechParams {
    /// Below it a command is UNKNOWN, \[0, 1\].
    pub min_confidence: f32,
    /// Phrases that stop; `None` leaves the node its own.
    pub stop_words: Option<Vec<String>>,
    /// Phrases that make it pull over; `None` leaves the node its own.
    pub pull_over_words: Option<Vec<String>>,
    /// Speech probability that opens an utterance, \[0, 1\].
    pub vad_threshold: f32,
    /// Silence that closes an utterance.
    pub hangover: Duration,
    /// Longest utterance.
    pub max_utterance: Duration,
    /// `SpeechCommand.speaker`; 0 = unknown.
    pub speaker: u8,
}

/// Parameters of perception-summary.
#[derive(Clone, Debug, PartialEq)]
pub struct SummaryParams {
    /// Detections below it are dropped, \[0, 1\].
    pub min_score: f32,
    /// Most objects of a summary, 1 to 32.
    pub max_objects: usize,
    /// Objects farther away are left out, m.
    pub range_m: f32,
    /// Most summaries a second.
    pub rate_hz: f64,
}

/// Parameters of planner-advisor: it has none. Its bounds are the gate's, its validity is the lifespan of its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvisorParams;

/// The gate. Words of actions, lights and zones are those of the messages.
#[derive(Clone, Debug, PartialEq)]
pub struct GateSpec {
    /// Inputs by port.
    pub inputs: BTreeMap<String, GateInput>,
    /// Topics by output port.
    pub outputs: BTreeMap<String, OutputSpec>,
    /// Actions that may pass in a mode that `allow_in_mode` does not name.
    pub allow: Vec<String>,
    /// Actions by operation mode; empty when `allow` holds in all.
    pub allow_in_mode: BTreeMap<String, Vec<String>>,
    /// Highest speed that may be advised, m/s.
    pub max_speed_mps: f32,
    /// Fastest rise of the bound, m/s².
    pub accelerate_mps2: f32,
    /// Fastest fall of the bound, m/s².
    pub decelerate_mps2: f32,
    /// Rules in the order they were written.
    pub refuse_when: Vec<RefuseRule>,
    /// Who confirms which action.
    pub confirm: BTreeMap<String, Confirmer>,
    /// How long a question stands.
    pub confirm_timeout: Option<Duration>,
    /// Whether speed limits in force are also said to Autoware.
    pub velocity_limit: bool,
    /// Commands below it do not act, \[0, 1\].
    pub min_confidence: Option<f32>,
    /// How long a spoken STOP or PULL_OVER holds.
    pub hold: Option<Duration>,
    /// Longest life of an advice.
    pub advice_validity: Option<Duration>,
    /// Where it was written.
    pub at: At,
}

/// An input of the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateInput {
    /// The topic it reads.
    pub topic: String,
    /// Oldest stamp that counts as fresh: the input's own, or the topic's max_age, or its lifespan.
    pub max_age: Option<Duration>,
    /// Where the topic is named.
    pub at: At,
}

/// A rule that refuses actions.
#[derive(Clone, Debug, PartialEq)]
pub struct RefuseRule {
    /// Its name, as it stands in a verdict.
    pub name: String,
    /// When it applies.
    pub when: RefuseWhen,
    /// What it refuses.
    pub actions: Vec<String>,
}

/// When a rule applies.
#[derive(Clone, Debug, PartialEq)]
pub enum RefuseWhen {
    /// The light shows this colour.
    TrafficLight(String),
    /// A vulnerable object is near.
    Vulnerable {
        /// Only in this zone.
        zone: Option<String>,
        /// Reached within, s.
        time_to_contact_below_s: Option<f32>,
        /// Nearer than, m.
        distance_below_m: Option<f32>,
    },
}

/// Who confirms an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmer {
    /// The driver.
    Driver,
    /// Anyone who is heard.
    Anyone,
}

/// Restart policies.
#[derive(Clone, Debug, PartialEq)]
pub struct Supervise {
    /// Of what has none of its own.
    pub default: RestartSpec,
    /// By node, or `gate`; each complete.
    pub by_name: BTreeMap<String, RestartSpec>,
}

/// A restart policy.
#[derive(Clone, Debug, PartialEq)]
pub struct RestartSpec {
    /// When it is started again.
    pub restart: Restart,
    /// Most restarts within `within`; `None` = no limit.
    pub max_count: Option<u32>,
    /// Window of `max_count`.
    pub within: Duration,
    /// Wait before the first restart.
    pub backoff_min: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
    /// Time until ready.
    pub startup: Duration,
    /// Longest silence.
    pub silent: Duration,
}

/// When a node is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// When it failed.
    OnFailure,
    /// Whenever it ended.
    Always,
    /// Never.
    Never,
}

/// Something that is played onto the bus, or goes wrong on purpose.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// When it starts, from the moment all nodes are ready.
    pub at: Duration,
    /// When it ends at the latest.
    pub until: Option<Duration>,
    /// What it is.
    pub feed: Feed,
    /// Where it was written.
    pub site: At,
}

impl Source {
    /// The topic it publishes on; a fault has none.
    pub fn topic(&self) -> Option<&str> {
        match &self.feed {
            Feed::Wav { topic, .. }
            | Feed::Images { topic, .. }
            | Feed::JsonLines { topic, .. }
            | Feed::Text { topic, .. } => Some(topic),
            Feed::Fault { .. } => None,
        }
    }
}

/// What a source plays.
#[derive(Clone, Debug, PartialEq)]
pub enum Feed {
    /// A recording of sound, in real time.
    Wav {
        /// Where.
        topic: String,
        /// From which file.
        file: Recording,
        /// Skips this much of it.
        from: Duration,
        /// Plays this much of it; `None` = to its end.
        take: Option<Duration>,
    },
    /// Pictures, one after another and again from the first.
    Images {
        /// Where.
        topic: String,
        /// Which ones.
        pictures: Pictures,
        /// Pictures a second.
        rate_hz: f64,
    },
    /// Messages, one JSON object a line.
    JsonLines {
        /// Where.
        topic: String,
        /// The file.
        path: PathBuf,
        /// Lines a second; `None` = each line says its own time, `t_s` seconds after `at`.
        rate_hz: Option<f64>,
        /// Starts again at the end.
        repeat: bool,
    },
    /// One text message.
    Text {
        /// Where.
        topic: String,
        /// What is said.
        text: String,
    },
    /// Something goes wrong on purpose.
    Fault {
        /// What.
        kind: FaultKind,
        /// Where.
        target: FaultTarget,
    },
}

/// A file of the descriptor's folder, or of a data entry of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recording {
    /// A file.
    File(PathBuf),
    /// A member of a catalogue entry.
    Catalogue {
        /// The entry.
        entry: String,
        /// File name inside it.
        member: String,
    },
}

/// Pictures of a folder, or of a data entry of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pictures {
    /// Where they are.
    pub from: PictureFolder,
    /// Only these, in this order; empty = all, by name.
    pub members: Vec<String>,
}

/// Where pictures are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PictureFolder {
    /// A folder.
    Folder(PathBuf),
    /// A data entry of the catalogue.
    Catalogue(String),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It does not answer for a while.
    Stall {
        /// For how long.
        hold: Duration,
    },
    /// It is killed.
    Kill,
    /// It panics.
    Panic,
}

/// What a fault hits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultTarget {
    /// A node, or `gate`.
    Node(String),
    /// A model, by the name the nodes use.
    Model(String),
}
