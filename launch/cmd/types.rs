//! Message types as a person names them: any spelling, the definitions that come with the program and a folder of the user's.

use std::{borrow::Cow, path::PathBuf};

use anyhow::Result;
use llmasos_msgs::{
    registry::{Registry, RegistryError, Service, Type},
    sniff,
};

use super::usage::wrong;
use crate::descriptor::findings::{nearest, shorten};

/// Most types that an error proposes.
const PROPOSED: usize = 4;

/// Where definitions come from besides the program.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct MsgPath {
    /// Add the message definitions of a folder: DIR/PACKAGE/msg/NAME.msg; may be given several times, later ones win
    #[arg(long, value_name = "DIR")]
    msg_path: Vec<PathBuf>,
}

impl MsgPath {
    /// All definitions that are known.
    ///
    /// # Errors
    /// Wrong usage with file, line and column of what cannot be read.
    pub(super) fn registry(&self) -> Result<Cow<'static, Registry>> {
        let mut registry = Cow::Borrowed(Registry::builtin());
        for folder in &self.msg_path {
            registry.to_mut().load_folder(folder).map_err(|error| {
                let folder = folder.display();
                wrong(match error {
                    // These begin with the file within the folder, line and column.
                    RegistryError::Definition(_)
                    | RegistryError::Missing { .. }
                    | RegistryError::NoNames { .. }
                    | RegistryError::Recursive { .. }
                    | RegistryError::TooMuch { .. } => format!("{folder}/{error}"),
                    RegistryError::TooMany { .. }
                    | RegistryError::Io { .. }
                    | RegistryError::NothingThere { .. } => error.to_string(),
                })
            })?;
        }
        Ok(registry)
    }
}

/// What a person names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interface<'r> {
    /// A message, or one of the messages of a service.
    Message(&'r Type),
    /// A service.
    Service(&'r Service),
}

/// The message or service a person names.
///
/// # Errors
/// Wrong usage with the nearest known ones.
pub(super) fn interface<'r>(registry: &'r Registry, name: &str) -> Result<Interface<'r>> {
    let message = registry.find(name).map(Interface::Message);
    let service = || registry.find_service(name).map(Interface::Service);
    message
        .or_else(service)
        .ok_or_else(|| unknown(registry, name))
}

/// The type a person names: `std_msgs/String`, `std_msgs/msg/String`, `std_msgs::msg::dds_::String_`.
///
/// # Errors
/// Wrong usage with the nearest known types.
pub(super) fn named<'r>(registry: &'r Registry, name: &str) -> Result<&'r Type> {
    match interface(registry, name)? {
        Interface::Message(found) => Ok(found),
        Interface::Service(service) => {
            let id = &service.id;
            Err(wrong(format!(
                "{id} is a service, not a message; its messages are {id}_Request and {id}_Response"
            )))
        }
    }
}

/// Whether a type is a message of a service rather than one by itself.
pub(super) fn is_part(found: &Type) -> bool {
    found.id.contains("/srv/")
}

/// Ids of all messages and services.
pub(super) fn ids(registry: &Registry) -> impl Iterator<Item = &str> {
    let messages = registry.types().filter(|found| !is_part(found));
    let services = registry.services().map(|service| service.id.as_str());
    messages.map(|found| found.id.as_str()).chain(services)
}

fn unknown(registry: &Registry, name: &str) -> anyhow::Error {
    let last = |id: &str| id.rsplit('/').next().unwrap_or(id).to_owned();
    let near = if name.contains(['/', ':', '.']) {
        // `pkg/Name` is what people write; compared without `msg/` or `srv/` it is nearer to what they meant.
        let bare = |text: &str| {
            text.replace("::", "/")
                .replace('.', "/")
                .replacen("/msg/", "/", 1)
                .replacen("/srv/", "/", 1)
        };
        let wanted = bare(name);
        let same = ids(registry).find(|id| bare(id).eq_ignore_ascii_case(&wanted));
        let short: Vec<(String, &str)> = ids(registry).map(|id| (bare(id), id)).collect();
        let like = || {
            let near = nearest(&wanted, short.iter().map(|(bare, _)| bare.as_str()))?;
            short
                .iter()
                .find(|(bare, _)| bare == near)
                .map(|(_, id)| *id)
        };
        same.or_else(like).map(str::to_owned)
    } else {
        let names: Vec<String> = ids(registry).map(last).collect();
        nearest(name, names.iter().map(String::as_str)).map(|like| {
            let called = ids(registry).filter(|id| last(id) == like);
            let called: Vec<&str> = called.take(PROPOSED).collect();
            called.join(" or ")
        })
    };
    let shown = shorten(name);
    match near {
        Some(near) => wrong(format!("type {shown} is not known; did you mean {near}?")),
        None => wrong(format!(
            "type {shown} is not known; `llmasos msg list` shows those that are, --msg-path DIR adds more"
        )),
    }
}

