//! Names: ROS topics and types, Zenoh keys, and how one becomes the other.
//!
//! The Zenoh key of a topic is the ROS name without its leading slash, under the descriptor's namespace. That is what
//! `zenoh-bridge-ros2dds` routes, and what a person types:
//!
//! ```text
//! topic "llmasos/gate/verdict" in namespace "ego"  ->  key "ego/llmasos/gate/verdict"  ->  ROS "/ego/llmasos/gate/verdict"
//! topic "/tf"                                      ->  key "tf"                        ->  ROS "/tf"
//! ```

use thiserror::Error;

use crate::limits::{MAX_NAME_CHARS, MAX_TOPIC_CHARS};

/// A name that ROS 2 or Zenoh does not allow.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing, or only slashes.
    #[error("a {what} needs at least one character")]
    Empty {
        /// Topic, namespace or key.
        what: &'static str,
    },
    /// Longer than [`MAX_TOPIC_CHARS`].
    #[error("{what} of {found} bytes, expected at most {MAX_TOPIC_CHARS}")]
    TooLong {
        /// Topic, namespace or key.
        what: &'static str,
        /// Its bytes.
        found: usize,
    },
    /// `a//b`, `a/`, or for a key `/a`.
    #[error("{what} `{name}`: empty part at byte {at}")]
    EmptyPart {
        /// Topic, namespace or key.
        what: &'static str,
        /// The whole name.
        name: String,
        /// Where.
        at: usize,
    },
    /// A character that may not stand there.
    #[error("{what} `{name}`: `{found}` at byte {at} is not allowed, expected {expected}")]
    Character {
        /// Topic, namespace or key.
        what: &'static str,
        /// The whole name.
        name: String,
        /// Where.
        at: usize,
        /// What stands there.
        found: char,
        /// The rule.
        expected: &'static str,
    },
}

/// The Zenoh key of a topic: `/x` is absolute, `x` is under the namespace.
///
/// # Errors
/// A [`NameError`] if the topic or the namespace is not a valid ROS name.
pub fn topic_to_key(namespace: &str, topic: &str) -> Result<String, NameError> {
    check_topic(topic)?;
    if let Some(absolute) = topic.strip_prefix('/') {
        return Ok(absolute.to_owned());
    }
    let namespace = namespace.trim_matches('/');
    if namespace.is_empty() {
        return Ok(topic.to_owned());
    }
    check_namespace(namespace)?;
    Ok(format!("{namespace}/{topic}"))
}

/// The ROS name of a Zenoh key: a slash in front.
///
/// # Errors
/// A [`NameError`] if the key is not a ROS name, such as `a/@json` or one with wildcards.
pub fn key_to_topic(key: &str) -> Result<String, NameError> {
    check_parts("key", key, 0)?;
    Ok(format!("/{key}"))
}

/// Checks a topic, absolute or relative: parts of letters, digits and underscores that do not start with a digit.
///
/// # Errors
/// A [`NameError`] that says where.
pub fn check_topic(topic: &str) -> Result<(), NameError> {
    check_parts("topic", topic, usize::from(topic.starts_with('/')))
}

/// Checks a namespace, with or without the leading slash. `/` and the empty string are the root.
///
/// # Errors
/// A [`NameError`] that says where.
pub fn check_namespace(namespace: &str) -> Result<(), NameError> {
    if namespace.is_empty() || namespace == "/" {
        return Ok(());
    }
    check_parts(
        "namespace",
        namespace,
        usize::from(namespace.starts_with('/')),
    )
}

/// Checks a Zenoh key expression: no empty part, no leading or trailing slash, `#`, `?` or stray `$`, and stars only
/// as `*`, `**` or within a part as `$*`.
///
/// # Errors
/// A [`NameError`] that says where.
pub fn check_key_expression(key: &str) -> Result<(), NameError> {
    let what = "key";
    check_length(what, key)?;
    let mut at = 0;
    for part in key.split('/') {
        check_key_part(key, part, at)?;
        at += part.len() + 1;
    }
    Ok(())
}

fn check_key_part(key: &str, part: &str, start: usize) -> Result<(), NameError> {
    let what = "key";
    if part.is_empty() {
        let name = key.to_owned();
        return Err(NameError::EmptyPart {
            what,
            name,
            at: start,
        });
    }
    if part == "*" || part == "**" {
        return Ok(());
    }
    let mut previous = '/';
    for (index, found) in part.char_indices() {
        let next = part[index + found.len_utf8()..].chars().next();
        let allowed = match found {
            '#' | '?' => false,
            '$' => next == Some('*'),
            '*' => previous == '$',
            _ => true,
        };
        if !allowed {
            return Err(NameError::Character {
                what,
                name: key.to_owned(),
                at: start + index,
                found,
                expected: "no `#` or `?`, and stars as `*`, `**` or `$*`",
            });
        }
        previous = found;
    }
    Ok(())
}

