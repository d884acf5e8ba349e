//! The topic contract: what a topic carries, how fresh it must be, how it queues. Written once in the descriptor, held by both ends.
//!
//! Plain data without behaviour of its own, so that the descriptor's reader, the nodes and the observers mean the same thing by
//! the same word.

use std::time::Duration;

pub use llmasos_msgs::rmw_zenoh::QosProfile as TopicQos;

pub use crate::ros2::{Distro, Ros2Options};

/// What a topic promises and accepts.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicContract {
    /// ROS topic name; a leading slash makes it absolute, otherwise it stands under the descriptor's namespace.
    pub topic: String,
    /// Canonical ROS type, e.g. `sensor_msgs/msg/Image`.
    pub type_name: String,
    /// Expected rate in Hz; `None` when not periodic or unknown.
    pub rate_hz: Option<f64>,
    /// Published on events rather than periodically: silence is not a fault.
    pub event: bool,
    /// Oldest acceptable sensor stamp at the time of use.
    pub max_age: Option<Duration>,
    /// How long after its stamp a message may still act.
    pub lifespan: Option<Duration>,
    /// Which forms of payload the topic takes; everything else is refused and counted.
    pub accept: Vec<Accept>,
    /// How arrivals wait for their reader.
    pub queue: QueuePolicy,
    /// What ROS 2 is told of the subscription; with transient local durability it also asks for what was published before.
    pub qos: TopicQos,
}

/// A form in which a message may arrive (ROS bridges send CDR, people send JSON or text).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accept {
    /// CDR with its four-byte header.
    Cdr,
    /// A JSON object in the message's JSON form.
    Json,
    /// Plain text, for `std_msgs/String` topics.
    Text,
}

/// How arrivals wait for their reader. Every queue has a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuePolicy {
    /// One slot; a newer arrival replaces an unread one, which is counted as superseded.
    Latest,
    /// First in, first out with this depth; the oldest is dropped when full and counted as lost.
    Fifo(usize),
}

/// What a node does when an input is older than its contract allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStale {
    /// Do not run.
    Skip,
    /// Run as if the input were absent.
    RunWithout,
}

/// What happens to work in progress when its input is superseded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supersede {
    /// Finish the work in progress first.
    Finish,
    /// Cancel it between tokens and start on the newer input.
    Cancel,
}

/// What a node does when its answer cannot arrive in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMiss {
    /// Publish nothing.
    Drop,
    /// Publish what a template writes, and say so in the message's source field.
    Template,
    /// Publish nothing; the gate then says `NO_ADVICE`.
    NoAdvice,
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// From the input's arrival to the answer's publication.
    pub response: Duration,
    /// Most tokens a language model may sample for one answer.
    pub tokens: u32,
    /// What to do when `response` cannot be kept.
    pub on_miss: OnMiss,
}
