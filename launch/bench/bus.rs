//! What a node's typed publisher and subscriber cost beside plain bytes over the same Zenoh session: `llmasos bench bus`.
//!
//! Two processes, one TCP connection on loopback. The plain way is a Zenoh program without us: its bytes are ready before it sends, and
//! it looks at what it gets as one slice. The node's way encodes a message, and takes a decoded one at a port under its contract. Both
//! take turns message by message, so that whatever else the machine does meets both alike.
//!
//! ```text
//! round trip   bytes ─▶ Zenoh ─▶ bytes ─▶ Zenoh ─▶ bytes          Output ─▶ Zenoh ─▶ Port ▸ Output ─▶ Zenoh ─▶ Port
//! picture      bytes ─▶ Zenoh ─▶ bytes, then 8 bytes back         Output ─▶ Zenoh ─▶ actor ▸ Port, then the same 8 bytes back
//! ```

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use llmasos_msgs::{
    Message, builtin_interfaces::Time, sensor_msgs::Image, std_msgs::UInt8MultiArray,
};
use llmasos_nodes::{
    bus::{Bus, BusOptions, Qos},
    contract::{Accept, QueuePolicy, TopicContract},
    health::{Health, NodeHealth},
    output::Output,
    port::{FromBus, Port},
};
use serde_json::{Value, json};
use tokio::{process::Command, sync::Notify};
use zenoh::{
    bytes::ZBytes,
    handlers::FifoChannelHandler,
    pubsub::{Publisher, Subscriber},
    qos::{CongestionControl, Reliability},
    sample::Sample,
};

use super::cdr::picture;
use crate::observe::report::percentile;

mod echo;

pub use echo::echo;

/// Payload sizes of the round trips, in bytes, and how many times as many rounds each gets: small ones are short and scatter more.
const SIZES: [(usize, usize); 4] = [(64, 20), (1 << 10, 20), (1 << 20, 2), (6 << 20, 1)];
/// Rounds of each size that are not counted.
const WARM_UP: usize = 10;
/// How long one answer may take, and the meeting of the two processes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of CDR around the data of a `UInt8MultiArray`: header, two empty layouts, a length.
const AROUND_BYTES: usize = 16;

/// Most overhead of a node's round trip over a plain one: at the median, and at the 99th percentile.
const OVERHEAD_P50_MAX: f64 = 0.15;
/// See `OVERHEAD_P50_MAX`.
const OVERHEAD_P99_MAX: f64 = 0.25;
/// Most overhead of a picture from message to message over its plain transfer, at the median.
const PICTURE_OVERHEAD_MAX: f64 = 0.15;

/// Topics of the two processes. Pings go out, pongs come back.
mod topic {
    pub(super) const RAW_PING: &str = "raw/ping";
    pub(super) const RAW_PONG: &str = "raw/pong";
    pub(super) const PING: &str = "ping";
    pub(super) const PONG: &str = "pong";
    pub(super) const RAW_PICTURE: &str = "raw/picture";
    pub(super) const PICTURE: &str = "picture";
    pub(super) const SEEN: &str = "raw/seen";
}

/// One figure: the same exchange both ways.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was exchanged.
    pub name: &'static str,
    /// Bytes of the payload.
    pub bytes: usize,
    /// Counted rounds.
    pub rounds: usize,
    /// Plain Zenoh: median and 99th percentile in µs.
    pub plain_us: [f64; 2],
    /// A node: median and 99th percentile in µs.
    pub node_us: [f64; 2],
    /// Most overhead there may be, at the median and at the 99th percentile; `None` where nothing was promised.
    pub limit: [Option<f64>; 2],
}

impl Figure {
    fn new(name: &'static str, bytes: usize, samples: &Samples, limit: [Option<f64>; 2]) -> Self {
        let both = |us: &[f64]| [0.5, 0.99].map(|q| percentile(us, q).unwrap_or(f64::NAN));
        Figure {
            name,
            bytes,
            rounds: samples.node_us.len(),
            plain_us: both(&samples.plain_us),
            node_us: both(&samples.node_us),
            limit,
        }
    }

