//! Outputs: one typed topic of a node on every lane it has, with mirrors for people and for nodes that lack its type.
//!
//! ```text
//! put(message) ─ CDR ─┬─▶ plain key                      our nodes, zenoh-bridge-ros2dds, the Zenoh command line; `get` answers the last
//!                     ├─▶ rmw_zenoh key + attachment     ROS 2 nodes, if the session takes part in their graph
//!                     ├─▶ <key>/@json                    JSON text for people        ┐ each only
//!                     └─▶ <topic>/json                   JSON in a std_msgs/String   ┘ while somebody listens
//! ```

use std::{
    marker::PhantomData,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::SystemTime,
};

use llmasos_msgs::{
    Message,
    rmw_zenoh::{Attachment, EntityKind},
    std_msgs,
};
use zenoh::bytes::{Encoding, ZBytes};

use crate::{
    bus::{Answering, Bus, BusError, Priority, Qos, RawPublisher},
    clock,
    health::NodeHealth,
    ros2::Presence,
};

/// One topic on the plain key and, where the session takes part in the ROS 2 graph, on rmw_zenoh's key.
pub struct Lanes {
    plain: RawPublisher,
    ros: Option<RosLane>,
}

struct RosLane {
    publisher: RawPublisher,
    presence: Presence,
    /// Number of the last sample.
    sequence: AtomicI64,
}

impl Lanes {
    /// Declares the publishers and shows them in the graph. `type_id` is a type the registry knows.
    ///
    /// # Errors
    /// [`BusError::Topic`] when the topic is no valid key or the type is unknown.
    pub async fn open(
        bus: &Bus,
        health: &NodeHealth,
        topic: &str,
        type_id: &str,
        qos: Qos,
    ) -> Result<Lanes, BusError> {
        let plain = bus.raw_publisher(topic, qos).await?;
        let ros = match bus.ros2() {
            None => None,
            Some(ros2) => {
                let unknown = || BusError::Topic {
                    topic: topic.to_owned(),
                    reason: format!("expected a known message type, found {type_id}"),
                };
                let subject = ros2.topic(&bus.key(topic), type_id).ok_or_else(unknown)?;
                let key = ros2
                    .data_topic(&subject, &subject.hash)
                    .ok_or_else(unknown)?;
                // The publisher before its token: who sees the token may count on it.
                let publisher = bus.raw_publisher(&key, qos).await?;
                let presence = ros2
                    .show(
                        health,
                        EntityKind::Publisher,
                        &subject,
                        qos.profile(),
                        topic,
                    )
                    .await?;
                Some(RosLane {
                    publisher,
                    presence,
                    sequence: AtomicI64::new(0),
                })
            }
        };
        Ok(Lanes { plain, ros })
    }

    /// Keeps in mind whether anybody listens: [`RawPublisher::watched`].
    ///
    /// # Errors
    /// [`BusError::Topic`] when the session is gone.
    pub async fn watched(self) -> Result<Lanes, BusError> {
        Ok(Lanes {
            plain: self.plain.watched().await?,
            ros: match self.ros {
                Some(ros) => Some(RosLane {
                    publisher: ros.publisher.watched().await?,
                    ..ros
                }),
                None => None,
            },
        })
    }

    /// Publishes one CDR payload. The attachment goes with both copies, so that a reader of both lanes knows them for one message.
    ///
    /// # Errors
    /// [`BusError::Put`] when the session is gone.
    pub async fn put(&self, cdr: ZBytes) -> Result<(), BusError> {
        let Some(ros) = &self.ros else {
            return self.plain.put(cdr).await;
        };
        let attachment = Attachment {
            sequence: ros.sequence.fetch_add(1, Ordering::Relaxed) + 1,
            // Wall time also under a simulated clock, as rmw_zenoh does.
            stamp_ns: clock::wall_ns(SystemTime::now()),
            gid: ros.presence.gid(),
        };
        self.plain.put_attached(cdr.clone(), &attachment).await?;
        ros.publisher.put_attached(cdr, &attachment).await
    }

    /// Whether anybody listens on either lane; unknown counts as yes.
    pub async fn has_listeners(&self) -> bool {
        if self.plain.has_listeners().await {
            return true;
        }
        match &self.ros {
            Some(ros) => ros.publisher.has_listeners().await,
            None => false,
        }
    }

    /// The plain key.
    pub fn key(&self) -> &str {
        self.plain.key()
    }
}

/// One typed output of a node.
pub struct Output<M> {
    lanes: Lanes,
    text: RawPublisher,
    mirror: Lanes,
    last: Arc<Mutex<Option<ZBytes>>>,
    _answering: Answering,
    _type: PhantomData<fn(M)>,
}

impl<M: Message> Output<M> {
    /// Declares the publishers, the mirrors and the answer to `get`.
    ///
    /// # Errors
    /// [`BusError::Topic`] when the topic is no valid key.
    pub async fn open(
        bus: &Bus,
        health: &NodeHealth,
        topic: &str,
        qos: Qos,
    ) -> Result<Self, BusError> {
        let lanes = Lanes::open(bus, health, topic, M::TYPE, qos).await?;
        let behind = Qos {
            priority: Priority::DataLow,
            ..Qos::STREAM
        };
        let text = bus
            .raw_publisher(&format!("{topic}/@json"), behind)
            .await?
            .watched()
            .await?;
        // Reliable, as ROS 2 subscriptions are unless told otherwise.
        let reliable = Qos {
            reliable: true,
            depth: 10,
            ..behind
        };
        let mirror = Lanes::open(
            bus,
            health,
            &format!("{topic}/json"),
            std_msgs::String::TYPE,
            reliable,
        )
        .await?
        .watched()
        .await?;
        let last: Arc<Mutex<Option<ZBytes>>> = Arc::default();
        let answer = Arc::clone(&last);
        let answering = bus
            .answer(topic, move || {
                let bytes = answer
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone()?;
                Some((bytes, Encoding::ZENOH_BYTES))
            })
            .await?;
        Ok(Output {
            lanes,
            text,
            mirror,
            last,
            _answering: answering,
            _type: PhantomData,
        })
    }

    /// Publishes one message.
    ///
    /// # Errors
    /// [`BusError::Put`] when it cannot be encoded or the session is gone.
    pub async fn put(&self, message: &M) -> Result<(), BusError> {
        let refused = |reason: String| BusError::Put {
            key: self.lanes.key().to_owned(),
            reason,
        };
        let cdr = ZBytes::from(
            message
                .encode()
                .map_err(|error| refused(error.to_string()))?,
        );
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(cdr.clone());
        self.lanes.put(cdr).await?;
        let (text, mirror) = (
            self.text.has_listeners().await,
            self.mirror.has_listeners().await,
        );
        if !(text || mirror) {
            return Ok(());
        }
        let json = message.to_json().to_string();
        if text {
            self.text
                .put_as(json.clone(), Encoding::APPLICATION_JSON)
                .await?;
        }
        if mirror {
            let message = std_msgs::String { data: json };
            let cdr = message
                .encode()
                .map_err(|error| refused(error.to_string()))?;
            self.mirror.put(cdr.into()).await?;
        }
        Ok(())
    }
}
