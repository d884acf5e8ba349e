//! The JSON form of messages.md: what people and logs see, and what they may write.

#![allow(clippy::unwrap_used)] // Checks that all tests share are no test functions to clippy.

use llmasos_msgs::llmasos_msgs::{GateVerdict, PlannerAdvice, SceneObject, SpeechCommand};
use llmasos_msgs::{
    Message, Registry, canonical_type, cdr_to_json, enum_name, enum_value, json_to_cdr,
};
use llmasos_msgs::{
    audio_common_msgs, audio_common_msgs_ros_drivers, geometry_msgs, sensor_msgs, std_msgs,
};
use serde_json::{Value, json};

#[test]
fn a_verdict_as_people_see_it() {
    let verdict = GateVerdict {
        header: std_msgs::Header {
            stamp: llmasos_msgs::builtin_interfaces::Time { sec: 7, nanosec: 5 },
            frame_id: String::new(),
        },
        sequence: u64::MAX,
        verdict: GateVerdict::CLIPPED,
        action: PlannerAdvice::SLOW_DOWN,
        max_speed: f32::NAN,
        rule: "red light".to_owned(),
        policy_sha256: [255; 32],
        ..Default::default()
    };
    let json = verdict.to_json();
    let expected = json!({
        "header": {"stamp": {"sec": 7, "nanosec": 5}, "frame_id": ""},
        "sequence": 18_446_744_073_709_551_615_u64,
        "advice_id": "00000000-0000-0000-0000-000000000000",
        "command_id": "00000000-0000-0000-0000-000000000000",
        "valid_until": {"sec": 0, "nanosec": 0},
        "verdict": 2, "verdict_name": "CLIPPED",
        "action": 2, "action_name": "SLOW_DOWN",
        "max_speed": "NaN",
        "rule_id": 0,
        "rule": "red light",
        "advice_age": {"sec": 0, "nanosec": 0},
        "state_age": {"sec": 0, "nanosec": 0},
        "policy_sha256": "//////////////////////////////////////////8=",
    });
    assert_eq!(json, expected);
    let names: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(
        names[0], "header",
        "fields keep the order of the definition"
    );
    assert_eq!(GateVerdict::from_json(&json).unwrap().to_json(), json);
}

