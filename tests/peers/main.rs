//! The tests with real peers, behind the feature `peers`: clients, readers and voices that none of us made.
//!
//! `tests/peers/run` installs them into target/peers and runs this. A missing peer fails a test; nothing passes by skipping.
//!
//! | peer | says | proves |
//! |---|---|---|
//! | eclipse-zenoh (Python) | text into a running launch | a plain Zenoh client is understood |
//! | rosbags | reads the verdict's CDR by our .msg files | a ROS 2 reader understands what we publish |
//! | zenoh-cli | puts text, subscribes to the JSON mirror | the command line of the README works |
//! | people reading and speaking | twelve recordings with transcripts | people are understood |
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test that cannot go on has failed; the harness is shared with the other test binary, which uses all of it"
)]

mod bridge;
#[path = "../harness.rs"]
mod harness;
#[path = "../models.rs"]
mod models;
mod network;
mod voices;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use llmasos_nodes::health::LedgerCount;
use serde_json::Value;

use crate::harness::{Finished, Process, free_port, llmasos};

const ROAD: &str = "tests/data/launch/road.yaml";
const READY_LIMIT: Duration = Duration::from_secs(120);
const STEP_LIMIT: Duration = Duration::from_secs(60);

fn peer(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/peers")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: tests/peers/run installs it",
        path.display()
    );
    path
}

/// A launch that listens where it is told, and is ready.
fn road(port: u16) -> Process {
    let mut command = llmasos();
    command.args([
        "launch",
        ROAD,
        "--json",
        "--duration",
        "600",
        &format!("port:={port}"),
    ]);
    let process = Process::start(&mut command);
    for node in ["speech", "gate"] {
        process.wait_for_json(&format!("{node} ready"), READY_LIMIT, |line| {
            let status = line["data"]["status"].as_array();
            status.is_some_and(|all| {
                all.iter()
                    .any(|one| one["name"] == node && one["message"] == "ready")
            })
        });
    }
    process
}

/// What one edge of a node has counted, if this line is a report of that node.
fn edge(line: &Value, node: &str, edge: &str) -> Option<LedgerCount> {
    let status = line["data"]["status"].as_array()?;
    let values = status.iter().find(|one| one["name"] == node)?["values"].as_array()?;
    let value = values.iter().find(|pair| pair["key"] == edge)?;
    LedgerCount::parse(value["value"].as_str()?)
}

fn finish(command: &mut Command) -> Finished {
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    Process::start(command).finish(STEP_LIMIT)
}

#[test]
fn a_python_client_is_understood_and_rosbags_reads_the_verdict() {
    let port = free_port();
    let _launch = road(port);
    let mut client = Command::new(peer("venv/bin/python"));
    client.args([
        "tests/peers/verdict.py",
        &format!("tcp/127.0.0.1:{port}"),
        "road",
        "pull over",
    ]);
    let finished = finish(&mut client).expect_code(0);
    let verdict: Value = serde_json::from_str(finished.stdout.trim()).unwrap();
    assert_eq!(verdict["verdict"], 1, "ACCEPTED: {verdict}");
    assert_eq!(
        verdict["command_set"], true,
        "it came straight from speech: {verdict}"
    );
}

#[test]
fn the_zenoh_command_line_speaks_and_reads_json() {
    let port = free_port();
    let launch = road(port);
    let endpoint = format!("tcp/127.0.0.1:{port}");
    let zenoh = |arguments: &[&str]| {
        let mut command = Command::new(peer("venv/bin/zenoh"));
        command
            .args(["--mode", "client", "--connect", &endpoint])
            .args(arguments);
        command
    };
    let mut listening = zenoh(&[
        "subscribe",
        "-k",
        "road/llmasos/speech/command/@json",
        "--decoder",
        "json",
    ]);
    let mirror = Process::start(&mut listening);
    // The mirror is published only while somebody listens, and the session needs a moment to be known: the sentence is said again.
    let heard = harness::wait_until(STEP_LIMIT, || {
        finish(&mut zenoh(&[
            "put",
            "-k",
            "road/llmasos/speech/text",
            "-v",
            "please slow down",
        ]))
        .expect_code(0);
        mirror
            .has_line(|line| line.contains("SLOW_DOWN") && line.contains("please slow down"))
            .then_some(())
    });
    assert!(heard.is_some(), "the mirror said nothing");
    launch.wait_for_json("the command on the bus", STEP_LIMIT, |line| {
        line["data"]["source_name"] == "TEXT"
    });
}
