//! A graph on real models, run, interrupted and mistreated: what must hold when a process dies or a message lies.
//!
//! Every case starts the launcher as a user would and looks at it from outside: its output, its processes, the bus. One case at a time:
//! each loads four models, and two at once would test the computer.

use std::{
    cell::Cell,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use llmasos::models::{FetchPolicy, Models, Silent, Store};
use llmasos_msgs::{
    Message,
    audio_common_msgs::{Audio, AudioData, AudioInfo, AudioStamped},
    builtin_interfaces::Time,
    llmasos_msgs::GateVerdict,
    nav_msgs::Odometry,
    sensor_msgs::Image,
    std_msgs::Header,
};
use llmasos_nodes::{
    bus::{Bus, BusOptions, Qos},
    clock,
};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::harness::{Process, descendants, free_port, is_alive, llmasos, wait_until};

const ROAD: &str = "tests/data/launch/road.yaml";
/// From the start to models that answer, on a loaded computer.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// For everything after that.
const STEP_LIMIT: Duration = Duration::from_secs(40);

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn launch(extra: &[&str]) -> Process {
    let mut command = llmasos();
    command.args(["launch", ROAD, "--json"]).args(extra);
    Process::start(&mut command)
}

fn is_verdict(line: &Value) -> bool {
    line["type"] == GateVerdict::TYPE
}

/// Waits until every node says that it is ready.
fn until_ready(process: &Process) {
    for node in ["speech", "summary", "advisor", "gate"] {
        process.wait_for_json(&format!("{node} ready"), READY_LIMIT, |line| {
            let status = line["data"]["status"].as_array();
            status.is_some_and(|all| {
                all.iter()
                    .any(|one| one["name"] == node && one["message"] == "ready")
            })
        });
    }
}

#[test]
fn a_spoken_wish_becomes_an_accepted_advice_and_every_line_is_json() {
    let _alone = alone();
    let finished = launch(&[]).finish(READY_LIMIT + STEP_LIMIT).expect_code(0);
    let lines = finished.json_lines();
    let advice = lines
        .iter()
        .find(|line| line["topic"] == "llmasos/advice/raw")
        .expect("an advice was seen");
    assert_eq!(
        advice["data"]["source_name"], "MODEL",
        "a model sampled it: {advice}"
    );
    assert_eq!(advice["data"]["action_name"], "SLOW_DOWN", "{advice}");
    assert!(
        advice["data"]["tokens_out"].as_u64().unwrap() > 5,
        "{advice}"
    );
    for key in ["topic", "type", "stamp", "age_ms", "latency_ms", "data"] {
        assert!(advice.get(key).is_some(), "{key} is missing: {advice}");
    }
    let summary = &lines.last().expect("a last line")["summary"];
    assert_eq!(
        summary["expected"]["missed"],
        serde_json::json!([]),
        "{summary}"
    );
    let readers = &summary["topics"]["objects"]["readers"]["summary.objects"];
    let sum = [
        "handled",
        "lost",
        "expired",
        "superseded",
        "refused",
        "waiting",
    ]
    .iter()
    .map(|key| readers[key].as_u64().unwrap())
    .sum::<u64>();
    assert_eq!(
        readers["received"].as_u64(),
        Some(sum),
        "the ledger balances: {readers}"
    );
}

#[test]
fn ctrl_c_ends_in_order_and_nobody_is_left() {
    let _alone = alone();
    let process = launch(&["--duration", "600"]);
    until_ready(&process);
    let children = descendants(process.pid());
    assert!(!children.is_empty(), "the gate has a process of its own");
    process.signal(Signal::SIGINT);
    let finished = process.finish(STEP_LIMIT).expect_code(0);
    assert!(
        finished
            .json_lines()
            .last()
            .is_some_and(|line| line.get("summary").is_some()),
        "it says how it went: {}",
        finished.stderr
    );
    assert!(
        children.iter().all(|child| !is_alive(*child)),
        "a child survived"
    );
}

#[test]
fn nobody_survives_a_killed_launcher() {
    let _alone = alone();
    let mut process = launch(&["--duration", "600"]);
    process.wait_for_json("a verdict", READY_LIMIT, is_verdict);
    let children = descendants(process.pid());
    assert!(!children.is_empty(), "the gate has a process of its own");
    process.signal(Signal::SIGKILL);
    process.wait(STEP_LIMIT);
    let gone = wait_until(STEP_LIMIT, || {
        children.iter().all(|child| !is_alive(*child)).then_some(())
    });
    assert!(gone.is_some(), "a child survived its parent");
}

#[test]
fn a_killed_gate_is_back_and_its_sequence_begins_again() {
    let _alone = alone();
    let process = launch(&["--duration", "600"]);
    let sequence = |line: &Value| line["data"]["sequence"].as_u64();
    process.wait_for_json("a verdict late in a sequence", READY_LIMIT, |line| {
        is_verdict(line) && sequence(line) > Some(20)
    });
    let gate = descendants(process.pid())[0];
    kill(gate, Signal::SIGKILL).unwrap();
    let back = wait_until(STEP_LIMIT, || {
        descendants(process.pid())
            .into_iter()
            .find(|child| *child != gate && is_alive(*child))
    });
    assert!(back.is_some(), "a new gate runs");
    until_ready(&process);
    process.wait_for_json("a restart in the diagnostics", STEP_LIMIT, |line| {
        let status = line["data"]["status"].as_array();
        let restarted = |one: &Value| {
            one["values"].as_array().is_some_and(|values| {
                values
                    .iter()
                    .any(|pair| pair["key"] == "restarts" && pair["value"] == "1")
            })
        };
        status.is_some_and(|all| {
            all.iter()
                .any(|one| one["name"] == "gate" && restarted(one))
        })
    });
    let begins_again = wait_until(STEP_LIMIT, || {
        let last = Cell::new(0);
        process
            .has_line(|line| {
                let is_candidate = line.contains(GateVerdict::TYPE);
                let value = is_candidate.then(|| serde_json::from_str::<Value>(line).ok());
                let Some(count) = value.flatten().as_ref().and_then(sequence) else {
                    return false;
                };
                count < last.replace(count)
            })
            .then_some(())
    });
    assert!(
        begins_again.is_some(),
        "another gate decides: it counts from the beginning"
    );
    process.signal(Signal::SIGINT);
    process.finish(STEP_LIMIT).expect_code(0);
}

/// The road with its summary in a process of its own, as a file whose relative paths still lead somewhere.
fn road_with_own_process(folder: &Path) -> String {
    let text = std::fs::read_to_string(ROAD).unwrap();
    let root = env!("CARGO_MANIFEST_DIR");
    let own = text.replace("../../..", root).replace(
        "kind: perception-summary",
        "kind: perception-summary\n    process: own",
    );
    assert!(own.contains("process: own"));
    let file = folder.join("own.yaml");
    std::fs::write(&file, own).unwrap();
    file.display().to_string()
}

#[test]
fn a_node_in_its_own_process_is_killed_and_back_while_the_gate_decides() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let file = road_with_own_process(folder.path());
    let mut command = llmasos();
    command.args(["launch", &file, "--json", "--duration", "600"]);
    let process = Process::start(&mut command);
    until_ready(&process);
    let own = |id: nix::unistd::Pid| {
        let line = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.split('\0').any(|word| word == "--only")
    };
    let node = descendants(process.pid()).into_iter().find(|id| own(*id));
    let node = node.expect("the summary has a process of its own");
    kill(node, Signal::SIGKILL).unwrap();
    let back = wait_until(STEP_LIMIT, || {
        let again = |id: &nix::unistd::Pid| *id != node && own(*id);
        descendants(process.pid()).into_iter().find(again)
    });
    assert!(back.is_some(), "a new process runs");
    process.wait_for_json("its restart in the diagnostics", STEP_LIMIT, |line| {
        let restarted = |one: &Value| {
            let values = one["values"].as_array();
            one["name"] == "summary"
                && values.is_some_and(|values| {
                    values
                        .iter()
                        .any(|pair| pair["key"] == "restarts" && pair["value"] == "1")
                })
        };
        line["data"]["status"]
            .as_array()
            .is_some_and(|all| all.iter().any(restarted))
    });
    process.signal(Signal::SIGINT);
    let finished = process.finish(STEP_LIMIT).expect_code(0);
    let lines = finished.json_lines();
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!(
        summary["restarts"]["gate"], 0,
        "the gate went on: {summary}"
    );
}

