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

mod arrival;
mod config;
pub mod look;
mod publisher;

use std::{path::PathBuf, sync::Arc, time::Duration};

use llmasos_msgs::{Message, rosgraph_msgs};
use tracing::warn;
use zenoh::{
    Session,
    bytes::{Encoding, ZBytes},
    pubsub::Subscriber,
    query::Query,
    sample::SampleKind,
};
use zenoh_ext::{AdvancedSubscriberBuilderExt, HistoryConfig, RecoveryConfig};

use self::{
    arrival::Subscribed,
    config::{configuration, is_client, with_free_port},
};
pub use self::{
    arrival::{Answering, Arrival, Subscription},
    config::{BusMode, BusOptions, LOCAL_ROUTER},
    publisher::{Priority, Qos, RawPublisher},
};
use crate::{
    clock::{Clock, ClockSource, Follower},
    ros2::Ros2,
};

/// Longest payload taken from the bus, in bytes: eleven full-HD RGB images. Anything longer is refused before it is read.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// How long an advanced subscription waits for what was published before it came.
const HISTORY_LIMIT: Duration = Duration::from_secs(10);

/// Pause before a client looks for its router again; doubled up to the longest.
const ROUTER_PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const ROUTER_PAUSE_MAX: Duration = Duration::from_secs(1);

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