#[test]
fn numbers_look_as_people_write_them() {
    let object = SceneObject {
        distance: 0.1,
        relative_speed: f32::NEG_INFINITY,
        time_to_contact: 1e30,
        label: 7,
        zone: 0,
        ..Default::default()
    };
    let text = object.to_json().to_string();
    assert!(text.contains(r#""distance":0.1,"#), "{text}");
    assert!(text.contains(r#""relative_speed":"-Infinity""#), "{text}");
    assert!(
        text.contains(r#""time_to_contact":1e+30"#) || text.contains(r#""time_to_contact":1e30"#),
        "{text}"
    );
    assert!(
        text.contains(r#""label":7,"label_name":"PEDESTRIAN""#),
        "{text}"
    );
    assert!(text.contains(r#""zone":0,"zone_name":"UNKNOWN""#), "{text}");
    let odd = SceneObject {
        zone: 99,
        ..Default::default()
    }
    .to_json();
    assert_eq!(
        (&odd["zone"], odd.get("zone_name")),
        (&json!(99), None),
        "a value without a name has none"
    );
}

#[test]
fn what_people_may_leave_out_or_write_differently() {
    let command =
        SpeechCommand::from_json(&json!({"intent_name": "PULL_OVER", "transcript": "pull over"}))
            .unwrap();
    let expected = SpeechCommand {
        intent: SpeechCommand::PULL_OVER,
        transcript: "pull over".to_owned(),
        ..Default::default()
    };
    assert_eq!(command, expected);
    let both = json!({"intent": 2, "intent_name": "PULL_OVER", "transcript": "pull over"});
    assert_eq!(SpeechCommand::from_json(&both).unwrap(), expected);
    let upright = geometry_msgs::Pose::from_json(&json!({})).unwrap();
    assert_eq!(
        upright.orientation.w, 1.0,
        "defaults of the definition hold"
    );
    assert_eq!(upright, geometry_msgs::Pose::default());
    let image = json!({"data": [1, 2, 255], "step": 3.0});
    assert_eq!(
        sensor_msgs::Image::from_json(&image).unwrap().data,
        [1, 2, 255]
    );
    assert_eq!(
        sensor_msgs::Image::from_json(&json!({"data": "AQL/"}))
            .unwrap()
            .data,
        [1, 2, 255]
    );
    let float = std_msgs::Float32::from_json(&json!({"data": "Infinity"})).unwrap();
    assert_eq!(float.data, f32::INFINITY);
    assert_eq!(
        std_msgs::Empty::from_json(&json!({}))
            .unwrap()
            .encode()
            .unwrap(),
        [0, 1, 0, 0, 0]
    );
}

#[test]
fn mistakes_are_named() {
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "std_msgs/String",
            json!({"dta": ""}),
            "std_msgs/msg/String: unknown field `dta`: did you mean `data`?",
        ),
        (
            "std_msgs/Header",
            json!({"zzz": ""}),
            "std_msgs/msg/Header: unknown field `zzz`: there are stamp, frame_id",
        ),
        (
            "std_msgs/Empty",
            json!({"a": 1}),
            "std_msgs/msg/Empty: unknown field `a`: the message has no fields",
        ),
        (
            "std_msgs/String",
            json!({"data_name": "x"}),
            "std_msgs/msg/String: unknown field `data_name`: there are data",
        ),
        (
            "std_msgs/String",
            json!({"data": 1}),
            "std_msgs/msg/String.data: expected string, found 1",
        ),
        (
            "std_msgs/String",
            json!("hello"),
            "std_msgs/msg/String: expected an object (std_msgs/msg/String), found \"hello\"",
        ),
        (
            "std_msgs/Bool",
            json!({"data": 1}),
            "std_msgs/msg/Bool.data: expected bool, found 1",
        ),
        (
            "std_msgs/UInt8",
            json!({"data": 256}),
            "std_msgs/msg/UInt8.data: expected uint8, found 256",
        ),
        (
            "std_msgs/UInt8",
            json!({"data": -1}),
            "std_msgs/msg/UInt8.data: expected uint8, found -1",
        ),
        (
            "std_msgs/UInt8",
            json!({"data": 0.5}),
            "std_msgs/msg/UInt8.data: expected uint8, found 0.5",
        ),
        (
            "std_msgs/Float64",
            json!({"data": "nan"}),
            "std_msgs/msg/Float64.data: expected float64, found \"nan\"",
        ),
        (
            "std_msgs/Float64",
            json!({"data": null}),
            "std_msgs/msg/Float64.data: expected float64, found null",
        ),
        (
            "nav_msgs/Path",
            json!({"poses": [{}, {"pose": {"position": {"x": []}}}]}),
            "nav_msgs/msg/Path.poses[1].pose.position.x: expected float64, found a list of 0",
        ),
        (
            "llmasos_msgs/SpeechCommand",
            json!({"intent_name": "PULLOVER"}),
            "llmasos_msgs/msg/SpeechCommand.intent: `PULLOVER` is not a value of the field: did you mean `PULL_OVER`?",
        ),
        (
            "llmasos_msgs/SpeechCommand",
            json!({"intent": 1, "intent_name": "PULL_OVER"}),
            "llmasos_msgs/msg/SpeechCommand.intent: 1, but the name beside it says PULL_OVER (2)",
        ),
        (
            "llmasos_msgs/SpeechCommand",
            json!({"id": "nobody"}),
            "llmasos_msgs/msg/SpeechCommand.id: expected a UUID such as 67e55044-10b1-426f-9247-bb680e5fe0c8, found \"nobody\"",
        ),
        (
            "llmasos_msgs/SpeechCommand",
            json!({"language": "seventeen-letters"}),
            "llmasos_msgs/msg/SpeechCommand.language: length 17, expected at most 16",
        ),
        (
            "geometry_msgs/PoseWithCovariance",
            json!({"covariance": [1]}),
            "geometry_msgs/msg/PoseWithCovariance.covariance: expected 36 elements, found 1",
        ),
        (
            "sensor_msgs/Image",
            json!({"data": "%%"}),
            "sensor_msgs/msg/Image.data: expected base64 or a list (uint8[]), found \"%%\"",
        ),
        (
            "std_msgs/Sring",
            json!({}),
            "std_msgs/Sring: unknown type: did you mean `std_msgs/msg/String`?",
        ),
    ];
    for (type_name, value, expected) in cases {
        assert_eq!(
            json_to_cdr(type_name, &value).unwrap_err().to_string(),
            expected
        );
    }
}

#[test]
fn names_of_values() {
    let verdict = "llmasos_msgs/msg/GateVerdict";
    const CASES: &[(&str, &str, &str, i64)] = &[
        ("llmasos_msgs/msg/GateVerdict", "verdict", "ACCEPTED", 1),
        ("llmasos_msgs/GateVerdict", "action", "SLOW_DOWN", 2),
        (
            "llmasos_msgs::msg::dds_::GateVerdict_",
            "verdict",
            "NO_ADVICE",
            0,
        ),
        ("llmasos_msgs/SpeechCommand", "source", "UNKNOWN", 0),
        ("llmasos_msgs/SpeechCommand", "speaker", "DRIVER", 1),
        ("llmasos_msgs/SceneObject", "label", "PEDESTRIAN", 7),
        (
            "autoware_perception_msgs/TrafficLightElement",
            "shape",
            "CIRCLE",
            1,
        ),
        (
            "autoware_perception_msgs/TrafficLightElement",
            "status",
            "SOLID_ON",
            2,
        ),
        (
            "autoware_adapi_v1_msgs/MrmState",
            "behavior",
            "PULL_OVER",
            4,
        ),
        ("diagnostic_msgs/DiagnosticStatus", "level", "STALE", 3),
        ("sensor_msgs/NavSatStatus", "status", "STATUS_UNKNOWN", -2),
    ];
    for (type_name, field, name, value) in CASES {
        assert_eq!(
            enum_value(type_name, field, name),
            Some(*value),
            "{type_name}.{field} {name}"
        );
        assert_eq!(
            enum_name(type_name, field, *value),
            Some(*name),
            "{type_name}.{field} {value}"
        );
    }
    assert_eq!(enum_value(verdict, "verdict", "RED"), None);
    assert_eq!(enum_value(verdict, "rule", "RED"), None);
    assert_eq!(enum_value(verdict, "nothing", "RED"), None);
    assert_eq!(enum_value("nobody/msg/Nothing", "verdict", "RED"), None);
    assert_eq!(enum_name(verdict, "verdict", 17), None);
}

#[test]
fn two_packages_share_a_name() {
    type Pcm = audio_common_msgs_ros_drivers::AudioData;
    let name = "audio_common_msgs/msg/AudioData";
    assert_eq!(
        (Pcm::TYPE, audio_common_msgs::AudioData::TYPE),
        (name, name)
    );
    assert_eq!(Registry::builtin().variants(name).count(), 2);
    let pcm = Pcm {
        data: vec![1, 2, 3, 4],
    };
    let cdr = pcm.encode().unwrap();
    assert!(audio_common_msgs::AudioData::decode(&cdr).is_err());
    assert_eq!(
        cdr_to_json(name, &cdr).unwrap(),
        json!({"data": "AQIDBA=="}),
        "the definition that explains the bytes"
    );
    let samples = audio_common_msgs::AudioData {
        int16_data: vec![1, -2],
        ..Default::default()
    };
    let json = cdr_to_json(name, &samples.encode().unwrap()).unwrap();
    assert_eq!(json["int16_data"], json!([1, -2]));
    assert_eq!(
        json_to_cdr(name, &json!({"data": "AQIDBA=="})).unwrap(),
        cdr
    );
    assert_eq!(Pcm::from_json(&json!({"data": "AQIDBA=="})).unwrap(), pcm);
    let info = audio_common_msgs_ros_drivers::AudioInfo {
        channels: 1,
        sample_rate: 16_000,
        coding_format: "wave".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        cdr_to_json(
            audio_common_msgs_ros_drivers::AudioInfo::TYPE,
            &info.encode().unwrap()
        )
        .unwrap(),
        info.to_json()
    );
    let stamped = audio_common_msgs_ros_drivers::AudioDataStamped {
        audio: pcm,
        ..Default::default()
    };
    let json = cdr_to_json(
        "audio_common_msgs/AudioDataStamped",
        &stamped.encode().unwrap(),
    )
    .unwrap();
    assert_eq!(json["audio"], json!({"data": "AQIDBA=="}));
    assert_eq!(
        canonical_type("audio_common_msgs/AudioDataStamped"),
        Some("audio_common_msgs/msg/AudioDataStamped")
    );
    let exact = Registry::builtin()
        .find("audio_common_msgs@ros-drivers/AudioInfo")
        .unwrap();
    assert_eq!(exact.id, "audio_common_msgs@ros-drivers/msg/AudioInfo");
}

#[test]
fn stamps() {
    let time = llmasos_msgs::builtin_interfaces::Time { sec: 3, nanosec: 4 };
    let mut image = sensor_msgs::Image::default();
    image.header.stamp = time;
    assert_eq!(image.stamp(), Some(time));
    let lights = llmasos_msgs::autoware_perception_msgs::TrafficLightGroupArray {
        stamp: time,
        ..Default::default()
    };
    assert_eq!(lights.stamp(), Some(time));
    assert_eq!(std_msgs::String::default().stamp(), None);
}
