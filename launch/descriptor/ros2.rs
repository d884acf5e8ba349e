//! `ros2:` and the `qos:` of a topic: how the graph shows itself to ROS 2, and with which quality of service.
//!
//! What nobody wrote comes from where a ROS user expects it: the domain from `ROS_DOMAIN_ID`, the quality of service from the kind of the
//! topic (sensor streams best effort, everything else reliable, as ROS 2's own profiles are).

use llmasos_msgs::rmw_zenoh::{DOMAIN_MAX, Durability, History, Reliability};
use llmasos_nodes::contract::{Distro, TopicQos};

use super::arguments::Environment;
use super::findings::Findings;
use super::graph::Ros2Spec;
use super::shape::{Fields, MAX_QUEUE, Shape, Table};
use super::tables::{key, must, table};

/// The environment variable that every ROS 2 program reads its domain from.
pub const DOMAIN_VARIABLE: &str = "ROS_DOMAIN_ID";

/// Messages a sensor stream keeps: ROS 2's sensor-data profile.
const SENSOR_DEPTH: u32 = 5;
/// Packages whose topics are sensor streams.
const SENSOR_PACKAGES: &[&str] = &[
    "audio_common_msgs",
    "autoware_perception_msgs",
    "autoware_vehicle_msgs",
    "nav_msgs",
    "sensor_msgs",
    "vision_msgs",
];

/// `ros2:`.
pub static ROS2: Table = table(
    "the ROS 2 side",
    &[&[
        must(
            "via",
            Shape::Word("middleware", &["rmw_zenoh", "none"]),
            "rmw_zenoh: nodes and topics are seen by ROS 2 with no bridge; none: plain Zenoh keys only",
        ),
        key(
            "domain",
            Shape::Int(0, DOMAIN_MAX as i64),
            "the ROS domain; ROS_DOMAIN_ID of the environment by default, else 0",
        ),
        key(
            "distro",
            Shape::Word(
                "distribution",
                &["humble", "jazzy", "kilted", "lyrical", "rolling"],
            ),
            "the distribution whose keys are written; jazzy by default",
        ),
    ]],
);

/// `qos:` of a topic.
pub static QOS: Table = table(
    "a quality of service",
    &[&[
        key(
            "reliability",
            Shape::Word("reliability", &["reliable", "best_effort"]),
            "whether lost messages are sent again",
        ),
        key(
            "durability",
            Shape::Word("durability", &["volatile", "transient_local"]),
            "transient_local: who comes late gets the last messages",
        ),
        key(
            "depth",
            Shape::Int(1, MAX_QUEUE as i64),
            "messages the publisher keeps",
        ),
    ]],
);

/// Reads `ros2:`; `None` when it is not there, says none or is wrong, which has been reported then.
pub(super) fn read(
    root: &Fields<'_>,
    environment: Environment<'_>,
    findings: &mut Findings,
) -> Option<Ros2Spec> {
    let fields = root.fields("ros2", &ROS2)?;
    if fields.text("via")? == "none" {
        return None;
    }
    let distro = fields
        .text("distro")
        .and_then(|name| Distro::from_name(&name))
        .unwrap_or_default();
    let around = environment(DOMAIN_VARIABLE).filter(|value| !value.is_empty());
    let domain = match (fields.int::<u32>("domain"), around) {
        (Some(written), around) => {
            if let Some(around) = around.filter(|around| around.trim() != written.to_string()) {
                let at = fields.get("domain").map_or(fields.at(), |node| node.at);
                findings.note(
                    at,
                    format!("the domain is {written} as written; {DOMAIN_VARIABLE}={around} of the environment is not used"),
                );
            }
            written
        }
        (None, Some(around)) => match around.trim().parse() {
            Ok(domain) if domain <= DOMAIN_MAX => domain,
            Ok(_) | Err(_) => {
                findings.error_with(
                    fields.at(),
                    format!(
                        "{DOMAIN_VARIABLE} of the environment is \"{}\", expected 0 to {DOMAIN_MAX}",
                        super::findings::shorten(&around)
                    ),
                    "set it right, or write domain: here",
                );
                return None;
            }
        },
        (None, None) => 0,
    };
    Some(Ros2Spec { domain, distro })
}

/// The quality of service of a topic: what is written over what its kind has.
pub(super) fn qos(topic: &Fields<'_>, type_name: &str, event: bool) -> TopicQos {
    let mut qos = default_qos(type_name, event);
    let Some(fields) = topic.fields("qos", &QOS) else {
        return qos;
    };
    match fields.text("reliability").as_deref() {
        Some("best_effort") => qos.reliability = Reliability::BestEffort,
        Some(_) => qos.reliability = Reliability::Reliable,
        None => {}
    }
    match fields.text("durability").as_deref() {
        Some("transient_local") => {
            qos.durability = Durability::TransientLocal;
            // What late joiners are owed is the last state, unless more is asked for.
            qos.depth = 1;
        }
        Some(_) => qos.durability = Durability::Volatile,
        None => {}
    }
    qos.depth = fields.int("depth").unwrap_or(qos.depth);
    qos
}

