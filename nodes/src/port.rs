//! Ports: where a node meets a topic, with the topic's contract held on the way in.
//!
//! The subscription's callback only enqueues (size check, one slot or a bounded queue, a wake-up). Everything else happens when the
//! node takes: form, decoding, stamp, age. What is refused is counted and reported with its reason; the node goes on.
//!
//! Where the session takes part in the ROS 2 graph a port listens on two keys, and a message that came by both is taken once.
//!
//! ```text
//! Zenoh callback ──▶ queue (latest | fifo) ──wake──▶ actor: take() ──▶ form ▸ decode ▸ stamp ▸ age ──▶ Taken<M>
//!                      lost, superseded                                 refused        expired
//! ```

use std::{
    collections::VecDeque,
    marker::PhantomData,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use llmasos_msgs::{
    Message,
    reader::HEADER_BYTES,
    rmw_zenoh::{Durability, EntityKind},
};
use serde_json::Value;

use crate::{
    bus::{Arrival, Bus, BusError, PAYLOAD_BYTES_MAX, Subscription},
    clock::{self, Clock, Reading},
    contract::{QueuePolicy, TopicContract},
    health::{Ledger, NodeHealth, Outcome},
    ros2::{Copies, Presence, Subject},
};

mod form;

pub use form::decode;

/// Deepest queue a contract may ask for.
pub const FIFO_DEPTH_MAX: usize = 1024;

/// A type that can come from the bus under one or several ROS types.
pub trait FromBus: Sized + Send + 'static {
    /// Decodes CDR of the ROS type the contract names.
    ///
    /// # Errors
    /// A sentence that says what was expected and what was found.
    fn from_cdr(type_name: &str, cdr: &[u8]) -> Result<Self, String>;

    /// Decodes CDR that stands in the fragments it came in; whoever can saves joining them.
    ///
    /// # Errors
    /// As [`FromBus::from_cdr`].
    fn from_cdr_parts(type_name: &str, parts: &[&[u8]]) -> Result<Self, String> {
        match parts {
            [whole] => Self::from_cdr(type_name, whole),
            parts => Self::from_cdr(type_name, &parts.concat()),
        }
    }

    /// Reads the JSON form of the ROS type the contract names.
    ///
    /// # Errors
    /// A sentence that says which field is wrong.
    fn from_json(type_name: &str, value: &Value) -> Result<Self, String>;

    /// The sensor stamp in ns since the epoch; `None` for types without one.
    fn stamp_ns(&self) -> Option<i64>;
}

impl<M: Message> FromBus for M {
    fn from_cdr(type_name: &str, cdr: &[u8]) -> Result<Self, String> {
        Self::from_cdr_parts(type_name, &[cdr])
    }

    fn from_cdr_parts(type_name: &str, parts: &[&[u8]]) -> Result<Self, String> {
        if type_name != M::TYPE {
            return Err(format!(
                "expected a port for {}, found a topic of {type_name}",
                M::TYPE
            ));
        }
        M::decode_parts(parts).map_err(|error| error.to_string())
    }

    fn from_json(_type_name: &str, value: &Value) -> Result<Self, String> {
        M::from_json(value).map_err(|error| error.to_string())
    }

    fn stamp_ns(&self) -> Option<i64> {
        self.stamp().map(|stamp| stamp.to_nanos())
    }
}

/// A message that passed its contract.
#[derive(Clone, Debug)]
pub struct Taken<M> {
    /// The message.
    pub message: M,
    /// When it arrived, on the monotonic clock.
    pub arrived: Instant,
    /// Its stamp in ns since the epoch; reception time when the type has none.
    pub stamp_ns: i64,
    /// Id of the publishing session, where known.
    pub publisher: Option<u128>,
    /// Epoch of the clock it was taken in: after a jump back its stamp says nothing any more.
    epoch: u32,
}

