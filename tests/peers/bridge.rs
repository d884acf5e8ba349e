//! zenoh-bridge-ros2dds: real rclpy nodes of Jazzy and Kilted drive a vehicle, speak to LLMasOS and hear it, on DDS and nothing else.
//!
//! One graph runs, in a private network with one bridge; a node of each distribution is attached to the same ROS graph. What they say must
//! be understood and what is published must reach both, so each step is asked of both. Types that the wheels have no typesupport for
//! cross DDS as bytes, and rosbags, which is not ours either, encodes and decodes them.
//!
//! ```text
//! rclpy Jazzy ─┐                            ┌─ speech, summary, advisor
//!              ├─DDS─ bridge ═Zenoh router═ ┤
//! rclpy Kilted─┘      ROS 2 │ keys          └─ gate
//! ```

use std::{path::Path, process::Command};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::{
    READY_LIMIT, STEP_LIMIT, alone,
    commands::Shell,
    edge,
    harness::{Process, descendants, llmasos},
    models::folder,
    network::Network,
    peer, until_ready,
};

const VEHICLE: &str = "tests/data/launch/vehicle.yaml";
const SLOW_DOWN: &str = "launch/demo/synthetic/slow-down.wav";
/// Inside a private network every port is free.
const ROUTER: &str = "tcp/127.0.0.1:7447";
/// Any number will do; not 0, so that a node that forgot to read it hears nothing.
const DOMAIN: &str = "17";
const LIMIT: &str = "/planning/scenario_planning/max_velocity_candidates";
const CLEAR: &str = "/planning/scenario_planning/clear_velocity_limit";
const TEXT: &str = "llmasos/speech/text";
const COMMAND: &str = "llmasos/speech/command";
const SUMMARY: &str = "llmasos/perception/summary";
const VERDICT: &str = "llmasos/gate/verdict";

/// Autoware's codes of `ControlModeReport.mode`, and 0 for a vehicle that is silent.
const AUTONOMOUS: u8 = 1;
const MANUAL: u8 = 4;

/// A ROS 2 node of one distribution.
struct RosNode {
    distro: &'static str,
    process: Process,
}