/// One Zenoh session with a namespace. Clones share the session.
#[derive(Clone)]
pub struct Bus {
    session: Session,
    namespace: Arc<str>,
    listening: Arc<[String]>,
    ros2: Option<Ros2>,
    clock: Clock,
    _clock_feed: Option<Arc<Vec<Subscriber<()>>>>,
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
        let session = open(config, options, &listen).await?;
        let namespace: Arc<str> = options.namespace.trim_matches('/').into();
        let ros2 = match options.ros2 {
            Some(options) => Some(Ros2::open(&session, options, &namespace).await?),
            None => None,
        };
        let (clock, feed) = match &options.clock {
            ClockSource::Wall => (Clock::wall(), None),
            ClockSource::Topic(topic) => {
                let (clock, follower) = Clock::followed(topic);
                let key = key_of(&namespace, topic);
                let feed = follow(&session, &key, ros2.as_ref(), follower).await?;
                (clock, Some(Arc::new(feed)))
            }
        };
        Ok(Bus {
            session,
            namespace,
            listening: listen.into(),
            ros2,
            clock,
            _clock_feed: feed,
        })
    }

    /// The Zenoh session itself: to measure what everything else here costs.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The time of this graph.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// This session's part of the ROS 2 graph, if it takes part.
    pub fn ros2(&self) -> Option<&Ros2> {
        self.ros2.as_ref()
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
        RawPublisher::declare(self, &self.session, self.key(topic), qos)
            .await
            .map_err(|error| topic_error(topic, &error))
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
                    on(Arrival::of(&sample));
                }
            })
            .await
            .map_err(|error| topic_error(topic, &error))?;
        Ok(Subscription {
            _inner: Subscribed::Plain { _inner: inner },
            _bus: self.clone(),
        })
    }

    /// Subscribes and asks for the last `depth` messages of every publisher that keeps them (ROS 2: TRANSIENT_LOCAL), now and when one
    /// comes later.
    ///
    /// # Errors
    /// [`BusError::Topic`] when the topic is no valid key expression.
    pub async fn subscribe_with_history(
        &self,
        topic: &str,
        depth: u32,
        on: impl Fn(Arrival) + Send + Sync + 'static,
    ) -> Result<Subscription, BusError> {
        let history = HistoryConfig::default()
            .detect_late_publishers()
            .max_samples(depth.max(1) as usize);
        let inner = self
            .session
            .declare_subscriber(self.key(topic))
            .callback(move |sample| {
                if sample.kind() == SampleKind::Put {
                    on(Arrival::of(&sample));
                }
            })
            .history(history)
            .recovery(RecoveryConfig::default().heartbeat())
            .subscriber_detection()
            .query_timeout(HISTORY_LIMIT)
            .await
            .map_err(|error| topic_error(topic, &error))?;
        Ok(Subscription {
            _inner: Subscribed::Advanced { _inner: inner },
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
        answer: impl Fn() -> Option<(ZBytes, Encoding)> + Send + Sync + 'static,
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
            .map_err(|error| topic_error(topic, &error))?;
        Ok(Answering {
            _inner: inner,
            _bus: self.clone(),
        })
    }

    /// Takes the queries of a topic as they come; `on` runs on Zenoh's receiving thread, so it may only hand over. A query is answered
    /// through itself, and ends when it is dropped.
    ///
    /// # Errors
    /// [`BusError::Topic`] when the topic is no valid key expression.
    pub(crate) async fn questions(
        &self,
        topic: &str,
        on: impl Fn(Query) + Send + Sync + 'static,
    ) -> Result<Answering, BusError> {
        // Complete: a client of rmw_zenoh asks only servers that know all of a key, as this one does.
        let inner = self
            .session
            .declare_queryable(self.key(topic))
            .complete(true)
            .callback(on)
            .await
            .map_err(|error| topic_error(topic, &error))?;
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

/// Opens the session; a client that need not find its router at once waits until there is one, so that start order does not matter.
async fn open(
    config: zenoh::Config,
    options: &BusOptions,
    listen: &[String],
) -> Result<Session, BusError> {
    let waits = is_client(&config) && !options.connect_required;
    let mut pause = ROUTER_PAUSE_MIN;
    loop {
        match zenoh::open(config.clone()).await {
            Ok(session) => return Ok(session),
            Err(error) if waits => {
                if pause == ROUTER_PAUSE_MIN {
                    warn!(%error, "no router answers yet; it is tried until one does");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ROUTER_PAUSE_MAX);
            }
            Err(error) => {
                return Err(BusError::Open {
                    mode: options.mode.name(),
                    listen: listen.to_owned(),
                    reason: error.to_string(),
                });
            }
        }
    }
}

/// Moves a clock by what arrives on its key, and on rmw_zenoh's where the session takes part in that graph.
async fn follow(
    session: &Session,
    key: &str,
    ros2: Option<&Ros2>,
    follower: Follower,
) -> Result<Vec<Subscriber<()>>, BusError> {
    let ros_key = ros2.and_then(|ros2| {
        let subject = ros2.topic(key, rosgraph_msgs::Clock::TYPE)?;
        ros2.data_topic(&subject, "*")
    });
    let follower = Arc::new(follower);
    let mut feed = Vec::new();
    for key in [Some(key.to_owned()), ros_key].into_iter().flatten() {
        let follower = Arc::clone(&follower);
        let subscriber = session
            .declare_subscriber(key_of("", &key))
            .callback(move |sample| {
                if sample.kind() == SampleKind::Put {
                    follower.take(&Arrival::of(&sample));
                }
            })
            .await
            .map_err(|error| topic_error(&key, &error))?;
        feed.push(subscriber);
    }
    Ok(feed)
}

/// What Zenoh says of a topic that it does not take.
pub(crate) fn topic_error(topic: &str, error: &zenoh::Error) -> BusError {
    BusError::Topic {
        topic: topic.to_owned(),
        reason: error.to_string(),
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

    #[test]
    fn settings_on_top_win_and_wrong_ones_are_named() {
        let with = |key: &str, value: &str| BusOptions {
            connect: vec!["tcp/127.0.0.1:1".into()],
            config_overrides: vec![(key.into(), value.into())],
            ..Default::default()
        };
        let config = configuration(&with("connect/endpoints", r#"["tcp/10.0.0.5:7447"]"#), &[]);
        let endpoints = config.expect("valid").get_json("connect/endpoints");
        assert_eq!(endpoints.expect("set"), r#"["tcp/10.0.0.5:7447"]"#);
        for (key, value) in [("no/such/key", "1"), ("mode", "client"), ("mode", "")] {
            let error = configuration(&with(key, value), &[]).expect_err("refused");
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_without_a_router_is_an_error_that_says_so() {
        let options = BusOptions {
            mode: BusMode::Client,
            connect: vec![with_free_port("tcp/127.0.0.1:0")],
            connect_required: true,
            ..Default::default()
        };
        let error = Bus::open(&options).await.err().expect("no router there");
        assert!(error.to_string().contains("client"), "{error}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_may_wait_is_there_when_its_router_is() {
        let address = with_free_port("tcp/127.0.0.1:0");
        let client = tokio::spawn({
            let options = BusOptions {
                mode: BusMode::Client,
                connect: vec![address.clone()],
                ..Default::default()
            };
            async move { Bus::open(&options).await }
        });
        tokio::time::sleep(2 * ROUTER_PAUSE_MIN).await;
        assert!(!client.is_finished(), "it waits");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("router.json5");
        let text = format!(
            "{{ mode: 'router', listen: {{ endpoints: ['{address}'] }}, scouting: {{ multicast: {{ enabled: false }} }} }}"
        );
        std::fs::write(&file, text).expect("written");
        let router = BusOptions {
            config_file: Some(file),
            ..Default::default()
        };
        let _router = Bus::open(&router).await.expect("a router");
        let opened = tokio::time::timeout(Duration::from_secs(20), client).await;
        let bus = opened.expect("in time").expect("no panic");
        assert!(bus.is_ok(), "{:?}", bus.err());
    }
}
