//! Model servers without a bus: what one node needs, started under a supervisor of its own. `llmasos try` runs on this, and the whole
//! system waits for its children in the same way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use llmasos_nodes::{
    health::{Health, NodeState},
    supervise::{Child, Restart, SuperviseMessage, Supervisor},
};
use ractor::{Actor, ActorRef};
use tokio::task::JoinHandle;

/// How long stopping the servers may take.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// How often a state is looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// Servers that run without a bus.
pub struct Lone {
    health: Health,
    supervisor: ActorRef<SuperviseMessage>,
    ended: JoinHandle<()>,
    names: Vec<String>,
}

impl Lone {
    /// Starts the children; returns before the models are loaded. One that fails stays down: a person who waits wants to read why,
    /// not to wait for the next try.
    ///
    /// # Errors
    /// When the supervisor cannot be started.
    pub async fn start(health: Health, mut children: Vec<Child>) -> Result<Lone> {
        for child in &mut children {
            child.policy.restart = Restart::Never;
        }
        let names = children.iter().map(|child| child.name.clone()).collect();
        let (supervisor, ended) =
            Supervisor::spawn(None, Supervisor::new(health.clone()), children)
                .await
                .context("starting the supervisor")?;
        Ok(Lone {
            health,
            supervisor,
            ended,
            names,
        })
    }

    /// Waits until every server is ready.
    ///
    /// # Errors
    /// When `limit` passes first or a model cannot be loaded; names it and says why.
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        until_ready(&self.health, &self.names, limit).await
    }

    /// Stops the servers.
    pub async fn stop(self) {
        if self.supervisor.cast(SuperviseMessage::StopAll).is_err() {
            tracing::warn!("the supervisor had ended already");
        }
        if tokio::time::timeout(STOP_LIMIT, self.ended).await.is_err() {
            tracing::warn!("the supervisor did not end in time");
        }
    }
}

/// Waits until every one of `names` is ready, or degraded: it works then, but something it wants (a clock, say) is still missing.
///
/// # Errors
/// When `limit` passes first or one was given up; names it and its state.
pub async fn until_ready(health: &Health, names: &[String], limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let waiting: Vec<(&String, NodeState, String)> = names
            .iter()
            .filter_map(|name| {
                health
                    .state(name)
                    .map(|(state, detail)| (name, state, detail))
            })
            .filter(|(_, state, _)| !matches!(state, NodeState::Ready | NodeState::Degraded))
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let given_up = |state: NodeState, detail: &str| {
            state == NodeState::Failed && detail.starts_with("given up")
        };
        if let Some((name, _, detail)) = waiting
            .iter()
            .find(|(_, state, detail)| given_up(*state, detail))
        {
            bail!("{name}: {detail}");
        }
        if Instant::now() >= deadline {
            let list: Vec<String> = waiting
                .iter()
                .map(|(name, state, detail)| format!("{name} {} {detail}", state.name()))
                .collect();
            bail!("not ready after {} s: {}", limit.as_secs(), list.join("; "));
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}
