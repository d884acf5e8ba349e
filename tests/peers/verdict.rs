//! A Zenoh client in Python without any router, and rosbags, which reads the verdict by our .msg files.

use std::process::Command;

use serde_json::Value;

use crate::{
    alone, finish,
    harness::{Process, free_port, llmasos},
    peer, until_ready,
};

const ROAD: &str = "tests/data/launch/road.yaml";

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
    until_ready(&process, &["speech", "gate"]);
    process
}

#[test]
fn a_python_client_is_understood_and_rosbags_reads_the_verdict() {
    let _alone = alone();
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
