//! A node's topics on the ROS lane, seen by a plain Zenoh session that speaks rmw_zenoh's format by hand.
//!
//! What real implementations make of it stands in tests/peers; here every byte and every kind of bad input is looked at.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; clippy's own switch does not reach helpers of test crates"
)]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use llmasos_msgs::{
    Message, hash,
    rmw_zenoh::{Attachment, DataKey, Durability, Entity, EntityKind, Gid, QosProfile, data_key},
    std_msgs,
};
use llmasos_nodes::{
    bus::{Bus, BusOptions, Qos},
    contract::{Accept, QueuePolicy, TopicContract},
    health::Health,
    output::Output,
    port::Port,
    ros2::{Distro, Ros2Options},
};
use zenoh::{Session, sample::Sample};

const LIMIT: Duration = Duration::from_secs(20);
const TEXT: &str = "std_msgs/msg/String";
const KEY: &str = "0/t/x/std_msgs::msg::dds_::String_";

/// One of our sessions that takes part in the graph, and somebody else's that does not know us.
struct Pair {
    bus: Bus,
    health: Health,
    outside: Session,
}

impl Pair {
    async fn open(distro: Distro) -> Pair {
        let bus = Bus::open(&BusOptions {
            namespace: "t".into(),
            listen: vec!["tcp/127.0.0.1:0".into()],
            ros2: Some(Ros2Options { domain: 0, distro }),
            ..Default::default()
        })
        .await
        .unwrap();
        let mut config = zenoh::Config::default();
        for (key, value) in [
            ("mode", "\"client\"".to_owned()),
            ("scouting/multicast/enabled", "false".to_owned()),
            ("connect/endpoints", format!("{:?}", bus.listening())),
            ("timestamping/enabled", "true".to_owned()),
        ] {
            config.insert_json5(key, &value).unwrap();
        }
        let outside = zenoh::open(config).await.unwrap();
        Pair {
            bus,
            health: Health::default(),
            outside,
        }
    }

    async fn port(&self, contract: &TopicContract) -> Port<std_msgs::String> {
        let health = self.health.node("listener");
        Port::open(&self.bus, contract, "text", &health, || {})
            .await
            .unwrap()
    }

    /// Puts CDR on a ROS key.
    async fn put(&self, key: &str, cdr: &[u8], attachment: Option<Vec<u8>>) {
        let put = self.outside.put(key, cdr.to_vec());
        put.attachment(attachment).await.unwrap();
    }

    fn refused(&self) -> u64 {
        self.health
            .edges()
            .iter()
            .map(|(_, _, count)| count.refused)
            .sum()
    }
}