/// One input of a node.
pub struct Port<M> {
    contract: TopicContract,
    queue: Arc<Queue>,
    health: NodeHealth,
    clock: Clock,
    epoch: u32,
    last_stamp_ns: Option<i64>,
    /// Whether it was said already that the time is unknown.
    told_to_wait: bool,
    /// What the ROS 2 graph calls this topic, if the session takes part in it.
    subject: Option<Subject>,
    _presence: Option<Presence>,
    _subscriptions: Vec<Subscription>,
    _type: PhantomData<fn() -> M>,
}

/// Which key an arrival came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Plain,
    Ros,
}

/// An arrival with the times of its reception: on the monotonic clock, and on the graph's in ns.
struct Waiting {
    arrival: Arrival,
    lane: Lane,
    arrived: Instant,
    received_ns: i64,
}

struct Queue {
    waiting: Mutex<VecDeque<Waiting>>,
    depth: usize,
    copies: Copies,
    /// Whether the reader was already told: one wake-up covers every arrival until the reader looks again.
    woken: AtomicBool,
    ledger: Arc<Ledger>,
}

impl<M: FromBus> Port<M> {
    /// Subscribes under the contract; `wake` is called from Zenoh's thread when there is something to take.
    ///
    /// # Errors
    /// [`BusError::Topic`] when the topic is no valid key.
    pub async fn open(
        bus: &Bus,
        contract: &TopicContract,
        port: &str,
        health: &NodeHealth,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, BusError> {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            depth: match contract.queue {
                QueuePolicy::Latest => 1,
                QueuePolicy::Fifo(depth) => depth.clamp(1, FIFO_DEPTH_MAX),
            },
            copies: Copies::default(),
            woken: AtomicBool::new(false),
            ledger: health.edge(port, &contract.topic),
        });
        let door = Arc::new(Door {
            queue: Arc::clone(&queue),
            clock: bus.clock().clone(),
            health: health.clone(),
            topic: contract.topic.clone(),
            latest: contract.queue == QueuePolicy::Latest,
            wake: Box::new(wake),
        });
        let mut subscriptions =
            vec![listen(bus, &contract.topic, contract, Lane::Plain, &door).await?];
        let (mut subject, mut presence) = (None, None);
        if let Some(ros2) = bus.ros2()
            && let Some(known) = ros2.topic(&bus.key(&contract.topic), &contract.type_name)
            && let Some(key) = ros2.data_topic(&known, "*")
        {
            subscriptions.push(listen(bus, &key, contract, Lane::Ros, &door).await?);
            let shown = ros2.show(
                health,
                EntityKind::Subscription,
                &known,
                contract.qos,
                &contract.topic,
            );
            (presence, subject) = (Some(shown.await?), Some(known));
        }
        Ok(Port {
            contract: contract.clone(),
            queue,
            health: health.clone(),
            clock: bus.clock().clone(),
            epoch: bus.clock().reading().epoch,
            last_stamp_ns: None,
            told_to_wait: false,
            subject,
            _presence: presence,
            _subscriptions: subscriptions,
            _type: PhantomData,
        })
    }

    /// The next message that keeps the contract; refused and expired ones before it are counted and left behind.
    pub fn take(&mut self) -> Option<Taken<M>> {
        self.queue.woken.store(false, Ordering::Release);
        loop {
            let waiting = self.queue.pop()?;
            let reading = self.clock.reading();
            if !reading.is_known() {
                self.refuse_undated();
                continue;
            }
            match self.accept(&waiting, reading) {
                Ok((message, stamp_ns)) => {
                    self.told_to_wait = false;
                    if let Some(limit) = self.age_limit()
                        && clock::age(stamp_ns, reading.now_ns).is_some_and(|age| age > limit)
                    {
                        self.queue.ledger.settle(Outcome::Expired);
                        continue;
                    }
                    self.queue.ledger.settle(Outcome::Handled);
                    return Some(Taken {
                        message,
                        arrived: waiting.arrived,
                        stamp_ns,
                        publisher: waiting.arrival.publisher,
                        epoch: reading.epoch,
                    });
                }
                Err(reason) => {
                    self.queue.ledger.settle(Outcome::Refused);
                    self.health.refuse(&self.contract.topic, &reason);
                }
            }
        }
    }

    /// Whether a newer message already waits.
    pub fn is_waiting(&self) -> bool {
        !self.queue.lock().is_empty()
    }

    /// The contract this port holds.
    pub fn contract(&self) -> &TopicContract {
        &self.contract
    }

    /// Whether a message taken earlier is still fresh enough to use now.
    pub fn is_fresh(&self, taken: &Taken<M>) -> bool {
        let reading = self.clock.reading();
        taken.epoch == reading.epoch
            && self.contract.max_age.is_none_or(|limit| {
                clock::age(taken.stamp_ns, reading.now_ns).is_none_or(|age| age <= limit)
            })
    }

    fn age_limit(&self) -> Option<Duration> {
        match (self.contract.max_age, self.contract.lifespan) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Without the time nothing can be fresh: refused, and said once.
    fn refuse_undated(&mut self) {
        self.queue.ledger.settle(Outcome::Refused);
        if !std::mem::replace(&mut self.told_to_wait, true) {
            let reason = self.clock.waiting().unwrap_or_default();
            self.health.refuse(
                &self.contract.topic,
                &format!("the time is unknown: {reason}"),
            );
        }
    }

    fn accept(&mut self, waiting: &Waiting, now: Reading) -> Result<(M, i64), String> {
        if now.epoch != self.epoch {
            (self.epoch, self.last_stamp_ns) = (now.epoch, None);
        }
        let arrival = &waiting.arrival;
        let mut parts: Vec<&[u8]> = arrival.payload.slices().collect();
        let joined;
        if parts.len() > 1 && parts[0].len() < HEADER_BYTES {
            // No transport does this; the form shows only in a whole header.
            joined = parts.concat();
            parts = vec![&joined];
        }
        let message = match (waiting.lane, &self.subject) {
            (Lane::Ros, Some(subject)) => {
                form::decode_ros(&self.contract, subject, arrival, &parts)?
            }
            (Lane::Ros | Lane::Plain, _) => {
                form::decode_plain::<M>(&self.contract, &arrival.encoding, &parts, now.now_ns)?
            }
        };
        let Some(stamp_ns) = message.stamp_ns() else {
            // The clock may have jumped back while it waited, or begun.
            let received_ns = match waiting.received_ns {
                0 => now.now_ns,
                received_ns => received_ns.min(now.now_ns),
            };
            return Ok((message, received_ns));
        };
        check_stamp(
            stamp_ns,
            now,
            self.last_stamp_ns,
            self.contract.rate_hz.is_some(),
        )?;
        self.last_stamp_ns = Some(stamp_ns);
        Ok((message, stamp_ns))
    }
}

