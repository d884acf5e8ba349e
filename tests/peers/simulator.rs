//! A simulator: `simulator.py` says the time, drives and shows a pedestrian; the graph lives in its time and not in the wall's.
//!
//! The clock runs at 10 Hz on plain keys, and at 1000 Hz in the dialect of CARLA and zenoh_carla_bridge (rmw_zenoh keys with `*` for the
//! hash, one constant attachment). In both it runs, stands still, and jumps back as a scenario does that begins anew.

use std::cell::Cell;

use llmasos_msgs::{Message, llmasos_msgs::GateVerdict};
use serde_json::Value;

use crate::{
    STEP_LIMIT, alone, edge,
    harness::Process,
    stage::{Router, Stage},
    until_ready,
};

const OPEN: &str = "tests/data/launch/open.yaml";
const SUMMARY: &str = "llmasos/perception/summary";
/// Simulated seconds at the start, wall seconds until the pause and its length, wall seconds until the jump, and how far it goes.
const TIMES: [&str; 9] = [
    "--start",
    "1000",
    "--pause",
    "6",
    "3",
    "--jump",
    "11",
    "-500",
    "--domain=7",
];
/// Where the time may be before and after the jump, in simulated seconds.
const BEFORE: std::ops::Range<i64> = 1000..1100;
const AFTER: std::ops::Range<i64> = 500..1000;

/// Lane, rate of the clock in Hz, fewest clocks a second that the simulator must have managed, why.
const CASES: [(&str, &str, f64, &str); 2] = [
    ("plain", "10", 9.0, "a slow clock on plain keys"),
    ("carla", "1000", 400.0, "a fast one in CARLA's dialect"),
];

fn stamp_s(line: &Value) -> i64 {
    line["data"]["header"]["stamp"]["sec"]
        .as_i64()
        .unwrap_or_default()
}

fn is_verdict(line: &Value) -> bool {
    line["type"] == GateVerdict::TYPE
}

/// A summary of the simulated pedestrian, dated by the simulation.
fn pedestrian(line: &Value, within: &std::ops::Range<i64>) -> bool {
    let objects = line["data"]["objects"].as_array();
    line["topic"] == SUMMARY
        && within.contains(&stamp_s(line))
        && objects.is_some_and(|all| all.iter().any(|one| one["label_name"] == "PEDESTRIAN"))
}

#[test]
fn the_graph_lives_in_the_time_of_a_simulator() {
    let _alone = alone();
    for (lane, rate_hz, least_hz, why) in CASES {
        let stage = Stage::set(
            Router::start(),
            OPEN,
            &["--profile", "simulation", "distro:=jazzy"],
            "open",
        );
        let launch = &stage.launch;
        launch.wait_for_json(
            &format!("{why}: it waits for the time"),
            STEP_LIMIT,
            |line| {
                let status = line["data"]["status"].as_array();
                status.is_some_and(|all| {
                    all.iter().any(|one| {
                        one["name"] == "gate"
                            && one["message"]
                                .as_str()
                                .is_some_and(|said| said.contains("waiting for /clock"))
                    })
                })
            },
        );
        let mut arguments = vec!["open", "--lane", lane, "--rate", rate_hz];
        arguments.extend(TIMES);
        let simulator = stage.router.python("simulator.py", &arguments);
        until_ready(launch, &["speech", "summary", "gate"]);
        launch.wait_for_json(&format!("{why}: a pedestrian"), STEP_LIMIT, |line| {
            pedestrian(line, &BEFORE)
        });
        launch.wait_for_json(
            &format!("{why}: the gate decides in simulated time"),
            STEP_LIMIT,
            |line| is_verdict(line) && BEFORE.contains(&stamp_s(line)),
        );
        the_pause_stands_still(launch, &simulator, why);
        let (_, jumped) = launch.wait_for_json_after(
            0,
            &format!("{why}: a verdict after the jump"),
            STEP_LIMIT,
            |line| is_verdict(line) && AFTER.contains(&stamp_s(line)),
        );
        launch.wait_for_json_after(
            jumped,
            &format!("{why}: the pedestrian again"),
            STEP_LIMIT,
            |line| pedestrian(line, &AFTER),
        );
        launch.wait_for_json_after(
            jumped,
            &format!("{why}: motion at the gate"),
            STEP_LIMIT,
            |line| {
                edge(line, "gate", "ego: odometry")
                    .is_some_and(|count| count.handled > 100 && count.lost == 0)
            },
        );
        let told = simulator.wait_for_json("the simulator's rate", STEP_LIMIT, |line| {
            line["wall"].as_f64() > Some(5.0)
        });
        let managed_hz = told["ticks"].as_f64().unwrap() / told["wall"].as_f64().unwrap();
        assert!(
            managed_hz >= least_hz,
            "{why}: expected at least {least_hz} Hz, found {managed_hz}"
        );
        launch.signal(nix::sys::signal::Signal::SIGINT);
        let finished = stage.launch.finish(STEP_LIMIT).expect_code(0);
        let restarts = finished.json_lines().last().unwrap()["summary"]["restarts"].clone();
        assert!(
            restarts
                .as_object()
                .unwrap()
                .values()
                .all(|count| count == 0),
            "{why}: {restarts}"
        );
    }
}

/// While the time stands still nothing is decided: the gate ticks in simulated time.
fn the_pause_stands_still(launch: &Process, simulator: &Process, why: &str) {
    simulator.wait_for_json(&format!("{why}: the pause"), STEP_LIMIT, |line| {
        line["wall"].as_f64() > Some(7.0)
    });
    let mark = launch.mark();
    simulator.wait_for_json(&format!("{why}: most of the pause"), STEP_LIMIT, |line| {
        line["wall"].as_f64() > Some(8.0)
    });
    let decided = Cell::new(0);
    launch.has_json_between(mark, launch.mark(), |line| {
        decided.set(decided.get() + usize::from(is_verdict(line)));
        false
    });
    assert!(
        decided.get() <= 1,
        "{why}: {} verdicts while the time stood still",
        decided.get()
    );
}