/// By kind of topic. The own ones: the tables of `llmasos_msgs`.
fn default_qos(type_name: &str, event: bool) -> TopicQos {
    let package = type_name.split('/').next().unwrap_or_default();
    let (reliability, depth) = match type_name {
        "llmasos_msgs/msg/PerceptionSummary" => (Reliability::BestEffort, 1),
        "llmasos_msgs/msg/GateVerdict" => (Reliability::Reliable, 1),
        _ if !event && SENSOR_PACKAGES.contains(&package) => {
            (Reliability::BestEffort, SENSOR_DEPTH)
        }
        _ => (Reliability::Reliable, 10),
    };
    TopicQos {
        reliability,
        durability: Durability::Volatile,
        history: History::KeepLast,
        depth,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::arguments::Overrides;
    use super::super::check::{DEFAULT_TOKENS_PER_S, Facts};
    use super::super::tests::GOOD;
    use super::super::{Loaded, load};
    use super::*;

    /// Reads [`GOOD`] with `ros2` under its name and `qos` on its odometry, with a domain in the environment.
    fn read(ros2: &str, domain: Option<&str>) -> Result<Loaded, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.yaml");
        let text = GOOD.replace("duration: 10s", &format!("duration: 10s\n{ros2}"));
        std::fs::write(&path, text).unwrap();
        let facts = Facts {
            catalogue: None,
            tokens_per_s: DEFAULT_TOKENS_PER_S,
            exists: &|_: &Path| true,
        };
        let environment = |name: &str| {
            (name == DOMAIN_VARIABLE)
                .then(|| domain.map(str::to_owned))
                .flatten()
        };
        load(&path, &Overrides::default(), &environment, &facts)
            .map_err(|rejected| rejected.findings.lines(&rejected.files).join("\n"))
    }

    #[test]
    fn the_domain_is_written_or_comes_from_the_environment() {
        let spec = |domain, distro| Some(Ros2Spec { domain, distro });
        for (ros2, around, expected, why) in [
            ("", Some("7"), None, "no ROS 2 side was asked for"),
            ("ros2: { via: none }", None, None, "nor here"),
            (
                "ros2: { via: rmw_zenoh }",
                None,
                spec(0, Distro::Jazzy),
                "defaults",
            ),
            (
                "ros2: { via: rmw_zenoh, distro: humble }",
                Some("7"),
                spec(7, Distro::Humble),
                "as every ROS 2 program",
            ),
            (
                "ros2: { via: rmw_zenoh, domain: 3 }",
                Some("7"),
                spec(3, Distro::Jazzy),
                "what is written wins",
            ),
            (
                "ros2: { via: rmw_zenoh }",
                Some(""),
                spec(0, Distro::Jazzy),
                "an empty variable is none",
            ),
        ] {
            let loaded = read(ros2, around).expect(why);
            assert_eq!(loaded.graph.ros2, expected, "{why}");
            let notes = loaded.findings.lines(&loaded.graph.files).join("\n");
            assert_eq!(
                notes.contains("ROS_DOMAIN_ID=7 of the environment is not used"),
                ros2.contains("domain: 3"),
                "{why}: {notes}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_way_out() {
        for (ros2, around, expected) in [
            (
                "ros2: { via: rmw_zenoh }",
                Some("233"),
                "ROS_DOMAIN_ID of the environment is \"233\", expected 0 to 232",
            ),
            ("ros2: { via: rmw_zenoh }", Some("x"), "is \"x\", expected"),
            (
                "ros2: { via: rmw_zenoh, domain: 233 }",
                None,
                "233 is out of range, expected 0 to 232",
            ),
            ("ros2: { domain: 1 }", None, "needs the field \"via\""),
            (
                "ros2: { via: rmw_zenho }",
                None,
                "did you mean \"rmw_zenoh\"?",
            ),
            ("ros2: { via: rmw_zenoh, distro: foxy }", None, "\"foxy\""),
        ] {
            let said = read(ros2, around).expect_err(ros2);
            assert!(said.contains(expected), "{ros2}: {said}");
        }
    }

    #[test]
    fn quality_of_service_follows_the_kind_of_topic_and_what_is_written() {
        let qos = |topic: &str, written: &str| {
            let text = GOOD.replace("max_age: 150ms }", &format!("max_age: 150ms{written} }}"));
            let loaded = super::super::tests::read(&text).expect("a good descriptor");
            let contract = loaded.graph.topic(topic).expect("a topic").qos;
            (contract.reliability, contract.durability, contract.depth)
        };
        use Durability::{TransientLocal, Volatile};
        use Reliability::{BestEffort, Reliable};
        for (topic, written, expected, why) in [
            ("odometry", "", (BestEffort, Volatile, 5), "a sensor"),
            ("command", "", (Reliable, Volatile, 10), "an event"),
            ("summary", "", (BestEffort, Volatile, 1), "llmasos_msgs"),
            ("verdict", "", (Reliable, Volatile, 1), "llmasos_msgs"),
            (
                "odometry",
                ", qos: { reliability: reliable, depth: 3 }",
                (Reliable, Volatile, 3),
                "as written",
            ),
            (
                "odometry",
                ", qos: { durability: transient_local }",
                (BestEffort, TransientLocal, 1),
                "the last one is kept",
            ),
        ] {
            assert_eq!(qos(topic, written), expected, "{topic}: {why}");
        }
    }
}
