//! How zenoh-bridge-ros2dds announces what it bridges: liveliness tokens with the ROS name and type, while the data key is the name alone.
//!
//! ```text
//! bridge    @/<session>/@ros2_lv
//! endpoint  @/<session>/@ros2_lv/MP|MS|SS|SC|AS|AC/<name, / as §>/<type, / as §>[/<K>:<reliability>:<durability>:<history>,<depth>[:<user data>]]
//! ```
//!
//! Source: `zenoh-plugin-ros2dds/src/liveliness_mgt.rs`; tokens captured from a running bridge stand in the tests.

use std::fmt;

use crate::{
    limits::MAX_TOPIC_CHARS,
    rmw_zenoh::{Durability, EntityKind, History, QosProfile, Reliability},
};

/// The chunk that marks the bridge's tokens.
const MARK: &str = "@ros2_lv";
/// What stands for a slash within a chunk.
const SLASH: char = '§';
/// What `typehash=` begins in the user data that Jazzy and later put into DDS discovery.
const HASH_KEY: &str = "typehash=";

/// A bridged endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridged {
    /// Zenoh session id of the bridge.
    pub session: String,
    /// Publisher, subscription, service or client; actions are not told apart from services.
    pub kind: BridgedKind,
    /// ROS name with its slash; the data key is the same without it.
    pub name: String,
    /// Type in ROS form, `std_msgs/msg/String`.
    pub type_name: String,
    /// Its QoS, where the token tells.
    pub qos: Option<QosProfile>,
    /// Type hash, where the ROS side tells.
    pub hash: Option<String>,
}

/// What is bridged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgedKind {
    /// A topic or service endpoint.
    Endpoint(EntityKind),
    /// An action server.
    ActionServer,
    /// An action client.
    ActionClient,
}

impl BridgedKind {
    fn of(code: &str) -> Option<BridgedKind> {
        Some(match code {
            "MP" => BridgedKind::Endpoint(EntityKind::Publisher),
            "MS" => BridgedKind::Endpoint(EntityKind::Subscription),
            "SS" => BridgedKind::Endpoint(EntityKind::Service),
            "SC" => BridgedKind::Endpoint(EntityKind::Client),
            "AS" => BridgedKind::ActionServer,
            "AC" => BridgedKind::ActionClient,
            _ => return None,
        })
    }

    fn code(self) -> &'static str {
        match self {
            BridgedKind::Endpoint(EntityKind::Publisher) => "MP",
            BridgedKind::Endpoint(EntityKind::Subscription) => "MS",
            // A bridge announces no nodes of its own; the servers stand for them.
            BridgedKind::Endpoint(EntityKind::Service | EntityKind::Node) => "SS",
            BridgedKind::Endpoint(EntityKind::Client) => "SC",
            BridgedKind::ActionServer => "AS",
            BridgedKind::ActionClient => "AC",
        }
    }
}

/// The session id of the bridge whose own token this is: `@/<session>/@ros2_lv`.
#[must_use]
pub fn bridge(token: &str) -> Option<&str> {
    let (session, mark) = token.strip_prefix("@/")?.split_once('/')?;
    (mark == MARK && is_session(session)).then_some(session)
}

/// Reads the token of a bridged endpoint; `None` for anything else.
#[must_use]
pub fn parse(token: &str) -> Option<Bridged> {
    if token.len() > 4 * MAX_TOPIC_CHARS {
        return None;
    }
    let mut chunks = token.strip_prefix("@/")?.split('/');
    let session = chunks.next().filter(|id| is_session(id))?;
    if chunks.next()? != MARK {
        return None;
    }
    let kind = BridgedKind::of(chunks.next()?)?;
    let name = chunks.next()?.replace(SLASH, "/");
    let type_name = chunks.next()?.replace(SLASH, "/");
    let (qos, hash) = match chunks.next() {
        Some(chunk) => qos(kind, chunk),
        None => (None, None),
    };
    (!name.is_empty() && !type_name.is_empty()).then(|| Bridged {
        session: session.to_owned(),
        kind,
        name: format!("/{}", name.trim_start_matches('/')),
        type_name,
        qos,
        hash,
    })
}

