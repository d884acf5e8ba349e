//! Faults that a descriptor injects on purpose, at their time.

use std::{sync::Arc, time::Duration};

use tracing::warn;

use super::pace::Pace;
use crate::{
    descriptor::graph::{FaultKind, FaultTarget, Feed, Graph},
    run::system::System,
};

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// When, since the start.
    pub at: Duration,
    /// What goes wrong.
    pub kind: FaultKind,
    /// Where.
    pub target: FaultTarget,
}

/// The faults of a graph.
pub fn of(graph: &Graph) -> Vec<Fault> {
    graph
        .sources
        .iter()
        .filter_map(|source| match &source.feed {
            Feed::Fault { kind, target } => Some(Fault {
                at: source.at,
                kind: *kind,
                target: target.clone(),
            }),
            Feed::Wav { .. } | Feed::Images { .. } | Feed::JsonLines { .. } | Feed::Text { .. } => {
                None
            }
        })
        .collect()
}

/// Injects a fault when its time has come.
pub async fn inject(fault: Fault, system: Arc<System>, mut pace: Pace) {
    pace.until(fault.at).await;
    match (fault.kind, &fault.target) {
        (FaultKind::Stall { hold }, FaultTarget::Model(name)) => {
            if !system.servers.stall(name, hold) {
                warn!(model = %name, "cannot be stalled: it does not run");
            }
        }
        (
            FaultKind::Kill | FaultKind::Panic,
            FaultTarget::Node(name) | FaultTarget::Model(name),
        ) => system.kill(name),
        // A node never computes: what can stall is its model.
        (FaultKind::Stall { .. }, FaultTarget::Node(name)) => {
            warn!(node = %name, "a node cannot be stalled; name its model")
        }
    }
}
