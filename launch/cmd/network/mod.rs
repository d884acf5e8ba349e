//! What is on the network: nodes and their endpoints, as everybody there announces them.
//!
//! No daemon keeps this: each look asks anew. Whoever publishes without saying so (a plain Zenoh program) is not here; only listening
//! finds it.
//!
//! ```text
//! @ros2_lv/<domain>/**      liveliness   nodes and endpoints of rmw_zenoh        data on <domain>/<name>/<type>/<hash>
//! @/*/@ros2_lv/**           liveliness   endpoints behind zenoh-bridge-ros2dds   data on <name>
//! @/*/ros2/node/**          query        nodes behind a bridge
//! @llmasos/**               query        launches: their nodes and contracts     data on <name>
//! ```

mod described;

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::Result;
use llmasos_msgs::{
    names,
    rmw_zenoh::{Entity, EntityKind, Gid, QosProfile, TOKEN_PREFIX},
    ros2dds::{self, Bridged, BridgedKind},
};
use llmasos_nodes::bus::look::Answer;

use super::connect::{Reached, declared};

/// How long a look waits for answers; usually all are there in milliseconds.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// By which way an endpoint is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Route {
    /// A key that is the name itself.
    Plain,
    /// The same key, through zenoh-bridge-ros2dds.
    Bridge,
    /// A key of rmw_zenoh.
    RmwZenoh,
}

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
    /// Publishes a topic.
    Publisher,
    /// Subscribes to one.
    Subscription,
    /// Serves a service.
    Service,
    /// Calls one.
    Client,
    /// Serves an action.
    ActionServer,
    /// Calls one.
    ActionClient,
}

/// An endpoint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// What it does.
    pub(super) role: Role,
    /// Full name of the topic, service or action, with its slash.
    pub(super) name: String,
    /// Type in ROS form.
    pub(super) type_name: String,
    /// Type hash, where it is told.
    pub(super) hash: Option<String>,
    /// QoS, where it is told.
    pub(super) qos: Option<QosProfile>,
    /// Full name of its node, where it is told.
    pub(super) node: Option<String>,
    /// Its identity in attachments, where there is one.
    pub(super) gid: Option<Gid>,
    /// The ways it is reached.
    pub(super) routes: Vec<Route>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// The ways it was found.
    pub(super) routes: Vec<Route>,
    /// State of a node of ours, such as `ready`.
    pub(super) state: Option<String>,
    /// How many nodes have this name.
    pub(super) count: usize,
    /// Its endpoints as role, name and type.
    pub(super) endpoints: Vec<(Role, String, String)>,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    /// Endpoints, those of rmw_zenoh first.
    pub(super) endpoints: Vec<Endpoint>,
    /// Nodes by full name.
    pub(super) nodes: BTreeMap<String, Node>,
    /// Types of topics as contracts of launches name them, by full name.
    pub(super) contracts: BTreeMap<String, String>,
    /// Bridges.
    pub(super) bridges: usize,
}

impl Network {
    /// Looks once.
    ///
    /// # Errors
    /// When the session cannot look at all.
    pub(super) async fn look(reached: &Reached) -> Result<Network> {
        let bus = &reached.bus;
        let rmw = format!("{TOKEN_PREFIX}/{}/**", reached.domain);
        let (rmw, bridged, nodes, launches) = tokio::join!(
            bus.tokens(&rmw, LOOK_LIMIT),
            bus.tokens("@/*/@ros2_lv/**", LOOK_LIMIT),
            bus.ask("@/*/ros2/node/**", LOOK_LIMIT),
            bus.ask("@llmasos/**", LOOK_LIMIT),
        );
        Ok(Network::of(
            &declared(rmw)?,
            &declared(bridged)?,
            &declared(nodes)?,
            &declared(launches)?,
        ))
    }

