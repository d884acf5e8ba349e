//! The gate on a real bus: two sessions on loopback, messages in, verdicts out.

use std::sync::Arc;
use std::time::Duration;

use llmasos_msgs::{
    Message,
    autoware_internal_planning_msgs::{VelocityLimit, VelocityLimitClearCommand},
    builtin_interfaces::Time,
    geometry_msgs::Vector3,
    llmasos_msgs::{GateVerdict, PlannerAdvice, SpeechCommand},
    nav_msgs::Odometry,
    rosgraph_msgs,
    unique_identifier_msgs::UUID,
};
use ractor::{Actor, ActorRef};
use tokio::sync::mpsc::{Receiver, channel};

use super::autoware::{CLEAR_VELOCITY_LIMIT_TOPIC, SENDER, VELOCITY_LIMIT_TOPIC};
use super::node::{GateMessage, GateNode, GateTopics};
use super::policy::Policy;
use super::scenario::demo_settings;
use super::watchdog::Pulse;
use crate::bus::{Bus, BusOptions, Qos, RawPublisher, Subscription};
use crate::clock::{self, ClockSource};
use crate::contract::{Accept, QueuePolicy, TopicContract, TopicQos};
use crate::health::Health;

/// Longest wait for anything: far beyond what it takes, so that only a missing answer fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn topic(name: &str, type_name: &str, queue: QueuePolicy) -> TopicContract {
    TopicContract {
        topic: name.into(),
        type_name: type_name.into(),
        rate_hz: None,
        event: true,
        max_age: None,
        lifespan: None,
        accept: vec![Accept::Cdr],
        queue,
        qos: TopicQos::default(),
    }
}

/// Messages of one topic as another session hears them.
struct Ear<M> {
    heard: Receiver<M>,
    _subscription: Subscription,
}

impl<M: Message> Ear<M> {
    async fn open(bus: &Bus, topic: &str) -> Ear<M> {
        let (into, heard) = channel(256);
        let on = move |arrival: crate::bus::Arrival| {
            // A full channel means that the test has heard enough.
            let _ = into.try_send(M::decode(&arrival.payload.to_bytes()).unwrap());
        };
        Ear {
            heard,
            _subscription: bus.subscribe(topic, on).await.unwrap(),
        }
    }

