//! Publishing by every route on which somebody is: the plain key, the rmw_zenoh key, or both.
//!
//! What goes out was encoded by a definition: never text as it was typed. On an rmw_zenoh key every message carries the attachment
//! without which a ROS 2 node drops it, and the publisher shows itself in the graph. Copies of one message carry the same number, so
//! that who listens to both takes it once.

use anyhow::Result;
use clap::ValueEnum;
use llmasos_msgs::{
    hash::NOT_SUPPORTED,
    registry::{Registry, Type},
    rmw_zenoh::{
        Attachment, DataKey, Endpoint, Entity, EntityKind, Gid, QosProfile, Reliability, data_key,
    },
};
use llmasos_nodes::{
    bus::{Priority, Qos, RawPublisher, look::Token},
    clock,
};

use super::{
    super::{
        connect::{Reached, declared},
        network::{Network, Role, Route},
        usage::wrong,
    },
    name::Name,
};

/// Which routes are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum RouteFlag {
    /// Where somebody is; the plain key where nobody is
    #[default]
    Auto,
    /// The plain key: launches, zenoh-bridge-ros2dds, Zenoh programs
    Plain,
    /// The key of rmw_zenoh
    #[value(name = "rmw_zenoh")]
    RmwZenoh,
    /// Both
    Both,
}

/// Open publishers of one topic.
pub(super) struct Outlet {
    lanes: Vec<RawPublisher>,
    /// Who publishes on rmw_zenoh, and how much so far.
    sender: Option<(Gid, i64)>,
    _tokens: Vec<Token>,
}

/// What an outlet is opened for.
pub(super) struct Purpose<'a> {
    /// The topic.
    pub(super) name: &'a Name,
    /// Definitions.
    pub(super) registry: &'a Registry,
    /// Its type.
    pub(super) found: &'a Type,
    /// How samples are kept and sent again.
    pub(super) qos: QosProfile,
    /// Which routes.
    pub(super) route: RouteFlag,
    /// Name of the node that is shown.
    pub(super) node: &'a str,
}

/// The routes that are taken, plain and rmw_zenoh.
fn routes(network: &Network, name: &Name, flag: RouteFlag) -> (bool, bool) {
    if name.plain.is_none() {
        return (false, true);
    }
    let has = |route: Route| {
        let mut all = network
            .of_name(&name.shown)
            .filter(|endpoint| endpoint.role.is_topic());
        all.any(|endpoint| endpoint.routes.contains(&route))
    };
    match flag {
        RouteFlag::Plain => (true, false),
        RouteFlag::RmwZenoh => (false, true),
        RouteFlag::Both => (true, true),
        RouteFlag::Auto => {
            let rmw = has(Route::RmwZenoh);
            let plain = has(Route::Plain)
                || has(Route::Bridge)
                || network.contracts.contains_key(&name.shown);
            (plain || !rmw, rmw)
        }
    }
}

/// The hashes under which subscribers wait, and those of them that no definition here has.
fn hashes(
    registry: &Registry,
    network: &Network,
    name: &Name,
    found: &Type,
) -> (Vec<String>, Vec<String>) {
    let own = registry.hash_of(found);
    let (mut taken, mut foreign) = (Vec::new(), Vec::new());
    let subscribers = network
        .of_name(&name.shown)
        .filter(|endpoint| endpoint.role == Role::Subscription);
    for hash in subscribers
        .filter(|endpoint| endpoint.type_name == found.name)
        .filter_map(|endpoint| endpoint.hash.as_ref())
    {
        let list = match hash == NOT_SUPPORTED || *hash == own {
            true => &mut taken,
            // A subscription to any hash takes ours.
            false if hash == "*" => continue,
            false => &mut foreign,
        };
        if !list.contains(hash) {
            list.push(hash.clone());
        }
    }
    // Whoever comes later comes with a hash, unless only Humble is there.
    if taken.is_empty() {
        taken.push(own);
    }
    (taken, foreign)
}

