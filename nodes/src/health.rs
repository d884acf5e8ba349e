//! Health: what every node is doing and what every edge has counted, in one place per process.
//!
//! Nodes write here from wherever they run; one task publishes it as `diagnostic_msgs/DiagnosticArray` on `/diagnostics`, at 1 Hz and
//! at once when a state changes or something is refused. Every edge keeps a ledger, and it balances:
//!
//! ```text
//! received = handled + lost + expired + superseded + refused + waiting
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use llmasos_msgs::{
    Message,
    builtin_interfaces::Time,
    diagnostic_msgs::{DiagnosticArray, DiagnosticStatus, KeyValue},
    std_msgs::Header,
};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::{
    bus::{Bus, BusError, Qos},
    clock::Clock,
    output::Lanes,
    ros2::PROCESS_NODE,
};

/// Topic of the diagnostics, as ROS tools expect it.
pub const DIAGNOSTICS_TOPIC: &str = "/diagnostics";

/// Refusals kept for the next report; older ones are only counted.
const REFUSALS_KEPT: usize = 16;

/// Longest reason kept of one refusal, in characters.
const REASON_CHARS_MAX: usize = 240;

/// Shortest pause between two reports, so that a flood of bad input does not become a flood of diagnostics.
const REPORT_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two reports; on the monotonic clock, so that a paused simulation is no silence.
const REPORT_PERIOD: Duration = Duration::from_secs(1);

/// Name of the followed clock among the states.
const CLOCK_NAME: &str = "clock";

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NodeState {
    /// Model loading or warming up.
    #[default]
    Loading,
    /// Model loaded and a warm-up inference passed.
    Ready,
    /// Works, but something it wants is missing.
    Degraded,
    /// Not running; the supervisor may start it again.
    Failed,
}

impl NodeState {
    /// The state's name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Loading => "loading",
            NodeState::Ready => "ready",
            NodeState::Degraded => "degraded",
            NodeState::Failed => "failed",
        }
    }

    fn level(self) -> u8 {
        match self {
            NodeState::Ready => DiagnosticStatus::OK,
            NodeState::Loading | NodeState::Degraded => DiagnosticStatus::WARN,
            NodeState::Failed => DiagnosticStatus::ERROR,
        }
    }
}

/// The counters of one edge: a topic as one node's port sees it.
#[derive(Debug, Default)]
pub struct Ledger {
    received: AtomicU64,
    handled: AtomicU64,
    lost: AtomicU64,
    expired: AtomicU64,
    superseded: AtomicU64,
    refused: AtomicU64,
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A node used it.
    Handled,
    /// A full queue dropped it.
    Lost,
    /// Too old when its turn came.
    Expired,
    /// A newer one replaced it unread.
    Superseded,
    /// Not acceptable; the reason was reported.
    Refused,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerCount {
    /// Arrivals.
    pub received: u64,
    /// Used by the node.
    pub handled: u64,
    /// Dropped by a full queue.
    pub lost: u64,
    /// Too old.
    pub expired: u64,
    /// Replaced unread.
    pub superseded: u64,
    /// Refused with a reason.
    pub refused: u64,
}

impl fmt::Display for LedgerCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            received,
            handled,
            lost,
            expired,
            superseded,
            refused,
        } = self;
        write!(
            f,
            "received={received} handled={handled} lost={lost} expired={expired} superseded={superseded} refused={refused} waiting={}",
            self.waiting()
        )
    }
}

impl LedgerCount {
    /// Reads what `Display` writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<LedgerCount> {
        let mut numbers = text
            .split(' ')
            .map(|pair| pair.split_once('=')?.1.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let count = LedgerCount {
            received: next()?,
            handled: next()?,
            lost: next()?,
            expired: next()?,
            superseded: next()?,
            refused: next()?,
        };
        (count.to_string() == text).then_some(count)
    }

    /// Arrivals whose outcome is still open.
    pub fn waiting(&self) -> u64 {
        self.received.saturating_sub(
            self.handled + self.lost + self.expired + self.superseded + self.refused,
        )
    }
}

