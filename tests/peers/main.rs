//! The tests with real peers, behind the feature `peers`: clients, readers, nodes and voices that none of us made.
//!
//! `tests/peers/run` installs them into target/peers and runs this. A missing peer fails a test; nothing passes by skipping.
//!
//! | peer | in | says, hears | proves |
//! |---|---|---|---|
//! | zenoh-bridge-ros2dds 1.10.2 | bridge | carries DDS to Zenoh and back, dies and returns | we are reachable from any DDS node, and go on without it |
//! | rclpy of Jazzy and of Kilted on Fast DDS | bridge | drives, speaks, plays sound, shows pictures; hears mirrors, limits, diagnostics | a ROS 2 node without our types is served |
//! | rosidl's generator of Jazzy and of Kilted | hashes | hashes our definitions | the hashes in our keys are those of ROS 2 |
//! | rosbags 0.11.9 | verdict, bridge | reads and writes CDR by our .msg files | the bytes are those of the definitions |
//! | eclipse-zenoh 1.10.2 (Python) | verdict, zenoh_clients | text into a running launch | a plain Zenoh client is understood |
//! | zenoh-cli 0.7.0, curl at the REST plugin | zenoh_clients | puts text, JSON and CDR everywhere, asks | what a contract accepts is taken from a person, and the rest refused |
//! | pyzeros 0.1.0, hiroz 0.2.1 | rmw_zenoh | see the graph, drive, speak, hear, call; both ways | a ROS 2 node on rmw_zenoh is served, and served by |
//! | a Zenoh session that is told every byte | rmw_zenoh | samples, tokens and questions no good node would send | what is wrong is told, and costs no node |
//! | a simulator in Python | simulator | /clock at 10 and 1000 Hz, pause, jump back, CARLA's dialect | the graph lives in simulated time |
//! | llama.cpp and PyTorch, asked once | families | scores, tokens and greedy answers of Qwen2.5, Gemma 3 and MiniLM | imported models compute what they should |
//! | onnxruntime 1.32.0 (Python) | compress, tasks | outputs of compressed folders | portable graphs, detectors and encoders run without us |
//! | people reading and speaking | voices | twelve recordings with transcripts | people are understood |
//!
//! The `ros2` command and the original rmw_zenoh_cpp are not here: no registry has them.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test that cannot go on has failed; the harness is shared with the other test binary, which uses all of it"
)]

mod bridge;
mod commands;
mod compress;
mod families;
#[path = "../harness.rs"]
mod harness;
mod hashes;
#[path = "../models.rs"]
mod models;
mod network;
mod rmw_zenoh;
mod simulator;
mod stage;
mod tasks;
mod verdict;
mod voices;
mod zenoh_clients;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use llmasos_nodes::health::LedgerCount;
use serde_json::Value;

use crate::harness::{Finished, Process};

const READY_LIMIT: Duration = Duration::from_secs(120);
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// One graph at a time: each loads several models, and two at once would test the computer.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

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

/// Waits until these nodes of a launch say that they are ready.
fn until_ready(launch: &Process, nodes: &[&str]) {
    for node in nodes {
        launch.wait_for_json(&format!("{node} ready"), READY_LIMIT, |line| {
            let status = line["data"]["status"].as_array();
            status.is_some_and(|all| {
                all.iter()
                    .any(|one| one["name"] == *node && one["message"] == "ready")
            })
        });
    }
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
