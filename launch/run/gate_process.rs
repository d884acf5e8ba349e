//! The gate's process, watched by an actor so that the supervisor sees its death like any other.

use std::{path::PathBuf, process::Stdio, time::Duration};

use llmasos_nodes::health::{NodeHealth, NodeState};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::process::{Child, Command};
use tracing::warn;

/// How long the gate may take to withdraw what it has published before it is killed.
const GRACE: Duration = Duration::from_millis(700);
/// How often its record shows that the process lives.
const BEAT_PERIOD: Duration = Duration::from_millis(200);

/// The behaviour.
pub struct GateProcess {
    /// The executable: this one.
    pub executable: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its record in this process; its own diagnostics say more.
    pub health: NodeHealth,
}

/// What the watcher is told.
pub enum GateProcessMessage {
    /// Look whether it still runs.
    Look,
    /// Fault injection: SIGKILL, as a crash would.
    Kill,
}

impl Actor for GateProcess {
    type Msg = GateProcessMessage;
    type State = Child;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, _arguments: ()) -> Result<Child, ActorProcessingErr> {
        self.health.set(NodeState::Loading, "");
        // kill_on_drop: whatever ends this actor ends the process; its own parent-death signal covers the death of this process.
        let child = Command::new(&self.executable).args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn()?;
        myself.send_interval(BEAT_PERIOD, || GateProcessMessage::Look);
        Ok(child)
    }

    async fn handle(&self, _myself: ActorRef<Self::Msg>, message: Self::Msg, child: &mut Child) -> Result<(), ActorProcessingErr> {
        match message {
            GateProcessMessage::Look => match child.try_wait()? {
                None => {
                    self.health.beat();
                    self.health.set(NodeState::Ready, "");
                    Ok(())
                }
                Some(status) => Err(format!("the gate's process ended with {status}").into()),
            },
            GateProcessMessage::Kill => {
                child.start_kill()?;
                Ok(())
            }
        }
    }

    async fn post_stop(&self, _myself: ActorRef<Self::Msg>, child: &mut Child) -> Result<(), ActorProcessingErr> {
        let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) else { return Ok(()) };
        // SIGTERM first: the gate clears a speed limit it has published.
        if let Err(error) = kill(Pid::from_raw(id), Signal::SIGTERM) {
            warn!(%error, "the gate could not be asked to end");
        }
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            child.kill().await?;
        }
        Ok(())
    }
}