/// Where Zenoh's thread hands over.
struct Door {
    queue: Arc<Queue>,
    clock: Clock,
    health: NodeHealth,
    topic: String,
    latest: bool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Door {
    fn enter(&self, arrival: Arrival, lane: Lane) {
        if self.queue.copies.is_copy(&arrival, lane as usize) {
            return;
        }
        let ledger = &self.queue.ledger;
        ledger.arrive();
        if arrival.payload.len() > PAYLOAD_BYTES_MAX {
            ledger.settle(Outcome::Refused);
            self.health.refuse(
                &self.topic,
                &format!(
                    "expected at most {PAYLOAD_BYTES_MAX} bytes, found {}",
                    arrival.payload.len()
                ),
            );
            return;
        }
        let next = Waiting {
            arrival,
            lane,
            arrived: Instant::now(),
            received_ns: self.clock.now_ns(),
        };
        self.queue.push(next, self.latest);
        if !self.queue.woken.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }
}

async fn listen(
    bus: &Bus,
    topic: &str,
    contract: &TopicContract,
    lane: Lane,
    door: &Arc<Door>,
) -> Result<Subscription, BusError> {
    let door = Arc::clone(door);
    let on = move |arrival| door.enter(arrival, lane);
    match contract.qos.durability {
        Durability::Volatile => bus.subscribe(topic, on).await,
        Durability::TransientLocal => {
            bus.subscribe_with_history(topic, contract.qos.depth, on)
                .await
        }
    }
}

/// Whether a stamp can be believed. A stamp that repeats means a frozen sensor on a periodic topic; one that goes back is believed
/// again from there on, so that a clock that was set back does not silence a topic for ever.
fn check_stamp(
    stamp_ns: i64,
    now: Reading,
    last_ns: Option<i64>,
    periodic: bool,
) -> Result<(), String> {
    if stamp_ns <= 0 {
        return Err("expected a stamp, found zero or a negative time".to_owned());
    }
    let ahead_ns = stamp_ns.saturating_sub(now.now_ns);
    if ahead_ns > now.ahead_ns {
        return Err(format!(
            "expected a stamp at most {} ms ahead, found {} ms",
            now.ahead_ns / 1_000_000,
            ahead_ns / 1_000_000
        ));
    }
    if periodic && last_ns == Some(stamp_ns) {
        return Err("expected a new stamp, found the last one again: the sensor is frozen or the message was replayed".to_owned());
    }
    Ok(())
}

impl Queue {
    fn push(&self, next: Waiting, latest: bool) {
        let mut waiting = self.lock();
        if waiting.len() == self.depth {
            waiting.pop_front();
            self.ledger.settle(if latest {
                Outcome::Superseded
            } else {
                Outcome::Lost
            });
        }
        waiting.push_back(next);
    }

