//! Liveliness tokens: how a node and its endpoints show themselves in the ROS graph, and how others are read.
//!
//! Slashes of names become `%`, so that a name is one chunk; the root namespace and an empty enclave are `%` alone. A node has nine
//! chunks, an endpoint thirteen; Lyrical and later may append a chunk about GPU transport, which is read over.

use std::fmt;

use thiserror::Error;

use super::{
    DOMAIN_MAX,
    attachment::Gid,
    qos::{QosError, QosProfile},
    ros_interface,
};
use crate::{limits::MAX_TOPIC_CHARS, names::dds_type};

/// First chunk of every token.
pub const TOKEN_PREFIX: &str = "@ros2_lv";
/// Chunks of a node's token.
const NODE_CHUNKS: usize = 9;
/// Chunks of an endpoint's token.
const ENDPOINT_CHUNKS: usize = 13;
/// Longest token that is read, in bytes: three names and a type.
const TOKEN_BYTES_MAX: usize = 4 * MAX_TOPIC_CHARS;

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntityKind {
    /// A node.
    Node,
    /// A publisher.
    Publisher,
    /// A subscription.
    Subscription,
    /// A service server.
    Service,
    /// A service client.
    Client,
}

impl EntityKind {
    const ALL: [(EntityKind, &'static str); 5] = [
        (EntityKind::Node, "NN"),
        (EntityKind::Publisher, "MP"),
        (EntityKind::Subscription, "MS"),
        (EntityKind::Service, "SS"),
        (EntityKind::Client, "SC"),
    ];

    fn code(self) -> &'static str {
        match self {
            EntityKind::Node => "NN",
            EntityKind::Publisher => "MP",
            EntityKind::Subscription => "MS",
            EntityKind::Service => "SS",
            EntityKind::Client => "SC",
        }
    }
}

/// A node, or an endpoint of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    /// ROS domain.
    pub domain: u32,
    /// Zenoh session id, hexadecimal.
    pub session: String,
    /// Number of the node in its session.
    pub node_id: u32,
    /// Number of the entity in its session; that of the node for a node.
    pub id: u32,
    /// Security enclave with its slash; empty for none.
    pub enclave: String,
    /// Namespace of the node with its slash: `/` or `/ego`.
    pub namespace: String,
    /// Name of the node.
    pub node: String,
    /// What kind.
    pub kind: EntityKind,
    /// Topic or service; `None` for a node.
    pub endpoint: Option<Endpoint>,
}

/// What an endpoint speaks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Full name of the topic or service, with its slash.
    pub name: String,
    /// Type in ROS form, `std_msgs/msg/String`.
    pub type_name: String,
    /// Type hash, `TypeHashNotSupported`, or `*`.
    pub hash: String,
    /// Its QoS.
    pub qos: QosProfile,
}