/// The type a person means where packages share its name: the one whose hash the subscribers have.
pub(super) fn meant<'r>(
    registry: &'r Registry,
    network: &Network,
    name: &Name,
    found: &'r Type,
) -> &'r Type {
    let subscribers = network
        .of_name(&name.shown)
        .filter(|endpoint| endpoint.role == Role::Subscription);
    let mut wanted = subscribers.filter_map(|endpoint| endpoint.hash.as_deref());
    wanted
        .find_map(|hash| registry.with_hash(&found.name, hash))
        .unwrap_or(found)
}

impl Outlet {
    /// Declares the publishers and shows them.
    ///
    /// # Errors
    /// Wrong usage when the topic is no key, or a key of rmw_zenoh with another type.
    pub(super) async fn open(
        reached: &Reached,
        network: &Network,
        purpose: &Purpose<'_>,
    ) -> Result<Outlet> {
        let Purpose {
            name,
            registry,
            found,
            qos,
            route,
            node,
        } = *purpose;
        let (plain, rmw) = routes(network, name, route);
        let mut outlet = Outlet {
            lanes: Vec::new(),
            sender: None,
            _tokens: Vec::new(),
        };
        let how = declared_qos(qos);
        if let Some(key) = name.plain.as_ref().filter(|_| plain) {
            outlet.lanes.push(declared(
                reached.bus.raw_publisher(&format!("/{key}"), how).await,
            )?);
        }
        if !rmw {
            return Ok(outlet);
        }
        let typed = name
            .rmw
            .as_deref()
            .filter(|_| name.plain.is_none())
            .and_then(DataKey::parse);
        if let Some(other) = typed
            .as_ref()
            .and_then(|key| key.type_name.as_ref())
            .filter(|other| **other != found.name)
        {
            return Err(wrong(format!(
                "the key is one of {other}, the type {}",
                found.name
            )));
        }
        let (mut hashes, foreign) = hashes(registry, network, name, found);
        if let Some(hash) = typed
            .as_ref()
            .map(|key| &key.hash)
            .filter(|hash| *hash != "*")
        {
            hashes = vec![hash.clone()];
        }
        for hash in foreign {
            eprintln!(
                "note: a subscriber has another version of {}, {hash}; it gets nothing",
                found.name
            );
        }
        let domain = typed.and_then(|key| key.domain).unwrap_or(reached.domain);
        for (index, hash) in hashes.into_iter().enumerate() {
            let Some(key) = data_key(domain, &name.shown, &found.name, &hash) else {
                return Err(wrong(format!("type {}: expected a message", found.name)));
            };
            // The publisher before its token: who sees the token may count on it.
            outlet.lanes.push(declared(
                reached.bus.raw_publisher(&format!("/{key}"), how).await,
            )?);
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            outlet
                .show(
                    reached,
                    domain,
                    node,
                    number,
                    &Endpoint {
                        name: name.shown.clone(),
                        type_name: found.name.clone(),
                        hash,
                        qos,
                    },
                )
                .await?;
        }
        Ok(outlet)
    }

    /// Declares the tokens of an endpoint, and of the node with the first.
    async fn show(
        &mut self,
        reached: &Reached,
        domain: u32,
        node: &str,
        number: u32,
        endpoint: &Endpoint,
    ) -> Result<()> {
        let entity = Entity {
            domain,
            session: reached.bus.session_id(),
            node_id: 0,
            id: 0,
            enclave: String::new(),
            namespace: format!("/{}", reached.bus.namespace()),
            node: node.to_owned(),
            kind: EntityKind::Node,
            endpoint: None,
        };
        let publisher = Entity {
            id: number + 1,
            kind: EntityKind::Publisher,
            endpoint: Some(endpoint.clone()),
            ..entity.clone()
        };
        if self.sender.is_none() {
            self.sender = Some((publisher.gid(), 0));
            self._tokens.push(declared(
                reached.bus.declare_token(&entity.to_string()).await,
            )?);
        }
        self._tokens.push(declared(
            reached.bus.declare_token(&publisher.to_string()).await,
        )?);
        Ok(())
    }

    /// Publishes one message on every lane.
    ///
    /// # Errors
    /// When the session is gone.
    pub(super) async fn put(&mut self, cdr: &[u8]) -> Result<()> {
        let attachment = self.sender.as_mut().map(|(gid, sequence)| {
            *sequence += 1;
            Attachment {
                sequence: *sequence,
                stamp_ns: clock::now_ns(),
                gid: *gid,
            }
        });
        for lane in &self.lanes {
            match &attachment {
                Some(attachment) => lane.put_attached(cdr.to_vec(), attachment).await?,
                None => lane.put(cdr.to_vec()).await?,
            }
        }
        Ok(())
    }