    /// Puts together what was heard. What cannot be read is of a later version or no friend, and is left out.
    fn of(rmw: &[String], bridged: &[String], nodes: &[Answer], launches: &[Answer]) -> Network {
        let mut network = Network::default();
        for entity in rmw.iter().filter_map(|token| Entity::parse(token).ok()) {
            network.add_rmw(entity);
        }
        for token in bridged {
            match ros2dds::parse(token) {
                Some(bridged) => network.add_bridged(bridged),
                None => network.bridges += usize::from(ros2dds::bridge(token).is_some()),
            }
        }
        for answer in nodes {
            if let Some(node) = described::bridged_node(answer) {
                network.add_node(node, Route::Bridge);
            }
        }
        network.name_bridged();
        for answer in launches {
            let Some(launch) = described::launch(answer) else {
                continue;
            };
            network.contracts.extend(launch.contracts);
            for node in launch.nodes {
                network.add_launched(&node);
                network.add_node(node, Route::Plain);
            }
        }
        network
    }

    /// The endpoints of a topic, service or action by full name.
    pub(super) fn of_name<'n>(&'n self, name: &'n str) -> impl Iterator<Item = &'n Endpoint> {
        self.endpoints
            .iter()
            .filter(move |endpoint| endpoint.name == name)
    }

    /// The types of a topic, most told first; more than one when people disagree.
    pub(super) fn types(&self, name: &str) -> Vec<String> {
        let mut types: Vec<String> = Vec::new();
        let told = self
            .of_name(name)
            .filter(|endpoint| endpoint.role.is_topic());
        let told = told.map(|endpoint| &endpoint.type_name);
        for type_name in told.chain(self.contracts.get(name)) {
            if !types.contains(type_name) {
                types.push(type_name.clone());
            }
        }
        types
    }

