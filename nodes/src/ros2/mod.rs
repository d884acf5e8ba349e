//! A session's part of the ROS 2 graph that runs on rmw_zenoh: who is there, under which keys, and who speaks another version.
//!
//! ROS 2 nodes on rmw_zenoh find each other by liveliness tokens and exchange samples on keys that name domain, topic, type and type
//! hash, each sample with 33 bytes beside it. A session with a [`Ros2`] does the same *beside* its plain keys, so that the Zenoh command
//! line, bridges and our own nodes go on as before:
//!
//! ```text
//! output ─┬─ ego/llmasos/gate/verdict                                          plain lane
//!         └─ 0/ego/llmasos/gate/verdict/llmasos_msgs::msg::dds_::GateVerdict_/RIHS01_…   ROS lane, with token MP
//! input  ─┬─ odometry
//!         └─ 0/odometry/nav_msgs::msg::dds_::Odometry_/*                       any hash; one that differs is refused with its reason
//! ```

mod copies;
mod presence;
mod watch;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use llmasos_msgs::{
    Registry,
    hash::NOT_SUPPORTED,
    rmw_zenoh::{self, EntityKind, QosProfile},
};
use zenoh::Session;

pub use self::{copies::Copies, presence::Presence};
use self::{presence::NodeToken, watch::Watch};
use crate::{bus::BusError, health::NodeHealth};

/// Name of the node that stands for a whole process: its diagnostics belong to no single node.
pub const PROCESS_NODE: &str = "llmasos";

/// How a session takes part in the ROS 2 graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ros2Options {
    /// `ROS_DOMAIN_ID`, 0 to 232.
    pub domain: u32,
    /// What the other nodes run.
    pub distro: Distro,
}

/// A ROS 2 distribution, as far as it differs on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distro {
    /// 2022. Has no type hashes.
    Humble,
    /// 2024.
    #[default]
    Jazzy,
    /// 2025.
    Kilted,
    /// 2026.
    Lyrical,
    /// What comes next.
    Rolling,
}

impl Distro {
    /// All of them with their names, oldest first.
    pub const ALL: [(&str, Distro); 5] = [
        ("humble", Distro::Humble),
        ("jazzy", Distro::Jazzy),
        ("kilted", Distro::Kilted),
        ("lyrical", Distro::Lyrical),
        ("rolling", Distro::Rolling),
    ];

    /// The distribution of that name.
    pub fn from_name(name: &str) -> Option<Distro> {
        Distro::ALL
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, distro)| distro)
    }

    /// Whether its keys carry type hashes.
    pub fn has_hashes(self) -> bool {
        self != Distro::Humble
    }
}

/// This session's part of the graph. Clones share it.
#[derive(Clone)]
pub struct Ros2 {
    shared: Arc<Shared>,
}

struct Shared {
    session: Session,
    options: Ros2Options,
    /// Namespace of the nodes, with its slash.
    namespace: String,
    /// Numbers of nodes and endpoints, unique in the session.
    next_id: AtomicU32,
    nodes: Mutex<HashMap<String, Weak<NodeToken>>>,
    watch: Watch,
}

/// A topic or service as the ROS graph names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Full name with its slash.
    pub name: String,
    /// Type on the wire, `std_msgs/msg/String`.
    pub type_name: String,
    /// Type hash, or what stands for one.
    pub hash: String,
}

impl Ros2 {
    pub(crate) async fn open(
        session: &Session,
        options: Ros2Options,
        namespace: &str,
    ) -> Result<Ros2, BusError> {
        Ok(Ros2 {
            shared: Arc::new(Shared {
                session: session.clone(),
                options,
                namespace: format!("/{namespace}"),
                next_id: AtomicU32::new(0),
                nodes: Mutex::default(),
                watch: Watch::open(session, options.domain).await?,
            }),
        })
    }

    /// Domain and distribution.
    pub fn options(&self) -> Ros2Options {
        self.shared.options
    }

    /// What the graph calls a topic of a known message type. `key` is the topic's plain Zenoh key.
    pub fn topic(&self, key: &str, type_id: &str) -> Option<Subject> {
        let registry = Registry::builtin();
        let found = registry.find(type_id)?;
        Some(self.subject(key, found.name.clone(), || registry.hash_of(found)))
    }

    /// What the graph calls a service. `key` is its plain Zenoh key.
    pub fn service(&self, key: &str, type_name: &str, hash: impl FnOnce() -> String) -> Subject {
        self.subject(key, type_name.to_owned(), hash)
    }

    fn subject(&self, key: &str, type_name: String, hash: impl FnOnce() -> String) -> Subject {
        Subject {
            name: format!("/{key}"),
            type_name,
            hash: match self.shared.options.distro.has_hashes() {
                true => hash(),
                false => NOT_SUPPORTED.to_owned(),
            },
        }
    }

    /// Key on which a subject's messages or requests travel, as an absolute topic of the bus.
    pub fn data_topic(&self, subject: &Subject, hash: &str) -> Option<String> {
        rmw_zenoh::data_key(
            self.shared.options.domain,
            &subject.name,
            &subject.type_name,
            hash,
        )
        .map(|key| format!("/{key}"))
    }

    /// Shows an endpoint of a node, and the node with its first one, until the answer is dropped. `topic` names it in diagnostics.
    ///
    /// # Errors
    /// [`BusError::Topic`] when a name is no Zenoh key.
    pub async fn show(
        &self,
        health: &NodeHealth,
        kind: EntityKind,
        subject: &Subject,
        qos: QosProfile,
        topic: &str,
    ) -> Result<Presence, BusError> {
        let node = self.node(health.name()).await?;
        Presence::declare(self, node, health, kind, subject, qos, topic).await
    }

    /// The token of a node, shared by its endpoints.
    async fn node(&self, name: &str) -> Result<Arc<NodeToken>, BusError> {
        let known = || {
            let nodes = self.shared.nodes.lock();
            nodes
                .unwrap_or_else(PoisonError::into_inner)
                .get(name)
                .and_then(Weak::upgrade)
        };
        if let Some(token) = known() {
            return Ok(token);
        }
        let token = Arc::new(NodeToken::declare(self, name).await?);
        let mut nodes = self
            .shared
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|_, weak| weak.strong_count() > 0);
        nodes.insert(name.to_owned(), Arc::downgrade(&token));
        Ok(token)
    }

    fn take_id(&self) -> u32 {
        self.shared.next_id.fetch_add(1, Ordering::Relaxed)
    }
}