/// The type that an encoding states, as in `application/cdr;std_msgs/msg/String`.
pub(super) fn stated(registry: &Registry, encoding: &str) -> Option<String> {
    let (_, schema) = encoding.split_once(';')?;
    registry.find(schema.trim()).map(|found| found.name.clone())
}

/// What a payload of an unknown type is, in a word.
pub(super) fn form(encoding: &str, payload: &[u8]) -> &'static str {
    match sniff::classify(encoding, payload) {
        Ok(sniff::Form::Cdr) => "CDR",
        Ok(sniff::Form::Json(_)) => "JSON",
        Ok(sniff::Form::Text(_)) => "text",
        Err(_) => "bytes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_in_any_spelling_or_the_nearest_is_named() {
        let registry = Registry::builtin();
        for name in [
            "std_msgs/String",
            "std_msgs/msg/String",
            "std_msgs::msg::dds_::String_",
            "std_msgs::msg::String",
        ] {
            let found = named(registry, name).unwrap();
            assert_eq!(found.name, "std_msgs/msg/String", "{name}");
        }
        for (name, part, why) in [
            ("std_msgs/Strng", "std_msgs/msg/String?", "a slip"),
            (
                "std_msgs.msg.String",
                "std_msgs/msg/String?",
                "as Python writes it",
            ),
            ("string", "std_msgs/msg/String?", "without its package"),
            (
                "Strin",
                "std_msgs/msg/String?",
                "a slip without its package",
            ),
            ("Odometry", "nav_msgs/msg/Odometry?", "without its package"),
            ("std_srvs/Trigge", "std_srvs/srv/Trigger?", "a service"),
            (
                "std_srvs/srv/Trigger",
                "Trigger_Request",
                "a service where a message is wanted",
            ),
            ("qqqqqqqq", "msg list", "nothing like it"),
            ("", "msg list", "nothing at all"),
            (&"x/".repeat(5000), "", "a long one is cut"),
        ] {
            let error = named(registry, name).unwrap_err().to_string();
            assert!(error.contains(part) && error.len() < 300, "{why}: {error}");
        }
    }

    #[test]
    fn a_wrong_folder_says_where() {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("my_msgs/msg");
        std::fs::create_dir_all(&package).unwrap();
        let with = || MsgPath {
            msg_path: vec![folder.path().to_owned()],
        };
        let nothing = with().registry().unwrap_err().to_string();
        assert!(nothing.contains("no .msg or .srv files"), "{nothing}");
        for (text, part, why) in [
            ("int32 a\nint33 b\n", "my_msgs/msg/Point.msg:2:1", "no type"),
            ("int32 a\nfloat64 A B\n", "Point.msg:2:9", "no field name"),
            (
                "geometry_msgs/Poin p",
                "geometry_msgs/msg/Point",
                "did you mean",
            ),
            ("Point p", "contain itself", "a circle"),
        ] {
            std::fs::write(package.join("Point.msg"), text).unwrap();
            let error = with().registry().unwrap_err().to_string();
            assert!(error.contains(part), "{why}: {error}");
        }
        std::fs::write(package.join("Point.msg"), "int32 a\n").unwrap();
        let registry = with().registry().unwrap();
        assert!(named(&registry, "my_msgs/Point").is_ok());
        assert!(
            named(&registry, "std_msgs/String").is_ok(),
            "and the others"
        );
    }
}
