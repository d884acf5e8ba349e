//! Hearing a topic on all keys it may travel on, each message once.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use llmasos_msgs::rmw_zenoh::{Durability, QosProfile};
use llmasos_nodes::{
    bus::{Arrival, Bus, Subscription},
    ros2::Copies,
};

use super::{
    super::{
        connect::{Reached, declared},
        network::{Network, Role},
        usage::wrong,
    },
    name::Name,
};

/// How long to wait for the first message of a topic that nobody announces.
const UNKNOWN_LIMIT: Duration = Duration::from_secs(5);
/// After how long without a first message a word is said.
const WORD_AFTER: Duration = Duration::from_secs(3);
/// Longest time that may be asked for, in seconds: a day.
pub(super) const SECONDS_MAX: f64 = 86_400.0;

/// Subscribes to all keys of a name; `on` runs on Zenoh's receiving thread, so it may only hand over. With `history` messages that
/// were published before are asked for: as many.
///
/// # Errors
/// Wrong usage when the name is no key expression.
pub(super) async fn listen(
    bus: &Bus,
    name: &Name,
    history: Option<u32>,
    on: impl Fn(Arrival) + Send + Sync + 'static,
) -> Result<Vec<Subscription>> {
    let (on, copies) = (Arc::new(on), Arc::new(Copies::default()));
    let mut subscriptions = Vec::new();
    for (lane, key) in name.keys().enumerate() {
        let (on, copies) = (Arc::clone(&on), Arc::clone(&copies));
        let once = move |arrival: Arrival| {
            if !copies.is_copy(&arrival, lane) {
                on(arrival);
            }
        };
        // A slash in front: the namespace stands in the key already.
        let topic = format!("/{key}");
        subscriptions.push(declared(match history {
            None => bus.subscribe(&topic, once).await,
            Some(depth) => bus.subscribe_with_history(&topic, depth, once).await,
        })?);
    }
    Ok(subscriptions)
}

/// The history to ask for: what the QoS says, or what those who publish keep, if all of them keep something.
pub(super) fn history(
    network: &Network,
    name: &Name,
    asked: QosProfile,
    is_asked: bool,
) -> Option<u32> {
    if is_asked {
        return (asked.durability == Durability::TransientLocal).then_some(asked.depth);
    }
    let publishers = network
        .of_name(&name.shown)
        .filter(|endpoint| endpoint.role == Role::Publisher);
    let mut depth = None;
    for publisher in publishers {
        let Some(qos) = publisher.qos else { continue };
        if qos.durability != Durability::TransientLocal {
            return None;
        }
        depth = Some(qos.depth.max(depth.unwrap_or(1)));
    }
    depth
}

/// How long to wait for a first message.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(super) struct Patience {
    /// End with an error when nothing came for so long; 0 waits for ever [default: 5 where nobody announces the topic, else 0]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
}

impl Patience {
    /// The limit, if there is one.
    ///
    /// # Errors
    /// Wrong usage when the number is none of seconds.
    pub(super) fn limit(self, known: bool) -> Result<Option<Duration>> {
        match self.timeout {
            None => Ok((!known).then_some(UNKNOWN_LIMIT)),
            Some(0.0) => Ok(None),
            Some(given) => seconds("--timeout", given).map(Some),
        }
    }
}

/// A time that was typed in seconds.
///
/// # Errors
/// Wrong usage outside of (0, a day].
pub(super) fn seconds(flag: &str, given: f64) -> Result<Duration> {
    if given > 0.0 && given <= SECONDS_MAX {
        return Ok(Duration::from_secs_f64(given));
    }
    Err(wrong(format!(
        "{flag}: expected more than 0 and at most {SECONDS_MAX} s, found {given}"
    )))
}

/// Sleeps for a limit, or for ever.
pub(super) async fn pause(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Says once, where there is no limit, that it still waits.
pub(super) async fn word_while_waiting(limit: Option<Duration>) {
    if limit.is_some() {
        return std::future::pending().await;
    }
    tokio::time::sleep(WORD_AFTER).await;
}

/// What to say when nothing was heard.
pub(super) fn silence(
    name: &Name,
    known: bool,
    limit: Duration,
    reached: &Reached,
) -> anyhow::Error {
    let seconds = limit.as_secs_f64();
    let (shown, domain, address) = (&name.shown, reached.domain, &reached.address);
    if known {
        return anyhow!(
            "no message on {shown} within {seconds} s, though it is announced: `llmasos topic info -v {shown}` shows by whom"
        );
    }
    anyhow!(
        "nobody announces {shown} and no message came within {seconds} s. `llmasos topic list` shows what is there; \
         is it in a namespace (--namespace), in another domain than {domain} (--domain), elsewhere than {address} (--connect)?"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_has_a_limit_where_nobody_announces_the_topic() {
        let usual = Patience::default();
        assert_eq!(usual.limit(false).unwrap(), Some(UNKNOWN_LIMIT));
        assert_eq!(usual.limit(true).unwrap(), None);
        let of = |timeout| Patience {
            timeout: Some(timeout),
        };
        assert_eq!(of(0.0).limit(false).unwrap(), None);
        assert_eq!(
            of(0.5).limit(true).unwrap(),
            Some(Duration::from_millis(500))
        );
        for wrong in [-1.0, f64::NAN, 1e9] {
            assert!(of(wrong).limit(true).is_err(), "{wrong}");
        }
    }
}
