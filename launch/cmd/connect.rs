//! How a verb reaches the bus: the same few options for all of them, and the variables that a ROS 2 shell sets.
//!
//! What is typed wins over the environment, the environment over the defaults. Without either a verb is a client of the router on this
//! computer, as rmw_zenoh's own tools are; a launch is reached by its address.

use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use llmasos_nodes::bus::{Bus, BusError, BusMode, BusOptions, LOCAL_ROUTER};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::{check::environment, usage::wrong};
use crate::run::environment::{RosEnvironment, domain};

/// How long opening the session may take.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// How long closing it may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Longest reason of Zenoh that is repeated, in characters.
const REASON_CHARS_MAX: usize = 200;
/// How long an address that does not answer is tried, in ms; a peer then goes on without it.
const PATIENCE_MS: u32 = 2000;

/// How the bus is reached.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connect {
    /// Zenoh address of a launch or a router [default: that of the environment, or tcp/127.0.0.1:7447]
    #[arg(long, value_name = "ADDR")]
    connect: Option<String>,
    /// Prefix of topics without a leading slash
    #[arg(long, value_name = "NS", default_value = "")]
    namespace: String,
    /// ROS domain of rmw_zenoh, 0 to 232 [default: ROS_DOMAIN_ID, or 0]
    #[arg(long, value_name = "ID")]
    domain: Option<String>,
    /// Talk through a router, or to others directly
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<Mode>,
}

/// Part of a session in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Through a router or a launch, which must be there
    Client,
    /// Directly; nobody needs to be there yet
    Peer,
}

/// An open session and what belongs to it.
pub(super) struct Reached {
    /// The session.
    pub(super) bus: Bus,
    /// ROS domain.
    pub(super) domain: u32,
    /// What was connected to, for messages.
    pub(super) address: String,
}

impl Connect {
    /// Opens the session.
    ///
    /// # Errors
    /// Wrong usage when an option or a variable is wrong; a failure when nobody answers.
    pub(super) async fn open(&self) -> Result<Reached> {
        let variables =
            RosEnvironment::read(environment).map_err(|error| wrong(error.to_string()))?;
        let flag = self.domain.as_deref().map(|text| domain("--domain", text));
        let flag = flag.transpose().map_err(|error| wrong(error.to_string()))?;
        let (options, address) = self.options(&variables)?;
        let opened = timeout(OPEN_LIMIT, Bus::open(&options)).await;
        let bus = match opened {
            Ok(Ok(bus)) => bus,
            Ok(Err(BusError::Config { path, reason })) => {
                return Err(wrong(format!(
                    "Zenoh configuration {}: {}",
                    path.display(),
                    short(&reason)
                )));
            }
            Ok(Err(BusError::Setting { key, value, reason })) => {
                return Err(wrong(format!(
                    "Zenoh setting {key}={value}: {}",
                    short(&reason)
                )));
            }
            Ok(Err(error)) => {
                tracing::info!(%error, "no session");
                return Err(nobody(&address));
            }
            Err(_) => return Err(nobody(&address)),
        };
        Ok(Reached {
            bus,
            domain: flag.or(variables.domain).unwrap_or_default(),
            address,
        })
    }