/// A key that is no token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Too long.
    #[error("liveliness token of {found} bytes, expected at most {TOKEN_BYTES_MAX}")]
    TooLong {
        /// Its bytes.
        found: usize,
    },
    /// Another number of chunks.
    #[error("liveliness token of {found} chunks, expected {expected}")]
    Chunks {
        /// The chunks there.
        found: usize,
        /// How many belong there.
        expected: usize,
    },
    /// A chunk with something else.
    #[error("liveliness token: expected {expected}, found `{found}`")]
    Chunk {
        /// What belongs there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A QoS that cannot be read.
    #[error(transparent)]
    Qos(#[from] QosError),
}

impl Entity {
    /// Reads a token.
    ///
    /// # Errors
    /// [`TokenError`] with what was expected where.
    pub fn parse(token: &str) -> Result<Entity, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            let found = token.len();
            return Err(TokenError::TooLong { found });
        }
        let chunks: Vec<&str> = token.split('/').collect();
        if chunks.len() < NODE_CHUNKS {
            let (found, expected) = (chunks.len(), NODE_CHUNKS);
            return Err(TokenError::Chunks { found, expected });
        }
        expect(chunks[0] == TOKEN_PREFIX, TOKEN_PREFIX, chunks[0])?;
        let kind = EntityKind::ALL
            .into_iter()
            .find(|(_, code)| *code == chunks[5])
            .map(|(kind, _)| kind);
        let kind = kind.ok_or_else(|| wrong("NN, MP, MS, SS or SC", chunks[5]))?;
        let domain = number(chunks[1], "a domain")?;
        expect(domain <= DOMAIN_MAX, "a domain of at most 232", chunks[1])?;
        let hexadecimal = !chunks[2].is_empty() && chunks[2].bytes().all(|b| b.is_ascii_hexdigit());
        expect(hexadecimal, "a session id", chunks[2])?;
        expect(!chunks[8].is_empty(), "a node name", chunks[8])?;
        let endpoint = match kind {
            EntityKind::Node => None,
            EntityKind::Publisher
            | EntityKind::Subscription
            | EntityKind::Service
            | EntityKind::Client => Some(Endpoint::parse(&chunks)?),
        };
        Ok(Entity {
            domain,
            session: chunks[2].to_owned(),
            node_id: number(chunks[3], "a node number")?,
            id: number(chunks[4], "an entity number")?,
            // A chunk cannot be empty: % alone is no enclave.
            enclave: match chunks[6] {
                "%" => String::new(),
                enclave => unmangled(enclave),
            },
            namespace: rooted(&unmangled(chunks[7])),
            node: chunks[8].to_owned(),
            kind,
            endpoint,
        })
    }

    /// The GID that stands in the attachments of this endpoint.
    #[must_use]
    pub fn gid(&self) -> Gid {
        Gid::of_token(&self.to_string())
    }

    /// Full name of the node, with its slash: `/ego/speech`.
    #[must_use]
    pub fn node_name(&self) -> String {
        format!("{}/{}", self.namespace.trim_end_matches('/'), self.node)
    }
}

impl fmt::Display for Entity {
    /// The token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{TOKEN_PREFIX}/{}/{}/{}/{}/{}/{}/{}/{}",
            self.domain,
            self.session,
            self.node_id,
            self.id,
            self.kind.code(),
            mangled(&self.enclave),
            mangled(&self.namespace),
            self.node
        )?;
        let Some(endpoint) = &self.endpoint else {
            return Ok(());
        };
        let dds = dds_type(&endpoint.type_name).unwrap_or_default();
        write!(
            f,
            "/{}/{dds}/{}/{}",
            mangled(&endpoint.name),
            endpoint.hash,
            endpoint.qos
        )
    }
}

impl Endpoint {
    fn parse(chunks: &[&str]) -> Result<Endpoint, TokenError> {
        let Some([name, dds, hash, qos]) = chunks.get(NODE_CHUNKS..ENDPOINT_CHUNKS) else {
            let (found, expected) = (chunks.len(), ENDPOINT_CHUNKS);
            return Err(TokenError::Chunks { found, expected });
        };
        let sound = name.len() > 1 && name.starts_with('%');
        expect(sound, "a name that begins with %", name)?;
        expect(!hash.is_empty(), "a type hash", hash)?;
        Ok(Endpoint {
            name: unmangled(name),
            type_name: ros_interface(dds).ok_or_else(|| wrong("a type", dds))?,
            hash: (*hash).to_owned(),
            qos: QosProfile::parse(qos)?,
        })
    }
}

/// Names are at least `%`: a chunk of a key cannot be empty.
fn mangled(name: &str) -> String {
    match name {
        "" => "%".to_owned(),
        name => name.replace('/', "%"),
    }
}

fn unmangled(chunk: &str) -> String {
    chunk.replace('%', "/")
}

fn rooted(namespace: &str) -> String {
    format!("/{}", namespace.trim_matches('/'))
}

fn number(chunk: &str, expected: &'static str) -> Result<u32, TokenError> {
    chunk.parse().map_err(|_| wrong(expected, chunk))
}

fn expect(sound: bool, expected: &'static str, found: &str) -> Result<(), TokenError> {
    match sound {
        true => Ok(()),
        false => Err(wrong(expected, found)),
    }
}

