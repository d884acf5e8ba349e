//! Which type the messages of a key have.
//!
//! Told by, first wins: the user, the key of rmw_zenoh, the payload's own encoding, a descriptor, those on the network who announce the
//! topic, the names this project and ROS 2 fix. A type that is only guessed from a name can be wrong; then decoding says so and the
//! listening goes on.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Result;
use llmasos_msgs::{
    hash::NOT_SUPPORTED,
    registry::{Registry, Type},
};
use llmasos_nodes::bus::key_of;

use super::{
    super::{
        check::environment,
        network::{Network, ros_name},
        types::{MsgPath, named, stated},
        usage::wrong,
    },
    name::Keyed,
};
use crate::descriptor::{self, arguments::Overrides, check::Facts};

/// Topics whose names fix their types, by the end of the name.
const KNOWN: &[(&str, &str)] = &[
    ("llmasos/speech/text", "std_msgs/msg/String"),
    ("llmasos/speech/command", "llmasos_msgs/msg/SpeechCommand"),
    (
        "llmasos/perception/summary",
        "llmasos_msgs/msg/PerceptionSummary",
    ),
    ("llmasos/advice/raw", "llmasos_msgs/msg/PlannerAdvice"),
    ("llmasos/gate/verdict", "llmasos_msgs/msg/GateVerdict"),
    ("diagnostics", "diagnostic_msgs/msg/DiagnosticArray"),
    ("clock", "rosgraph_msgs/msg/Clock"),
    ("tf", "tf2_msgs/msg/TFMessage"),
    ("tf_static", "tf2_msgs/msg/TFMessage"),
];

/// End of the names on which the JSON form of another topic travels.
pub(super) const MIRROR: &str = "/json";

/// Where types are looked up besides the network.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct TypesFrom {
    /// The type, such as nav_msgs/Odometry, whatever others say
    #[arg(long = "type", value_name = "TYPE")]
    type_name: Option<String>,
    #[command(flatten)]
    sources: TypeSources,
}

/// Files that tell types.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct TypeSources {
    /// Take the types of topics from this descriptor
    #[arg(long, value_name = "FILE")]
    launch: Option<PathBuf>,
    #[command(flatten)]
    definitions: MsgPath,
}

/// What is known about types.
pub(super) struct Types {
    /// Definitions.
    pub(super) registry: Cow<'static, Registry>,
    /// Id of the type the user names.
    fixed: Option<String>,
    /// By full name: the descriptor's, then the network's.
    by_name: BTreeMap<String, String>,
}

/// The type of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Name on the wire.
    pub(super) name: String,
    /// Its name in the registry, where there is a definition.
    pub(super) id: Option<String>,
    /// What is suspicious about it.
    pub(super) doubt: Option<String>,
}

impl TypesFrom {
    /// Reads definitions and descriptor; `positional` is a type given behind the topic, as ros2 takes it.
    ///
    /// # Errors
    /// Wrong usage when a type is unknown or a file has mistakes.
    pub(super) fn load(&self, positional: Option<&str>) -> Result<Types> {
        let mut types = self.sources.load()?;
        if let Some(name) = self.type_name.as_deref().or(positional) {
            types.fixed = Some(named(&types.registry, name)?.id.clone());
        }
        Ok(types)
    }
}

impl TypeSources {
    /// Reads definitions and descriptor.
    ///
    /// # Errors
    /// Wrong usage when a file has mistakes.
    pub(super) fn load(&self) -> Result<Types> {
        let registry = self.definitions.registry()?;
        let by_name = self.launch.as_deref().map(contracts).transpose()?;
        Ok(Types {
            registry,
            fixed: None,
            by_name: by_name.unwrap_or_default(),
        })
    }
}

/// The topics of a descriptor with their types, by full name.
fn contracts(path: &Path) -> Result<BTreeMap<String, String>> {
    let overrides = Overrides::parse(&[], &[]).map_err(wrong)?;
    let facts = Facts {
        catalogue: None,
        tokens_per_s: descriptor::check::DEFAULT_TOKENS_PER_S,
        exists: &|_| true,
    };
    let graph = descriptor::load(path, &overrides, &environment, &facts)
        .map_err(|rejected| wrong(rejected.findings.lines(&rejected.files).join("\n")))?
        .graph;
    let name = |topic: &str| ros_name(&key_of(&graph.namespace, topic));
    let topics = graph.topics.iter();
    Ok(topics
        .map(|topic| (name(&topic.topic), topic.type_name.clone()))
        .collect())
}