    /// The options of the session, and the address that it connects to.
    fn options(&self, variables: &RosEnvironment) -> Result<(BusOptions, String)> {
        if let Some(address) = self
            .connect
            .as_deref()
            .filter(|address| !address.contains('/'))
        {
            return Err(wrong(format!(
                "--connect: expected an address such as {LOCAL_ROUTER}, found {address}"
            )));
        }
        let mut options = BusOptions {
            namespace: self.namespace.clone(),
            mode: match self.mode {
                None | Some(Mode::Client) => BusMode::Client,
                Some(Mode::Peer) => BusMode::Peer,
            },
            connect_required: self.mode != Some(Mode::Peer),
            ..BusOptions::default()
        };
        let mut usual = |key: &str, value: String| {
            options.config_overrides.push((key.to_owned(), value));
        };
        usual("connect/timeout_ms", PATIENCE_MS.to_string());
        variables.apply(&mut options);
        let said = |key: &str| {
            let set = options.config_overrides.iter().rev();
            set.into_iter()
                .find(|(known, _)| known == key)
                .map(|(_, value)| value.clone())
        };
        let address = match (&self.connect, &options.config_file) {
            (Some(address), _) => address.clone(),
            (None, Some(file)) => format!("the addresses of {}", file.display()),
            (None, None) => said("connect/endpoints").unwrap_or_else(|| LOCAL_ROUTER.to_owned()),
        };
        if options.config_file.is_none() {
            options.connect = vec![
                self.connect
                    .clone()
                    .unwrap_or_else(|| LOCAL_ROUTER.to_owned()),
            ];
        }
        // Typed options are laid over those of the environment.
        let mut typed =
            |key: &str, value: String| options.config_overrides.push((key.to_owned(), value));
        if let Some(address) = &self.connect {
            typed("connect/endpoints", format!("{:?}", [address]));
        }
        match self.mode {
            None => {}
            Some(Mode::Client) => typed("mode", "\"client\"".to_owned()),
            Some(Mode::Peer) => typed("mode", "\"peer\"".to_owned()),
        }
        Ok((options, address))
    }
}

/// What Zenoh says, without the place in its source and in one line.
fn short(reason: &str) -> String {
    let said = reason.split(" at /").next().unwrap_or_default();
    let words: Vec<&str> = said.split_whitespace().collect();
    shorten_to(&words.join(" "), REASON_CHARS_MAX)
}

fn shorten_to(text: &str, most: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(most)
        .collect()
}

fn nobody(address: &str) -> anyhow::Error {
    anyhow!(
        "nobody answers at {address}: start a launch, which prints its address, or a router; then --connect ADDRESS"
    )
}

/// A topic that is no key is wrong usage; Zenoh's reason ends with a place in its source, which helps nobody here.
pub(super) fn declared<T>(outcome: Result<T, BusError>) -> Result<T> {
    outcome.map_err(|error| match error {
        BusError::Topic { topic, reason } => wrong(format!(
            "topic {topic}: {}",
            reason.split(" at /").next().unwrap_or_default()
        )),
        other => other.into(),
    })
}

/// Waits for Ctrl-C or SIGTERM.
pub(super) async fn stopped() -> Result<()> {
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Ends a session after its last message has left.
pub(super) async fn close(bus: Bus) {
    bus.close(CLOSE_LIMIT).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(address: Option<&str>, mode: Option<Mode>) -> Connect {
        Connect {
            connect: address.map(str::to_owned),
            namespace: String::new(),
            domain: None,
            mode,
        }
    }

    #[test]
    fn typed_options_win_over_the_environment() {
        let from = |overrides: &str| {
            RosEnvironment::read(|name| {
                (name == "ZENOH_CONFIG_OVERRIDE").then(|| overrides.to_owned())
            })
            .unwrap()
        };
        let elsewhere = r#"connect/endpoints=["tcp/10.0.0.5:7447"];mode="peer""#;
        for (address, mode, overrides, expected, last, why) in [
            (
                None,
                None,
                "",
                LOCAL_ROUTER,
                Some(("connect/timeout_ms", "2000")),
                "the router on this computer",
            ),
            (
                None,
                None,
                elsewhere,
                r#"["tcp/10.0.0.5:7447"]"#,
                Some(("mode", "\"peer\"")),
                "the environment",
            ),
            (
                Some("tcp/h:1"),
                None,
                elsewhere,
                "tcp/h:1",
                Some(("connect/endpoints", r#"["tcp/h:1"]"#)),
                "typed",
            ),
            (
                None,
                Some(Mode::Client),
                elsewhere,
                r#"["tcp/10.0.0.5:7447"]"#,
                Some(("mode", "\"client\"")),
                "mode typed",
            ),
        ] {
            let (options, address) = connect(address, mode).options(&from(overrides)).unwrap();
            assert_eq!(address, expected, "{why}");
            let found = options.config_overrides.last();
            assert_eq!(
                found.map(|(key, value)| (key.as_str(), value.as_str())),
                last,
                "{why}"
            );
        }
        let error = connect(Some("localhost"), None).options(&RosEnvironment::default());
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("tcp/127.0.0.1:7447")
        );
    }
}