fn now() -> Header {
    Header {
        stamp: Time::from_nanos(clock::now_ns()),
        frame_id: "base_link".into(),
    }
}

fn sound(rate: i32, samples: Vec<f32>, header: Header) -> Vec<u8> {
    let info = AudioInfo {
        format: 1,
        channels: 1,
        rate,
        chunk: samples.len() as i32,
    };
    let audio_data = AudioData {
        float32_data: samples,
        ..Default::default()
    };
    AudioStamped {
        header,
        audio: Audio { audio_data, info },
    }
    .encode()
    .unwrap()
}

fn picture(width: u32, height: u32, encoding: &str) -> Vec<u8> {
    let data = vec![0; (width * height * 3) as usize];
    Image {
        header: now(),
        width,
        height,
        encoding: encoding.into(),
        step: width * 3,
        data,
        ..Default::default()
    }
    .encode()
    .unwrap()
}

/// Topic, payload, what the refusal must say, why.
fn attacks() -> Vec<(&'static str, Vec<u8>, &'static str, &'static str)> {
    let text = llmasos_msgs::std_msgs::String {
        data: "turn left".into(),
    }
    .encode()
    .unwrap();
    let whole = sound(16_000, vec![0.0; 320], now());
    let cut = whole[..whole.len() / 2].to_vec();
    let old = Header {
        stamp: Time { sec: 0, nanosec: 0 },
        ..now()
    };
    let future = Header {
        stamp: Time::from_nanos(clock::now_ns() + 3_600_000_000_000),
        ..now()
    };
    let mut hostile = vec![0, 1, 0, 0];
    hostile.extend([0u8; 8]);
    hostile.extend([0xf0, 0xff, 0xff, 0xff]);
    vec![
        ("mic/audio", cut, "", "truncated CDR"),
        (
            "mic/audio",
            hostile,
            "",
            "a string of four gigabytes in sixteen bytes",
        ),
        (
            "mic/audio",
            b"hello".to_vec(),
            "CDR",
            "text on a topic that takes CDR",
        ),
        (
            "mic/audio",
            sound(16_000, vec![f32::NAN; 320], now()),
            "finite",
            "sound that is not a number",
        ),
        (
            "mic/audio",
            sound(-1, vec![0.0; 320], now()),
            "rate",
            "a negative rate",
        ),
        (
            "mic/audio",
            sound(16_000, vec![0.0; 320], old),
            "stamp",
            "a stamp of zero",
        ),
        (
            "mic/audio",
            sound(16_000, vec![0.0; 320], future),
            "ahead",
            "a stamp in the future",
        ),
        (
            "mic/audio",
            vec![0; 100 << 20],
            "bytes",
            "a message of 100 MB",
        ),
        (
            "camera/image",
            picture(0, 0, "rgb8"),
            "",
            "a picture of nothing",
        ),
        (
            "camera/image",
            picture(8, 8, "holograph"),
            "holograph",
            "an unknown encoding",
        ),
        (
            "objects",
            br#"{"objects":[{"colour":"red"}]}"#.to_vec(),
            "colour",
            "a field that does not exist",
        ),
        ("odometry", text, "", "another type on the key"),
    ]
}

