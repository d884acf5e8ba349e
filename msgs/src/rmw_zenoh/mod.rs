//! What rmw_zenoh writes on the wire: data keys, liveliness tokens, the attachment of every sample.
//!
//! Pure text and bytes, so that publishing, discovery and the command line agree. Source: `docs/design.md` and
//! `rmw_zenoh_cpp/src/detail` of rmw_zenoh, versions of ROS 2 Humble to Rolling.
//!
//! ```text
//! data    0/ego/chatter/std_msgs::msg::dds_::String_/RIHS01_df66...          domain / topic / type / hash
//! node    @ros2_lv/0/<session>/<id>/<id>/NN/<enclave>/<namespace>/<node>
//! end     @ros2_lv/0/<session>/<node id>/<id>/MP|MS|SS|SC/<enclave>/<namespace>/<node>/<topic>/<type>/<hash>/<qos>
//! sample  33 bytes beside the payload: sequence, time, GID of the publisher
//! ```

mod attachment;
mod qos;
mod token;

pub use attachment::{ATTACHMENT_BYTES, Attachment, AttachmentError, Gid};
pub use qos::{Durability, History, QosError, QosProfile, Reliability};
pub use token::{Endpoint, Entity, EntityKind, TOKEN_PREFIX, TokenError};

use crate::{
    hash::NOT_SUPPORTED,
    names::{dds_type, is_package},
};

/// Largest domain: DDS has no ports for more, and ROS 2 refuses them.
pub const DOMAIN_MAX: u32 = 232;

/// The key on which messages of a topic travel. `topic` is the full name with or without its slash, `type_name` in ROS form
/// (`std_msgs/msg/String`), `hash` a type hash, [`NOT_SUPPORTED`], or `*` for a subscription to whatever there is.
#[must_use]
pub fn data_key(domain: u32, topic: &str, type_name: &str, hash: &str) -> Option<String> {
    Some(format!(
        "{domain}/{}/{}/{hash}",
        topic.trim_matches('/'),
        dds_type(type_name)?
    ))
}

/// A data key taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataKey {
    /// The ROS domain; `None` for `*`, which simulators use to reach every domain.
    pub domain: Option<u32>,
    /// Full topic name with its slash.
    pub topic: String,
    /// Type in ROS form; `None` for `*`.
    pub type_name: Option<String>,
    /// The type hash, [`NOT_SUPPORTED`], or `*`.
    pub hash: String,
}

impl DataKey {
    /// Takes a key apart; `None` for one of another shape, such as a plain topic.
    #[must_use]
    pub fn parse(key: &str) -> Option<DataKey> {
        let (domain, rest) = key.split_once('/')?;
        let (rest, hash) = rest.rsplit_once('/')?;
        let (topic, dds) = rest.rsplit_once('/')?;
        let domain = match domain {
            "*" => None,
            number => Some(
                number
                    .parse()
                    .ok()
                    .filter(|&domain| domain <= DOMAIN_MAX && !number.starts_with('+'))?,
            ),
        };
        let type_name = match dds {
            "*" => None,
            dds => Some(ros_interface(dds)?),
        };
        let known = hash == "*" || hash == NOT_SUPPORTED || hash.starts_with("RIHS");
        (known && !topic.is_empty()).then(|| DataKey {
            domain,
            topic: format!("/{topic}"),
            type_name,
            hash: hash.to_owned(),
        })
    }
}

/// `std_srvs::srv::dds_::Trigger_` in ROS form, `std_srvs/srv/Trigger`: messages, services and the parts of actions.
#[must_use]
pub fn ros_interface(dds: &str) -> Option<String> {
    let mut parts = dds.split("::");
    let (package, kind, dds, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let name = name.strip_suffix('_')?;
    let sound = is_package(package)
        && matches!(kind, "msg" | "srv" | "action")
        && dds == "dds_"
        && parts.next().is_none()
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    sound.then(|| format!("{package}/{kind}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18";

    #[test]
    fn data_keys_are_those_of_a_real_node() {
        let key = format!("0/robot1/chatter/std_msgs::msg::dds_::String_/{HASH}");
        assert_eq!(
            data_key(0, "/robot1/chatter", "std_msgs/msg/String", HASH).as_deref(),
            Some(key.as_str())
        );
        let parsed = DataKey::parse(&key).unwrap();
        assert_eq!(parsed.domain, Some(0));
        assert_eq!(parsed.topic, "/robot1/chatter");
        assert_eq!(parsed.type_name.as_deref(), Some("std_msgs/msg/String"));
        assert_eq!(parsed.hash, HASH);
    }

    #[test]
    fn other_keys_are_told_apart() {
        const CASES: &[(&str, bool, &str)] = &[
            ("ego/llmasos/gate/verdict", false, "a plain topic"),
            ("0/chatter/std_msgs::msg::dds_::String_/*", true, "CARLA"),
            ("*/speech/*/*", true, "reaches every domain"),
            (
                "0/x/std_msgs::msg::dds_::String_/TypeHashNotSupported",
                true,
                "Humble",
            ),
            ("0/x/std_msgs::msg::dds_::String_/other", false, "no hash"),
            ("0//std_msgs::msg::dds_::String_/*", false, "no topic"),
            ("233/x/std_msgs::msg::dds_::String_/*", false, "no domain"),
            ("0/x/String/*", false, "no type"),
            ("", false, "nothing"),
            ("/", false, "slashes"),
            ("///", false, "more slashes"),
        ];
        for (key, is_one, why) in CASES {
            assert_eq!(DataKey::parse(key).is_some(), *is_one, "{key}: {why}");
        }
    }

    #[test]
    fn interfaces_have_two_spellings() {
        const CASES: &[(&str, Option<&str>)] = &[
            (
                "test_msgs::action::dds_::Fibonacci_SendGoal_",
                Some("test_msgs/action/Fibonacci_SendGoal"),
            ),
            (
                "std_srvs::srv::dds_::Trigger_",
                Some("std_srvs/srv/Trigger"),
            ),
            ("std_msgs::msg::String", None),
            ("std_msgs::msg::dds_::String", None),
            ("std_msgs::msg::dds_::_", None),
            ("std_msgs::idl::dds_::String_", None),
        ];
        for (dds, ros) in CASES {
            assert_eq!(ros_interface(dds).as_deref(), *ros, "{dds}");
        }
    }
}
