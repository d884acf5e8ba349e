//! A graph without models, and what its outside does to it: a simulation's clock, a router that comes, goes and returns, the variables
//! of a ROS 2 shell, a gate that is killed while its speed limit stands.
//!
//! The launcher runs as a user would run it; the test is another session on the same bus, or the router itself.

use std::{
    cell::Cell,
    path::Path,
    time::{Duration, Instant},
};

use llmasos_msgs::{
    Message,
    autoware_internal_planning_msgs::{VelocityLimit, VelocityLimitClearCommand},
    builtin_interfaces::Time,
    llmasos_msgs::{GateVerdict, PlannerAdvice, SpeechCommand},
    nav_msgs::Odometry,
    rosgraph_msgs,
    unique_identifier_msgs::UUID,
};
use llmasos_nodes::{
    bus::{Arrival, Bus, BusMode, BusOptions, Qos, Subscription},
    clock,
    gate::autoware::{CLEAR_VELOCITY_LIMIT_TOPIC, SENDER, VELOCITY_LIMIT_TOPIC},
};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::harness::{Process, descendants, free_port, llmasos};

const OUTSIDE: &str = "tests/data/launch/outside.yaml";
/// Longest wait for anything: far beyond what it takes, so that only a missing answer fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a message may take to flow again after a router has returned.
const RETURN_LIMIT: Duration = Duration::from_secs(10);

fn launch(extra: &[&str], variables: &[(&str, &str)]) -> Process {
    let mut command = llmasos();
    command
        .args(["launch", OUTSIDE, "--json", "--duration", "600"])
        .args(extra)
        .envs(variables.iter().copied());
    Process::start(&mut command)
}

/// Waits until the diagnostics say `message` of `name`.
fn until_said(process: &Process, name: &str, message: &str) {
    process.wait_for_json(&format!("{name}: {message}"), PATIENCE, |line| {
        let status = line["data"]["status"].as_array();
        let says = |one: &Value| {
            let said = one["message"].as_str().unwrap_or_default();
            one["name"] == name && said.contains(message)
        };
        status.is_some_and(|all| all.iter().any(says))
    });
}

/// Ends it in order; nobody had to be started again.
fn end_without_restarts(process: Process) {
    process.signal(Signal::SIGINT);
    let finished = process.finish(PATIENCE).expect_code(0);
    let restarts = finished.json_lines().last().unwrap()["summary"]["restarts"].clone();
    let counts = restarts.as_object().unwrap();
    assert!(
        !counts.is_empty() && counts.values().all(|count| count == 0),
        "nobody had to be started again: {restarts}"
    );
}

/// Messages of one topic as the test hears them.
struct Ear<M> {
    heard: mpsc::Receiver<M>,
    _subscription: Subscription,
}

impl<M: Message + Send + 'static> Ear<M> {
    async fn open(bus: &Bus, topic: &str) -> Ear<M> {
        let (into, heard) = mpsc::channel(4096);
        let on = move |arrival: Arrival| {
            let _ = into.try_send(M::decode(&arrival.payload.to_bytes()).unwrap());
        };
        Ear {
            heard,
            _subscription: bus.subscribe(topic, on).await.unwrap(),
        }
    }

    async fn until(&mut self, why: &str, limit: Duration, wanted: impl Fn(&M) -> bool) -> M {
        let wait = async {
            loop {
                let message = self.heard.recv().await.expect("the subscription lives");
                if wanted(&message) {
                    return message;
                }
            }
        };
        tokio::time::timeout(limit, wait)
            .await
            .unwrap_or_else(|_| panic!("not within {limit:?}: {why}"))
    }

    fn forget(&mut self) {
        while self.heard.try_recv().is_ok() {}
    }
}