fn wrong(expected: &'static str, found: &str) -> TokenError {
    TokenError::Chunk {
        expected,
        found: found.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rmw_zenoh::{Durability, Reliability};
    use proptest::prelude::*;

    const HASH: &str = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18";

    fn captured() -> String {
        format!(
            "@ros2_lv/0/fbf56a09465b206cdcdf6c69ab205219/0/1/MP/%/%demo/talker/%demo%chatter/std_msgs::msg::dds_::String_/{HASH}/::,10:,:,:,,"
        )
    }

    #[test]
    fn a_captured_publisher_is_read_and_written() {
        let entity = Entity::parse(&captured()).unwrap();
        assert_eq!(entity.to_string(), captured());
        assert_eq!(entity.node_name(), "/demo/talker");
        assert_eq!((entity.domain, entity.node_id, entity.id), (0, 0, 1));
        assert_eq!(entity.kind, EntityKind::Publisher);
        let endpoint = entity.endpoint.unwrap();
        assert_eq!(endpoint.name, "/demo/chatter");
        assert_eq!(endpoint.type_name, "std_msgs/msg/String");
        assert_eq!(endpoint.qos.depth, 10);
    }

    #[test]
    fn nodes_services_and_later_versions_are_read() {
        let node = "@ros2_lv/7/a1/3/3/NN/%/%/carla_bridge";
        let parsed = Entity::parse(node).unwrap();
        assert_eq!(parsed.node_name(), "/carla_bridge");
        assert_eq!(parsed.endpoint, None);
        assert_eq!(parsed.to_string(), node);

        let service = format!(
            "@ros2_lv/0/a1/3/4/SS/%/%ego/gate/%ego%rearm/std_srvs::srv::dds_::Trigger_/{HASH}/::,10:,:,:,,"
        );
        let parsed = Entity::parse(&service).unwrap();
        assert_eq!(parsed.kind, EntityKind::Service);
        assert_eq!(parsed.endpoint.unwrap().type_name, "std_srvs/srv/Trigger");

        // The GID is the hash of the token as it was written: every name comes back as it was.
        let enclaved = captured().replace("/MP/%/", "/MP/%vehicles%ego/");
        let parsed = Entity::parse(&enclaved).unwrap();
        assert_eq!(parsed.enclave, "/vehicles/ego");
        assert_eq!(parsed.to_string(), enclaved);

        let lyrical = format!("{}/backends:cuda:1", captured());
        assert!(Entity::parse(&lyrical).is_ok(), "a fourteenth chunk");

        let latched = captured().replace("::,10:", "2:1:,1:");
        let qos = Entity::parse(&latched).unwrap().endpoint.unwrap().qos;
        assert_eq!(qos.reliability, Reliability::BestEffort);
        assert_eq!(qos.durability, Durability::TransientLocal);
    }

    #[test]
    fn other_keys_say_what_is_wrong() {
        let endpoint = captured();
        for (token, message) in [
            ("ego/chatter".to_owned(), "2 chunks, expected 9"),
            (endpoint.replace("@ros2_lv", "@other"), "expected @ros2_lv"),
            (endpoint.replace("/MP/", "/XX/"), "expected NN, MP"),
            (
                endpoint.replace("@ros2_lv/0", "@ros2_lv/300"),
                "at most 232",
            ),
            (
                endpoint.replace("@ros2_lv/0", "@ros2_lv/-1"),
                "expected a domain",
            ),
            (endpoint.replace("fbf56a", "xyz"), "a session id"),
            (
                endpoint.replace("dds_::String_", "String"),
                "expected a type",
            ),
            (
                endpoint.replace("%demo%chatter", "chatter"),
                "begins with %",
            ),
            (
                endpoint.replace("/::,10:,:,:,,", ""),
                "12 chunks, expected 13",
            ),
            (endpoint.replace("::,10:,:,:,,", "x"), "six fields"),
            ("x".repeat(TOKEN_BYTES_MAX + 1), "expected at most 4096"),
        ] {
            let error = Entity::parse(&token).unwrap_err().to_string();
            assert!(error.contains(message), "{token}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[@a-z0-9%:/,_]{0,200}") {
            if let Ok(entity) = Entity::parse(&text) {
                // What was read is written so that it is read the same.
                prop_assert_eq!(Entity::parse(&entity.to_string()), Ok(entity));
            }
        }
    }
}
