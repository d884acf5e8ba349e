//! The bus: the one place that opens a Zenoh session.
//!
//! Defaults are those of a vehicle's own computer: peer on loopback, no multicast, a router on localhost is tried and not needed.
//! A Zenoh configuration file given by the user is passed through as it is. A session is closed when the last clone of [`Bus`] drops,
//! so every publisher and subscription holds one.
//!
//! ```text
//! topic "mic/audio"  --namespace "ego"-->  key "ego/mic/audio"
//! topic "/diagnostics" ----------------->  key "diagnostics"
//! ```

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tracing::warn;
pub use zenoh::qos::Priority;
use zenoh::{
    Session,
    bytes::{Encoding, ZBytes},
    pubsub::{Publisher as ZenohPublisher, Subscriber},
    qos::{CongestionControl, Reliability},
    query::Queryable,
    sample::{Sample, SampleKind},
};

use crate::{
    clock::{Clock, ClockSource, Follower},
    contract::Ros2Options,
};

/// Longest payload taken from the bus, in bytes: eleven full-HD RGB images. Anything longer is refused before it is read.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Where a local router is looked for, as ROS 2's rmw_zenoh does.
pub const LOCAL_ROUTER: &str = "tcp/127.0.0.1:7447";

/// How long a session that needs somebody to talk to waits for it, in ms.
const CONNECT_LIMIT_MS: u32 = 5_000;

/// What can go wrong with the session itself.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The Zenoh configuration file could not be used.
    #[error("Zenoh configuration {path}: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What Zenoh says of it.
        reason: String,
    },
    /// A setting was refused.
    #[error("Zenoh setting {key} = {value}: {reason}")]
    Setting {
        /// Key in Zenoh's configuration.
        key: String,
        /// The value that was refused.
        value: String,
        /// What Zenoh says of it.
        reason: String,
    },
    /// The session could not be opened.
    #[error(
        "no Zenoh session (mode {mode}, listen {listen:?}): {reason}; is the address free, and is a router running if the mode is client?"
    )]
    Open {
        /// `peer` or `client`.
        mode: &'static str,
        /// Addresses it was to listen on.
        listen: Vec<String>,
        /// What Zenoh says.
        reason: String,
    },
    /// A topic name is no Zenoh key, or a declaration failed.
    #[error("topic {topic}: {reason}")]
    Topic {
        /// The topic as written.
        topic: String,
        /// What Zenoh says.
        reason: String,
    },
    /// A message could not be published.
    #[error("publishing on {key}: {reason}")]
    Put {
        /// The Zenoh key.
        key: String,
        /// What Zenoh says.
        reason: String,
    },
}

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
    fn name(self) -> &'static str {
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
    /// Addresses to connect to. A peer tries them for ever in the background and runs without them.
    pub connect: Vec<String>,
    /// Refuse to open when none of `connect` answers. A client always does.
    pub connect_required: bool,
    /// Look for others by multicast.
    pub multicast: bool,
    /// A Zenoh configuration file, passed through; the other fields then only add to it.
    pub config_file: Option<PathBuf>,
    /// What stamps and ages are measured with.
    pub clock: ClockSource,
    /// How the graph shows itself to ROS 2; plain Zenoh keys only without.
    pub ros2: Option<Ros2Options>,
}

/// One Zenoh session with a namespace. Clones share the session.
#[derive(Clone)]
pub struct Bus {
    session: Session,
    namespace: Arc<str>,
    listening: Arc<[String]>,
    clock: Clock,
    _clock_feed: Option<Arc<Subscriber<()>>>,
}

/// How a publisher treats its messages.
#[derive(Clone, Copy, Debug)]
pub struct Qos {
    /// Reliable (resent on lossy links) or best effort.
    pub reliable: bool,
    /// Sent at once rather than batched with others.
    pub express: bool,
    /// Wait when the link is congested instead of dropping.
    pub block: bool,
    /// Overtaking order on a congested link.
    pub priority: Priority,
}

