//! A part of the graph in a process of its own, watched by an actor so that the supervisor sees its death like any other.
//!
//! The gate always runs like this; a node does when the descriptor says `process: own`, for work that cannot be interrupted. The child
//! finds the graph by the descriptor alone. Its state is read from the diagnostics that it publishes itself: a process that runs is not
//! yet a node that is ready.

use std::{path::PathBuf, process::Stdio, time::Duration};

use llmasos_msgs::{
    Message,
    diagnostic_msgs::{DiagnosticArray, DiagnosticStatus},
};
use llmasos_nodes::{
    bus::{Bus, Subscription},
    health::{DIAGNOSTICS_TOPIC, NodeHealth, NodeState},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::process::{Child, Command};
use tracing::warn;

use super::last_word::{Armed, LastWord};

/// How long it may take to withdraw what it has published before it is killed.
const GRACE: Duration = Duration::from_millis(700);
/// How often the watcher looks.
const LOOK_PERIOD: Duration = Duration::from_millis(200);

/// The behaviour.
#[derive(Clone)]
pub struct ChildProcess {
    /// Session on which its diagnostics arrive.
    pub bus: Bus,
    /// The executable: this one.
    pub executable: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its record in this process, under the name it uses in its diagnostics.
    pub health: NodeHealth,
    /// Clears what it said to Autoware when it is gone; only the gate says anything there.
    pub last_word: Option<LastWord>,
}

/// What the watcher is told.
pub enum ChildProcessMessage {
    /// Look whether it still runs.
    Look,
    /// It said how it is.
    Said(NodeState, String),
}

/// What changes.
pub struct ChildProcessState {
    child: Child,
    /// Dropped after the child, which is killed when it is dropped: nothing comes behind the last word.
    last_word: Option<Armed>,
    _diagnostics: Subscription,
}

impl Actor for ChildProcess {
    type Msg = ChildProcessMessage;
    type State = ChildProcessState;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        _arguments: (),
    ) -> Result<Self::State, ActorProcessingErr> {
        self.health.set(NodeState::Loading, "");
        let (to, name, own) = (myself.clone(), self.health.name().to_owned(), self.bus.id());
        let namespace = self.bus.namespace().to_owned();
        let diagnostics = self
            .bus
            .subscribe(DIAGNOSTICS_TOPIC, move |arrival| {
                // What this process says of the child is not news.
                if arrival.publisher == Some(own) || arrival.payload.len() > DIAGNOSTICS_BYTES_MAX {
                    return;
                }
                let Ok(array) = DiagnosticArray::decode(&arrival.payload.to_bytes()) else {
                    return;
                };
                if let Some(status) = array
                    .status
                    .iter()
                    .find(|status| status.name == name && status.hardware_id == namespace)
                {
                    let _ = to.cast(ChildProcessMessage::Said(
                        state_of(status),
                        detail_of(status),
                    ));
                }
            })
            .await?;
        // kill_on_drop: whatever ends this actor ends the process; its own parent-death signal covers the death of this process.
        let child = Command::new(&self.executable)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        myself.send_interval(LOOK_PERIOD, || ChildProcessMessage::Look);
        Ok(ChildProcessState {
            child,
            last_word: self.last_word.as_ref().map(LastWord::armed),
            _diagnostics: diagnostics,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ChildProcessMessage::Look => {
                if let Some(status) = state.child.try_wait()? {
                    if let Some(word) = state.last_word.take() {
                        word.say().await;
                    }
                    return Err(format!("its process ended with {status}").into());
                }
                // Silence of the process is not silence of the watcher: a child that publishes nothing shows by its topics.
                self.health.beat();
            }
            ChildProcessMessage::Said(said, detail) => self.health.set(said, detail),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(id) = state.child.id().and_then(|id| i32::try_from(id).ok()) {
            // SIGTERM first: the gate clears a speed limit it has published.
            if let Err(error) = kill(Pid::from_raw(id), Signal::SIGTERM) {
                warn!(%error, "a child process could not be asked to end");
            }
            if tokio::time::timeout(GRACE, state.child.wait())
                .await
                .is_err()
            {
                state.child.kill().await?;
            }
        }
        if let Some(word) = state.last_word.take() {
            word.say().await;
        }
        Ok(())
    }
}

/// Longest diagnostics read here, in bytes.
const DIAGNOSTICS_BYTES_MAX: usize = 1 << 20;

fn state_of(status: &DiagnosticStatus) -> NodeState {
    match status
        .values
        .iter()
        .find(|pair| pair.key == "state")
        .map(|pair| pair.value.as_str())
    {
        Some("ready") => NodeState::Ready,
        Some("degraded") => NodeState::Degraded,
        Some("failed") => NodeState::Failed,
        _ => NodeState::Loading,
    }
}

fn detail_of(status: &DiagnosticStatus) -> String {
    status
        .message
        .split_once(": ")
        .map_or_else(String::new, |(_, detail)| detail.to_owned())
}
