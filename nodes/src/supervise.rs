//! Supervision: who is restarted when, and when it is given up.
//!
//! The policy is a pure function of the failures so far and the time. The supervisor is the parent actor of every node and model server
//! of its process; a child that fails, is killed or falls silent is started again after a growing delay, and given up when it fails too
//! often. Giving up degrades the graph, it never ends it: the gate then says that there is no advice.
//!
//! ```text
//! supervisor ─┬─ model servers (vad, asr, detector, language)
//!             ├─ nodes (speech, summary, advisor)
//!             └─ processes (gate, nodes with `process: own`), each watched by an actor
//! ```

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tracing::{error, info, warn};

use crate::health::{Health, NodeHealth, NodeState};

/// When a child is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// After every end that was not asked for.
    Always,
    /// After failures and kills only.
    OnFailure,
    /// Never.
    Never,
}

/// The rules of restarting one child.
#[derive(Clone, Debug, PartialEq)]
pub struct RestartPolicy {
    /// After which ends.
    pub restart: Restart,
    /// Most restarts within `within`; one more failure gives the child up.
    pub count: u32,
    /// The window of `count`.
    pub within: Duration,
    /// Delay before the first restart; doubles with every failure in the window.
    pub backoff_min: Duration,
    /// Longest delay.
    pub backoff_max: Duration,
    /// Silence after which a running child counts as hanging.
    pub silent: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        RestartPolicy {
            restart: Restart::OnFailure,
            count: 5,
            within: Duration::from_secs(60),
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(5),
            silent: Duration::from_secs(5),
        }
    }
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start again after this delay.
    After(Duration),
    /// Leave it.
    GiveUp,
}

impl RestartPolicy {
    /// Decides about a failure at `now`; `failures` holds the earlier ones and is brought up to date. `failed` is false for an end
    /// without an error.
    pub fn next(&self, failures: &mut VecDeque<Instant>, failed: bool, now: Instant) -> Next {
        let wanted = match self.restart {
            Restart::Always => true,
            Restart::OnFailure => failed,
            Restart::Never => false,
        };
        if !wanted {
            return Next::GiveUp;
        }
        while failures
            .front()
            .is_some_and(|first| now.duration_since(*first) > self.within)
        {
            failures.pop_front();
        }
        if failures.len() >= self.count as usize {
            return Next::GiveUp;
        }
        let doubled = self
            .backoff_min
            .saturating_mul(1u32.checked_shl(failures.len() as u32).unwrap_or(u32::MAX));
        failures.push_back(now);
        Next::After(doubled.min(self.backoff_max))
    }
}

/// Starts a child under the supervisor.
pub type Start = Arc<
    dyn Fn(ActorCell) -> Pin<Box<dyn Future<Output = Result<ActorCell, SpawnErr>> + Send>>
        + Send
        + Sync,
>;

/// One child.
#[derive(Clone)]
pub struct Child {
    /// The name of the node or model; also its name in the diagnostics.
    pub name: String,
    /// Rules of restarting.
    pub policy: RestartPolicy,
    /// Children that must be ready before this one starts.
    pub after: Vec<String>,
    /// How it is started.
    pub start: Start,
}

/// The behaviour.
pub struct Supervisor {
    health: Health,
}

/// What the supervisor is told.
pub enum SuperviseMessage {
    /// Start a child now.
    Start(String),
    /// Look for silent children and for ones whose turn has come.
    Watch,
    /// Fault injection: kill a child as a crash would.
    Kill(String),
    /// Stop every child, wait for each, and end.
    StopAll,
}

struct Record {
    child: Child,
    health: NodeHealth,
    failures: VecDeque<Instant>,
    cell: Option<ActorCell>,
    started: bool,
}

/// What changes.
pub struct SupervisorState {
    children: BTreeMap<String, Record>,
    by_id: HashMap<ActorId, String>,
    stopping: bool,
}

/// How long one child may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// How often the supervisor looks around.
const WATCH_PERIOD: Duration = Duration::from_millis(100);

impl Supervisor {
    /// A supervisor that reports to `health`.
    pub fn new(health: Health) -> Self {
        Supervisor { health }
    }
}