    /// Whether anybody knows the topic.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.contracts.contains_key(name)
            || self.of_name(name).any(|endpoint| endpoint.role.is_topic())
    }

    /// How many endpoints of a topic have a role.
    pub(super) fn count(&self, name: &str, role: Role) -> usize {
        self.of_name(name)
            .filter(|endpoint| endpoint.role == role)
            .count()
    }

    fn add_rmw(&mut self, entity: Entity) {
        let full = entity.node_name();
        let node = self.nodes.entry(full.clone()).or_default();
        add_route(&mut node.routes, Route::RmwZenoh);
        let (role, gid) = match entity.kind {
            EntityKind::Node => {
                node.count += 1;
                return;
            }
            EntityKind::Publisher => (Role::Publisher, entity.gid()),
            EntityKind::Subscription => (Role::Subscription, entity.gid()),
            EntityKind::Service => (Role::Service, entity.gid()),
            EntityKind::Client => (Role::Client, entity.gid()),
        };
        let Some(endpoint) = entity.endpoint else {
            return;
        };
        node.add(role, &endpoint.name, &endpoint.type_name);
        self.endpoints.push(Endpoint {
            role,
            name: endpoint.name,
            type_name: endpoint.type_name,
            hash: Some(endpoint.hash),
            qos: Some(endpoint.qos),
            node: Some(full),
            gid: Some(gid),
            routes: vec![Route::RmwZenoh],
        });
    }

    fn add_bridged(&mut self, bridged: Bridged) {
        let role = match bridged.kind {
            BridgedKind::Endpoint(EntityKind::Publisher) => Role::Publisher,
            BridgedKind::Endpoint(EntityKind::Subscription) => Role::Subscription,
            BridgedKind::Endpoint(EntityKind::Service) => Role::Service,
            BridgedKind::Endpoint(EntityKind::Client) => Role::Client,
            BridgedKind::ActionServer => Role::ActionServer,
            BridgedKind::ActionClient => Role::ActionClient,
            // A bridge announces no nodes.
            BridgedKind::Endpoint(EntityKind::Node) => return,
        };
        self.endpoints.push(Endpoint {
            role,
            name: bridged.name,
            type_name: bridged.type_name,
            hash: bridged.hash,
            qos: bridged.qos,
            node: None,
            gid: None,
            routes: vec![Route::Bridge],
        });
    }

    /// A bridge announces one endpoint for all nodes behind it; its admin space says which these are.
    fn name_bridged(&mut self) {
        let mut behind: BTreeMap<&(Role, String, String), Vec<&String>> = BTreeMap::new();
        let bridged = self
            .nodes
            .iter()
            .filter(|(_, node)| node.routes.contains(&Route::Bridge));
        for (name, node) in bridged {
            for endpoint in &node.endpoints {
                behind.entry(endpoint).or_default().push(name);
            }
        }
        let mut named = Vec::with_capacity(self.endpoints.len());
        for endpoint in std::mem::take(&mut self.endpoints) {
            let key = (
                endpoint.role,
                endpoint.name.clone(),
                endpoint.type_name.clone(),
            );
            let is_bridged = endpoint.node.is_none() && endpoint.routes == [Route::Bridge];
            match behind.get(&key).filter(|_| is_bridged) {
                None => named.push(endpoint),
                Some(nodes) => named.extend(nodes.iter().map(|node| Endpoint {
                    node: Some((*node).clone()),
                    ..endpoint.clone()
                })),
            }
        }
        self.endpoints = named;
    }

    /// Endpoints of a launch's node; one that is also on rmw_zenoh is the same endpoint by another way.
    fn add_launched(&mut self, node: &described::Node) {
        for (role, name, type_name) in &node.endpoints {
            let same = self.endpoints.iter_mut().find(|known| {
                known.role == *role
                    && known.name == *name
                    && known.node.as_deref() == Some(&node.name)
            });
            match same {
                Some(known) => add_route(&mut known.routes, Route::Plain),
                None => self.endpoints.push(Endpoint {
                    role: *role,
                    name: name.clone(),
                    type_name: type_name.clone(),
                    hash: None,
                    qos: None,
                    node: Some(node.name.clone()),
                    gid: None,
                    routes: vec![Route::Plain],
                }),
            }
        }
    }

    fn add_node(&mut self, described: described::Node, route: Route) {
        let node = self.nodes.entry(described.name).or_default();
        add_route(&mut node.routes, route);
        node.count = node.count.max(1);
        node.state = described.state.or(node.state.take());
        for (role, name, type_name) in described.endpoints {
            node.add(role, &name, &type_name);
        }
    }
}

impl Node {
    fn add(&mut self, role: Role, name: &str, type_name: &str) {
        let endpoint = (role, name.to_owned(), type_name.to_owned());
        if !self.endpoints.contains(&endpoint) {
            self.endpoints.push(endpoint);
        }
    }
}

fn add_route(routes: &mut Vec<Route>, route: Route) {
    if !routes.contains(&route) {
        routes.push(route);
        routes.sort();
    }
}

impl Role {
    /// Whether it belongs to a topic.
    pub(super) fn is_topic(self) -> bool {
        matches!(self, Role::Publisher | Role::Subscription)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Route::Plain => "plain",
            Route::Bridge => "bridge",
            Route::RmwZenoh => "rmw_zenoh",
        })
    }
}

/// Routes in one word for a table.
pub(super) fn routes_text(routes: &[Route]) -> String {
    let names: Vec<String> = routes.iter().map(Route::to_string).collect();
    names.join(",")
}

/// Whether ROS hides a name: a part of it begins with an underscore.
pub(super) fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('_'))
}