    /// What the node adds, as a part of the plain exchange: at the median and at the 99th percentile.
    pub fn overhead(&self) -> [f64; 2] {
        std::array::from_fn(|at| self.node_us[at] / self.plain_us[at] - 1.0)
    }

    /// Whether every promise was kept.
    pub fn kept(&self) -> bool {
        let mut pairs = self.overhead().into_iter().zip(self.limit);
        pairs.all(|(overhead, limit)| limit.is_none_or(|limit| overhead <= limit))
    }

    /// One object of `--json`.
    pub fn json(&self) -> Value {
        let round = |value: f64| (value * 1e3).round() / 1e3;
        let pair = |values: [f64; 2]| json!({ "p50": round(values[0]), "p99": round(values[1]) });
        json!({
            "name": self.name, "bytes": self.bytes, "rounds": self.rounds, "transport": "tcp",
            "plain_us": pair(self.plain_us), "node_us": pair(self.node_us), "overhead": pair(self.overhead()),
            "limit": { "p50": self.limit[0], "p99": self.limit[1] }, "kept": self.kept(),
        })
    }
}

/// Times of the counted rounds in µs.
#[derive(Default)]
struct Samples {
    plain_us: Vec<f64>,
    node_us: Vec<f64>,
}

/// Starts the other process and measures; large payloads get `rounds` counted rounds, small ones more.
///
/// # Errors
/// When the processes do not meet or an answer fails.
pub async fn measure(rounds: usize, mut tell: impl FnMut(Figure)) -> Result<()> {
    let bus = Bus::open(&BusOptions {
        namespace: "bench".to_owned(),
        listen: vec!["tcp/127.0.0.1:0".to_owned()],
        ..BusOptions::default()
    })
    .await?;
    let address = bus.listening().first().context("no address to meet at")?;
    let executable = std::env::current_exe().context("finding this executable")?;
    let _other = Command::new(executable)
        .args(["bench", "bus-echo", "--connect", address])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("starting the other process")?;
    // On a worker thread, where nodes run as well.
    let here = tokio::spawn(async move { Here::open(bus).await });
    let mut here = here.await??;
    for (bytes, times) in SIZES {
        let measured = tokio::spawn(async move {
            let samples = here.round_trips(bytes, rounds * times).await;
            samples.map(|samples| (here, samples))
        });
        let (back, samples) = measured.await??;
        here = back;
        let limit = [Some(OVERHEAD_P50_MAX), Some(OVERHEAD_P99_MAX)];
        tell(Figure::new("round trip", bytes, &samples, limit));
    }
    let measured = tokio::spawn(async move { here.pictures(rounds).await });
    let (bytes, samples) = measured.await??;
    let limit = [Some(PICTURE_OVERHEAD_MAX), None];
    tell(Figure::new("1080p picture", bytes, &samples, limit));
    Ok(())
}

/// What this process holds.
struct Here {
    bus: Bus,
    raw_ping: Publisher<'static>,
    raw_pong: Inbox,
    ping: Output<UInt8MultiArray>,
    pong: Waited<UInt8MultiArray>,
    raw_picture: Publisher<'static>,
    picture: Output<Image>,
    seen: Inbox,
}

impl Here {
    async fn open(bus: Bus) -> Result<Self> {
        let health = Health::default().node("bench");
        let here = Here {
            raw_ping: raw_publisher(&bus, topic::RAW_PING).await?,
            raw_pong: raw_subscriber(&bus, topic::RAW_PONG).await?,
            ping: Output::open(&bus, &health, topic::PING, Qos::EVENT).await?,
            pong: Waited::open(&bus, &health, topic::PONG, UInt8MultiArray::TYPE).await?,
            raw_picture: raw_publisher(&bus, topic::RAW_PICTURE).await?,
            picture: Output::open(&bus, &health, topic::PICTURE, Qos::EVENT).await?,
            seen: raw_subscriber(&bus, topic::SEEN).await?,
            bus,
        };
        here.meet().await?;
        Ok(here)
    }

