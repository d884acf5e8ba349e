//! What goes out: how a publisher treats its messages, and the publisher of bytes.
//!
//! A publisher for late subscribers (ROS 2: TRANSIENT_LOCAL) is an advanced publisher of zenoh-ext with a cache, as rmw_zenoh and
//! zenoh-bridge-ros2dds declare theirs: latched topics meet only through it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use llmasos_msgs::rmw_zenoh::{self, Attachment, QosProfile};
pub use zenoh::qos::Priority;
use zenoh::{
    Session,
    bytes::{Encoding, ZBytes},
    matching::MatchingStatus,
    pubsub::Publisher,
    qos::{CongestionControl, Reliability},
};
use zenoh_ext::{AdvancedPublisher, AdvancedPublisherBuilderExt, CacheConfig, MissDetectionConfig};

use super::{Bus, BusError, topic_error};

/// How often a publisher for late subscribers says which sample was its last, if it changed: rmw_zenoh's period.
const HEARTBEAT: Duration = Duration::from_millis(500);

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
    /// Keeps its last messages for subscribers that come later (ROS 2: TRANSIENT_LOCAL).
    pub transient_local: bool,
    /// How many messages it keeps, and what ROS 2 tools show as its depth.
    pub depth: u32,
}

impl Qos {
    /// For events that must arrive: commands, advice.
    pub const EVENT: Qos = Qos {
        reliable: true,
        express: true,
        block: true,
        priority: Priority::InteractiveHigh,
        transient_local: false,
        depth: 10,
    };
    /// For a stop and the verdict: overtakes everything, and never waits for a slow reader.
    pub const URGENT: Qos = Qos {
        reliable: true,
        express: true,
        block: false,
        priority: Priority::RealTime,
        transient_local: false,
        depth: 1,
    };
    /// For streams of which only the newest counts: sensors, summaries, diagnostics.
    pub const STREAM: Qos = Qos {
        reliable: false,
        express: false,
        block: false,
        priority: Priority::Data,
        transient_local: false,
        depth: 1,
    };
    /// For a state that whoever comes later must know as well: a speed limit.
    pub const LATCHED: Qos = Qos {
        transient_local: true,
        depth: 1,
        ..Qos::EVENT
    };

    /// What ROS 2 tools are told.
    pub fn profile(&self) -> QosProfile {
        QosProfile {
            reliability: if self.reliable {
                rmw_zenoh::Reliability::Reliable
            } else {
                rmw_zenoh::Reliability::BestEffort
            },
            durability: if self.transient_local {
                rmw_zenoh::Durability::TransientLocal
            } else {
                rmw_zenoh::Durability::Volatile
            },
            history: rmw_zenoh::History::KeepLast,
            depth: self.depth,
        }
    }
}

/// A declared publisher of bytes; undeclared when dropped.
pub struct RawPublisher {
    inner: Inner,
    key: String,
    /// Whether anybody listens, kept up to date by Zenoh; `None` when nobody asked for it.
    heard: Option<Arc<AtomicBool>>,
    _bus: Bus,
}

enum Inner {
    Plain(Publisher<'static>),
    Advanced(Box<AdvancedPublisher<'static>>),
}

impl RawPublisher {
    pub(super) async fn declare(
        bus: &Bus,
        session: &Session,
        key: String,
        qos: Qos,
    ) -> Result<RawPublisher, zenoh::Error> {
        let builder = session
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
            .express(qos.express);
        let inner = if qos.transient_local {
            let cache = CacheConfig::default().max_samples(qos.depth.max(1) as usize);
            let advanced = builder.cache(cache).publisher_detection();
            Inner::Advanced(Box::new(match qos.reliable {
                true => {
                    let misses = MissDetectionConfig::default().sporadic_heartbeat(HEARTBEAT);
                    advanced.sample_miss_detection(misses).await?
                }
                false => advanced.await?,
            }))
        } else {
            Inner::Plain(builder.await?)
        };
        Ok(RawPublisher {
            inner,
            key,
            heard: None,
            _bus: bus.clone(),
        })
    }

    /// Keeps in mind whether anybody listens, so that asking costs nothing: for a publisher that asks before every message.
    ///
    /// # Errors
    /// [`BusError::Topic`] when the session is gone.
    pub async fn watched(mut self) -> Result<RawPublisher, BusError> {
        let heard = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&heard);
        let on = move |status: MatchingStatus| flag.store(status.matching(), Ordering::Release);
        // In the background: it ends with the publisher.
        let declared = match &self.inner {
            Inner::Plain(publisher) => {
                publisher
                    .matching_listener()
                    .callback(on)
                    .background()
                    .await
            }
            Inner::Advanced(publisher) => {
                publisher
                    .matching_listener()
                    .callback(on)
                    .background()
                    .await
            }
        };
        declared.map_err(|error| topic_error(&self.key, &error))?;
        self.heard = Some(heard);
        Ok(self)
    }

    /// Publishes one payload with Zenoh's default encoding, as ROS 2 bridges expect CDR.
    ///
    /// # Errors
    /// [`BusError::Put`] when the session is gone.
    pub async fn put(&self, payload: impl Into<ZBytes>) -> Result<(), BusError> {
        self.send(payload.into(), Encoding::ZENOH_BYTES, None).await
    }

    /// Publishes one payload with an encoding of its own.
    ///
    /// # Errors
    /// [`BusError::Put`] when the session is gone.
    pub async fn put_as(
        &self,
        payload: impl Into<ZBytes>,
        encoding: Encoding,
    ) -> Result<(), BusError> {
        self.send(payload.into(), encoding, None).await
    }

    /// Publishes one payload with rmw_zenoh's attachment beside it.
    ///
    /// # Errors
    /// [`BusError::Put`] when the session is gone.
    pub async fn put_attached(
        &self,
        payload: impl Into<ZBytes>,
        attachment: &Attachment,
    ) -> Result<(), BusError> {
        let bytes = ZBytes::from(attachment.encode());
        self.send(payload.into(), Encoding::ZENOH_BYTES, Some(bytes))
            .await
    }

    async fn send(
        &self,
        payload: ZBytes,
        encoding: Encoding,
        attachment: Option<ZBytes>,
    ) -> Result<(), BusError> {
        let sent = match &self.inner {
            Inner::Plain(publisher) => {
                publisher
                    .put(payload)
                    .encoding(encoding)
                    .attachment(attachment)
                    .await
            }
            Inner::Advanced(publisher) => {
                publisher
                    .put(payload)
                    .encoding(encoding)
                    .attachment(attachment)
                    .await
            }
        };
        sent.map_err(|error| BusError::Put {
            key: self.key.clone(),
            reason: error.to_string(),
        })
    }

    /// Whether anybody listens right now; unknown counts as yes.
    pub async fn has_listeners(&self) -> bool {
        if let Some(heard) = &self.heard {
            return heard.load(Ordering::Acquire);
        }
        let status = match &self.inner {
            Inner::Plain(publisher) => publisher.matching_status().await,
            Inner::Advanced(publisher) => publisher.matching_status().await,
        };
        status.map_or(true, |status| status.matching())
    }

    /// The Zenoh key it publishes on.
    pub fn key(&self) -> &str {
        &self.key
    }
}
