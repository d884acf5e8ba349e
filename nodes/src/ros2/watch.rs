//! Who speaks another version: endpoints of others on our topics whose type or type hash differs from ours.
//!
//! rmw_zenoh puts the hash into the key, so two versions of a message see each other in the graph and exchange nothing, without a word in
//! any log. Here it is said, once for every such endpoint, in the diagnostics of the node concerned.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use llmasos_msgs::{
    hash::NOT_SUPPORTED,
    rmw_zenoh::{Entity, EntityKind, TOKEN_PREFIX},
};
use zenoh::{Session, pubsub::Subscriber, sample::SampleKind};

use super::Subject;
use crate::{
    bus::{BusError, topic_error},
    health::NodeHealth,
};

/// Endpoints of others that are kept in mind; a graph with more is watched as far as that.
const OTHERS_MAX: usize = 10_000;

/// An endpoint of ours.
pub(super) struct Own {
    pub(super) kind: EntityKind,
    pub(super) subject: Subject,
    /// The topic as diagnostics name it.
    pub(super) topic: String,
    pub(super) health: NodeHealth,
}

/// The watch of one session.
pub(super) struct Watch {
    graph: Arc<Mutex<Graph>>,
    _subscriber: Subscriber<()>,
}

#[derive(Default)]
struct Graph {
    others: BTreeMap<String, Entity>,
    own: BTreeMap<u64, Own>,
    next: u64,
}

/// One endpoint under watch, until dropped.
pub(super) struct Watched {
    graph: Arc<Mutex<Graph>>,
    number: u64,
}

impl Watch {
    pub(super) async fn open(session: &Session, domain: u32) -> Result<Watch, BusError> {
        let graph: Arc<Mutex<Graph>> = Arc::default();
        let (seen, own_session) = (Arc::clone(&graph), session.zid().to_string());
        let key = format!("{TOKEN_PREFIX}/{domain}/**");
        let subscriber = session
            .liveliness()
            .declare_subscriber(key.clone())
            .history(true)
            .callback(move |sample| {
                let token = sample.key_expr().as_str();
                let mut graph = lock(&seen);
                match sample.kind() {
                    SampleKind::Put => {
                        // A token that cannot be read is of a later rmw_zenoh: nothing to compare.
                        if let Ok(entity) = Entity::parse(token)
                            && entity.session != own_session
                        {
                            graph.add_other(token, entity);
                        }
                    }
                    SampleKind::Delete => {
                        graph.others.remove(token);
                    }
                }
            })
            .await
            .map_err(|error| topic_error(&key, &error))?;
        Ok(Watch {
            graph,
            _subscriber: subscriber,
        })
    }

    pub(super) fn add(&self, own: Own) -> Watched {
        let mut graph = lock(&self.graph);
        for other in graph.others.values() {
            own.compare(other);
        }
        let number = graph.next;
        graph.next += 1;
        graph.own.insert(number, own);
        Watched {
            graph: Arc::clone(&self.graph),
            number,
        }
    }
}

impl Graph {
    fn add_other(&mut self, token: &str, entity: Entity) {
        if self.others.len() >= OTHERS_MAX || entity.endpoint.is_none() {
            return;
        }
        for own in self.own.values() {
            own.compare(&entity);
        }
        self.others.insert(token.to_owned(), entity);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        lock(&self.graph).own.remove(&self.number);
    }
}

impl Own {
    fn compare(&self, other: &Entity) {
        if let Some(difference) = difference(self.kind, &self.subject, other) {
            self.health.refuse(&self.topic, &difference);
        }
    }
}