impl fmt::Display for Bridged {
    /// The token without QoS: what a Zenoh node declares so that ROS nodes behind a bridge find its service.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunk = |text: &str| text.trim_start_matches('/').replace('/', "§");
        write!(
            f,
            "@/{}/{MARK}/{}/{}/{}",
            self.session,
            self.kind.code(),
            chunk(&self.name),
            chunk(&self.type_name)
        )
    }
}

/// The bridge numbers its QoS as DDS does: reliability 1 is reliable, durability 1 transient local, history 1 keep all. An empty field is
/// DDS's default: writers are reliable, readers best effort; volatile; keep last 1.
fn qos(kind: BridgedKind, chunk: &str) -> (Option<QosProfile>, Option<String>) {
    let mut fields = chunk.splitn(5, ':');
    let _keyed = fields.next();
    let (reliability, durability, history) = (fields.next(), fields.next(), fields.next());
    let hash = fields
        .next()
        .and_then(|data| data.split(';').find_map(|pair| pair.strip_prefix(HASH_KEY)))
        .map(str::to_owned);
    let profile = || {
        let (keep, depth) = history?.split_once(',').unwrap_or(("", "1"));
        Some(QosProfile {
            reliability: match reliability? {
                "0" => Reliability::BestEffort,
                "" if kind == BridgedKind::Endpoint(EntityKind::Subscription) => {
                    Reliability::BestEffort
                }
                _ => Reliability::Reliable,
            },
            durability: match durability? {
                "1" => Durability::TransientLocal,
                _ => Durability::Volatile,
            },
            history: match keep {
                "1" => History::KeepAll,
                _ => History::KeepLast,
            },
            depth: depth.parse().unwrap_or(1),
        })
    };
    (profile(), hash)
}

fn is_session(text: &str) -> bool {
    !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_tokens_are_read() {
        let token =
            "@/64b577aa/@ros2_lv/MP/demo§chatter/std_msgs§msg§String/:1:::typehash=RIHS01_df66;";
        let bridged = parse(token).unwrap();
        assert_eq!(bridged.name, "/demo/chatter");
        assert_eq!(bridged.type_name, "std_msgs/msg/String");
        assert_eq!(bridged.hash.as_deref(), Some("RIHS01_df66"));
        assert_eq!(bridged.kind, BridgedKind::Endpoint(EntityKind::Publisher));
        assert_eq!(
            bridged.to_string(),
            "@/64b577aa/@ros2_lv/MP/demo§chatter/std_msgs§msg§String"
        );
        assert_eq!(bridge("@/64b577aa/@ros2_lv"), Some("64b577aa"));
        let reliability = |token: &str| parse(token).unwrap().qos.unwrap().reliability;
        for (token, expected, why) in [
            (
                "@/64b5/@ros2_lv/MP/a/b/::1:0,5",
                Reliability::Reliable,
                "a writer's default",
            ),
            (
                "@/64b5/@ros2_lv/MS/a/b/::1:0,5",
                Reliability::BestEffort,
                "a reader's default",
            ),
            (
                "@/64b5/@ros2_lv/MS/a/b/:1::0,5",
                Reliability::Reliable,
                "as it says",
            ),
            (
                "@/64b5/@ros2_lv/MP/a/b/:0::0,5",
                Reliability::BestEffort,
                "as it says",
            ),
        ] {
            assert_eq!(reliability(token), expected, "{why}");
        }
    }

    #[test]
    fn other_keys_are_told_apart() {
        for token in [
            "",
            "@",
            "@/",
            "@/zz/@ros2_lv/MP/a/b",
            "@/64b5/@ros2_lv",
            "@/64b5/@ros2_lv/XX/a/b",
            "@/64b5/@ros2_lv/MP//b",
            "@/64b5/@ros2_lv/MP/a",
            "@ros2_lv/0/64b5/0/0/NN/%/%/talker",
        ] {
            assert_eq!(parse(token), None, "{token}");
        }
        assert!(parse(&format!("@/64b5/@ros2_lv/MP/{}/b", "a".repeat(5000))).is_none());
        assert_eq!(bridge("@/64b5/@ros2_lv/MP/a/b"), None);
    }
}