    /// Whether anybody listens on any lane; unknown counts as yes.
    pub(super) async fn has_listeners(&self) -> bool {
        for lane in &self.lanes {
            if lane.has_listeners().await {
                return true;
            }
        }
        false
    }

    /// The keys that are published on.
    pub(super) fn keys(&self) -> Vec<&str> {
        self.lanes.iter().map(RawPublisher::key).collect()
    }
}

/// What a profile means for Zenoh. A command is not lost to congestion unless best effort is asked for.
fn declared_qos(profile: QosProfile) -> Qos {
    let reliable = profile.reliability == Reliability::Reliable;
    Qos {
        reliable,
        express: true,
        block: reliable,
        priority: Priority::InteractiveHigh,
        transient_local: profile.durability == llmasos_msgs::rmw_zenoh::Durability::TransientLocal,
        depth: profile.depth,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::network;

    fn endpoint(role: Role, route: Route, hash: Option<&str>) -> network::Endpoint {
        network::Endpoint {
            role,
            name: "/x".to_owned(),
            type_name: "std_msgs/msg/String".to_owned(),
            hash: hash.map(str::to_owned),
            qos: None,
            node: None,
            gid: None,
            routes: vec![route],
        }
    }

    fn network(endpoints: Vec<network::Endpoint>) -> Network {
        Network {
            endpoints,
            ..Network::default()
        }
    }

    #[test]
    fn routes_are_those_where_somebody_is() {
        use RouteFlag::{Auto, Both, Plain, RmwZenoh};
        let of = |routes: &[Route]| {
            network(
                routes
                    .iter()
                    .map(|route| endpoint(Role::Subscription, *route, None))
                    .collect(),
            )
        };
        let name = Name::of("/x", "", 0).unwrap();
        for (there, flag, plain, rmw, why) in [
            (&[][..], Auto, true, false, "nobody yet"),
            (
                &[Route::RmwZenoh],
                Auto,
                false,
                true,
                "a ROS node on rmw_zenoh",
            ),
            (&[Route::Bridge], Auto, true, false, "one behind a bridge"),
            (&[Route::Bridge, Route::RmwZenoh], Auto, true, true, "both"),
            (&[Route::RmwZenoh], Plain, true, false, "as told"),
            (&[], RmwZenoh, false, true, "as told"),
            (&[], Both, true, true, "as told"),
        ] {
            assert_eq!(routes(&of(there), &name, flag), (plain, rmw), "{why}");
        }
        let key = Name::of("0/x/std_msgs::msg::dds_::String_/*", "", 0).unwrap();
        assert_eq!(
            routes(&of(&[]), &key, Auto),
            (false, true),
            "a key of rmw_zenoh says it"
        );
    }

    #[test]
    fn subscribers_say_which_hash_they_wait_for() {
        let registry = Registry::builtin();
        let found = registry.find("std_msgs/String").unwrap();
        let own = registry.hash_of(found);
        let name = Name::of("/x", "", 0).unwrap();
        for (there, taken, foreign, why) in [
            (&[][..], &[own.as_str()][..], &[][..], "nobody yet"),
            (&[own.as_str()], &[&own], &[], "Jazzy"),
            (&[NOT_SUPPORTED], &[NOT_SUPPORTED], &[], "Humble alone"),
            (&[NOT_SUPPORTED, &own], &[NOT_SUPPORTED, &own], &[], "both"),
            (&["*"], &[&own], &[], "any"),
            (&["RIHS01_00"], &[&own], &["RIHS01_00"], "another version"),
        ] {
            let there = there
                .iter()
                .map(|hash| endpoint(Role::Subscription, Route::RmwZenoh, Some(hash)));
            let found = hashes(registry, &network(there.collect()), &name, found);
            let strings = |list: &[&str]| {
                list.iter()
                    .map(|text| (*text).to_owned())
                    .collect::<Vec<_>>()
            };
            assert_eq!(found, (strings(taken), strings(foreign)), "{why}");
        }
    }
}
