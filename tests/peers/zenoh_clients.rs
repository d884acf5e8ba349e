//! Plain Zenoh clients: the command line zenoh-cli, the Python API, and curl through the REST plugin. What a person can type must be
//! understood wherever the topic's contract takes that form, refused by name where it does not, and answered when asked.
//!
//! | client | form | Zenoh encoding that arrives |
//! |---|---|---|
//! | zenoh-cli `put --encoder json`, `text`, `base64` | JSON, text, CDR | `zenoh/bytes`, whatever it is |
//! | Python `session.put` | text | `zenoh/bytes` |
//! | curl with a content type | JSON, text, CDR | that type |
//! | curl without one | JSON, text | `application/x-www-form-urlencoded` |
//!
//! Acceptance is read from the ledgers in the diagnostics: a message that a node took is one more handled and no more refused.

use std::process::Command;

use base64::{Engine, prelude::BASE64_STANDARD};
use llmasos_msgs::{
    Message, builtin_interfaces::Time, json_to_cdr, llmasos_msgs::GateVerdict, std_msgs,
};
use llmasos_nodes::clock;
use serde_json::{Value, json};

use crate::{
    READY_LIMIT, STEP_LIMIT, alone, finish,
    harness::Process,
    peer,
    stage::{Edge, Router, Stage, refused},
    until_ready,
};

const OPEN: &str = "tests/data/launch/open.yaml";
const VEHICLE: &str = "tests/data/launch/vehicle.yaml";
const TEXT: &str = "llmasos/speech/text";

/// Topic, its readers as node and port, its type, whether its stamp stands in a header, and a message without one.
type Input = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
    bool,
    Value,
);

/// Every input of the open graph but the text, which is said apart: it makes the speech node speak.
fn inputs() -> Vec<Input> {
    let identity = json!("6ecd8c99-4036-403d-bf84-cf8400f67836");
    let sound = json!({ "audio": { "audio_data": { "int16_data": vec![0; 320] }, "info": { "format": 8, "channels": 1, "rate": 16000, "chunk": 320 } } });
    let picture = json!({ "height": 2, "width": 2, "encoding": "rgb8", "step": 6, "data": BASE64_STANDARD.encode([90; 12]) });
    let car = json!({ "existence_probability": 0.9, "classification": [{ "label": 1, "probability": 0.9 }] });
    let light = json!({ "traffic_light_group_id": 7, "elements": [{ "color": 1, "shape": 1, "status": 2, "confidence": 0.9 }] });
    let motion = json!({ "child_frame_id": "base_link", "pose": { "pose": { "orientation": { "w": 1.0 } } }, "twist": { "twist": { "linear": { "x": 8.0 } } } });
    vec![
        (
            "mic/audio",
            &[("speech", "audio")],
            "audio_common_msgs/msg/AudioStamped",
            true,
            sound,
        ),
        (
            "camera/image",
            &[("summary", "image")],
            "sensor_msgs/msg/Image",
            true,
            picture,
        ),
        (
            "objects",
            &[("summary", "objects")],
            "autoware_perception_msgs/msg/PredictedObjects",
            true,
            json!({ "objects": [car] }),
        ),
        (
            "traffic_lights",
            &[("summary", "traffic_lights")],
            "autoware_perception_msgs/msg/TrafficLightGroupArray",
            false,
            json!({ "traffic_light_groups": [light] }),
        ),
        (
            "odometry",
            &[("summary", "ego"), ("gate", "ego")],
            "nav_msgs/msg/Odometry",
            true,
            motion,
        ),
        (
            "operation_mode",
            &[("gate", "operation_mode")],
            "autoware_adapi_v1_msgs/msg/OperationModeState",
            false,
            json!({ "mode": 2, "is_autoware_control_enabled": true }),
        ),
        (
            "mrm",
            &[("gate", "mrm")],
            "autoware_adapi_v1_msgs/msg/MrmState",
            false,
            json!({ "state": 1, "behavior": 1 }),
        ),
        (
            "control_mode",
            &[("gate", "control_mode")],
            "autoware_vehicle_msgs/msg/ControlModeReport",
            false,
            json!({ "mode": 1 }),
        ),
        (
            "llmasos/speech/command",
            &[("gate", "command")],
            "llmasos_msgs/msg/SpeechCommand",
            true,
            json!({ "id": identity, "intent": 3, "asr_confidence": 1.0, "intent_confidence": 1.0 }),
        ),
        (
            "outside/summary",
            &[("gate", "summary")],
            "llmasos_msgs/msg/PerceptionSummary",
            true,
            json!({ "id": identity, "sensor_state": 1, "sentence": "a car ahead" }),
        ),
        (
            "outside/advice",
            &[("gate", "advice")],
            "llmasos_msgs/msg/PlannerAdvice",
            true,
            json!({ "id": identity, "action": 2, "max_speed": 5.0, "confidence": 0.9 }),
        ),
    ]
}