impl Types {
    /// Takes what the network announces; a descriptor given by the user stays in force.
    pub(super) fn learn(&mut self, network: &Network) {
        let told = network
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.role.is_topic());
        let told = told.map(|endpoint| (&endpoint.name, &endpoint.type_name));
        for (name, type_name) in told.chain(&network.contracts) {
            self.by_name
                .entry(name.clone())
                .or_insert_with(|| type_name.clone());
        }
    }

    /// The type of a message, if anything says it.
    pub(super) fn of(&self, key: &str, encoding: &str) -> Option<Told> {
        let keyed = Keyed::of(key);
        if let Some(id) = &self.fixed {
            return self.registry.find(id).map(Told::of);
        }
        if let Some((Some(name), hash)) = &keyed.rmw {
            return Some(self.hashed(name, hash));
        }
        let name = stated(&self.registry, encoding).or_else(|| self.of_name(&keyed.shown))?;
        Some(match self.registry.find(&name) {
            Some(found) => Told::of(found),
            None => Told {
                id: None,
                doubt: Some(undefined(&name)),
                name,
            },
        })
    }

    /// The type of a name, by those who announce it or by what the name fixes.
    fn of_name(&self, shown: &str) -> Option<String> {
        if let Some(told) = self.by_name.get(shown) {
            return Some(told.clone());
        }
        if let Some((_, type_name)) = KNOWN.iter().find(|(end, _)| ends_with(shown, end)) {
            return Some((*type_name).to_owned());
        }
        // The mirror of a topic is its JSON form in a text.
        let mirrored = shown
            .strip_suffix(MIRROR)
            .and_then(|base| self.of_name(base));
        mirrored.map(|_| "std_msgs/msg/String".to_owned())
    }

    /// A type with the hash that stands in a key of rmw_zenoh.
    fn hashed(&self, name: &str, hash: &str) -> Told {
        if let Some(same) = self.registry.with_hash(name, hash) {
            return Told::of(same);
        }
        let Some(found) = self.registry.find(name) else {
            return Told {
                name: name.to_owned(),
                id: None,
                doubt: Some(undefined(name)),
            };
        };
        let open = hash == "*" || hash == NOT_SUPPORTED;
        Told {
            doubt: (!open).then(|| {
                format!(
                    "it is another version of {name}: its hash is {hash}, the known one {}; what is shown may be wrong, --msg-path DIR gives the sender's definition",
                    self.registry.hash_of(found)
                )
            }),
            ..Told::of(found)
        }
    }
}

impl Told {
    fn of(found: &Type) -> Told {
        Told {
            name: found.name.clone(),
            id: Some(found.id.clone()),
            doubt: None,
        }
    }
}

fn undefined(name: &str) -> String {
    format!(
        "there is no definition of {name} here; --msg-path DIR adds a folder of DIR/PACKAGE/msg/NAME.msg"
    )
}

/// Whether a name is `end` or ends with it as whole parts.
fn ends_with(name: &str, end: &str) -> bool {
    name.strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(fixed: Option<&str>) -> Types {
        let odometry = (
            "/ego/odometry".to_owned(),
            "nav_msgs/msg/Odometry".to_owned(),
        );
        let foreign = ("/ego/foreign".to_owned(), "my_msgs/msg/Pin".to_owned());
        Types {
            registry: Cow::Borrowed(Registry::builtin()),
            fixed: fixed.map(str::to_owned),
            by_name: BTreeMap::from([odometry, foreign]),
        }
    }

    #[test]
    fn a_key_tells_its_type_where_something_fixes_it() {
        const STRING: &str = "std_msgs/msg/String";
        for (key, encoding, found, why) in [
            (
                "ego/odometry",
                "zenoh/bytes",
                Some("nav_msgs/msg/Odometry"),
                "announced",
            ),
            (
                "ego/foreign",
                "",
                Some("my_msgs/msg/Pin"),
                "announced, without a definition",
            ),
            (
                "ego/llmasos/gate/verdict",
                "zenoh/bytes",
                Some("llmasos_msgs/msg/GateVerdict"),
                "a name of this project",
            ),
            (
                "llmasos/gate/verdict",
                "",
                Some("llmasos_msgs/msg/GateVerdict"),
                "without a namespace",
            ),
            (
                "diagnostics",
                "",
                Some("diagnostic_msgs/msg/DiagnosticArray"),
                "a name of ROS 2",
            ),
            (
                "ego/odometry/json",
                "",
                Some(STRING),
                "the mirror of a known topic",
            ),
            ("ego/mystery/json", "", None, "of an unknown one"),
            ("my_diagnostics", "", None, "only whole parts count"),
            (
                "x",
                "application/cdr;std_msgs/msg/String",
                Some(STRING),
                "the encoding says it",
            ),
            (
                "0/chatter/std_msgs::msg::dds_::String_/*",
                "",
                Some(STRING),
                "a key of rmw_zenoh",
            ),
            ("ego/mystery", "zenoh/bytes", None, "nothing says it"),
        ] {
            let told = types(None).of(key, encoding);
            assert_eq!(told.as_ref().map(|told| told.name.as_str()), found, "{why}");
        }
        let told = types(Some(STRING)).of("ego/odometry", "").unwrap();
        assert_eq!(told.name, STRING, "the user wins");
    }

    #[test]
    fn a_hash_finds_its_package_or_raises_doubt() {
        let registry = Registry::builtin();
        let drivers = registry
            .find("audio_common_msgs@ros-drivers/msg/AudioData")
            .unwrap();
        let known = registry.hash_of(drivers);
        for (hash, id, doubt, why) in [
            (
                known.as_str(),
                "audio_common_msgs@ros-drivers/msg/AudioData",
                "",
                "told apart by hash",
            ),
            ("*", "audio_common_msgs/msg/AudioData", "", "any"),
            (
                NOT_SUPPORTED,
                "audio_common_msgs/msg/AudioData",
                "",
                "Humble has none",
            ),
            (
                "RIHS01_00",
                "audio_common_msgs/msg/AudioData",
                "another version",
                "neither",
            ),
        ] {
            let key = format!("0/x/audio_common_msgs::msg::dds_::AudioData_/{hash}");
            let told = types(None).of(&key, "").unwrap();
            assert_eq!(told.id.as_deref(), Some(id), "{why}");
            assert_eq!(told.doubt.is_some(), !doubt.is_empty(), "{why}");
            assert!(told.doubt.unwrap_or_default().contains(doubt), "{why}");
        }
        let foreign = types(None).of("ego/foreign", "").unwrap();
        assert!(foreign.doubt.unwrap().contains("--msg-path"));
    }
}