    /// Waits until the other process listens on every topic and was heard once on every topic.
    async fn meet(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for publisher in [&self.raw_ping, &self.raw_picture] {
            while !matches!(publisher.matching_status().await, Ok(status) if status.matching()) {
                ensure!(
                    Instant::now() < deadline,
                    "the other process was not heard of"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        // It declares these first and listens last; what it says in this instant may still be lost, so it is asked until it answers.
        loop {
            self.raw_ping
                .put(vec![0_u8; 8])
                .await
                .map_err(zenoh_error)?;
            let answer =
                tokio::time::timeout(Duration::from_millis(50), self.raw_pong.recv_async());
            if answer.await.is_ok() {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "the other process did not answer"
            );
        }
        while let Ok(Some(_)) = self.raw_pong.try_recv() {}
        Ok(())
    }

    async fn round_trips(&mut self, bytes: usize, rounds: usize) -> Result<Samples> {
        let plain = ZBytes::from(vec![7_u8; bytes]);
        let message = UInt8MultiArray {
            data: vec![7; bytes - AROUND_BYTES],
            ..UInt8MultiArray::default()
        };
        let found = message.encode()?.len();
        ensure!(
            found == bytes,
            "expected a message of {bytes} bytes, found {found}"
        );
        let mut samples = Samples::default();
        for round in 0..WARM_UP + rounds {
            let mut times_us = [0.0; 2];
            for way in turns(round) {
                let begun = Instant::now();
                match way {
                    Way::Plain => {
                        self.raw_ping
                            .put(plain.clone())
                            .await
                            .map_err(zenoh_error)?;
                        let back = receive(&self.raw_pong).await?;
                        ensure!(
                            back.payload().to_bytes().len() == bytes,
                            "other bytes came back"
                        );
                    }
                    Way::Node => {
                        self.ping.put(&message).await?;
                        let back = self.pong.next().await?;
                        ensure!(
                            back.data.len() == message.data.len(),
                            "another message came back"
                        );
                    }
                }
                times_us[way as usize] = begun.elapsed().as_secs_f64() * 1e6;
            }
            samples.add(round, times_us);
        }
        Ok(samples)
    }

    /// Bytes of the picture, and the times.
    async fn pictures(self, rounds: usize) -> Result<(usize, Samples)> {
        let mut message = picture();
        let plain = ZBytes::from(message.encode()?);
        let mut samples = Samples::default();
        for round in 0..WARM_UP + rounds {
            let mut times_us = [0.0; 2];
            for way in turns(round) {
                message.header.stamp = Time::from_nanos(self.bus.clock().now_ns());
                let begun = Instant::now();
                match way {
                    Way::Plain => self
                        .raw_picture
                        .put(plain.clone())
                        .await
                        .map_err(zenoh_error)?,
                    Way::Node => self.picture.put(&message).await?,
                }
                receive(&self.seen).await?;
                times_us[way as usize] = begun.elapsed().as_secs_f64() * 1e6;
            }
            samples.add(round, times_us);
        }
        Ok((plain.len(), samples))
    }
}

impl Samples {
    fn add(&mut self, round: usize, [plain_us, node_us]: [f64; 2]) {
        if round >= WARM_UP {
            self.plain_us.push(plain_us);
            self.node_us.push(node_us);
        }
    }
}

/// One of the two ways.
#[derive(Clone, Copy)]
enum Way {
    Plain,
    Node,
}

/// Both ways, the other first in every other round.
fn turns(round: usize) -> [Way; 2] {
    match round % 2 {
        0 => [Way::Plain, Way::Node],
        _ => [Way::Node, Way::Plain],
    }
}

/// A port and what wakes its reader.
struct Waited<M> {
    port: Port<M>,
    bell: Arc<Notify>,
}

impl<M: FromBus> Waited<M> {
    async fn open(bus: &Bus, health: &NodeHealth, topic: &str, type_name: &str) -> Result<Self> {
        let bell = Arc::new(Notify::new());
        let ring = Arc::clone(&bell);
        let wake = move || ring.notify_one();
        let port = Port::open(bus, &contract(topic, type_name), topic, health, wake).await?;
        Ok(Waited { port, bell })
    }

    async fn next(&mut self) -> Result<M> {
        loop {
            if let Some(taken) = self.port.take() {
                return Ok(taken.message);
            }
            let rung = tokio::time::timeout(PATIENCE, self.bell.notified());
            if rung.await.is_err() {
                bail!(
                    "no answer on {} within {PATIENCE:?}",
                    self.port.contract().topic
                );
            }
        }
    }
}

/// Plain samples in the order they came.
type Inbox = Subscriber<FifoChannelHandler<Sample>>;

async fn receive(inbox: &Inbox) -> Result<Sample> {
    tokio::time::timeout(PATIENCE, inbox.recv_async())
        .await
        .with_context(|| format!("no answer within {PATIENCE:?}"))?
        .map_err(zenoh_error)
}

/// A plain publisher that treats its messages as [`Qos::EVENT`] does.
async fn raw_publisher(bus: &Bus, topic: &str) -> Result<Publisher<'static>> {
    bus.session()
        .declare_publisher(bus.key(topic))
        .reliability(Reliability::Reliable)
        .congestion_control(CongestionControl::Block)
        .priority(Qos::EVENT.priority)
        .express(Qos::EVENT.express)
        .await
        .map_err(zenoh_error)
}

async fn raw_subscriber(bus: &Bus, topic: &str) -> Result<Inbox> {
    let key = bus.key(topic);
    bus.session()
        .declare_subscriber(key)
        .await
        .map_err(zenoh_error)
}

fn contract(topic: &str, type_name: &str) -> TopicContract {
    TopicContract {
        topic: topic.to_owned(),
        type_name: type_name.to_owned(),
        rate_hz: None,
        event: true,
        max_age: None,
        lifespan: None,
        accept: vec![Accept::Cdr],
        queue: QueuePolicy::Fifo(4),
        qos: Qos::EVENT.profile(),
    }
}

fn zenoh_error(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("Zenoh: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(plain_us: [f64; 2], node_us: [f64; 2]) -> Figure {
        Figure {
            name: "round trip",
            bytes: 64,
            rounds: 1,
            plain_us,
            node_us,
            limit: [Some(OVERHEAD_P50_MAX), Some(OVERHEAD_P99_MAX)],
        }
    }

    #[test]
    fn promises_hold_at_both_percentiles() {
        const CASES: &[([f64; 2], bool, &str)] = &[
            ([114.9, 249.9], true, "below both limits"),
            ([115.1, 200.0], false, "the median is over"),
            ([100.0, 250.1], false, "the 99th percentile is over"),
            ([90.0, 150.0], true, "faster than plain"),
            ([f64::NAN, 200.0], false, "nothing was measured"),
        ];
        for (node_us, kept, why) in CASES {
            assert_eq!(figure([100.0, 200.0], *node_us).kept(), *kept, "{why}");
        }
        let json = figure([100.0, 200.0], [110.0, 200.0]).json();
        assert_eq!(
            (&json["overhead"]["p50"], &json["kept"]),
            (&json!(0.1), &json!(true))
        );
    }

    #[test]
    fn a_message_of_any_size_can_be_made() {
        for (bytes, _) in SIZES {
            let message = UInt8MultiArray {
                data: vec![0; bytes - AROUND_BYTES],
                ..UInt8MultiArray::default()
            };
            assert_eq!(message.encode().unwrap().len(), bytes);
        }
    }
}
