//! Services asked as people, bridges and rmw_zenoh clients ask them, through a plain Zenoh session.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; clippy's own switch does not reach helpers of test crates"
)]

use std::{sync::Arc, time::Duration};

use llmasos_engine::audio::EndpointOptions;
use llmasos_msgs::{
    Message, hash,
    llmasos_msgs::{Say, SayRequest, SayResponse, SpeechCommand},
    rmw_zenoh::{Attachment, Entity, EntityKind, Gid, data_key},
    sniff,
};
use llmasos_nodes::{
    bus::{Bus, BusOptions},
    contract::{Accept, Budget, OnMiss, QueuePolicy, TopicContract},
    health::Health,
    ros2::{Distro, Ros2Options},
    speech::{SpeechOptions, intent::FastWords, node::SpeechNode},
};
use ractor::{Actor, ActorRef};
use serde_json::Value;
use zenoh::{Session, query::Reply};

const LIMIT: Duration = Duration::from_secs(20);
const PLAIN: &str = "t/llmasos/say";

struct Bench {
    outside: Session,
    speech: ActorRef<llmasos_nodes::speech::node::SpeechMessage>,
    bus: Bus,
}

impl Bench {
    /// A speech node that takes text only, and a client that knows nothing of it.
    async fn start() -> Bench {
        let bus = Bus::open(&BusOptions {
            namespace: "t".into(),
            listen: vec!["tcp/127.0.0.1:0".into()],
            ros2: Some(Ros2Options {
                domain: 7,
                distro: Distro::Jazzy,
            }),
            ..Default::default()
        })
        .await
        .unwrap();
        let node = SpeechNode {
            bus: bus.clone(),
            health: Health::default().node("speech"),
            audio: None,
            text: Some(TopicContract {
                topic: "llmasos/speech/text".into(),
                type_name: "std_msgs/msg/String".into(),
                rate_hz: None,
                event: true,
                max_age: None,
                lifespan: None,
                accept: vec![Accept::Cdr, Accept::Text],
                queue: QueuePolicy::Fifo(10),
                qos: Default::default(),
            }),
            command: "llmasos/speech/command".into(),
            options: Arc::new(SpeechOptions {
                min_confidence: 0.6,
                fast: FastWords::default(),
                endpoint: EndpointOptions::default(),
                budget: Budget {
                    response: Duration::from_millis(600),
                    tokens: 1,
                    on_miss: OnMiss::Drop,
                },
                priority: 90,
                speaker: SpeechCommand::DRIVER,
                language: "en".into(),
            }),
            models: None,
        };
        let (speech, _) = Actor::spawn(None, node, ()).await.unwrap();
        let mut config = zenoh::Config::default();
        for (key, value) in [
            ("mode", "\"client\"".to_owned()),
            ("scouting/multicast/enabled", "false".to_owned()),
            ("connect/endpoints", format!("{:?}", bus.listening())),
        ] {
            config.insert_json5(key, &value).unwrap();
        }
        let outside = zenoh::open(config).await.unwrap();
        Bench {
            outside,
            speech,
            bus,
        }
    }

    async fn ask(&self, key: &str, payload: &[u8], attachment: Option<Vec<u8>>) -> Vec<Reply> {
        let replies = self
            .outside
            .get(key)
            .payload(payload.to_vec())
            .attachment(attachment)
            .timeout(LIMIT)
            .await
            .unwrap();
        let mut all = Vec::new();
        while let Ok(reply) = replies.recv_async().await {
            all.push(reply);
        }
        all
    }
}

/// The only reply, as text or as bytes.
fn payload(replies: &[Reply]) -> Vec<u8> {
    assert_eq!(replies.len(), 1, "one server, one answer: {replies:?}");
    let sample = replies[0].result().expect("an answer, no error");
    sample.payload().to_bytes().into_owned()
}