impl Ledger {
    /// Counts an arrival.
    pub fn arrive(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what became of one.
    pub fn settle(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Handled => &self.handled,
            Outcome::Lost => &self.lost,
            Outcome::Expired => &self.expired,
            Outcome::Superseded => &self.superseded,
            Outcome::Refused => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters now.
    pub fn count(&self) -> LedgerCount {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LedgerCount {
            received: get(&self.received),
            handled: get(&self.handled),
            lost: get(&self.lost),
            expired: get(&self.expired),
            superseded: get(&self.superseded),
            refused: get(&self.refused),
        }
    }
}

/// One process's health. Clones share it.
#[derive(Clone, Default)]
pub struct Health {
    inner: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    nodes: Mutex<BTreeMap<String, NodeRecord>>,
    changed: Notify,
}

#[derive(Default)]
struct NodeRecord {
    state: NodeState,
    detail: String,
    restarts: u32,
    beat: Option<Instant>,
    edges: BTreeMap<String, Arc<Ledger>>,
    values: BTreeMap<String, String>,
    refusals: VecDeque<(String, String)>,
}

impl Health {
    /// The record of one node, made on first use.
    pub fn node(&self, name: &str) -> NodeHealth {
        self.nodes().entry(name.to_owned()).or_default();
        NodeHealth {
            name: name.into(),
            health: self.clone(),
        }
    }

    /// State and detail of a node, if it is known.
    pub fn state(&self, name: &str) -> Option<(NodeState, String)> {
        self.nodes()
            .get(name)
            .map(|record| (record.state, record.detail.clone()))
    }

    /// Counters of every edge, by node and `port: topic`.
    pub fn edges(&self) -> Vec<(String, String, LedgerCount)> {
        let nodes = self.nodes();
        nodes
            .iter()
            .flat_map(|(node, record)| {
                record
                    .edges
                    .iter()
                    .map(move |(edge, ledger)| (node.clone(), edge.clone(), ledger.count()))
            })
            .collect()
    }

    /// Restarts of every node and model.
    pub fn restarts(&self) -> BTreeMap<String, u32> {
        self.nodes()
            .iter()
            .map(|(name, record)| (name.clone(), record.restarts))
            .collect()
    }

    /// Resolves when something changed since the last call.
    pub async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// Publishes on [`DIAGNOSTICS_TOPIC`] at 1 Hz, and at once on a change, until dropped.
    ///
    /// # Errors
    /// [`BusError`] when the publisher cannot be declared.
    pub async fn publish(self, bus: Bus) -> Result<(), BusError> {
        let owner = NodeHealth {
            name: self.owner(),
            health: self.clone(),
        };
        // ROS 2's diagnostic aggregator subscribes reliably.
        let qos = Qos {
            reliable: true,
            depth: 10,
            ..Qos::STREAM
        };
        let lanes =
            Lanes::open(&bus, &owner, DIAGNOSTICS_TOPIC, DiagnosticArray::TYPE, qos).await?;
        loop {
            match self.report(bus.namespace(), bus.clock()).encode() {
                Ok(bytes) => lanes.put(bytes.into()).await?,
                Err(error) => warn!(%error, "diagnostics could not be encoded"),
            }
            tokio::time::sleep(REPORT_PAUSE).await;
            tokio::select! {
                () = self.changed() => {}
                () = bus.clock().news() => {}
                () = tokio::time::sleep(REPORT_PERIOD - REPORT_PAUSE) => {}
            }
        }
    }

    /// The ROS 2 node that publishes: the only one of this process, or the one that stands for the process.
    fn owner(&self) -> Arc<str> {
        let nodes = self.nodes();
        let mut names = nodes.keys();
        match (names.next(), names.next()) {
            (Some(only), None) => only.as_str().into(),
            _ => PROCESS_NODE.into(),
        }
    }

    fn report(&self, namespace: &str, clock: &Clock) -> DiagnosticArray {
        let mut status = clock_status(clock, namespace);
        let waiting = clock.waiting();
        let mut nodes = self.nodes();
        for (name, record) in nodes.iter_mut() {
            for (topic, reason) in record.refusals.drain(..) {
                status.push(DiagnosticStatus {
                    level: DiagnosticStatus::WARN,
                    name: format!("{name}: {topic}"),
                    message: reason,
                    hardware_id: namespace.to_owned(),
                    values: Vec::new(),
                });
            }
            status.push(node_status(name, record, namespace, waiting.as_deref()));
        }
        DiagnosticArray {
            header: Header {
                stamp: Time::from_nanos(clock.now_ns()),
                frame_id: String::new(),
            },
            status,
        }
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, NodeRecord>> {
        self.inner
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of a followed clock, after its news.
fn clock_status(clock: &Clock, namespace: &str) -> Vec<DiagnosticStatus> {
    let Some(report) = clock.report() else {
        return Vec::new();
    };
    let state = match report.reading.is_known() {
        true => NodeState::Ready,
        false => NodeState::Degraded,
    };
    let topic = &report.topic;
    let what = match state {
        NodeState::Ready => format!("following {topic}"),
        NodeState::Loading | NodeState::Degraded | NodeState::Failed => {
            format!("waiting for {topic}")
        }
    };
    let value = |key: &str, value: String| KeyValue {
        key: key.into(),
        value,
    };
    let mut status: Vec<DiagnosticStatus> = report
        .news
        .into_iter()
        .map(|news| DiagnosticStatus {
            level: DiagnosticStatus::WARN,
            name: format!("{CLOCK_NAME}: {topic}"),
            message: news,
            hardware_id: namespace.to_owned(),
            values: Vec::new(),
        })
        .collect();
    status.push(DiagnosticStatus {
        level: state.level(),
        name: CLOCK_NAME.to_owned(),
        message: format!("{}: {what}", state.name()),
        hardware_id: namespace.to_owned(),
        values: vec![
            value("state", state.name().to_owned()),
            value("now_ns", report.reading.now_ns.to_string()),
            value("jumps_back", report.reading.epoch.to_string()),
            value("followed", report.followed.to_string()),
            value("refused", report.refused.to_string()),
        ],
    });
    status
}

/// A node that is ready is degraded while the time is unknown: it takes nothing and says nothing.
fn node_status(
    name: &str,
    record: &NodeRecord,
    namespace: &str,
    waiting: Option<&str>,
) -> DiagnosticStatus {
    let (state, detail) = match (record.state, waiting) {
        (NodeState::Ready, Some(waiting)) => (NodeState::Degraded, waiting),
        (state, _) => (state, record.detail.as_str()),
    };
    let mut values = vec![
        KeyValue {
            key: "state".into(),
            value: state.name().into(),
        },
        KeyValue {
            key: "restarts".into(),
            value: record.restarts.to_string(),
        },
    ];
    values.extend(record.values.iter().map(|(key, value)| KeyValue {
        key: key.clone(),
        value: value.clone(),
    }));
    values.extend(record.edges.iter().map(|(edge, ledger)| KeyValue {
        key: edge.clone(),
        value: ledger.count().to_string(),
    }));
    DiagnosticStatus {
        level: state.level(),
        name: name.to_owned(),
        message: if detail.is_empty() {
            state.name().to_owned()
        } else {
            format!("{}: {detail}", state.name())
        },
        hardware_id: namespace.to_owned(),
        values,
    }
}

/// One node's handle on its own record.
#[derive(Clone)]
pub struct NodeHealth {
    name: Arc<str>,
    health: Health,
}

impl NodeHealth {
    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets the state; `detail` says why in a few words.
    pub fn set(&self, state: NodeState, detail: impl Into<String>) {
        let detail = detail.into();
        let changed = self.with(|record| {
            let changed = record.state != state;
            record.state = state;
            record.detail = detail.clone();
            changed
        });
        if changed {
            info!(node = %self.name, state = state.name(), detail, "state");
            self.health.inner.changed.notify_one();
        }
    }

    /// Counts a restart.
    pub fn restarted(&self) {
        self.with(|record| record.restarts += 1);
        self.health.inner.changed.notify_one();
    }

    /// Says that the node is alive; the supervisor kills one that stays silent for too long.
    pub fn beat(&self) {
        self.with(|record| record.beat = Some(Instant::now()));
    }

    /// How long the node has been silent; zero before its first sign.
    pub fn silent_for(&self) -> Duration {
        self.with(|record| record.beat.map_or(Duration::ZERO, |beat| beat.elapsed()))
    }

    /// Sets a value shown beside the state, e.g. a decode rate.
    pub fn value(&self, key: &str, value: impl Into<String>) {
        let value = value.into();
        self.with(|record| record.values.insert(key.to_owned(), value));
    }

    /// The ledger of one of the node's edges; a restarted node finds its old one.
    pub fn edge(&self, port: &str, topic: &str) -> Arc<Ledger> {
        self.with(|record| Arc::clone(record.edges.entry(format!("{port}: {topic}")).or_default()))
    }

    /// Reports why something was refused. Counting is the ledger's.
    pub fn refuse(&self, topic: &str, reason: &str) {
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        warn!(node = %self.name, topic, reason, "refused");
        self.with(|record| {
            if record.refusals.len() == REFUSALS_KEPT {
                record.refusals.pop_front();
            }
            record.refusals.push_back((topic.to_owned(), reason));
        });
        self.health.inner.changed.notify_one();
    }

    fn with<R>(&self, change: impl FnOnce(&mut NodeRecord) -> R) -> R {
        change(
            self.health
                .nodes()
                .entry(self.name.to_string())
                .or_default(),
        )
    }
}

/// A monotonic stopwatch for things reported in milliseconds.
pub fn elapsed_ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_balances() {
        let ledger = Ledger::default();
        for outcome in [
            Outcome::Handled,
            Outcome::Lost,
            Outcome::Expired,
            Outcome::Superseded,
            Outcome::Refused,
        ] {
            ledger.arrive();
            ledger.settle(outcome);
        }
        ledger.arrive();
        assert_eq!(ledger.count().received, 6);
        assert_eq!(ledger.count().waiting(), 1, "one is still in a queue");
        let text = ledger.count().to_string();
        assert_eq!(LedgerCount::parse(&text), Some(ledger.count()), "{text}");
        assert_eq!(LedgerCount::parse("received=1"), None);
    }

    #[test]
    fn a_report_names_node_topic_and_reason_once() {
        let health = Health::default();
        let node = health.node("speech");
        node.set(NodeState::Ready, "");
        node.refuse("mic/audio", "expected CDR, found text");
        let wall = Clock::wall();
        let first = health.report("ego", &wall);
        assert!(
            first
                .status
                .iter()
                .any(|status| status.name == "speech: mic/audio"
                    && status.message.contains("expected CDR"))
        );
        let second = health.report("ego", &wall);
        assert!(
            second
                .status
                .iter()
                .all(|status| status.name != "speech: mic/audio"),
            "a refusal is reported once"
        );
        assert!(
            second
                .status
                .iter()
                .any(|status| status.name == "speech" && status.level == DiagnosticStatus::OK)
        );
    }

    #[test]
    fn whoever_follows_a_clock_says_how_it_does() {
        let health = Health::default();
        health.node("gate").set(NodeState::Ready, "");
        let (clock, follower) = Clock::followed("/clock");
        let message = |report: &DiagnosticArray, name: &str| {
            let of = |status: &&DiagnosticStatus| status.name == name;
            report
                .status
                .iter()
                .find(of)
                .map(|status| status.message.clone())
                .unwrap_or_default()
        };
        let before = health.report("ego", &clock);
        assert_eq!(before.header.stamp, Time::default(), "unknown is zero");
        assert_eq!(message(&before, "clock"), "degraded: waiting for /clock");
        assert_eq!(message(&before, "gate"), "degraded: waiting for /clock");
        follower.set(5_000_000_000);
        let after = health.report("ego", &clock);
        assert_eq!(after.header.stamp.sec, 5, "stamped by the clock");
        assert_eq!(message(&after, "clock"), "ready: following /clock");
        assert_eq!(message(&after, "clock: /clock"), "the time is known");
        assert_eq!(message(&after, "gate"), "ready");
    }
}