impl Qos {
    /// For events that must arrive: commands, advice.
    pub const EVENT: Qos = Qos {
        reliable: true,
        express: true,
        block: true,
        priority: Priority::InteractiveHigh,
    };
    /// For a stop and the verdict: overtakes everything, and never waits for a slow reader.
    pub const URGENT: Qos = Qos {
        reliable: true,
        express: true,
        block: false,
        priority: Priority::RealTime,
    };
    /// For streams of which only the newest counts: sensors, summaries, diagnostics.
    pub const STREAM: Qos = Qos {
        reliable: false,
        express: false,
        block: false,
        priority: Priority::Data,
    };
}

/// What came in, before anybody looked inside.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The Zenoh key.
    pub key: String,
    /// The payload; shares the received buffer.
    pub payload: ZBytes,
    /// Zenoh encoding, e.g. `zenoh/bytes` or `application/json`.
    pub encoding: String,
    /// Wall time of reception.
    pub received: SystemTime,
    /// Wall time of publication as the sender's session stamped it.
    pub sent: Option<SystemTime>,
    /// Id of the session that published, as the timestamp tells it.
    pub publisher: Option<u128>,
}

impl Bus {
    /// Opens the session.
    ///
    /// # Errors
    /// [`BusError`] with the setting or address that was refused.
    pub async fn open(options: &BusOptions) -> Result<Bus, BusError> {
        let listen = match options.mode {
            BusMode::Peer => options
                .listen
                .iter()
                .map(|address| with_free_port(address))
                .collect(),
            BusMode::Client => Vec::new(),
        };
        let config = configuration(options, &listen)?;
        let session = zenoh::open(config).await.map_err(|error| BusError::Open {
            mode: options.mode.name(),
            listen: listen.clone(),
            reason: error.to_string(),
        })?;
        let namespace = options.namespace.trim_matches('/');
        let (clock, feed) = match &options.clock {
            ClockSource::Wall => (Clock::wall(), None),
            ClockSource::Topic(topic) => {
                let (clock, follower) = Clock::followed(topic);
                let feed = follow(&session, &key_of(namespace, topic), follower).await?;
                (clock, Some(Arc::new(feed)))
            }
        };
        Ok(Bus {
            session,
            namespace: namespace.into(),
            listening: listen.into(),
            clock,
            _clock_feed: feed,
        })
    }

    /// The time of this graph.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Zenoh key of a topic: absolute ones lose their slash, relative ones get the namespace.
    pub fn key(&self, topic: &str) -> String {
        key_of(&self.namespace, topic)
    }

    /// The namespace, without slashes around it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The addresses this session listens on, with the ports it really got.
    pub fn listening(&self) -> &[String] {
        &self.listening
    }

    /// Id of this session: what [`Arrival::publisher`] says of its messages.
    pub fn id(&self) -> u128 {
        u128::from_le_bytes(self.session.zid().to_le_bytes())
    }