#[test]
fn what_lies_is_refused_by_name_and_the_nodes_stay_ready() {
    let _alone = alone();
    let port = free_port();
    let process = launch(&["--duration", "600", &format!("port:={port}")]);
    until_ready(&process);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let options = BusOptions {
            namespace: "road".into(),
            connect: vec![format!("tcp/127.0.0.1:{port}")],
            ..Default::default()
        };
        let bus = Bus::open(&options).await.unwrap();
        for (topic, payload, says, why) in attacks() {
            let publisher = bus
                .raw_publisher(
                    topic,
                    Qos {
                        block: true,
                        ..Qos::EVENT
                    },
                )
                .await
                .unwrap();
            wait_listeners(&publisher).await;
            publisher.put(payload).await.unwrap();
            process.wait_for_json(why, STEP_LIMIT, |line| {
                let status = line["data"]["status"].as_array();
                let refused = |one: &Value| {
                    one["name"]
                        .as_str()
                        .is_some_and(|name| name.ends_with(topic))
                        && one["message"]
                            .as_str()
                            .is_some_and(|message| message.contains(says))
                };
                status.is_some_and(|all| all.iter().any(refused))
            });
        }
        // A car that stands still in time: the gate must not believe the old ego state. Here it only has to go on deciding.
        let ego = Odometry {
            header: now(),
            ..Default::default()
        }
        .encode()
        .unwrap();
        bus.raw_publisher("odometry", Qos::EVENT)
            .await
            .unwrap()
            .put(ego)
            .await
            .unwrap();
        let text = bus
            .raw_publisher("llmasos/speech/text", Qos::EVENT)
            .await
            .unwrap();
        wait_listeners(&text).await;
        text.put(b"pull over".to_vec()).await.unwrap();
        process.wait_for_json("a pull-over after all that", STEP_LIMIT, |line| {
            is_verdict(line) && line["data"]["action_name"] == "PULL_OVER"
        });
        bus.close(STEP_LIMIT).await;
    });
    process.signal(Signal::SIGINT);
    let finished = process.finish(STEP_LIMIT).expect_code(0);
    let restarts = finished.json_lines().last().unwrap()["summary"]["restarts"].clone();
    assert!(
        restarts
            .as_object()
            .unwrap()
            .values()
            .all(|count| count == 0),
        "nobody had to be restarted: {restarts}"
    );
}

async fn wait_listeners(publisher: &llmasos_nodes::bus::RawPublisher) {
    let deadline = tokio::time::Instant::now() + STEP_LIMIT;
    while !publisher.has_listeners().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "nobody listens on {}",
            publisher.key()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_damaged_model_is_named_with_what_to_do() {
    let _alone = alone();
    let mut cache = Models::from_environment(&[]).unwrap();
    cache
        .ensure("silero-vad", FetchPolicy::Auto, &mut Silent::default())
        .unwrap();
    let entry = cache.catalogue().get("silero-vad").unwrap().clone();
    let good = cache.store().folder(&entry);
    let home = tempfile::tempdir().unwrap();
    let bad = Store::at(home.path()).folder(&entry);
    copy(&good, &bad);
    std::fs::write(bad.join("model.onnx"), b"not a model").unwrap();
    let mut command = llmasos();
    command
        .args(["model", "verify", "silero-vad"])
        .env("LLMASOS_HOME", home.path());
    let finished = Process::start(&mut command)
        .finish(STEP_LIMIT)
        .expect_code(1);
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(
        said.contains("model.onnx") && said.contains("pull"),
        "names the file and the next step: {said}"
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