impl RosNode {
    fn start(network: &Network, distro: &'static str) -> RosNode {
        let mut command = Command::new(peer(&format!("venv-{distro}/bin/python")));
        command
            .args(["tests/peers/rclpy_peer.py", distro, "ego"])
            .env("ROS_DISTRO", distro)
            .env("ROS_DOMAIN_ID", DOMAIN)
            .env("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
            // Shared memory would outlive a node that is killed.
            .env("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let process = Process::start_to_be_ordered(&mut network.inside(&command));
        RosNode { distro, process }
    }

    fn order(&self, order: &Value) {
        self.process.order(&order.to_string());
    }

    /// Waits until DDS has connected `topic` with somebody after `mark`.
    fn matched(&self, mark: usize, topic: &str) {
        let what = format!("{}: an end of {topic}", self.distro);
        self.process
            .wait_for_json_after(mark, &what, STEP_LIMIT, |line| {
                line["matched"] == topic && line["count"].as_u64() > Some(0)
            });
    }

    /// The first message on `topic` after `mark` that `wanted` accepts: the mark behind it.
    fn hears(
        &self,
        mark: usize,
        topic: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> usize {
        let what = format!("{} hears {what}", self.distro);
        let heard = self
            .process
            .wait_for_json_after(mark, &what, STEP_LIMIT, |line| {
                line["topic"] == topic && wanted(&line["data"])
            });
        heard.1
    }
}

/// Everything that runs, and the order in which it ends: those who speak before those who carry.
struct Stage {
    launch: Process,
    nodes: [RosNode; 2],
    bridge: Process,
    configuration: tempfile::TempDir,
    network: Network,
}

fn start_bridge(network: &Network, configuration: &Path) -> Process {
    let mut command = Command::new(peer("ros2/debug/bridge"));
    command.arg(configuration);
    let bridge = Process::start(&mut network.inside(&command));
    bridge.wait_for_line("the bridge", STEP_LIMIT, |line| line == "ready");
    bridge
}

fn start_launch(network: &Network) -> Process {
    let mut command = llmasos();
    command
        .args(["launch", VEHICLE, "--json", "--duration", "600"])
        .arg(format!("router:={ROUTER}"));
    Process::start(&mut network.inside(&command))
}

impl Stage {
    /// The bridge and both nodes first, so that they hear what a gate says when it starts.
    fn set() -> Stage {
        let network = Network::private();
        let configuration = tempfile::tempdir().unwrap();
        let file = configuration.path().join("bridge.json5");
        let text = json!({
            "mode": "router",
            "listen": { "endpoints": [ROUTER] },
            "scouting": { "multicast": { "enabled": false } },
            "plugins": { "ros2dds": { "domain": DOMAIN.parse::<u32>().unwrap(), "nodename": "bridge" } },
        });
        std::fs::write(&file, text.to_string()).unwrap();
        let bridge = start_bridge(&network, &file);
        let nodes = ["jazzy", "kilted"].map(|distro| RosNode::start(&network, distro));
        for node in &nodes {
            node.matched(0, CLEAR);
        }
        let launch = start_launch(&network);
        Stage {
            launch,
            nodes,
            bridge,
            configuration,
            network,
        }
    }

    /// Both nodes hear it; the marks behind it.
    fn all_hear(
        &self,
        marks: [usize; 2],
        topic: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> [usize; 2] {
        [0, 1].map(|index| self.nodes[index].hears(marks[index], topic, what, &wanted))
    }

    fn marks(&self) -> [usize; 2] {
        [0, 1].map(|index| self.nodes[index].process.mark())
    }

    /// One of them says it; both hear that it became a command, a verdict and a limit. The marks right behind the limit: on a busy machine
    /// one node may hear it so late that the other has heard its end already, which must not be overlooked.
    fn slow_down(&self, speaker: &RosNode) -> [usize; 2] {
        // A limit is published on change: an advice that is still in force would hide the next one.
        self.all_hear(self.marks(), VERDICT, "no advice in force", |data| {
            data["verdict_name"] == "NO_ADVICE"
        });
        let marks = self.marks();
        let text = format!("please slow down, {}", speaker.distro);
        speaker.order(&json!({ "say": text }));
        self.all_hear(marks, COMMAND, "the transcript", |data| {
            data["transcript"] == text && data["intent_name"] == "SLOW_DOWN"
        });
        self.all_hear(marks, VERDICT, "an accepted SLOW_DOWN", |data| {
            ["ACCEPTED", "CLIPPED"].contains(&data["verdict_name"].as_str().unwrap_or_default())
                && data["action_name"] == "SLOW_DOWN"
        });
        self.all_hear(marks, LIMIT, "a velocity limit", is_limit)
    }

    /// Of the newest verdict, as the launcher sees it.
    fn sequence(&self) -> u64 {
        let mark = self.launch.mark();
        let newest = self
            .launch
            .wait_for_json_after(mark, "a verdict", STEP_LIMIT, |line| {
                line["topic"] == VERDICT
            });
        newest.0["data"]["sequence"].as_u64().unwrap()
    }

    fn gate(&self) -> nix::unistd::Pid {
        descendants(self.launch.pid())[0]
    }
}

fn is_limit(data: &Value) -> bool {
    let speed = data["max_velocity"].as_f64();
    data["sender"] == "llmasos"
        && data["use_constraints"] == false
        && speed.is_some_and(|speed| (0.0..8.0).contains(&speed))
}

fn is_clear(data: &Value) -> bool {
    data["sender"] == "llmasos" && data["command"] == true
}

fn ready(line: &Value, node: &str) -> bool {
    let status = line["data"]["status"].as_array();
    status.is_some_and(|all| {
        all.iter()
            .any(|one| one["name"] == node && one["message"] == "ready")
    })
}

#[test]
fn jazzy_and_kilted_drive_speak_and_hear_through_the_bridge() {
    let _alone = alone();
    let mut stage = Stage::set();
    stage.all_hear([0, 0], CLEAR, "a clear when the gate starts", is_clear);
    for node in ["speech", "summary", "advisor", "gate"] {
        stage
            .launch
            .wait_for_json(&format!("{node} ready"), READY_LIMIT, |line| {
                ready(line, node)
            });
        stage.all_hear([0, 0], "/diagnostics", &format!("{node} ready"), |data| {
            ready(&json!({ "data": data }), node)
        });
    }
    diagnostics_come_every_second(&stage);
    stage.nodes[0].order(&json!({ "drive": AUTONOMOUS }));
    until_it_drives(&stage, [0, 0]);
    stage.all_hear([0, 0], VERDICT, "that nothing was advised", |data| {
        data["verdict_name"] == "NO_ADVICE" && data["rule"] != "ego_missing"
    });
    for speaker in &stage.nodes {
        let limited = stage.slow_down(speaker);
        stage.all_hear(limited, CLEAR, "a clear when the advice ends", is_clear);
    }
    Shell {
        endpoint: ROUTER,
        domain: DOMAIN,
        network: Some(&stage.network),
    }
    .looks_around(&["/ego/jazzy", "/ego/kilted", "/ego/gate"], "jazzy");
    sound_and_pictures_are_understood(&stage);
    a_takeover_clears(&stage);
    a_killed_gate_clears(&stage);
    a_bridge_that_restarts_carries_again(&mut stage);
    the_end_clears(&mut stage);
    a_killed_launcher_clears(&mut stage);
}

/// Waits until, after these marks, words of both nodes reach us and the vehicle's motion the advisor.
fn until_it_drives(stage: &Stage, marks: [usize; 2]) {
    for (node, mark) in stage.nodes.iter().zip(marks) {
        node.matched(mark, TEXT);
    }
    stage
        .launch
        .wait_for_json("the vehicle's motion at the advisor", STEP_LIMIT, |line| {
            edge(line, "advisor", "ego: odometry").is_some_and(|count| count.handled > 0)
        });
}

fn diagnostics_come_every_second(stage: &Stage) {
    for node in &stage.nodes {
        let mut mark = node.process.mark();
        let mut stamps = vec![];
        while stamps.len() < 4 {
            let (line, behind) =
                node.process
                    .wait_for_json_after(mark, "diagnostics", STEP_LIMIT, |line| {
                        line["topic"] == "/diagnostics" && ready(line, "speech")
                    });
            stamps.push(line["data"]["stamp"].as_i64().unwrap());
            mark = behind;
        }
        let span_s = stamps[3] - stamps[0];
        assert!(
            (2..=4).contains(&span_s),
            "{}: 1 Hz expected, found stamps {stamps:?}",
            node.distro
        );
    }
}

fn sound_and_pictures_are_understood(stage: &Stage) {
    let marks = stage.marks();
    stage.nodes[1].order(&json!({ "show": folder("street-images").join("bus.jpg") }));
    stage.all_hear(
        marks,
        SUMMARY,
        "the pedestrian of its list and what the picture shows",
        |data| {
            let objects = data["objects"].as_array();
            let labels = |label: &str| {
                objects.is_some_and(|all| all.iter().any(|one| one["label_name"] == label))
            };
            labels("PEDESTRIAN") && labels("BUS")
        },
    );
    let marks = stage.marks();
    stage.nodes[1].order(&json!({ "play": SLOW_DOWN }));
    stage.all_hear(marks, COMMAND, "what was spoken", |data| {
        data["intent_name"] == "SLOW_DOWN" && data["source_name"] != "TEXT"
    });
    let limited = stage.all_hear(marks, LIMIT, "the limit it led to", is_limit);
    stage.nodes[1].order(&json!({ "show": null }));
    stage.all_hear(limited, CLEAR, "its end", is_clear);
}

fn a_takeover_clears(stage: &Stage) {
    let limited = stage.slow_down(&stage.nodes[0]);
    stage.nodes[0].order(&json!({ "drive": MANUAL }));
    stage.all_hear(limited, VERDICT, "that a person drives", |data| {
        data["rule"] == "manual_control"
    });
    stage.all_hear(limited, CLEAR, "a clear when a person takes over", is_clear);
    stage.nodes[0].order(&json!({ "drive": AUTONOMOUS }));
    stage.all_hear(stage.marks(), VERDICT, "that the computer drives", |data| {
        data["rule"] != "manual_control"
    });
}

fn a_killed_gate_clears(stage: &Stage) {
    let limited = stage.slow_down(&stage.nodes[1]);
    let (marks, gate, before) = (stage.marks(), stage.gate(), stage.sequence());
    kill(gate, Signal::SIGKILL).unwrap();
    stage.all_hear(limited, CLEAR, "a clear when the gate is killed", is_clear);
    let again = |data: &Value| {
        data["sequence"]
            .as_u64()
            .is_some_and(|count| (3..before).contains(&count))
    };
    stage.all_hear(
        marks,
        VERDICT,
        "a new gate, which counts from the beginning",
        again,
    );
    // An advice names its summary; a gate that never heard that one believes neither.
    stage.all_hear(
        stage.marks(),
        SUMMARY,
        "a summary that the new gate knows",
        |_| true,
    );
}

fn a_bridge_that_restarts_carries_again(stage: &mut Stage) {
    stage.slow_down(&stage.nodes[0]);
    let before = stage.sequence();
    let file = stage.configuration.path().join("bridge.json5");
    stage.bridge.signal(Signal::SIGKILL);
    stage.bridge.wait(STEP_LIMIT);
    let marks = stage.marks();
    stage.bridge = start_bridge(&stage.network, &file);
    for (node, mark) in stage.nodes.iter().zip(marks) {
        node.matched(mark, TEXT);
    }
    stage.all_hear(marks, VERDICT, "the gate again", |data| {
        data["sequence"].as_u64() > Some(before)
    });
    stage.all_hear(
        marks,
        CLEAR,
        "a clear, which the bridge missed or not",
        is_clear,
    );
}

fn the_end_clears(stage: &mut Stage) {
    let limited = stage.slow_down(&stage.nodes[1]);
    stage.launch.signal(Signal::SIGINT);
    stage.all_hear(limited, CLEAR, "a clear at the end", is_clear);
    let ended = std::mem::replace(&mut stage.launch, Process::start(&mut Command::new("true")));
    let finished = ended.finish(STEP_LIMIT).expect_code(0);
    let lines = finished.json_lines();
    let restarts = &lines.last().unwrap()["summary"]["restarts"];
    for (node, count) in restarts.as_object().unwrap() {
        let expected = u64::from(node == "gate");
        assert_eq!(
            count.as_u64(),
            Some(expected),
            "only the gate was killed: {restarts}"
        );
    }
}

/// Nobody is left to say it but the gate itself, which its parent's death tells to end.
fn a_killed_launcher_clears(stage: &mut Stage) {
    let marks = stage.marks();
    stage.launch = start_launch(&stage.network);
    until_ready(&stage.launch, &["speech", "advisor", "language", "gate"]);
    until_it_drives(stage, marks);
    let limited = stage.slow_down(&stage.nodes[1]);
    stage.launch.signal(Signal::SIGKILL);
    stage.all_hear(
        limited,
        CLEAR,
        "a clear when the launcher is killed",
        is_clear,
    );
}