async fn say(bus: &Bus, topic: &str, payload: Vec<u8>) {
    let publisher = bus.raw_publisher(topic, Qos::EVENT).await.unwrap();
    let end = Instant::now() + PATIENCE;
    while !publisher.has_listeners().await {
        assert!(Instant::now() < end, "nobody listens on {topic}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    publisher.put(payload).await.unwrap();
}

/// A session that talks through whoever listens on `port`: a router, or the launcher.
async fn client(port: u16) -> Bus {
    session(BusMode::Client, port).await
}

/// A session that meets whoever listens on `port` and is told of the others there: peers pass nothing on, so it has to meet the gate itself.
async fn peer(port: u16) -> Bus {
    session(BusMode::Peer, port).await
}

async fn session(mode: BusMode, port: u16) -> Bus {
    Bus::open(&BusOptions {
        namespace: "ego".into(),
        mode,
        connect: vec![format!("tcp/127.0.0.1:{port}")],
        ..Default::default()
    })
    .await
    .unwrap()
}

/// An advice to slow down to 5 m/s with the command it answers.
fn slow_down() -> (SpeechCommand, PlannerAdvice) {
    let now_ns = clock::now_ns();
    let id = || UUID {
        uuid: uuid::Uuid::new_v4().into_bytes(),
    };
    let mut command = SpeechCommand {
        id: id(),
        intent: SpeechCommand::SLOW_DOWN,
        source: SpeechCommand::TEXT,
        speaker: SpeechCommand::DRIVER,
        asr_confidence: 1.0,
        intent_confidence: 1.0,
        ..Default::default()
    };
    command.header.stamp = Time::from_nanos(now_ns);
    let mut advice = PlannerAdvice {
        id: id(),
        command_id: command.id,
        action: PlannerAdvice::SLOW_DOWN,
        max_speed: 5.0,
        generated_at: Time::from_nanos(now_ns),
        valid_until: Time::from_nanos(now_ns + 20_000_000_000),
        ..Default::default()
    };
    advice.header.stamp = Time::from_nanos(now_ns);
    (command, advice)
}

fn moving() -> Vec<u8> {
    let mut odometry = Odometry::default();
    odometry.header.stamp = Time::from_nanos(clock::now_ns());
    odometry.twist.twist.linear.x = 10.0;
    odometry.encode().unwrap()
}

/// Drives, speaks and advises until a speed limit is in force.
async fn set_limit(bus: &Bus) {
    let mut limits: Ear<VelocityLimit> = Ear::open(bus, VELOCITY_LIMIT_TOPIC).await;
    let (command, advice) = slow_down();
    say(bus, "llmasos/speech/command", command.encode().unwrap()).await;
    say(bus, "/localization/kinematic_state", moving()).await;
    say(bus, "llmasos/advice/raw", advice.encode().unwrap()).await;
    let limit = limits.until("the limit", PATIENCE, |_| true).await;
    assert_eq!(
        (limit.sender.as_str(), limit.use_constraints),
        (SENDER, false)
    );
    assert!(limit.max_velocity.is_finite() && limit.max_velocity >= 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_launcher_clears_the_limit_of_a_gate_that_was_killed() {
    let port = free_port();
    // This gate is not started again: what clears is the launcher.
    let process = launch(&["--profile", "mortal", &format!("port:={port}")], &[]);
    // All of it: a gate that falls while another node is still loading ends the launch with an error.
    process.wait_for_json("everything ready", PATIENCE, |line| {
        line["ready"].is_object()
    });
    let bus = client(port).await;
    let mut clears: Ear<VelocityLimitClearCommand> =
        Ear::open(&bus, CLEAR_VELOCITY_LIMIT_TOPIC).await;
    set_limit(&bus).await;
    clears.forget();
    let gate = descendants(process.pid());
    assert_eq!(gate.len(), 1, "the gate has a process of its own");
    kill(gate[0], Signal::SIGKILL).unwrap();
    let clear = clears
        .until("the last word", Duration::from_secs(1), |_| true)
        .await;
    assert_eq!((clear.command, clear.sender.as_str()), (true, SENDER));
    assert!(
        clears.heard.try_recv().is_err(),
        "it is said once, and no gate is left to say it"
    );
    process.signal(Signal::SIGINT);
    process.finish(PATIENCE).expect_code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_ends_with_the_launcher() {
    let port = free_port();
    let process = launch(&[&format!("port:={port}")], &[]);
    until_said(&process, "gate", "ready");
    let autoware = peer(port).await;
    // The launcher listens to everything and is met first; what is said before the gate is met only the launcher hears.
    let mut verdicts: Ear<GateVerdict> = Ear::open(&autoware, "llmasos/gate/verdict").await;
    verdicts.until("the gate itself", PATIENCE, |_| true).await;
    let mut clears: Ear<VelocityLimitClearCommand> =
        Ear::open(&autoware, CLEAR_VELOCITY_LIMIT_TOPIC).await;
    set_limit(&autoware).await;
    clears.forget();
    process.signal(Signal::SIGINT);
    clears
        .until("a clear command at the end", PATIENCE, |clear| {
            clear.sender == SENDER
        })
        .await;
    process.finish(PATIENCE).expect_code(0);
}

/// A simulator of one topic: says the time 50 times a second, `speed` times as fast as the wall.
struct Simulator {
    from_ms: tokio::sync::watch::Sender<(i64, f64)>,
    task: tokio::task::JoinHandle<()>,
}

impl Simulator {
    async fn start(bus: &Bus) -> Simulator {
        let (from_ms, mut told) = tokio::sync::watch::channel((100_000, 1.0));
        let publisher = bus.raw_publisher("/clock", Qos::STREAM).await.unwrap();
        let task = tokio::spawn(async move {
            let mut steps = tokio::time::interval(Duration::from_millis(20));
            let (mut from, mut since) = (*told.borrow_and_update(), Instant::now());
            loop {
                steps.tick().await;
                if told.has_changed().unwrap_or(false) {
                    (from, since) = (*told.borrow_and_update(), Instant::now());
                }
                let ran_ms = since.elapsed().as_secs_f64() * 1e3 * from.1;
                let now_ns = (from.0 + ran_ms as i64) * 1_000_000;
                let message = rosgraph_msgs::Clock {
                    clock: Time::from_nanos(now_ns),
                };
                publisher.put(message.encode().unwrap()).await.unwrap();
            }
        });
        Simulator { from_ms, task }
    }

    fn go(&self, from_ms: i64, speed: f64) {
        self.from_ms.send_replace((from_ms, speed));
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_lives_in_the_time_of_its_simulation() {
    let port = free_port();
    let process = launch(&["--profile", "simulation", &format!("port:={port}")], &[]);
    for node in ["clock", "gate", "speech"] {
        until_said(&process, node, "degraded: waiting for /clock");
    }
    let bus = client(port).await;
    let mut verdicts: Ear<GateVerdict> = Ear::open(&bus, "llmasos/gate/verdict").await;
    let sec = |verdict: &GateVerdict| verdict.header.stamp.sec;
    let simulator = Simulator::start(&bus).await;
    let first = verdicts.until("a verdict", PATIENCE, |_| true).await;
    assert!(
        (100..130).contains(&sec(&first)),
        "the first one is dated by the simulation: {}",
        sec(&first)
    );
    until_said(&process, "speech", "ready");

    say(&bus, "llmasos/speech/text", b"stop".to_vec()).await;
    let stop = verdicts
        .until("a stop", PATIENCE, |verdict| {
            verdict.action == PlannerAdvice::STOP
        })
        .await;
    assert!((100..160).contains(&sec(&stop)), "{}", sec(&stop));

    // A pause that is longer than the supervisor's patience with a silent node.
    simulator.go(200_000, 0.0);
    verdicts
        .until("a verdict of the pause", PATIENCE, |verdict| {
            sec(verdict) == 200
        })
        .await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let during = Cell::new(0);
    while let Ok(verdict) = verdicts.heard.try_recv() {
        assert_eq!(sec(&verdict), 200, "time stood still");
        during.set(during.get() + 1);
    }
    assert!(during.get() <= 2, "and so did the gate: {}", during.get());

    simulator.go(5_000, 5.0);
    let early = verdicts
        .until("a verdict after the reset", PATIENCE, |verdict| {
            sec(verdict) < 100
        })
        .await;
    assert!(sec(&early) >= 5);
    until_said(&process, "clock: /clock", "jumped back");
    say(&bus, "llmasos/speech/text", b"stop".to_vec()).await;
    verdicts
        .until("a stop after the reset", PATIENCE, |verdict| {
            verdict.action == PlannerAdvice::STOP
                && verdict.command_id != stop.command_id
                && sec(verdict) < 100
        })
        .await;
    drop(simulator);
    end_without_restarts(process);
}

/// A router on a port; gone when closed.
async fn router(folder: &Path, port: u16) -> Bus {
    let file = folder.join("router.json5");
    let text = format!(
        "{{ mode: 'router', listen: {{ endpoints: ['tcp/127.0.0.1:{port}'] }}, scouting: {{ multicast: {{ enabled: false }} }} }}"
    );
    std::fs::write(&file, text).unwrap();
    Bus::open(&BusOptions {
        config_file: Some(file),
        ..Default::default()
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_comes_late_dies_and_returns_and_nobody_is_lost() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let process = launch(&["--profile", "client", &format!("router:={port}")], &[]);
    // The launcher waits: there is no router yet.
    let first = router(folder.path(), port).await;
    until_said(&process, "gate", "ready");
    let people = client(port).await;
    let mut verdicts: Ear<GateVerdict> = Ear::open(&people, "llmasos/gate/verdict").await;
    verdicts
        .until("a verdict through the router", PATIENCE, |_| true)
        .await;

    first.close(PATIENCE).await;
    // What the router had sent before it died still arrives; then there is silence.
    while tokio::time::timeout(Duration::from_millis(500), verdicts.heard.recv())
        .await
        .is_ok()
    {}
    let _second = router(folder.path(), port).await;
    let verdict = verdicts
        .until("verdicts flow again", RETURN_LIMIT, |_| true)
        .await;
    assert!(verdict.sequence > 1, "the gate is the one it was");
    say(&people, "llmasos/speech/text", b"stop".to_vec()).await;
    verdicts
        .until("and words reach it", RETURN_LIMIT, |verdict| {
            verdict.action == PlannerAdvice::STOP
        })
        .await;
    end_without_restarts(process);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_variables_of_a_ros_shell_lead_every_process_to_its_router_and_domain() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let _router = router(folder.path(), port).await;
    let people = client(port).await;
    let (into, mut keys) = mpsc::channel(4096);
    let _everything = people
        .subscribe("/42/**", move |arrival: Arrival| {
            let _ = into.try_send(arrival.key);
        })
        .await
        .unwrap();
    let file = folder.path().join("session.json5");
    let endpoints = format!("[\"tcp/127.0.0.1:{port}\"]");
    let session = format!("{{ mode: 'client', connect: {{ endpoints: {endpoints} }} }}");
    std::fs::write(&file, session).unwrap();
    let overrides = format!("mode=\"client\";connect/endpoints={endpoints}");
    let file = file.display().to_string();
    for (name, value, taken) in [
        (
            "ZENOH_CONFIG_OVERRIDE",
            overrides.as_str(),
            "ZENOH_CONFIG_OVERRIDE: mode is \"client\"",
        ),
        (
            "ZENOH_SESSION_CONFIG_URI",
            file.as_str(),
            "ZENOH_SESSION_CONFIG_URI: the Zenoh configuration is",
        ),
    ] {
        let variables = [(name, value), ("ROS_DOMAIN_ID", "42")];
        let process = launch(&["--profile", "ros2"], &variables);
        let wait = async {
            loop {
                let key = keys.recv().await.expect("the subscription lives");
                if key.starts_with("42/ego/llmasos/gate/verdict/llmasos_msgs::msg::dds_::") {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("{name}: no verdict of the gate's process in domain 42"));
        process.signal(Signal::SIGINT);
        let finished = process.finish(PATIENCE).expect_code(0);
        for line in [taken, "ROS_DOMAIN_ID: the ROS domain is 42"] {
            assert!(
                finished.stderr.contains(line),
                "{line}\n{}",
                finished.stderr
            );
        }
        while keys.try_recv().is_ok() {}
    }
    for (name, value) in [("ZENOH_CONFIG_OVERRIDE", "mode"), ("ROS_DOMAIN_ID", "four")] {
        let finished = launch(&["--profile", "ros2"], &[(name, value)])
            .finish(PATIENCE)
            .expect_code(2);
        assert!(finished.stderr.contains(name), "{}", finished.stderr);
    }
}