fn check_length(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.len() > MAX_TOPIC_CHARS {
        let found = name.len();
        return Err(NameError::TooLong { what, found });
    }
    if name.trim_matches('/').is_empty() {
        return Err(NameError::Empty { what });
    }
    Ok(())
}

/// The rule for ROS names, from byte `start`.
fn check_parts(what: &'static str, name: &str, start: usize) -> Result<(), NameError> {
    check_length(what, name)?;
    let mut at = start;
    for part in name[start..].split('/') {
        if part.is_empty() {
            let name = name.to_owned();
            return Err(NameError::EmptyPart { what, name, at });
        }
        let wrong = part.char_indices().find(|&(index, c)| {
            !(c == '_' || c.is_ascii_alphabetic() || (c.is_ascii_digit() && index > 0))
        });
        if let Some((index, found)) = wrong {
            return Err(NameError::Character {
                what,
                name: name.to_owned(),
                at: at + index,
                found,
                expected: "letters, digits and underscores, no digit first",
            });
        }
        at += part.len() + 1;
    }
    Ok(())
}

/// `std_msgs/msg/String` as DDS and rmw_zenoh write it: `std_msgs::msg::dds_::String_`.
#[must_use]
pub fn dds_type(type_name: &str) -> Option<String> {
    let mut parts = type_name.split('/');
    let (package, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
    let known = matches!(kind, "msg" | "srv" | "action") && parts.next().is_none();
    (known && is_package(package) && !name.is_empty())
        .then(|| format!("{package}::{kind}::dds_::{name}_"))
}

/// Any way to write a message type as `package/msg/Name`, an `@variant` of the package kept:
/// `std_msgs/String`, `std_msgs/msg/String`, `std_msgs::msg::String`, `std_msgs::msg::dds_::String_`. The messages of
/// services are `package/srv/Name_Request`, `_Response` and `_Event`.
#[must_use]
pub fn ros_type(name: &str) -> Option<String> {
    let (folder, kind, name) = split_type(name)?;
    let valid = match kind.unwrap_or("msg") {
        "msg" => is_message(name),
        "srv" => name
            .rsplit_once('_')
            .is_some_and(|(service, part)| is_message(service) && SERVICE_PARTS.contains(&part)),
        _ => false,
    };
    valid.then(|| format!("{folder}/{}/{name}", kind.unwrap_or("msg")))
}

/// Any way to write a service type as `package/srv/Name`, an `@variant` of the package kept: `std_srvs/Trigger`,
/// `std_srvs/srv/Trigger`, `std_srvs::srv::Trigger`, `std_srvs::srv::dds_::Trigger_`.
#[must_use]
pub fn ros_service(name: &str) -> Option<String> {
    let (folder, kind, name) = split_type(name)?;
    (kind.unwrap_or("srv") == "srv" && is_message(name)).then(|| format!("{folder}/srv/{name}"))
}

/// What the names of a service's messages end in.
const SERVICE_PARTS: [&str; 3] = ["Request", "Response", "Event"];

/// Package folder, `msg` or `srv` if it is said, name.
fn split_type(text: &str) -> Option<(&str, Option<&str>, &str)> {
    if text.len() > 2 * MAX_NAME_CHARS + 16 {
        return None;
    }
    let separator = if text.contains("::") { "::" } else { "/" };
    let mut parts: Vec<&str> = text.split(separator).collect();
    let mut name = parts.pop()?;
    if parts.last() == Some(&"dds_") {
        parts.pop();
        name = name.strip_suffix('_')?;
    }
    let (folder, kind) = match parts.as_slice() {
        [folder] => (*folder, None),
        [folder, kind] => (*folder, Some(*kind)),
        _ => return None,
    };
    let package = folder.split('@').next().unwrap_or(folder);
    is_package(package).then_some((folder, kind, name))
}

/// Lower case, digits, underscores; a letter first; no double or last underscore.
#[must_use]
pub fn is_package(name: &str) -> bool {
    is_field(name)
}

/// The same rule as for packages.
#[must_use]
pub fn is_field(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.contains("__")
        && !name.ends_with('_')
}

/// A capital, then letters and digits.
#[must_use]
pub fn is_message(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Upper case, digits, underscores; a letter first; no double or last underscore.
#[must_use]
pub fn is_constant(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && !name.contains("__")
        && !name.ends_with('_')
}

/// `did you mean ...?` if one of the known names is close, else nothing.
pub(crate) fn did_you_mean<'n>(found: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    match closest(found, known) {
        Some(name) => format!("did you mean `{name}`?"),
        None => String::new(),
    }
}

