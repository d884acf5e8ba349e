//! A clock on a real bus: what a port takes before the time is known, while it runs, and after it jumped back.

use std::time::{Duration, Instant};

use llmasos_msgs::{
    Message,
    builtin_interfaces::Time,
    diagnostic_msgs::DiagnosticArray,
    nav_msgs::Odometry,
    rmw_zenoh::{Attachment, Gid},
    rosgraph_msgs,
};
use tokio::sync::mpsc;

use super::{ClockSource, Reading};
use crate::{
    bus::{Arrival, Bus, BusOptions, Qos, RawPublisher},
    contract::{Accept, QueuePolicy, TopicContract, TopicQos},
    health::{DIAGNOSTICS_TOPIC, Health, LedgerCount, NodeState},
    port::{Port, Taken},
    ros2::{Distro, Ros2Options},
};

/// Longest wait for anything: far beyond what it takes, so that only a missing answer fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

fn time(ms: i64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn odometry() -> TopicContract {
    TopicContract {
        topic: "odometry".into(),
        type_name: Odometry::TYPE.into(),
        rate_hz: Some(20.0),
        event: false,
        max_age: Some(Duration::from_millis(200)),
        lifespan: None,
        accept: vec![Accept::Cdr],
        queue: QueuePolicy::Fifo(16),
        qos: TopicQos::default(),
    }
}

/// A simulator outside, and a node's port inside.
struct Stage {
    simulator: Bus,
    ticks: RawPublisher,
    motion: RawPublisher,
    inside: Bus,
    health: Health,
    port: Port<Odometry>,
}

impl Stage {
    async fn open() -> Stage {
        let simulator = Bus::open(&BusOptions {
            namespace: "ego".into(),
            listen: vec!["tcp/127.0.0.1:0".into()],
            ..Default::default()
        })
        .await
        .unwrap();
        let inside = Bus::open(&BusOptions {
            namespace: "ego".into(),
            connect: simulator.listening().to_vec(),
            clock: ClockSource::Topic("/clock".into()),
            ..Default::default()
        })
        .await
        .unwrap();
        let health = Health::default();
        let node = health.node("node");
        node.set(NodeState::Ready, "");
        let port = Port::open(&inside, &odometry(), "ego", &node, || {})
            .await
            .unwrap();
        let stage = Stage {
            ticks: simulator
                .raw_publisher("/clock", Qos::STREAM)
                .await
                .unwrap(),
            motion: simulator
                .raw_publisher("odometry", Qos::STREAM)
                .await
                .unwrap(),
            simulator,
            inside,
            health,
            port,
        };
        let met = Instant::now() + PATIENCE;
        while !(stage.ticks.has_listeners().await && stage.motion.has_listeners().await) {
            assert!(Instant::now() < met, "the sessions did not meet");
            tokio::time::sleep(LOOK).await;
        }
        stage
    }

    async fn tick(&self, ms: i64) {
        let message = rosgraph_msgs::Clock { clock: time(ms) };
        self.ticks.put(message.encode().unwrap()).await.unwrap();
        self.reading("the time arrives", |now| now.now_ns == ms * 1_000_000)
            .await;
    }

    async fn reading(&self, why: &str, wanted: impl Fn(Reading) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !wanted(self.inside.clock().reading()) {
            assert!(Instant::now() < end, "never: {why}");
            tokio::time::sleep(LOOK).await;
        }
    }

    fn count(&self) -> LedgerCount {
        let edges = self.health.edges();
        edges.first().expect("one edge").2
    }

    /// Moves with a stamp; what the port makes of it.
    async fn drive(&mut self, stamp_ms: i64) -> Option<Taken<Odometry>> {
        let before = self.count();
        let mut message = Odometry::default();
        message.header.stamp = time(stamp_ms);
        self.motion.put(message.encode().unwrap()).await.unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(taken) = self.port.take() {
                return Some(taken);
            }
            let count = self.count();
            if count.received > before.received && count.waiting() == 0 {
                return None;
            }
            assert!(Instant::now() < end, "odometry did not arrive");
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_measures_with_the_clock_that_the_graph_follows() {
    let mut stage = Stage::open().await;
    assert!(
        stage.drive(5_000).await.is_none(),
        "without the time nothing is fresh"
    );
    assert_eq!(stage.count().refused, 1, "and it is counted");
    stage.tick(5_000).await;
    let taken = stage.drive(5_000).await.expect("dated by the simulation");
    assert!(stage.port.is_fresh(&taken));
    assert!(
        stage.drive(4_700).await.is_none(),
        "300 ms old, 200 are allowed"
    );
    assert_eq!(stage.count().expired, 1);
    let wall = crate::clock::now_ns() / 1_000_000;
    assert!(
        stage.drive(wall).await.is_none(),
        "the wall is in the simulation's future"
    );
    assert!(stage.drive(4_900).await.is_some(), "a stamp may go back");
    assert!(
        stage.drive(4_900).await.is_none(),
        "the last stamp again: a frozen sensor"
    );
    stage.tick(5_100).await;
    assert!(stage.port.is_fresh(&taken), "100 ms old");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        stage.port.is_fresh(&taken),
        "a paused simulation makes nothing older"
    );

    stage.tick(5_000).await;
    assert_eq!(stage.inside.clock().reading().epoch, 1, "100 ms back");
    assert!(
        !stage.port.is_fresh(&taken),
        "what was taken before the jump back says nothing"
    );
    assert!(
        stage.drive(4_900).await.is_some(),
        "the stamp of before is believed again"
    );
    assert_eq!(stage.count().waiting(), 0, "{:?}", stage.count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn diagnostics_say_what_is_waited_for_and_what_is_no_time() {
    let stage = Stage::open().await;
    let (into, mut heard) = mpsc::channel(256);
    let _diagnostics = stage
        .simulator
        .subscribe(DIAGNOSTICS_TOPIC, move |arrival: Arrival| {
            let array = DiagnosticArray::decode(&arrival.payload.to_bytes()).unwrap();
            for status in array.status {
                let _ = into.try_send((status.name, status.message));
            }
        })
        .await
        .unwrap();
    let publishing = tokio::spawn(stage.health.clone().publish(stage.inside.clone()));
    let mut until = async |name: &str, message: &str| {
        let wait = async {
            while let Some((about, said)) = heard.recv().await {
                if about == name && said.contains(message) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("never said of {name}: {message}"));
    };
    until("clock", "degraded: waiting for /clock").await;
    until("node", "degraded: waiting for /clock").await;
    stage.ticks.put(b"half past ten".to_vec()).await.unwrap();
    until("clock: /clock", "found text (number 1)").await;
    stage.tick(7_000).await;
    until("node", "ready").await;
    stage.tick(1_000).await;
    until("clock: /clock", "jumped back by 6.000 s").await;
    publishing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dialect_of_carla_is_understood() {
    let simulator = Bus::open(&BusOptions {
        listen: vec!["tcp/127.0.0.1:0".into()],
        ..Default::default()
    })
    .await
    .unwrap();
    let inside = Bus::open(&BusOptions {
        connect: simulator.listening().to_vec(),
        clock: ClockSource::Topic("/clock".into()),
        ros2: Some(Ros2Options {
            domain: 3,
            distro: Distro::Jazzy,
        }),
        ..Default::default()
    })
    .await
    .unwrap();
    // Any hash, and one constant attachment with every sample (LibCarla, ZenohWireFormat.h).
    let key = "/3/clock/rosgraph_msgs::msg::dds_::Clock_/*";
    let ticks = simulator.raw_publisher(key, Qos::STREAM).await.unwrap();
    let attachment = Attachment {
        sequence: 1,
        stamp_ns: 0,
        gid: Gid([0xab; 16]),
    };
    for ms in [5_000, 5_050, 5_100, 1_000] {
        let message = rosgraph_msgs::Clock { clock: time(ms) };
        let end = Instant::now() + PATIENCE;
        // Best effort: what is said before the sessions have met is lost.
        while inside.clock().now_ns() != ms * 1_000_000 {
            assert!(Instant::now() < end, "{ms} ms never came");
            let payload = message.encode().unwrap();
            ticks.put_attached(payload, &attachment).await.unwrap();
            tokio::time::sleep(LOOK).await;
        }
    }
    assert_eq!(inside.clock().reading().epoch, 1, "one jump back");
}