impl Actor for Supervisor {
    type Msg = SuperviseMessage;
    type State = SupervisorState;
    type Arguments = Vec<Child>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        children: Vec<Child>,
    ) -> Result<Self::State, ActorProcessingErr> {
        let children = children
            .into_iter()
            .map(|child| {
                let health = self.health.node(&child.name);
                (
                    child.name.clone(),
                    Record {
                        child,
                        health,
                        failures: VecDeque::new(),
                        cell: None,
                        started: false,
                    },
                )
            })
            .collect();
        myself.send_interval(WATCH_PERIOD, || SuperviseMessage::Watch);
        Ok(SupervisorState {
            children,
            by_id: HashMap::new(),
            stopping: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SuperviseMessage::Start(_) | SuperviseMessage::Watch if state.stopping => {}
            SuperviseMessage::Start(name) => start(&myself, state, &name).await,
            SuperviseMessage::Watch => {
                for name in self.due(state) {
                    start(&myself, state, &name).await;
                }
                kill_silent(state);
            }
            SuperviseMessage::StopAll => {
                state.stopping = true;
                stop_all(state).await;
                myself.stop(None);
            }
            SuperviseMessage::Kill(name) => match state
                .children
                .get(&name)
                .and_then(|record| record.cell.as_ref())
            {
                Some(cell) => {
                    warn!(child = %name, "fault injected: killed");
                    cell.kill();
                }
                None => warn!(child = %name, "cannot be killed: it does not run"),
            },
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, reason) => {
                ended(&myself, state, &cell, true, &reason.to_string())
            }
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                // A stop that was asked for carries a reason or comes while everything stops; a kill carries "killed".
                let reason = reason.unwrap_or_default();
                ended(
                    &myself,
                    state,
                    &cell,
                    true,
                    if reason.is_empty() { "ended" } else { &reason },
                );
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl Supervisor {
    /// Children that were never started and whose predecessors are ready.
    fn due(&self, state: &SupervisorState) -> Vec<String> {
        let is_ready = |name: &String| {
            self.health
                .state(name)
                .is_some_and(|(state, _)| state == NodeState::Ready)
        };
        state
            .children
            .values()
            .filter(|record| !record.started && record.child.after.iter().all(is_ready))
            .map(|record| record.child.name.clone())
            .collect()
    }
}

async fn start(myself: &ActorRef<SuperviseMessage>, state: &mut SupervisorState, name: &str) {
    let Some(record) = state.children.get_mut(name) else {
        return;
    };
    record.started = true;
    record.health.beat();
    match (record.child.start)(myself.get_cell()).await {
        Ok(cell) => {
            info!(child = name, "started");
            state.by_id.insert(cell.get_id(), name.to_owned());
            record.cell = Some(cell);
        }
        Err(reason) => {
            // A failing pre_start comes back to the spawner and raises no event.
            let reason = reason.to_string();
            failed(myself, record, true, &reason);
        }
    }
}

fn ended(
    myself: &ActorRef<SuperviseMessage>,
    state: &mut SupervisorState,
    cell: &ActorCell,
    by_failure: bool,
    reason: &str,
) {
    let Some(name) = state.by_id.remove(&cell.get_id()) else {
        return;
    };
    let stopping = state.stopping;
    let Some(record) = state.children.get_mut(&name) else {
        return;
    };
    record.cell = None;
    if stopping {
        return;
    }
    failed(myself, record, by_failure, reason);
}

fn failed(
    myself: &ActorRef<SuperviseMessage>,
    record: &mut Record,
    by_failure: bool,
    reason: &str,
) {
    let name = record.child.name.clone();
    match record
        .child
        .policy
        .next(&mut record.failures, by_failure, Instant::now())
    {
        Next::After(delay) => {
            warn!(child = %name, reason, ?delay, "failed; starts again");
            record.health.set(
                NodeState::Failed,
                format!("{reason}; starts again in {} ms", delay.as_millis()),
            );
            record.health.restarted();
            myself.send_after(delay, move || SuperviseMessage::Start(name));
        }
        Next::GiveUp => {
            error!(child = %name, reason, "failed too often; given up");
            record
                .health
                .set(NodeState::Failed, format!("given up: {reason}"));
        }
    }
}

/// Stops the children one after another, the gate's process among them, so that it can withdraw what it has published.
async fn stop_all(state: &mut SupervisorState) {
    for record in state.children.values_mut() {
        let Some(cell) = record.cell.take() else {
            continue;
        };
        let name = &record.child.name;
        if cell.stop_and_wait(None, Some(STOP_LIMIT)).await.is_err() {
            warn!(child = %name, "did not stop in time: killed");
            cell.kill();
        }
    }
}

fn kill_silent(state: &SupervisorState) {
    for record in state.children.values() {
        let Some(cell) = &record.cell else { continue };
        let silent = record.health.silent_for();
        if silent > record.child.policy.silent {
            error!(child = %record.child.name, ?silent, "silent: killed");
            cell.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_giving_up_has_a_window() {
        let policy = RestartPolicy {
            count: 3,
            ..Default::default()
        };
        let (mut failures, start) = (VecDeque::new(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        for (second, expected, why) in [
            (
                0,
                Next::After(Duration::from_millis(200)),
                "the first failure waits the least",
            ),
            (
                1,
                Next::After(Duration::from_millis(400)),
                "the second twice as long",
            ),
            (2, Next::After(Duration::from_millis(800)), "and again"),
            (3, Next::GiveUp, "four failures in a minute are too many"),
            (
                65,
                Next::After(Duration::from_millis(200)),
                "old failures are forgiven",
            ),
        ] {
            assert_eq!(
                policy.next(&mut failures, true, at(second)),
                expected,
                "{why}"
            );
        }
    }

    #[test]
    fn a_clean_end_is_restarted_only_when_always() {
        let now = Instant::now();
        for (restart, failed, starts) in [
            (Restart::OnFailure, false, false),
            (Restart::OnFailure, true, true),
            (Restart::Always, false, true),
            (Restart::Never, true, false),
        ] {
            let policy = RestartPolicy {
                restart,
                ..Default::default()
            };
            let next = policy.next(&mut VecDeque::new(), failed, now);
            assert_eq!(
                matches!(next, Next::After(_)),
                starts,
                "{restart:?} failed={failed}"
            );
        }
    }

    #[test]
    fn delays_never_exceed_the_longest() {
        let policy = RestartPolicy {
            count: 100,
            ..Default::default()
        };
        let mut failures = VecDeque::new();
        let now = Instant::now();
        for _ in 0..60 {
            if let Next::After(delay) = policy.next(&mut failures, true, now) {
                assert!(delay <= policy.backoff_max);
            }
        }
    }
}
