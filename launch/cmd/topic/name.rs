//! What a person typed as a topic, and on which keys it may travel.
//!
//! A ROS name with or without its slash, a Zenoh key with wildcards, or a whole key of rmw_zenoh. Unless it says which it is, the plain
//! key and that of rmw_zenoh are both listened to: whoever publishes, on whichever, is heard.
//!
//! ```text
//! /ego/odometry  ego/odometry   ->   ego/odometry            plain, zenoh-bridge-ros2dds, a launch
//!                                    0/ego/odometry/*/*      rmw_zenoh, any type, any hash
//! ego/**                        ->   ego/**                  as it is
//! 0/chatter/std_msgs::msg::dds_::String_/*  ->  as it is
//! ```

use anyhow::Result;
use llmasos_msgs::{names::check_key_expression, rmw_zenoh::DataKey};
use llmasos_nodes::bus::key_of;

use super::super::{network::ros_name, usage::wrong};

/// A topic as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Full ROS name, or the key expression where it is none.
    pub(super) shown: String,
    /// The plain key expression; `None` for a key of rmw_zenoh.
    pub(super) plain: Option<String>,
    /// The key expression of rmw_zenoh.
    pub(super) rmw: Option<String>,
}

impl Name {
    /// Reads what was typed; `namespace` stands before names without a slash.
    ///
    /// # Errors
    /// Wrong usage that says where the name is no key.
    pub(super) fn of(typed: &str, namespace: &str, domain: u32) -> Result<Name> {
        let whole = typed.trim_start_matches('/');
        if let Some(key) = DataKey::parse(whole).filter(|_| whole.contains("::")) {
            check(whole)?;
            return Ok(Name {
                shown: key.topic,
                plain: None,
                rmw: Some(whole.to_owned()),
            });
        }
        let plain = key_of(namespace, typed);
        check(&plain)?;
        // `**` before `*` is no form that Zenoh takes; a pattern means the plain keys then.
        let rmw = (!plain.contains("**")).then(|| format!("{domain}/{plain}/*/*"));
        Ok(Name {
            shown: ros_name(&plain),
            plain: Some(plain),
            rmw,
        })
    }

    /// Whether it means one topic.
    pub(super) fn is_single(&self) -> bool {
        !self.shown.contains('*')
    }

    /// All key expressions.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        [self.plain.as_deref(), self.rmw.as_deref()]
            .into_iter()
            .flatten()
    }
}

fn check(key: &str) -> Result<()> {
    check_key_expression(key).map_err(|error| wrong(error.to_string()))
}

/// What the key of a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keyed {
    /// Full ROS name, or the key where it is none.
    pub(super) shown: String,
    /// Type and hash, of a key of rmw_zenoh.
    pub(super) rmw: Option<(Option<String>, String)>,
}

impl Keyed {
    /// Reads a key.
    pub(super) fn of(key: &str) -> Keyed {
        match DataKey::parse(key) {
            Some(data) => Keyed {
                shown: data.topic,
                rmw: Some((data.type_name, data.hash)),
            },
            None => Keyed {
                shown: ros_name(key),
                rmw: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_told_apart() {
        const RMW: &str = "7/chatter/std_msgs::msg::dds_::String_/*";
        for (typed, namespace, shown, plain, rmw, why) in [
            (
                "/ego/odometry",
                "",
                "/ego/odometry",
                Some("ego/odometry"),
                Some("3/ego/odometry/*/*"),
                "a ROS name",
            ),
            (
                "ego/odometry",
                "",
                "/ego/odometry",
                Some("ego/odometry"),
                Some("3/ego/odometry/*/*"),
                "without slash",
            ),
            (
                "odometry",
                "ego",
                "/ego/odometry",
                Some("ego/odometry"),
                Some("3/ego/odometry/*/*"),
                "in a namespace",
            ),
            (
                "/odometry",
                "ego",
                "/odometry",
                Some("odometry"),
                Some("3/odometry/*/*"),
                "absolute",
            ),
            ("ego/**", "", "ego/**", Some("ego/**"), None, "all below"),
            (
                "ego/*/image",
                "",
                "ego/*/image",
                Some("ego/*/image"),
                Some("3/ego/*/image/*/*"),
                "some",
            ),
            (
                RMW,
                "ego",
                "/chatter",
                None,
                Some(RMW),
                "a key of rmw_zenoh in another domain",
            ),
            (
                "x/@json",
                "",
                "x/@json",
                Some("x/@json"),
                Some("3/x/@json/*/*"),
                "a mirror, no ROS name",
            ),
        ] {
            let name = Name::of(typed, namespace, 3).unwrap();
            assert_eq!(name.shown, shown, "{why}");
            assert_eq!(name.plain.as_deref(), plain, "{why}");
            assert_eq!(name.rmw.as_deref(), rmw, "{why}");
            assert_eq!(name.is_single(), !typed.starts_with("ego/*"), "{why}");
        }
        for typed in ["", "/", "a//b", "a/#", "a?b", "a*b"] {
            assert!(Name::of(typed, "", 0).is_err(), "{typed:?}");
        }
    }

    #[test]
    fn keys_of_messages_say_name_and_type() {
        let keyed = Keyed::of("0/ego/x/std_msgs::msg::dds_::String_/RIHS01_ab");
        assert_eq!(keyed.shown, "/ego/x");
        assert_eq!(
            keyed.rmw,
            Some((
                Some("std_msgs/msg/String".to_owned()),
                "RIHS01_ab".to_owned()
            ))
        );
        assert_eq!(Keyed::of("ego/x").shown, "/ego/x");
        assert_eq!(Keyed::of("ego/a-b").shown, "ego/a-b");
    }
}