/// Key, payload, attachment, whether it is taken, why.
type Case = (String, Vec<u8>, Option<Vec<u8>>, bool, &'static str);

fn contract(durability: Durability) -> TopicContract {
    TopicContract {
        topic: "x".into(),
        type_name: TEXT.into(),
        rate_hz: None,
        event: true,
        max_age: None,
        lifespan: None,
        accept: vec![Accept::Cdr, Accept::Text],
        queue: QueuePolicy::Fifo(100),
        qos: QosProfile {
            durability,
            ..Default::default()
        },
    }
}

fn cdr(text: &str) -> Vec<u8> {
    std_msgs::String { data: text.into() }.encode().unwrap()
}

fn attachment(sequence: i64) -> Option<Vec<u8>> {
    let attachment = Attachment {
        sequence,
        stamp_ns: 0,
        gid: Gid([0xAB; 16]),
    };
    Some(attachment.encode().to_vec())
}

/// Looks again until it is so.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Collects what arrives at the outside session.
async fn collect(session: &Session, key: &str) -> Arc<Mutex<Vec<Sample>>> {
    let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
    let into = Arc::clone(&samples);
    session
        .declare_subscriber(key.to_owned())
        .callback(move |sample| into.lock().unwrap().push(sample))
        .background()
        .await
        .unwrap();
    samples
}

async fn tokens(session: &Session) -> Vec<Entity> {
    let replies = session.liveliness().get("@ros2_lv/0/**").await.unwrap();
    let mut entities = Vec::new();
    while let Ok(reply) = replies.recv_async().await {
        let sample = reply.into_result().unwrap();
        entities.push(Entity::parse(sample.key_expr().as_str()).unwrap());
    }
    entities
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_is_seen_and_heard_as_rmw_zenoh_does_it() {
    let pair = Pair::open(Distro::Jazzy).await;
    let hash = hash::of::<std_msgs::String>();
    let ros = collect(&pair.outside, "0/t/x/**").await;
    let plain = collect(&pair.outside, "t/x").await;
    let health = pair.health.node("talker");
    let output: Output<std_msgs::String> = Output::open(&pair.bus, &health, "x", Qos::LATCHED)
        .await
        .unwrap();
    // The subscriptions reach the publisher's session a moment later; a cached message is not lost on the way.
    let begun = Instant::now();
    while ros.lock().unwrap().is_empty() || plain.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < LIMIT, "nothing arrived");
        let hello = std_msgs::String {
            data: "hello".into(),
        };
        output.put(&hello).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let entities = tokens(&pair.outside).await;
    let node = entities
        .iter()
        .find(|entity| entity.kind == EntityKind::Node)
        .unwrap();
    assert_eq!(node.node_name(), "/t/talker");
    let publisher = entities
        .iter()
        .find(|entity| {
            entity
                .endpoint
                .as_ref()
                .is_some_and(|end| end.name == "/t/x")
                && entity.kind == EntityKind::Publisher
        })
        .expect("the publisher shows itself");
    assert_eq!(publisher.node_id, node.id);
    let endpoint = publisher.endpoint.as_ref().unwrap();
    assert_eq!((endpoint.type_name.as_str(), &endpoint.hash), (TEXT, &hash));
    assert_eq!(endpoint.qos.to_string(), ":1:,1:,:,:,,");

    let sample = ros.lock().unwrap()[0].clone();
    assert_eq!(
        Some(sample.key_expr().as_str()),
        data_key(0, "/t/x", TEXT, &hash).as_deref()
    );
    assert_eq!(sample.payload().to_bytes(), cdr("hello"));
    assert_eq!(sample.encoding().to_string(), "zenoh/bytes");
    let beside = Attachment::decode(&sample.attachment().unwrap().to_bytes()).unwrap();
    assert_eq!(beside.gid, publisher.gid(), "the GID is the token's hash");
    assert!(beside.sequence >= 1);
    let copy = plain.lock().unwrap()[0].clone();
    assert!(copy.attachment().is_some(), "a copy can be told");

    drop(output);
    let begun = Instant::now();
    while !tokens(&pair.outside).await.is_empty() {
        assert!(begun.elapsed() < LIMIT, "what is gone is no longer shown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_takes_what_others_send_and_refuses_the_rest() {
    let pair = Pair::open(Distro::Jazzy).await;
    let mut port = pair.port(&contract(Durability::Volatile)).await;
    let hash = hash::of::<std_msgs::String>();
    // Samples of one publisher on one link keep their order, so the last one says when all are through.
    let cases: Vec<Case> = vec![
        (
            format!("{KEY}/{hash}"),
            cdr("1"),
            attachment(1),
            true,
            "rmw_zenoh",
        ),
        (
            format!("{KEY}/*"),
            cdr("2"),
            attachment(1),
            true,
            "CARLA: any hash, a constant attachment",
        ),
        (
            format!("{KEY}/*"),
            cdr("3"),
            attachment(1),
            true,
            "CARLA again",
        ),
        (
            format!("{KEY}/TypeHashNotSupported"),
            cdr("4"),
            attachment(2),
            true,
            "Humble",
        ),
        (
            "*/t/x/*/*".into(),
            cdr("5"),
            attachment(3),
            true,
            "every domain at once",
        ),
        (
            format!("{KEY}/{hash}"),
            cdr("6"),
            None,
            true,
            "no attachment",
        ),
        (
            format!("{KEY}/RIHS01_{}", "0".repeat(64)),
            cdr("7"),
            attachment(4),
            false,
            "another version",
        ),
        (
            format!("{KEY}/{hash}"),
            cdr("8"),
            Some(vec![1]),
            false,
            "an attachment of one byte",
        ),
        (
            format!("{KEY}/{hash}"),
            b"text".to_vec(),
            attachment(5),
            false,
            "text on a ROS key, though the contract takes text",
        ),
        (
            format!("{KEY}/{hash}"),
            b"{\"data\":\"json\"}".to_vec(),
            attachment(6),
            false,
            "JSON on a ROS key",
        ),
        (
            format!("{KEY}/{hash}"),
            vec![0, 1, 0, 0, 255, 255],
            attachment(7),
            false,
            "CDR that is cut",
        ),
        (
            "t/x".into(),
            b"typed".to_vec(),
            None,
            true,
            "text on the plain key",
        ),
        (
            format!("{KEY}/{hash}"),
            cdr("last"),
            attachment(8),
            true,
            "the node is still there",
        ),
    ];
    for (key, payload, beside, _, _) in &cases {
        pair.put(key, payload, beside.clone()).await;
    }
    let mut heard: Vec<String> = Vec::new();
    until("the last message", || {
        while let Some(taken) = port.take() {
            heard.push(taken.message.data);
        }
        heard
            .last()
            .is_some_and(|text| text == "last")
            .then_some(())
    })
    .await;
    for (key, payload, _, taken, why) in &cases {
        let text = String::from_utf8_lossy(payload);
        let found = heard
            .iter()
            .any(|heard| text.trim_end_matches('\0').ends_with(heard.as_str()));
        assert_eq!(found, *taken, "{why} ({key}): heard {heard:?}");
    }
    let bad = cases.iter().filter(|case| !case.3).count() as u64;
    assert_eq!(pair.refused(), bad);
    assert!(DataKey::parse("t/x").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_messages_are_taken_once_though_they_come_twice() {
    let pair = Pair::open(Distro::Jazzy).await;
    let mut port = pair.port(&contract(Durability::Volatile)).await;
    let health = pair.health.node("talker");
    let output: Output<std_msgs::String> = Output::open(&pair.bus, &health, "x", Qos::EVENT)
        .await
        .unwrap();
    for n in 0..20 {
        let data = n.to_string();
        output.put(&std_msgs::String { data }).await.unwrap();
    }
    let mut heard = Vec::new();
    until("twenty messages", || {
        while let Some(taken) = port.take() {
            heard.push(taken.message.data);
        }
        (heard.len() >= 20).then_some(())
    })
    .await;
    let expected: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(heard, expected);
    let count = pair.health.edges()[0].2;
    assert_eq!(count.received, 20, "copies do not enter the ledger");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_late_gets_what_was_latched() {
    let pair = Pair::open(Distro::Jazzy).await;
    let health = pair.health.node("talker");
    let output: Output<std_msgs::String> = Output::open(&pair.bus, &health, "x", Qos::LATCHED)
        .await
        .unwrap();
    let latched = std_msgs::String {
        data: "latched".into(),
    };
    output.put(&latched).await.unwrap();
    let mut port = pair.port(&contract(Durability::TransientLocal)).await;
    let taken = until("the latched message", || port.take()).await;
    assert_eq!(taken.message, latched);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_version_is_reported() {
    let pair = Pair::open(Distro::Jazzy).await;
    let _port = pair.port(&contract(Durability::Volatile)).await;
    let token = format!(
        "@ros2_lv/0/{}/0/1/MP/%/%/other/%t%x/std_msgs::msg::dds_::String_/RIHS01_{}/::,10:,:,:,,",
        pair.outside.zid(),
        "0".repeat(64)
    );
    let reports = collect(&pair.outside, "diagnostics").await;
    let publishing = tokio::spawn(pair.health.clone().publish(pair.bus.clone()));
    let _token = pair
        .outside
        .liveliness()
        .declare_token(token)
        .await
        .unwrap();
    until("a report", || {
        let reports = reports.lock().unwrap();
        let said = |text: &str| {
            reports
                .iter()
                .any(|sample| String::from_utf8_lossy(&sample.payload().to_bytes()).contains(text))
        };
        (said("/other publishes /t/x") && said("another version")).then_some(())
    })
    .await;
    publishing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn humble_has_no_hashes() {
    let pair = Pair::open(Distro::Humble).await;
    let health = pair.health.node("talker");
    let _output: Output<std_msgs::String> = Output::open(&pair.bus, &health, "x", Qos::EVENT)
        .await
        .unwrap();
    let begun = Instant::now();
    loop {
        let hashes: Vec<String> = tokens(&pair.outside)
            .await
            .into_iter()
            .filter_map(|entity| entity.endpoint.map(|end| end.hash))
            .collect();
        if !hashes.is_empty() {
            assert!(
                hashes.iter().all(|hash| hash == hash::NOT_SUPPORTED),
                "{hashes:?}"
            );
            return;
        }
        assert!(begun.elapsed() < LIMIT, "no tokens");
    }
}