    async fn until(&mut self, why: &str, wanted: impl Fn(&M) -> bool) -> M {
        let wait = async {
            loop {
                let message = self.heard.recv().await.expect("the subscription lives");
                if wanted(&message) {
                    return message;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("never came: {why}"))
    }
}

struct Bench {
    outside: Bus,
    gate: ActorRef<GateMessage>,
    health: Health,
    verdicts: Ear<GateVerdict>,
}

impl Bench {
    async fn start(autoware_velocity_limit: bool) -> Bench {
        let mut bench = Bench::open(autoware_velocity_limit, ClockSource::Wall).await;
        bench
            .verdicts
            .until("the first verdict", |verdict| verdict.rule == "ego_missing")
            .await;
        bench
    }

    async fn open(autoware_velocity_limit: bool, clock: ClockSource) -> Bench {
        let listening = BusOptions {
            namespace: "ego".into(),
            listen: vec!["tcp/127.0.0.1:0".into()],
            ..BusOptions::default()
        };
        let outside = Bus::open(&listening).await.unwrap();
        let connect = outside.listening().to_vec();
        let bus = Bus::open(&BusOptions {
            namespace: "ego".into(),
            connect,
            clock,
            ..BusOptions::default()
        })
        .await
        .unwrap();
        let verdicts = Ear::open(&outside, "llmasos/gate/verdict").await;
        let health = Health::default();
        let topics = GateTopics {
            advice: topic(
                "llmasos/advice/raw",
                PlannerAdvice::TYPE,
                QueuePolicy::Latest,
            ),
            command: topic(
                "llmasos/speech/command",
                SpeechCommand::TYPE,
                QueuePolicy::Fifo(10),
            ),
            summary: None,
            ego: topic("odometry", Odometry::TYPE, QueuePolicy::Latest),
            operation_mode: None,
            control_mode: None,
            mrm: None,
            verdict: "llmasos/gate/verdict".into(),
            autoware_velocity_limit,
        };
        let policy = Arc::new(Policy::new(demo_settings()).unwrap());
        let node = GateNode {
            bus,
            health: health.node("gate"),
            policy,
            topics,
            pulse: Arc::new(Pulse::default()),
        };
        let (gate, _) = Actor::spawn(None, node, ()).await.unwrap();
        Bench {
            outside,
            gate,
            health,
            verdicts,
        }
    }

    async fn say<M: Message>(&self, topic: &str, message: &M) {
        let publisher = self.outside.raw_publisher(topic, Qos::EVENT).await.unwrap();
        publisher.put(message.encode().unwrap()).await.unwrap();
    }
}

fn spoken(intent: u8) -> SpeechCommand {
    let mut command = SpeechCommand {
        intent,
        source: SpeechCommand::KEYWORD,
        speaker: SpeechCommand::DRIVER,
        ..Default::default()
    };
    (command.asr_confidence, command.intent_confidence) = (0.9, 0.9);
    command.header.stamp = Time::from_nanos(clock::now_ns());
    command.id = UUID {
        uuid: uuid::Uuid::new_v4().into_bytes(),
    };
    command
}

fn moving_at(speed_mps: f64) -> Odometry {
    let mut odometry = Odometry::default();
    odometry.header.stamp = Time::from_nanos(clock::now_ns());
    odometry.twist.twist.linear = Vector3 {
        x: speed_mps,
        ..Default::default()
    };
    odometry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spoken_stop_comes_out_as_a_verdict_and_bad_input_does_not_end_it() {
    let mut bench = Bench::start(false).await;
    let raw = bench
        .outside
        .raw_publisher("llmasos/advice/raw", Qos::EVENT)
        .await
        .unwrap();
    for hostile in [
        vec![],
        vec![0, 1, 0, 0],
        vec![0, 1, 0, 0, 255, 255, 255, 255],
        b"pull over".to_vec(),
        vec![0xff; 4096],
    ] {
        raw.put(hostile).await.unwrap();
    }
    let undated = SpeechCommand {
        header: Default::default(),
        ..spoken(SpeechCommand::STOP)
    };
    bench.say("llmasos/speech/command", &undated).await;
    let stop = spoken(SpeechCommand::STOP);
    bench.say("llmasos/speech/command", &stop).await;
    let verdict = bench
        .verdicts
        .until("the stop", |verdict| verdict.action == PlannerAdvice::STOP)
        .await;
    assert_eq!(
        (verdict.verdict, verdict.command_id, verdict.rule_id),
        (GateVerdict::ACCEPTED, stop.id, 0)
    );
    assert!(verdict.advice_id.is_nil() && verdict.max_speed.is_nan());
    assert_eq!(
        verdict.policy_sha256,
        Policy::new(demo_settings()).unwrap().policy_sha256()
    );

    let next = bench
        .verdicts
        .until("the next tick", |next| next.sequence > verdict.sequence)
        .await;
    assert_eq!(
        next.sequence,
        verdict.sequence + 1,
        "every verdict is numbered"
    );
    let described = bench
        .gate
        .call(GateMessage::Describe, Some(PATIENCE))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        described["decision"]["verdict_name"], "ACCEPTED",
        "{described}"
    );
    let advice = bench
        .health
        .edges()
        .into_iter()
        .find(|(_, edge, _)| edge.starts_with("advice"))
        .unwrap()
        .2;
    assert_eq!(
        advice.refused + advice.superseded,
        5,
        "every hostile payload is accounted for: {advice:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_said_to_autoware_and_taken_back() {
    let mut bench = Bench::start(true).await;
    let mut limits: Ear<VelocityLimit> = Ear::open(&bench.outside, VELOCITY_LIMIT_TOPIC).await;
    let mut clears: Ear<VelocityLimitClearCommand> =
        Ear::open(&bench.outside, CLEAR_VELOCITY_LIMIT_TOPIC).await;
    let command = spoken(SpeechCommand::SLOW_DOWN);
    bench.say("llmasos/speech/command", &command).await;
    let now_ns = clock::now_ns();
    let mut advice = PlannerAdvice {
        command_id: command.id,
        action: PlannerAdvice::SLOW_DOWN,
        max_speed: 8.0,
        ..Default::default()
    };
    advice.header.stamp = Time::from_nanos(now_ns);
    (advice.generated_at, advice.valid_until) = (
        Time::from_nanos(now_ns),
        Time::from_nanos(now_ns + 4_000_000_000),
    );
    advice.id = UUID {
        uuid: uuid::Uuid::new_v4().into_bytes(),
    };
    bench.say("llmasos/advice/raw", &advice).await;
    let odometry = bench
        .outside
        .raw_publisher("odometry", Qos::EVENT)
        .await
        .unwrap();
    let verdict = {
        // Odometry flows until the advice is in force, then falls silent.
        let accepted = bench.verdicts.until("the advice", |verdict| {
            verdict.action == PlannerAdvice::SLOW_DOWN
        });
        let mut steps = tokio::time::interval(Duration::from_millis(50));
        tokio::pin!(accepted);
        loop {
            tokio::select! {
                verdict = &mut accepted => break verdict,
                _ = steps.tick() => odometry.put(moving_at(10.0).encode().unwrap()).await.unwrap(),
            }
        }
    };
    assert_eq!(
        (verdict.verdict, verdict.advice_id, verdict.max_speed),
        (GateVerdict::ACCEPTED, advice.id, 8.0)
    );
    let limit = limits.until("the limit", |_| true).await;
    assert_eq!(
        (
            limit.max_velocity,
            limit.use_constraints,
            limit.sender.as_str()
        ),
        (8.0, false, SENDER)
    );
    let clear = clears
        .until("odometry fell silent, so the limit ends", |clear| {
            clear.command
        })
        .await;
    assert_eq!(clear.sender, SENDER);
    bench
        .verdicts
        .until("and the verdict says why", |verdict| {
            verdict.rule == "ego_stale"
        })
        .await;
}

/// A simulator: says the time, again and again until the gate has heard it.
struct Hand(RawPublisher);

impl Hand {
    async fn say(&self, now_ms: i64) {
        let message = rosgraph_msgs::Clock {
            clock: Time::from_nanos(now_ms * 1_000_000),
        };
        self.0.put(message.encode().unwrap()).await.unwrap();
    }

    /// Sets the time and waits for a verdict of exactly that time.
    async fn set(&self, now_ms: i64, verdicts: &mut Ear<GateVerdict>) -> GateVerdict {
        let stamp = Time::from_nanos(now_ms * 1_000_000);
        let why = format!("a verdict of {now_ms} ms");
        let verdict = verdicts.until(&why, |verdict| verdict.header.stamp == stamp);
        let mut saying = tokio::time::interval(Duration::from_millis(20));
        tokio::pin!(verdict);
        loop {
            tokio::select! {
                verdict = &mut verdict => return verdict,
                _ = saying.tick() => self.say(now_ms).await,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verdicts_follow_a_simulation_that_starts_pauses_and_starts_again() {
    let mut bench = Bench::open(false, ClockSource::Topic("/clock".into())).await;
    let hand = Hand(
        bench
            .outside
            .raw_publisher("/clock", Qos::STREAM)
            .await
            .unwrap(),
    );
    let said_at = |now_ms: i64| {
        let mut stop = spoken(SpeechCommand::STOP);
        stop.header.stamp = Time::from_nanos(now_ms * 1_000_000);
        stop
    };
    let first = hand.set(100_000, &mut bench.verdicts).await;
    assert_eq!(
        (first.sequence, first.rule.as_str()),
        (1, "ego_missing"),
        "no verdict before"
    );
    let second = hand.set(100_100, &mut bench.verdicts).await;
    assert_eq!(
        second.sequence, 2,
        "a paused clock was said many times: no verdict"
    );
    assert_eq!(
        hand.set(160_000, &mut bench.verdicts).await.sequence,
        3,
        "a leap of a minute is one verdict, not six hundred"
    );
    let before = said_at(160_000);
    bench.say("llmasos/speech/command", &before).await;
    let verdict = bench
        .verdicts
        .until("the stop", |verdict| verdict.command_id == before.id)
        .await;
    assert_eq!(verdict.header.stamp.sec, 160, "dated by the simulation");

    let again = hand.set(10_000, &mut bench.verdicts).await;
    assert_eq!(
        again.command_id, before.id,
        "a spoken stop outlives the reset of a scenario"
    );
    let after = said_at(10_000);
    bench.say("llmasos/speech/command", &after).await;
    let verdict = bench
        .verdicts
        .until("what is said after the reset", |verdict| {
            verdict.command_id == after.id
        })
        .await;
    assert_eq!(
        (verdict.verdict, verdict.header.stamp.sec),
        (GateVerdict::ACCEPTED, 10),
        "its stamp is before the last one and believed"
    );
    let beating = bench.health.node("gate").silent_for();
    assert!(
        beating < Duration::from_secs(2),
        "it lives while time stands still: {beating:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_armed_gate_forgets_the_stop_that_stood() {
    let mut bench = Bench::start(false).await;
    let stop = spoken(SpeechCommand::STOP);
    bench.say("llmasos/speech/command", &stop).await;
    let is_stop = |verdict: &GateVerdict| verdict.action == PlannerAdvice::STOP;
    bench.verdicts.until("the stop", is_stop).await;
    let answers = bench
        .outside
        .ask("ego/llmasos/gate/rearm", PATIENCE)
        .await
        .unwrap();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let answer: serde_json::Value = serde_json::from_slice(&answers[0].payload).unwrap();
    assert_eq!(answer["success"], true, "{answer}");
    bench
        .verdicts
        .until("no stop any more", |verdict| !is_stop(verdict))
        .await;
    // The same command again is news to a gate that forgot it.
    let again = spoken(SpeechCommand::STOP);
    bench.say("llmasos/speech/command", &again).await;
    bench.verdicts.until("a new stop", is_stop).await;
}
