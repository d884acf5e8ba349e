//! What comes in: an arrival before anybody looked inside, and what keeps it coming.

use std::time::SystemTime;

use llmasos_msgs::rmw_zenoh::{Attachment, AttachmentError};
use zenoh::{bytes::ZBytes, pubsub::Subscriber, query::Queryable, sample::Sample};
use zenoh_ext::AdvancedSubscriber;

use super::Bus;

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
    /// What rmw_zenoh puts beside every sample, if anything is there.
    pub attachment: Option<Result<Attachment, AttachmentError>>,
}

impl Arrival {
    pub(super) fn of(sample: &Sample) -> Arrival {
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
            attachment: sample
                .attachment()
                .map(|bytes| Attachment::decode(&bytes.to_bytes())),
        }
    }
}

/// A declared subscription; undeclared when dropped.
pub struct Subscription {
    pub(super) _inner: Subscribed,
    pub(super) _bus: Bus,
}

/// Which of Zenoh's subscribers it is; held for its drop.
pub(super) enum Subscribed {
    Plain {
        _inner: Subscriber<()>,
    },
    /// Asks publishers for what they published before.
    Advanced {
        _inner: AdvancedSubscriber<()>,
    },
}

/// A declared queryable; undeclared when dropped.
pub struct Answering {
    pub(super) _inner: Queryable<()>,
    pub(super) _bus: Bus,
}