/// The known name that differs least, if it differs little.
pub(crate) fn closest<'n>(
    found: &str,
    known: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    if found.len() > MAX_NAME_CHARS {
        return None;
    }
    let lower = found.to_lowercase();
    known
        .into_iter()
        .map(|name| {
            (
                strsim::damerau_levenshtein(&lower, &name.to_lowercase()),
                name,
            )
        })
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_become_keys() {
        const CASES: &[(&str, &str, &str)] = &[
            ("ego", "llmasos/gate/verdict", "ego/llmasos/gate/verdict"),
            ("/ego/", "camera/image", "ego/camera/image"),
            ("", "speech", "speech"),
            ("/", "speech", "speech"),
            ("ego", "/tf", "tf"),
            ("fleet/ego_2", "a", "fleet/ego_2/a"),
        ];
        for (namespace, topic, key) in CASES {
            assert_eq!(topic_to_key(namespace, topic).as_deref(), Ok(*key));
        }
        assert_eq!(key_to_topic("ego/x").as_deref(), Ok("/ego/x"));
    }

    #[test]
    fn bad_topics_say_where() {
        const CASES: &[(&str, &str)] = &[
            ("", "a topic needs at least one character"),
            ("/", "a topic needs at least one character"),
            ("a//b", "topic `a//b`: empty part at byte 2"),
            ("a/", "topic `a/`: empty part at byte 2"),
            ("a/1b", "topic `a/1b`: `1` at byte 2 is not allowed"),
            ("a/@json", "topic `a/@json`: `@` at byte 2 is not allowed"),
            ("a b", "topic `a b`: ` ` at byte 1 is not allowed"),
            ("/a/*", "topic `/a/*`: `*` at byte 3 is not allowed"),
            ("/ä", "topic `/ä`: `ä` at byte 1 is not allowed"),
        ];
        for (topic, message) in CASES {
            let error = check_topic(topic).unwrap_err().to_string();
            assert!(error.starts_with(message), "{topic}: {error}");
        }
        assert!(check_topic(&"x".repeat(MAX_TOPIC_CHARS + 1)).is_err());
        assert!(key_to_topic("/x").is_err());
        assert!(
            key_to_topic("0/chatter").is_err(),
            "a domain is not a ROS name"
        );
    }

    #[test]
    fn key_expressions() {
        for good in [
            "a",
            "a/*/b",
            "**",
            "a/**",
            "a$*/b",
            "0/x/std_msgs::msg::dds_::String_/*",
            "a/@json",
            "§",
        ] {
            assert_eq!(check_key_expression(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "a?", "a#b", "a*", "***", "a$b", "$"] {
            assert!(check_key_expression(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn type_names() {
        const CASES: &[(&str, Option<&str>)] = &[
            ("std_msgs/String", Some("std_msgs/msg/String")),
            ("std_msgs/msg/String", Some("std_msgs/msg/String")),
            ("std_msgs::msg::dds_::String_", Some("std_msgs/msg/String")),
            ("std_msgs::msg::String", Some("std_msgs/msg/String")),
            ("a@b/msg/C", Some("a@b/msg/C")),
            ("String", None),
            ("std_msgs/srv/String", None),
            (
                "std_srvs/srv/Trigger_Request",
                Some("std_srvs/srv/Trigger_Request"),
            ),
            (
                "std_srvs::srv::dds_::Trigger_Response_",
                Some("std_srvs/srv/Trigger_Response"),
            ),
            ("std_srvs/srv/Trigger_Reply", None),
            ("std_srvs/srv/_Request", None),
            ("std_srvs/Trigger_Request", None),
            ("a/action/B", None),
            ("std_msgs/msg/string", None),
            ("Std/msg/String", None),
            ("std_msgs::msg::dds_::String", None),
            ("", None),
            ("/", None),
        ];
        for (name, expected) in CASES {
            assert_eq!(ros_type(name).as_deref(), *expected, "{name}");
        }
        const SERVICES: &[(&str, Option<&str>)] = &[
            ("std_srvs/Trigger", Some("std_srvs/srv/Trigger")),
            ("std_srvs/srv/Trigger", Some("std_srvs/srv/Trigger")),
            (
                "std_srvs::srv::dds_::Trigger_",
                Some("std_srvs/srv/Trigger"),
            ),
            ("a@b/srv/C", Some("a@b/srv/C")),
            ("std_srvs/msg/Trigger", None),
            ("std_srvs/srv/Trigger_Request", None),
            ("Trigger", None),
        ];
        for (name, expected) in SERVICES {
            assert_eq!(ros_service(name).as_deref(), *expected, "{name}");
        }
        assert_eq!(
            dds_type("std_msgs/msg/String").as_deref(),
            Some("std_msgs::msg::dds_::String_")
        );
        assert_eq!(
            dds_type("std_srvs/srv/Trigger").as_deref(),
            Some("std_srvs::srv::dds_::Trigger_")
        );
        assert_eq!(dds_type("String"), None);
    }
}
