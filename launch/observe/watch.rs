//! Watching topics: every message becomes a [`Seen`] with its age and latency, decoded by the type its contract names.

use std::time::{Duration, Instant};

use anyhow::Result;
use llmasos_msgs::{cdr_to_json, json_to_cdr, sniff};
use llmasos_nodes::{
    bus::{Arrival, Bus, Subscription},
    clock,
    contract::TopicContract,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Messages that may wait for the observer; more are counted as missed by it, never as lost on the bus.
pub const BACKLOG: usize = 8192;
/// Largest payload that is decoded for showing; a picture is told by its size.
const DECODED_BYTES_MAX: usize = 32 << 10;

/// One message, seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Topic as the descriptor names it.
    pub topic: String,
    /// ROS type.
    pub type_name: String,
    /// When it arrived here.
    pub arrived: Instant,
    /// Its stamp, in ns since the epoch.
    pub stamp_ns: Option<i64>,
    /// From its stamp to its arrival.
    pub age: Option<Duration>,
    /// From its publication to its arrival.
    pub latency: Option<Duration>,
    /// Its content, or its size when it is large.
    pub data: Value,
    /// Why it could not be decoded.
    pub problem: Option<String>,
}

impl Seen {
    /// The line of `--json`.
    pub fn json(&self) -> Value {
        let ms = |duration: Option<Duration>| {
            duration.map(|duration| (duration.as_secs_f64() * 1e6).round() / 1e3)
        };
        let stamp = self.stamp_ns.map(|ns| json!({ "sec": ns.div_euclid(1_000_000_000), "nanosec": ns.rem_euclid(1_000_000_000) }));
        let mut line = json!({
            "topic": self.topic, "type": self.type_name, "stamp": stamp, "age_ms": ms(self.age), "latency_ms": ms(self.latency), "data": self.data,
        });
        if let Some(problem) = &self.problem {
            line["problem"] = json!(problem);
        }
        line
    }
}

/// Subscribes to topics; what arrives comes out of the receiver until the subscriptions are dropped.
///
/// # Errors
/// When a topic is no valid key.
pub async fn watch(
    bus: &Bus,
    topics: &[TopicContract],
) -> Result<(mpsc::Receiver<Seen>, Vec<Subscription>)> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let mut subscriptions = Vec::new();
    for contract in topics {
        let (sender, contract, clock) = (sender.clone(), contract.clone(), bus.clock().clone());
        let topic = contract.topic.clone();
        let on = move |arrival: Arrival| {
            let _ = sender.try_send(seen(&contract, &arrival, clock.now_ns()));
        };
        subscriptions.push(bus.subscribe(&topic, on).await?);
    }
    Ok((receiver, subscriptions))
}

/// What an arrival says under a contract, at `now_ns` of the graph's clock.
pub fn seen(contract: &TopicContract, arrival: &Arrival, now_ns: i64) -> Seen {
    let (data, problem) = match content(contract, arrival) {
        Ok(data) => (data, None),
        Err(problem) => (json!({ "bytes": arrival.payload.len() }), Some(problem)),
    };
    let stamp_ns = stamp(&data).or_else(|| large_stamp(contract, arrival));
    Seen {
        topic: contract.topic.clone(),
        type_name: contract.type_name.clone(),
        arrived: Instant::now(),
        stamp_ns,
        age: stamp_ns.and_then(|stamp_ns| clock::age(stamp_ns, now_ns)),
        latency: arrival
            .sent
            .and_then(|sent| arrival.received.duration_since(sent).ok()),
        data,
        problem,
    }
}

fn content(contract: &TopicContract, arrival: &Arrival) -> Result<Value, String> {
    if arrival.payload.len() > DECODED_BYTES_MAX {
        return Ok(json!({ "bytes": arrival.payload.len() }));
    }
    let payload = arrival.payload.to_bytes();
    match sniff::classify(&arrival.encoding, &payload).map_err(|error| error.to_string())? {
        sniff::Form::Cdr => {
            cdr_to_json(&contract.type_name, &payload).map_err(|error| error.to_string())
        }
        sniff::Form::Json(value) => {
            let cdr =
                json_to_cdr(&contract.type_name, &value).map_err(|error| error.to_string())?;
            cdr_to_json(&contract.type_name, &cdr).map_err(|error| error.to_string())
        }
        sniff::Form::Text(text) => Ok(json!({ "data": text })),
    }
}

fn stamp(data: &Value) -> Option<i64> {
    let stamp = data
        .get("header")
        .and_then(|header| header.get("stamp"))
        .or_else(|| data.get("stamp"))?;
    let (seconds, nanos) = (stamp.get("sec")?.as_i64()?, stamp.get("nanosec")?.as_i64()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Stamp of a large message without decoding it: a type with a header begins with it, twelve bytes in.
fn large_stamp(contract: &TopicContract, arrival: &Arrival) -> Option<i64> {
    const WITH_HEADER: [&str; 4] = [
        "sensor_msgs/",
        "audio_common_msgs/",
        "autoware_perception_msgs/",
        "nav_msgs/",
    ];
    if arrival.payload.len() <= DECODED_BYTES_MAX
        || !WITH_HEADER
            .iter()
            .any(|package| contract.type_name.starts_with(package))
    {
        return None;
    }
    let bytes = arrival.payload.to_bytes();
    let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let (seconds, nanos) = match bytes.get(1)? {
        1 => (i32::from_le_bytes(word(4)?), u32::from_le_bytes(word(8)?)),
        _ => (i32::from_be_bytes(word(4)?), u32::from_be_bytes(word(8)?)),
    };
    i64::from(seconds)
        .checked_mul(1_000_000_000)?
        .checked_add(i64::from(nanos))
}