/// The same message as CDR, stamped now.
fn cdr((_, _, type_name, in_header, message): &Input) -> Vec<u8> {
    let now = Time::from_nanos(clock::now_ns());
    let stamp = json!({ "sec": now.sec, "nanosec": now.nanosec });
    let mut message = message.clone();
    match in_header {
        true => message["header"] = json!({ "stamp": stamp }),
        false => message["stamp"] = stamp,
    }
    json_to_cdr(type_name, &message).unwrap()
}

fn edges(inputs: &[Input]) -> Vec<Edge> {
    let of = |input: &Input| -> Vec<(String, String)> {
        let (topic, readers, ..) = input;
        readers
            .iter()
            .map(|(node, port)| ((*node).to_owned(), format!("{port}: {topic}")))
            .collect()
    };
    inputs.iter().flat_map(of).collect()
}

#[test]
fn every_input_takes_what_its_contract_accepts_from_every_client() {
    let _alone = alone();
    let stage = Stage::set(Router::start(), OPEN, &[], "open");
    until_ready(&stage.launch, &["speech", "summary", "gate"]);
    let inputs = inputs();
    let edges = edges(&inputs);
    let as_json = |stage: &Stage| -> Vec<(String, String)> {
        inputs
            .iter()
            .map(|input| (stage.key(input.0), input.4.to_string()))
            .collect()
    };
    stage.accepted("zenoh-cli, JSON", &edges, |stage| {
        stage.zenoh_put("json", &as_json(stage))
    });
    stage.accepted("zenoh-cli, base64 of CDR", &edges, |stage| {
        let lines: Vec<_> = inputs
            .iter()
            .map(|input| (stage.key(input.0), BASE64_STANDARD.encode(cdr(input))))
            .collect();
        stage.zenoh_put("base64", &lines);
    });
    for content_type in [Some("application/json"), None] {
        stage.accepted(
            &format!("curl, JSON as {content_type:?}"),
            &edges,
            |stage| {
                for (key, message) in as_json(stage) {
                    stage.rest_put(content_type, &key, message.as_bytes());
                }
            },
        );
    }
    for content_type in ["application/octet-stream", "application/cdr"] {
        stage.accepted(&format!("curl, CDR as {content_type}"), &edges, |stage| {
            for input in &inputs {
                stage.rest_put(Some(content_type), &stage.key(input.0), &cdr(input));
            }
        });
    }
    texts_become_commands(&stage);
    questions_are_answered(&stage);
}

/// A name and how to say a text by it.
type Way<'a> = (&'a str, &'a dyn Fn(&str));

/// Every way to say a sentence ends as the same command; its transcript tells which one it was.
fn texts_become_commands(stage: &Stage) {
    let key = stage.key(TEXT);
    let cdr = |text: &str| std_msgs::String { data: text.into() }.encode().unwrap();
    let put = |text: &str, encoder: &str, value: String| {
        assert!(!text.is_empty());
        stage.zenoh_put(encoder, &[(key.clone(), value)]);
    };
    let ways: [Way<'_>; 8] = [
        ("zenoh text", &|text| put(text, "text", text.to_owned())),
        ("zenoh json", &|text| {
            put(text, "json", json!({ "data": text }).to_string())
        }),
        ("zenoh base", &|text| {
            put(text, "base64", BASE64_STANDARD.encode(cdr(text)))
        }),
        ("python", &|text| {
            let mut python = Command::new(peer("venv/bin/python"));
            finish(python.args([
                "tests/peers/zenoh_put.py",
                &stage.router.endpoint,
                &key,
                text,
            ]))
            .expect_code(0);
        }),
        ("curl form", &|text| {
            stage.rest_put(None, &key, text.as_bytes())
        }),
        ("curl plain", &|text| {
            stage.rest_put(Some("text/plain"), &key, text.as_bytes())
        }),
        ("curl json", &|text| {
            stage.rest_put(
                Some("application/json"),
                &key,
                json!({ "data": text }).to_string().as_bytes(),
            )
        }),
        ("curl bytes", &|text| {
            stage.rest_put(Some("application/octet-stream"), &key, &cdr(text))
        }),
    ];
    for (way, say) in ways {
        let text = format!("please slow down, {way}");
        say(&text);
        stage.launch.wait_for_json(way, STEP_LIMIT, |line| {
            line["topic"] == "llmasos/speech/command"
                && line["data"]["transcript"]
                    .as_str()
                    .is_some_and(|heard| heard.trim() == text)
                && line["data"]["intent_name"] == "SLOW_DOWN"
        });
    }
}

