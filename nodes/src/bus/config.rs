//! How a session is opened: from the descriptor's few settings, or from a Zenoh configuration file that is passed through.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use super::BusError;
use crate::{clock::ClockSource, ros2::Ros2Options};

/// Where a local router is looked for, as ROS 2's rmw_zenoh does.
pub const LOCAL_ROUTER: &str = "tcp/127.0.0.1:7447";

/// How long a session that needs somebody to talk to waits for it, in ms.
const CONNECT_LIMIT_MS: u32 = 5_000;

/// How the session takes part in the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusMode {
    /// Talks to other peers directly; needs no router.
    #[default]
    Peer,
    /// Talks through a router, which must be there.
    Client,
}

impl BusMode {
    pub(super) fn name(self) -> &'static str {
        match self {
            BusMode::Peer => "peer",
            BusMode::Client => "client",
        }
    }
}

/// How to open the session.
#[derive(Clone, Debug, Default)]
pub struct BusOptions {
    /// Prefix of every relative topic; empty for none.
    pub namespace: String,
    /// Peer or client.
    pub mode: BusMode,
    /// Addresses to listen on, e.g. `tcp/127.0.0.1:0`; port 0 takes a free one. Ignored by a client.
    pub listen: Vec<String>,
    /// Addresses to connect to. A peer tries them for ever in the background and runs without them; a client cannot, and waits.
    pub connect: Vec<String>,
    /// Refuse to open when none of `connect` answers.
    pub connect_required: bool,
    /// Look for others by multicast.
    pub multicast: bool,
    /// A Zenoh configuration file, passed through; the other fields then only add to it.
    pub config_file: Option<PathBuf>,
    /// Settings laid over everything else, in order: key in Zenoh's configuration (`connect/endpoints`), value in JSON5.
    pub config_overrides: Vec<(String, String)>,
    /// Take part in the graph of ROS 2 nodes that run on rmw_zenoh.
    pub ros2: Option<Ros2Options>,
    /// What stamps and ages are measured with.
    pub clock: ClockSource,
}

/// The Zenoh configuration of a session.
pub(super) fn configuration(
    options: &BusOptions,
    listen: &[String],
) -> Result<zenoh::Config, BusError> {
    let mut config = match &options.config_file {
        Some(path) => from_file(path)?,
        None => zenoh::Config::default(),
    };
    // Ages and publisher identities come from Zenoh's timestamps, which are off by default outside routers.
    let undated = config
        .get_json("timestamping/enabled")
        .map_or(true, |value| value == "null");
    let mut set = |key: &str, value: String| {
        config
            .insert_json5(key, &value)
            .map_err(|error| BusError::Setting {
                key: key.to_owned(),
                value,
                reason: error.to_string(),
            })
    };
    if options.config_file.is_none() {
        set("mode", format!("\"{}\"", options.mode.name()))?;
        set("scouting/multicast/enabled", options.multicast.to_string())?;
        set("listen/endpoints", format!("{listen:?}"))?;
        set(
            "connect/exit_on_failure",
            options.connect_required.to_string(),
        )?;
        let patience_ms = match options.connect_required {
            true => CONNECT_LIMIT_MS,
            false => 0,
        };
        set("connect/timeout_ms", patience_ms.to_string())?;
        set("timestamping/enabled", "true".to_owned())?;
    } else {
        if !listen.is_empty() {
            set("listen/endpoints", format!("{listen:?}"))?;
        }
        if undated {
            set("timestamping/enabled", "true".to_owned())?;
        }
    }
    if !options.connect.is_empty() {
        set("connect/endpoints", format!("{:?}", options.connect))?;
    }
    for (key, value) in &options.config_overrides {
        set(key, value.clone())?;
    }
    Ok(config)
}

/// Whether a session of this configuration is a client, which Zenoh opens only when a router answers.
pub(super) fn is_client(config: &zenoh::Config) -> bool {
    config
        .get_json("mode")
        .is_ok_and(|mode| mode.trim_matches('"') == "client")
}

fn from_file(path: &Path) -> Result<zenoh::Config, BusError> {
    zenoh::Config::from_file(path).map_err(|error| BusError::Config {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Replaces port 0 of a TCP address by a port that is free now: Zenoh does not tell which loopback port it got, and children must know.
pub(super) fn with_free_port(address: &str) -> String {
    let Some(host) = address
        .strip_prefix("tcp/")
        .and_then(|rest| rest.strip_suffix(":0"))
    else {
        return address.to_owned();
    };
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|local| local.port());
    match port {
        Ok(port) => format!("tcp/{host}:{port}"),
        Err(_) => address.to_owned(),
    }
}