fn error(replies: &[Reply]) -> String {
    assert_eq!(replies.len(), 1, "{replies:?}");
    let error = replies[0].result().expect_err("an error, no answer");
    String::from_utf8(error.payload().to_bytes().into_owned()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_and_bridges_ask_on_the_plain_key() {
    let bench = Bench::start().await;
    for (question, success, message, why) in [
        (&b"slow down"[..], true, "SLOW_DOWN", "typed"),
        (br#"{"text": "don't stop"}"#, true, "STOP, negated", "JSON"),
        (b"what a lovely day", false, "UNKNOWN", "nothing to do"),
    ] {
        let answer: Value =
            serde_json::from_slice(&payload(&bench.ask(PLAIN, question, None).await)).unwrap();
        assert_eq!(answer["success"], success, "{why}: {answer}");
        assert_eq!(answer["message"], message, "{why}");
    }
    let request = SayRequest {
        text: "stop".into(),
    };
    let cdr = payload(&bench.ask(PLAIN, &request.encode().unwrap(), None).await);
    assert!(
        matches!(sniff::classify("", &cdr), Ok(sniff::Form::Cdr)),
        "who asks in CDR is answered in CDR"
    );
    assert_eq!(SayResponse::decode(&cdr).unwrap().message, "STOP");
    for (question, expected) in [
        (&b""[..], "found nothing"),
        (br#"{"words": "stop"}"#, "words"),
        (&[0, 1, 0, 0, 200, 0, 0, 0], "expected"),
        (&[0xff, 0xff], "expected"),
    ] {
        let reason = error(&bench.ask(PLAIN, question, None).await);
        assert!(reason.contains(expected), "{reason}");
    }
    assert!(
        bench.ask("t/*/say", b"stop", None).await.is_empty(),
        "who looks at everything asks nothing"
    );
    let again = payload(&bench.ask(PLAIN, b"stop", None).await);
    assert!(!again.is_empty(), "the node is still there");
    bench.speech.stop(None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_rmw_zenoh_gets_its_own_number_back() {
    let bench = Bench::start().await;
    let hash = hash::of_service::<Say>();
    let key = data_key(7, "/t/llmasos/say", "llmasos_msgs/srv/Say", &hash).unwrap();
    let request = SayRequest {
        text: "pull over".into(),
    }
    .encode()
    .unwrap();
    let asked = Attachment {
        sequence: 42,
        stamp_ns: 1,
        gid: Gid([7; 16]),
    };
    let replies = bench
        .ask(&key, &request, Some(asked.encode().to_vec()))
        .await;
    assert_eq!(
        SayResponse::decode(&payload(&replies)).unwrap().message,
        "PULL_OVER"
    );
    let sample = replies[0].result().unwrap();
    assert_eq!(sample.key_expr().as_str(), key);
    let beside = Attachment::decode(&sample.attachment().unwrap().to_bytes()).unwrap();
    assert_eq!((beside.sequence, beside.gid), (42, asked.gid));
    assert!(beside.stamp_ns > asked.stamp_ns);

    let without = error(&bench.ask(&key, &request, None).await);
    assert!(without.contains("attachment"), "{without}");
    let short = error(&bench.ask(&key, &request, Some(vec![1])).await);
    assert!(short.contains("expected 33"), "{short}");
    let text = error(
        &bench
            .ask(&key, b"stop", Some(asked.encode().to_vec()))
            .await,
    );
    assert!(text.contains("expected"), "{text}");

    let tokens = bench
        .outside
        .liveliness()
        .get("@ros2_lv/7/**")
        .await
        .unwrap();
    let mut services = Vec::new();
    while let Ok(reply) = tokens.recv_async().await {
        let sample = reply.into_result().unwrap();
        let entity = Entity::parse(sample.key_expr().as_str()).unwrap();
        if entity.kind == EntityKind::Service {
            services.push(entity);
        }
    }
    let endpoint = services[0].endpoint.as_ref().unwrap();
    assert_eq!(services.len(), 1);
    assert_eq!(services[0].node_name(), "/t/speech");
    assert_eq!(endpoint.name, "/t/llmasos/say");
    assert_eq!(endpoint.hash, hash);
    bench.speech.stop(None);
    bench.bus.close(Duration::from_secs(2)).await;
}