    fn pop(&self) -> Option<Waiting> {
        self.lock().pop_front()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn stamps_are_believed_only_when_they_can_be_true() {
        let now = 100 * SECOND;
        let reading = Reading {
            now_ns: now,
            ..Clock::wall().reading()
        };
        for (stamp, last, periodic, good, why) in [
            (now - SECOND, None, true, true, "an ordinary stamp"),
            (0, None, true, false, "zero"),
            (-5, None, true, false, "negative"),
            (now + SECOND, None, true, false, "a second ahead"),
            (
                now + 40_000_000,
                None,
                true,
                true,
                "within the tolerance of two clocks",
            ),
            (
                now - SECOND,
                Some(now - SECOND),
                true,
                false,
                "a frozen camera",
            ),
            (
                now - SECOND,
                Some(now - SECOND),
                false,
                true,
                "events may share a stamp",
            ),
            (
                now - 2 * SECOND,
                Some(now - SECOND),
                true,
                true,
                "a clock that was set back is believed again",
            ),
            (i64::MAX, Some(i64::MIN), true, false, "no overflow"),
        ] {
            assert_eq!(
                check_stamp(stamp, reading, last, periodic).is_ok(),
                good,
                "{why}"
            );
        }
    }

    #[test]
    fn a_full_queue_says_what_it_dropped() {
        let arrival = || Arrival {
            key: "k".into(),
            payload: vec![0u8].into(),
            encoding: "zenoh/bytes".into(),
            received: std::time::SystemTime::now(),
            sent: None,
            publisher: None,
            attachment: None,
        };
        for (latest, depth) in [(true, 1), (false, 3)] {
            let queue = Queue {
                waiting: Mutex::default(),
                depth,
                copies: Copies::default(),
                woken: AtomicBool::new(false),
                ledger: Arc::default(),
            };
            for _ in 0..5 {
                queue.ledger.arrive();
                let next = Waiting {
                    arrival: arrival(),
                    lane: Lane::Plain,
                    arrived: Instant::now(),
                    received_ns: 0,
                };
                queue.push(next, latest);
            }
            let count = queue.ledger.count();
            assert_eq!(
                if latest { count.superseded } else { count.lost },
                5 - depth as u64
            );
            assert_eq!(count.waiting(), depth as u64);
        }
    }
}