    /// Declares a publisher of bytes.
    ///
    /// # Errors
    /// [`BusError::Topic`] when the topic is no valid key.
    pub async fn raw_publisher(&self, topic: &str, qos: Qos) -> Result<RawPublisher, BusError> {
        let key = self.key(topic);
        let inner = self
            .session
            .declare_publisher(key.clone())
            .reliability(if qos.reliable {
                Reliability::Reliable
            } else {
                Reliability::BestEffort
            })
            .congestion_control(if qos.block {
                CongestionControl::Block
            } else {
                CongestionControl::Drop
            })
            .priority(qos.priority)
            .express(qos.express)
            .await
            .map_err(|error| BusError::Topic {
                topic: topic.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(RawPublisher {
            inner,
            key,
            _bus: self.clone(),
        })
    }

    /// Subscribes; `on` runs on Zenoh's receiving thread, so it may only hand over. Wildcards of key expressions are allowed.
    ///
    /// # Errors
    /// [`BusError::Topic`] when the topic is no valid key expression.
    pub async fn subscribe(
        &self,
        topic: &str,
        on: impl Fn(Arrival) + Send + Sync + 'static,
    ) -> Result<Subscription, BusError> {
        let inner = self
            .session
            .declare_subscriber(self.key(topic))
            .callback(move |sample| {
                if sample.kind() == SampleKind::Put {
                    on(arrival(&sample));
                }
            })
            .await
            .map_err(|error| BusError::Topic {
                topic: topic.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Subscription {
            _inner: inner,
            _bus: self.clone(),
        })
    }

    /// Answers `get` on a topic with what `answer` returns at that moment; `None` answers nothing.
    ///
    /// # Errors
    /// [`BusError::Topic`] when the topic is no valid key expression.
    pub async fn answer(
        &self,
        topic: &str,
        answer: impl Fn() -> Option<(Vec<u8>, Encoding)> + Send + Sync + 'static,
    ) -> Result<Answering, BusError> {
        let key = self.key(topic);
        let reply_key = key.clone();
        let inner = self
            .session
            .declare_queryable(key)
            .callback(move |query| {
                use zenoh::Wait;
                if let Some((payload, encoding)) = answer()
                    && let Err(error) = query
                        .reply(reply_key.clone(), payload)
                        .encoding(encoding)
                        .wait()
                {
                    warn!(key = %reply_key, %error, "a query got no answer");
                }
            })
            .await
            .map_err(|error| BusError::Topic {
                topic: topic.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Answering {
            _inner: inner,
            _bus: self.clone(),
        })
    }

    /// Waits until the session's last messages have left, at most `limit`, and closes it.
    pub async fn close(self, limit: Duration) {
        if let Ok(Err(error)) =
            tokio::time::timeout(limit, async { self.session.close().await }).await
        {
            warn!(%error, "the Zenoh session did not close cleanly");
        }
    }
}

/// Zenoh key of `topic` under `namespace`.
pub fn key_of(namespace: &str, topic: &str) -> String {
    match topic.strip_prefix('/') {
        Some(absolute) => absolute.trim_end_matches('/').to_owned(),
        None if namespace.is_empty() => topic.trim_end_matches('/').to_owned(),
        None => format!(
            "{}/{}",
            namespace.trim_matches('/'),
            topic.trim_end_matches('/')
        ),
    }
}

/// A declared publisher of bytes; undeclared when dropped.
pub struct RawPublisher {
    inner: ZenohPublisher<'static>,
    key: String,
    _bus: Bus,
}

impl RawPublisher {
    /// Publishes one payload with Zenoh's default encoding, as ROS 2 bridges expect CDR.
    ///
    /// # Errors
    /// [`BusError::Put`] when the session is gone.
    pub async fn put(&self, payload: Vec<u8>) -> Result<(), BusError> {
        self.inner
            .put(payload)
            .await
            .map_err(|error| BusError::Put {
                key: self.key.clone(),
                reason: error.to_string(),
            })
    }

    /// Publishes one payload with an encoding of its own.
    ///
    /// # Errors
    /// [`BusError::Put`] when the session is gone.
    pub async fn put_as(&self, payload: Vec<u8>, encoding: Encoding) -> Result<(), BusError> {
        self.inner
            .put(payload)
            .encoding(encoding)
            .await
            .map_err(|error| BusError::Put {
                key: self.key.clone(),
                reason: error.to_string(),
            })
    }

    /// Whether anybody listens right now; unknown counts as yes.
    pub async fn has_listeners(&self) -> bool {
        self.inner
            .matching_status()
            .await
            .map_or(true, |status| status.matching())
    }

    /// The Zenoh key it publishes on.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// A declared subscription; undeclared when dropped.
pub struct Subscription {
    _inner: Subscriber<()>,
    _bus: Bus,
}

/// A declared queryable; undeclared when dropped.
pub struct Answering {
    _inner: Queryable<()>,
    _bus: Bus,
}

/// Moves a clock by what arrives on its key.
async fn follow(
    session: &Session,
    key: &str,
    follower: Follower,
) -> Result<Subscriber<()>, BusError> {
    session
        .declare_subscriber(key.to_owned())
        .callback(move |sample| {
            if sample.kind() == SampleKind::Put {
                follower.take(&arrival(&sample));
            }
        })
        .await
        .map_err(|error| BusError::Topic {
            topic: key.to_owned(),
            reason: error.to_string(),
        })
}

fn arrival(sample: &Sample) -> Arrival {
    Arrival {
        key: sample.key_expr().as_str().to_owned(),
        payload: sample.payload().clone(),
        encoding: sample.encoding().to_string(),
        received: SystemTime::now(),
        sent: sample
            .timestamp()
            .map(|stamp| stamp.get_time().to_system_time()),
        publisher: sample
            .timestamp()
            .map(|stamp| u128::from_le_bytes(stamp.get_id().to_le_bytes())),
    }
}

fn configuration(options: &BusOptions, listen: &[String]) -> Result<zenoh::Config, BusError> {
    let mut config = match &options.config_file {
        Some(path) => from_file(path)?,
        None => zenoh::Config::default(),
    };
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
        // A peer goes on without a router; a client without one is an error at once rather than a silence.
        let required = options.connect_required || options.mode == BusMode::Client;
        set("connect/exit_on_failure", required.to_string())?;
        let patience_ms = if required { CONNECT_LIMIT_MS } else { 0 };
        set("connect/timeout_ms", patience_ms.to_string())?;
        // Ages and publisher identities come from Zenoh's timestamps, which are off by default outside routers.
        set("timestamping/enabled", "true".to_owned())?;
    } else if !listen.is_empty() {
        set("listen/endpoints", format!("{listen:?}"))?;
    }
    if !options.connect.is_empty() {
        set("connect/endpoints", format!("{:?}", options.connect))?;
    }
    Ok(config)
}

fn from_file(path: &Path) -> Result<zenoh::Config, BusError> {
    zenoh::Config::from_file(path).map_err(|error| BusError::Config {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Replaces port 0 of a TCP address by a port that is free now: Zenoh does not tell which loopback port it got, and children must know.
fn with_free_port(address: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_the_bridge() {
        for (namespace, topic, key, why) in [
            (
                "ego",
                "mic/audio",
                "ego/mic/audio",
                "relative topics stand under the namespace",
            ),
            (
                "/ego/",
                "mic/audio",
                "ego/mic/audio",
                "slashes around a namespace are decoration",
            ),
            (
                "ego",
                "/diagnostics",
                "diagnostics",
                "absolute topics do not",
            ),
            ("", "mic/audio", "mic/audio", "no namespace"),
        ] {
            assert_eq!(key_of(namespace, topic), key, "{why}");
        }
    }

    fn loopback(listen: &str, connect: Vec<String>) -> BusOptions {
        BusOptions {
            namespace: "t".into(),
            listen: if listen.is_empty() {
                vec![]
            } else {
                vec![listen.into()]
            },
            connect,
            ..Default::default()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_sessions_meet_on_loopback_and_messages_carry_time_and_publisher() {
        let one = Bus::open(&loopback("tcp/127.0.0.1:0", vec![]))
            .await
            .expect("opens");
        let address = one.listening()[0].clone();
        assert!(
            !address.ends_with(":0"),
            "the real port is known: {address}"
        );
        let two = Bus::open(&loopback("", vec![address]))
            .await
            .expect("opens");
        let (tx, mut rx) = tokio::sync::mpsc::channel(4);
        let _subscription = two
            .subscribe("a/b", move |arrival| {
                let _ = tx.try_send(arrival);
            })
            .await
            .expect("subscribes");
        let publisher = one
            .raw_publisher("a/b", Qos::EVENT)
            .await
            .expect("declares");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !publisher.has_listeners().await {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the sessions did not meet"
            );
            tokio::task::yield_now().await;
        }
        publisher.put(vec![1, 2, 3]).await.expect("publishes");
        let arrival = tokio::time::timeout(Duration::from_secs(10), rx.recv())
            .await
            .expect("in time")
            .expect("arrives");
        assert_eq!(arrival.key, "t/a/b");
        assert_eq!(&*arrival.payload.to_bytes(), &[1, 2, 3]);
        assert_eq!(arrival.publisher, Some(one.id()), "who published is known");
        assert!(arrival.sent.is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_without_a_router_is_an_error_that_says_so() {
        let options = BusOptions {
            mode: BusMode::Client,
            connect: vec![with_free_port("tcp/127.0.0.1:0")],
            ..Default::default()
        };
        let error = Bus::open(&options).await.err().expect("no router there");
        assert!(error.to_string().contains("client"), "{error}");
    }
}