/// The last value, the state and the mirrors, each asked for by two clients.
fn questions_are_answered(stage: &Stage) {
    let key = stage.key("llmasos/gate/verdict");
    let got = finish(&mut stage.zenoh(&["get", "-s", &key, "--decoder", "base64"])).expect_code(0);
    let by_zenoh =
        GateVerdict::decode(&BASE64_STANDARD.decode(got.stdout.trim()).unwrap()).unwrap();
    let told: Value = serde_json::from_str(&stage.rest_get(&key)).unwrap();
    assert_eq!(told[0]["key"], key);
    let by_rest = GateVerdict::decode(
        &BASE64_STANDARD
            .decode(told[0]["value"].as_str().unwrap())
            .unwrap(),
    )
    .unwrap();
    assert!(
        by_rest.sequence >= by_zenoh.sequence && by_zenoh.sequence > 0,
        "the last one: {by_zenoh:?}, then {by_rest:?}"
    );

    let state: Value = serde_json::from_str(&stage.rest_get("@llmasos/**")).unwrap();
    let gate = state
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["key"] == "@llmasos/open/gate")
        .unwrap_or_else(|| panic!("the gate tells its state: {state}"));
    assert_eq!(
        gate["value"]["decision"]["policy_sha256"],
        by_rest.to_json()["policy_sha256"],
        "{gate}"
    );
    let got =
        finish(&mut stage.zenoh(&["get", "-s", "@llmasos/**", "--decoder", "json"])).expect_code(0);
    assert!(got.stdout.contains("policy_sha256"), "{}", got.stdout);

    let say = stage.key("llmasos/say");
    let got =
        finish(&mut stage.zenoh(&["get", "-s", &say, "-v", "slow down", "--decoder", "json"]))
            .expect_code(0);
    assert!(
        got.stdout.contains("success") && got.stdout.contains("SLOW_DOWN"),
        "a service is asked with words: {}",
        got.stdout
    );
    let request = llmasos_msgs::llmasos_msgs::SayRequest {
        text: "pull over".into(),
    }
    .encode()
    .unwrap();
    let got = finish(&mut stage.zenoh(&[
        "get",
        "-s",
        &say,
        "-v",
        &BASE64_STANDARD.encode(request),
        "--encoder",
        "base64",
        "--decoder",
        "base64",
    ]))
    .expect_code(0);
    let answer = llmasos_msgs::llmasos_msgs::SayResponse::decode(
        &BASE64_STANDARD.decode(got.stdout.trim()).unwrap(),
    )
    .unwrap();
    assert!(answer.success, "and with CDR, as a bridge asks: {answer:?}");

    for (mirror, decoder, of) in [
        ("@json", "json", "JSON for people"),
        ("json", "base64", "a std_msgs/String for ROS 2 nodes"),
    ] {
        let listener = Process::start(&mut stage.zenoh(&[
            "subscribe",
            "-k",
            &format!("{key}/{mirror}"),
            "--decoder",
            decoder,
        ]));
        listener.wait_for_line(of, STEP_LIMIT, |line| {
            let text = match decoder {
                "json" => line.to_owned(),
                _ => {
                    BASE64_STANDARD
                        .decode(line)
                        .ok()
                        .and_then(|cdr| std_msgs::String::decode(&cdr).ok())
                        .unwrap_or_default()
                        .data
                }
            };
            text.contains("policy_sha256") && text.contains("verdict_name")
        });
    }
}

/// A vehicle takes CDR, and text where people speak: nobody types an object list or an ego state into it.
#[test]
fn a_vehicle_refuses_what_people_type_except_on_its_text_topic() {
    let _alone = alone();
    let stage = Stage::set(Router::start(), VEHICLE, &[], "ego");
    until_ready(&stage.launch, &["speech", "summary", "advisor", "gate"]);
    let typed = json!({ "header": { "frame_id": "map" } }).to_string();
    for (topic, readers) in [
        ("mic/audio", &["speech"][..]),
        ("camera/image", &["summary"]),
        ("objects", &["summary"]),
        ("odometry", &["summary", "advisor", "gate"]),
        ("/vehicle/status/control_mode", &["gate"]),
        ("llmasos/speech/command", &["advisor", "gate"]),
        ("llmasos/perception/summary", &["advisor", "gate"]),
        ("llmasos/advice/raw", &["gate"]),
    ] {
        let mark = stage.launch.mark();
        stage.zenoh_put("json", &[(stage.key(topic), typed.clone())]);
        refused(&stage, mark, topic, readers, "expected CDR, found JSON");
        let mark = stage.launch.mark();
        stage.rest_put(None, &stage.key(topic), b"slow down");
        refused(&stage, mark, topic, readers, "expected CDR, found text");
    }
    let mark = stage.launch.mark();
    stage.rest_put(
        Some("application/json"),
        &stage.key(TEXT),
        br#"{"data":"slow down"}"#,
    );
    refused(&stage, mark, TEXT, &["speech"], "found JSON");
    let mark = stage.launch.mark();
    stage.rest_put(
        Some("application/octet-stream"),
        &stage.key(TEXT),
        &[0xff, 0xfe, 0x00],
    );
    refused(&stage, mark, TEXT, &["speech"], "");
    stage.zenoh_put("text", &[(stage.key(TEXT), "pull over".into())]);
    stage
        .launch
        .wait_for_json("a command in the end", READY_LIMIT, |line| {
            line["topic"] == "llmasos/speech/command" && line["data"]["intent_name"] == "PULL_OVER"
        });
    let ledgers = stage.ledgers();
    let taken: Vec<_> = ledgers
        .iter()
        .filter(|((_, edge), count)| {
            !edge.starts_with("text:") && !edge.contains("llmasos/") && count.handled > 0
        })
        .collect();
    assert!(taken.is_empty(), "typed messages were handled: {taken:?}");
}