/// What keeps an endpoint of ours and one of another node apart, if they are the two ends of one subject and do not meet.
fn difference(kind: EntityKind, own: &Subject, other: &Entity) -> Option<String> {
    let endpoint = other.endpoint.as_ref()?;
    let role = match (kind, other.kind) {
        (EntityKind::Publisher, EntityKind::Subscription) => "subscribes to",
        (EntityKind::Subscription, EntityKind::Publisher) => "publishes",
        (EntityKind::Service, EntityKind::Client) => "calls",
        (EntityKind::Client, EntityKind::Service) => "serves",
        _ => return None,
    };
    if endpoint.name != own.name {
        return None;
    }
    let who = format!("{} {role} {}", other.node_name(), own.name);
    if endpoint.type_name != own.type_name {
        return Some(format!(
            "expected {}, found {}: {who}",
            own.type_name, endpoint.type_name
        ));
    }
    let open = |hash: &str| hash == "*";
    if endpoint.hash == own.hash || open(&endpoint.hash) || open(&own.hash) {
        return None;
    }
    let hashless = endpoint.hash == NOT_SUPPORTED || own.hash == NOT_SUPPORTED;
    // Our subscriptions take any key; a sample without a hash is decoded as ours.
    if hashless && kind == EntityKind::Subscription {
        return None;
    }
    if hashless {
        return Some(format!(
            "{who} with {}, this side has {}: ROS 2 Humble has no type hashes and exchanges nothing with later distributions; set distro to what the others run",
            endpoint.hash, own.hash
        ));
    }
    Some(format!(
        "{who} with {} of hash {}, expected {}: another version of the message; build both sides from the same package",
        own.type_name, endpoint.hash, own.hash
    ))
}

fn lock(graph: &Mutex<Graph>) -> MutexGuard<'_, Graph> {
    graph.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmasos_msgs::rmw_zenoh::{Endpoint, QosProfile};

    fn subject(hash: &str) -> Subject {
        Subject {
            name: "/x".into(),
            type_name: "std_msgs/msg/String".into(),
            hash: hash.into(),
        }
    }

    fn other(kind: EntityKind, name: &str, type_name: &str, hash: &str) -> Entity {
        Entity {
            domain: 0,
            session: "a1".into(),
            node_id: 0,
            id: 1,
            enclave: String::new(),
            namespace: "/".into(),
            node: "talker".into(),
            kind,
            endpoint: Some(Endpoint {
                name: name.into(),
                type_name: type_name.into(),
                hash: hash.into(),
                qos: QosProfile::default(),
            }),
        }
    }

    #[test]
    fn the_two_ends_of_a_topic_are_compared() {
        use EntityKind::{Publisher, Subscription};
        const TEXT: &str = "std_msgs/msg/String";
        for (own, theirs, own_hash, expected, why) in [
            (
                Subscription,
                other(Publisher, "/x", TEXT, "RIHS01_a"),
                "RIHS01_a",
                None,
                "the same version",
            ),
            (
                Subscription,
                other(Publisher, "/x", TEXT, "RIHS01_b"),
                "RIHS01_a",
                Some("another version"),
                "another hash",
            ),
            (
                Subscription,
                other(Publisher, "/x", TEXT, "*"),
                "RIHS01_a",
                None,
                "CARLA says any",
            ),
            (
                Subscription,
                other(Publisher, "/x", TEXT, NOT_SUPPORTED),
                "RIHS01_a",
                None,
                "we take Humble's samples",
            ),
            (
                Publisher,
                other(Subscription, "/x", TEXT, NOT_SUPPORTED),
                "RIHS01_a",
                Some("Humble"),
                "it does not take ours",
            ),
            (
                Publisher,
                other(Subscription, "/x", "std_msgs/msg/Bool", "RIHS01_c"),
                "RIHS01_a",
                Some("expected std_msgs/msg/String"),
                "another type",
            ),
            (
                Publisher,
                other(Subscription, "/y", TEXT, "RIHS01_b"),
                "RIHS01_a",
                None,
                "another topic",
            ),
            (
                Publisher,
                other(Publisher, "/x", TEXT, "RIHS01_b"),
                "RIHS01_a",
                None,
                "two publishers do not talk to each other",
            ),
        ] {
            let found = difference(own, &subject(own_hash), &theirs);
            match expected {
                None => assert_eq!(found, None, "{why}"),
                Some(part) => assert!(
                    found.as_deref().is_some_and(|text| text.contains(part)),
                    "{why}: {found:?}"
                ),
            }
        }
    }
}