/// The full ROS name of a plain key, or the key itself where ROS has no such name.
pub(super) fn ros_name(key: &str) -> String {
    names::key_to_topic(key).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HASH: &str = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18";

    fn answer(key: &str, value: &serde_json::Value) -> Answer {
        Answer {
            key: key.to_owned(),
            encoding: "application/json".to_owned(),
            payload: value.to_string().into_bytes(),
        }
    }

    fn network() -> Network {
        let rmw = [
            "@ros2_lv/0/a1/0/0/NN/%/%ego/gate".to_owned(),
            format!(
                "@ros2_lv/0/a1/0/1/MP/%/%ego/gate/%ego%verdict/std_msgs::msg::dds_::String_/{HASH}/::,10:,:,:,,"
            ),
            "@ros2_lv/0/b2/0/0/NN/%/%/talker".to_owned(),
            format!(
                "@ros2_lv/0/b2/0/1/MP/%/%/talker/%chatter/std_msgs::msg::dds_::String_/{HASH}/::,10:,:,:,,"
            ),
            "@ros2_lv/0/b2/nonsense".to_owned(),
        ];
        let bridged = [
            "@/64b577aa/@ros2_lv".to_owned(),
            "@/64b577aa/@ros2_lv/MS/chatter/std_msgs§msg§String/:1:::".to_owned(),
            "@/64b577aa/@ros2_lv/AS/fib/test_msgs§action§Fibonacci".to_owned(),
        ];
        let nodes = [answer(
            "@/64b577aa/ros2/node/0110aabb/listener",
            &json!({ "subscribers": [{ "name": "/chatter", "type": "std_msgs/msg/String" }], "publishers": 3 }),
        )];
        let launches = [
            answer(
                "@llmasos/ego/graph",
                &json!({
                    "topics": [{ "name": "/ego/odometry", "type": "nav_msgs/msg/Odometry" }],
                    "nodes": [{
                        "name": "/ego/gate", "state": "ready",
                        "publishers": [{ "name": "/ego/verdict", "type": "std_msgs/msg/String" }],
                        "subscribers": [{ "name": "/ego/odometry", "type": "nav_msgs/msg/Odometry" }],
                    }],
                }),
            ),
            answer("@llmasos/ego/gate", &json!({ "verdict": "ACCEPTED" })),
        ];
        Network::of(&rmw, &bridged, &nodes, &launches)
    }

    #[test]
    fn what_everybody_announces_becomes_one_picture() {
        let network = network();
        let names: Vec<&String> = network.nodes.keys().collect();
        assert_eq!(names, ["/ego/gate", "/listener", "/talker"]);
        let gate = &network.nodes["/ego/gate"];
        assert_eq!(
            gate.routes,
            [Route::Plain, Route::RmwZenoh],
            "one node, two ways"
        );
        assert_eq!(gate.state.as_deref(), Some("ready"));
        assert_eq!(gate.endpoints.len(), 2);
        assert_eq!(
            network.count("/ego/verdict", Role::Publisher),
            1,
            "not counted twice"
        );
        let verdict = network.of_name("/ego/verdict").next().unwrap();
        assert_eq!(verdict.routes, [Route::Plain, Route::RmwZenoh]);
        assert_eq!(network.count("/chatter", Role::Publisher), 1);
        assert_eq!(
            network.count("/chatter", Role::Subscription),
            1,
            "through the bridge"
        );
        let listener = network
            .of_name("/chatter")
            .find(|endpoint| endpoint.role == Role::Subscription);
        assert_eq!(
            listener.unwrap().node.as_deref(),
            Some("/listener"),
            "named by the admin space"
        );
        assert_eq!(network.types("/ego/odometry"), ["nav_msgs/msg/Odometry"]);
        assert!(
            network.knows("/ego/odometry") && !network.knows("/fib"),
            "an action is no topic"
        );
        assert_eq!(network.bridges, 1);
    }

    #[test]
    fn names_are_told_apart() {
        assert!(is_hidden("/fib/_action/status") && is_hidden("/_x") && !is_hidden("/a_b"));
        assert_eq!(ros_name("ego/odometry"), "/ego/odometry");
        assert_eq!(ros_name("ego/@json"), "ego/@json", "ROS has no such name");
        assert_eq!(
            routes_text(&[Route::Plain, Route::RmwZenoh]),
            "plain,rmw_zenoh"
        );
    }
}
