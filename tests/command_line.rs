//! The command line as a person or a script uses it: results on standard output, exit codes that mean something, errors that help.

use std::{fs, path::Path, time::Duration};

use serde_json::json;

use crate::harness::{run, run_with_input};

/// For verbs that start nothing.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_shipped_descriptors_are_good() {
    for file in ["launch/demo.yaml", "launch/vehicle.yaml"] {
        // vehicle.yaml never fetches: on a machine without models that is a finding, not a fault of the file.
        let finished = run(&["check", file, "--json"], LIMIT);
        let lines = finished.json_lines();
        let errors: Vec<_> = lines
            .iter()
            .filter(|line| {
                line["severity"] == "error" && !line["message"].to_string().contains("fetch")
            })
            .collect();
        assert!(errors.is_empty(), "{file}: {errors:?}");
    }
}

#[test]
fn a_wrong_descriptor_is_told_with_place_and_suggestion() {
    let folder = tempfile::tempdir().unwrap();
    let good =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("launch/demo.yaml")).unwrap();
    for (from, to, part, why) in [
        (
            "queue: latest, on_stale: skip",
            "queu: latest, on_stale: skip",
            "did you mean \"queue\"",
            "an unknown field",
        ),
        (
            "response: 600ms",
            "response: 600",
            "600ms",
            "a quantity without its unit",
        ),
        (
            "audio: mic/audio,",
            "audio: mic/adio,",
            "mic/audio",
            "a topic that does not exist",
        ),
        (
            "models: { language: language }\n    priority: 60",
            "models: { language: asr }\n    priority: 60",
            "language",
            "a model of the wrong role",
        ),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{why}: the demo has no {from:?} any more");
        let file = folder.path().join("wrong.yaml");
        fs::write(&file, text).unwrap();
        let finished = run(&["check", &file.display().to_string()], LIMIT).expect_code(2);
        let line = finished
            .stdout
            .lines()
            .find(|line| line.contains("error") && line.contains(part));
        let line =
            line.unwrap_or_else(|| panic!("{why}: expected {part:?} in\n{}", finished.stdout));
        let place = line.split("wrong.yaml:").nth(1).unwrap_or_default();
        assert!(
            place.starts_with(|c: char| c.is_ascii_digit()),
            "{why}: {line}"
        );
    }
}

#[test]
fn a_missing_file_and_a_wrong_verb_are_usage() {
    run(&["launch", "no/such/file.yaml"], LIMIT).expect_code(2);
    run(&["lanch"], LIMIT).expect_code(2);
    let finished = run(&["model", "info", "smolm2"], LIMIT);
    assert_ne!(finished.code, Some(0));
    assert!(
        finished.stderr.contains("smollm2"),
        "did you mean: {}",
        finished.stderr
    );
}

#[test]
fn the_catalogue_is_listed_as_json() {
    let finished = run(&["model", "list", "--json"], LIMIT).expect_code(0);
    let lines = finished.json_lines();
    for name in [
        "smollm2",
        "moonshine-tiny-en",
        "silero-vad",
        "ssd-mobilenet-v2-coco",
        "minilm-l6-v2",
    ] {
        assert!(
            lines.iter().any(|line| line["name"] == name),
            "{name} is not listed"
        );
    }
}

#[test]
fn what_cannot_be_measured_is_named_with_the_next_step() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().to_str().unwrap();
    fs::write(root.path().join("llmasos.json"), "{}").unwrap();
    for (words, parts) in [
        (&["no-such-model"][..], ["no-such-model", "model list"]),
        (&["./no-such-folder"], ["no-such-folder", "llmasos.json"]),
        (&["silero-vad"], ["voice-activity", "bench nodes"]),
        (
            &[folder, "--against", "gguf"],
            ["--against gguf", "model list"],
        ),
    ] {
        let said = run(&[&["model", "bench"], words].concat(), LIMIT);
        assert_ne!(said.code, Some(0), "{words:?}");
        for part in parts {
            assert!(said.stderr.contains(part), "{words:?}: {}", said.stderr);
        }
    }
}

#[test]
fn help_has_an_example() {
    for verb in [
        "launch",
        "check",
        "expand",
        "graph",
        "schema",
        "model",
        "model eval",
        "compress",
        "try",
        "bench",
        "bench compress",
        "gate",
        "msg",
        "msg list",
        "msg show",
        "msg hash",
        "msg decode",
        "msg encode",
        "node",
        "node list",
        "node info",
        "node run",
        "topic",
        "topic list",
        "topic info",
        "topic type",
        "topic find",
        "topic echo",
        "topic hz",
        "topic bw",
        "topic delay",
        "topic pub",
    ] {
        let args: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let finished = run(&args, LIMIT).expect_code(0);
        assert!(
            finished.stdout.contains("xample"),
            "{verb} --help shows no example:\n{}",
            finished.stdout
        );
    }
}

#[test]
fn types_are_listed_shown_and_hashed() {
    let finished = run(&["msg", "list", "llmasos_msgs", "--json"], LIMIT).expect_code(0);
    let lines = finished.json_lines();
    assert!(
        lines
            .iter()
            .any(|line| line["type"] == "llmasos_msgs/msg/GateVerdict")
    );
    assert!(lines.iter().all(|line| line["package"] == "llmasos_msgs"));

    let shown = run(&["msg", "show", "std_msgs/Header"], LIMIT)
        .expect_code(0)
        .stdout;
    assert_eq!(
        shown,
        "builtin_interfaces/Time stamp\n\tint32 sec\n\tuint32 nanosec\nstring frame_id"
    );
    let service = run(&["msg", "show", "std_srvs/Trigger", "--no-comments"], LIMIT).expect_code(0);
    assert_eq!(service.stdout, "---\nbool success\nstring message");
    let described = run(&["msg", "show", "std_msgs/Header", "--json"], LIMIT)
        .expect_code(0)
        .json_lines();
    assert_eq!(
        described[0]["type_description"]["fields"][1]["name"],
        "frame_id"
    );

    // From the real rosidl generator.
    let string = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18";
    for spelling in [
        "std_msgs/String",
        "std_msgs/msg/String",
        "std_msgs::msg::dds_::String_",
    ] {
        let finished = run(&["msg", "hash", spelling], LIMIT).expect_code(0);
        assert_eq!(finished.stdout, string, "{spelling}");
    }
    let wrong = run(&["msg", "hash", "std_msgs/Strng"], LIMIT).expect_code(2);
    assert!(
        wrong.stderr.contains("did you mean std_msgs/msg/String?"),
        "{}",
        wrong.stderr
    );
}

#[test]
fn messages_go_between_cdr_and_json() {
    let hex = "0001000003000000686900";
    let encoded = run_with_input(
        &["msg", "encode", "std_msgs/String", "--hex"],
        b"{\"data\":\"hi\"}",
        LIMIT,
    );
    assert_eq!(encoded.expect_code(0).stdout, hex);
    for (args, input, code, part, why) in [
        (
            &["msg", "decode", "std_msgs/String", "--hex", "--json"][..],
            hex.as_bytes(),
            0,
            "{\"data\":\"hi\"}",
            "hexadecimal",
        ),
        (
            &["msg", "decode", "std_msgs/String", "--json"],
            b"\0\x01\0\0\x03\0\0\0hi\0\0",
            0,
            "\"hi\"",
            "bytes, and padding after them",
        ),
        (
            &["msg", "decode", "std_msgs/String", "--json"],
            b"\0\0\0\0\0\0\0\x03hi\0",
            0,
            "\"hi\"",
            "big-endian",
        ),
        (
            &["msg", "decode", "std_msgs/String"],
            b"\0\x01\0\0\xff\xff\xff\xff",
            1,
            "at byte 4: length 4294967295",
            "a length that cannot be",
        ),
        (
            &["msg", "decode", "std_msgs/String"],
            b"pull over",
            1,
            "expected the CDR header",
            "text",
        ),
        (
            &["msg", "decode", "std_msgs/String"],
            b"",
            1,
            "found nothing",
            "no input",
        ),
        (
            &["msg", "decode", "std_msgs/String", "--hex"],
            b"0g",
            1,
            "'g' at byte 1",
            "no digit",
        ),
        (
            &["msg", "decode", "std_msgs/Nothing"],
            b"",
            2,
            "not known",
            "no such type",
        ),
        (
            &["msg", "encode", "std_msgs/String"],
            b"{\"dta\":1}",
            1,
            "did you mean `data`?",
            "no such field",
        ),
        (
            &["msg", "encode", "std_msgs/String"],
            b"{",
            1,
            "line 1 column 1",
            "no JSON",
        ),
        (
            &["msg", "encode", "std_msgs/UInt8", "--hex"],
            b"{\"data\":256}",
            1,
            "data",
            "out of range",
        ),
    ] {
        let finished = run_with_input(args, input, LIMIT).expect_code(code);
        let said = if code == 0 {
            &finished.stdout
        } else {
            &finished.stderr
        };
        assert!(said.contains(part), "{why}: {said}");
    }
}

#[test]
fn a_folder_of_definitions_is_used_or_its_mistake_is_placed() {
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("my_msgs/msg");
    fs::create_dir_all(&package).unwrap();
    let path = folder.path().display().to_string();
    fs::write(
        package.join("Pin.msg"),
        "std_msgs/Header header\nuint8[<=4] data\n",
    )
    .unwrap();
    let value = json!({ "header": { "frame_id": "map" }, "data": [1, 2] }).to_string();
    let with =
        |verb: &str| ["msg", verb, "my_msgs/Pin", "--hex", "--msg-path", &path].map(str::to_owned);
    let hex = run_with_input(&with("encode"), value.as_bytes(), LIMIT)
        .expect_code(0)
        .stdout;
    let back = run_with_input(&with("decode"), hex.as_bytes(), LIMIT)
        .expect_code(0)
        .stdout;
    let back: serde_json::Value = serde_json::from_str(&back).unwrap();
    assert_eq!(back["header"]["frame_id"], "map");
    assert_eq!(back["data"], "AQI=", "bytes are base64");

    fs::write(
        package.join("Pin.msg"),
        "std_msgs/Header header\nunit8 data\n",
    )
    .unwrap();
    let wrong = run(&["msg", "show", "my_msgs/Pin", "--msg-path", &path], LIMIT).expect_code(2);
    assert!(
        wrong.stderr.contains("my_msgs/msg/Pin.msg:2:1"),
        "{}",
        wrong.stderr
    );
    let nowhere = run(&["msg", "list", "--msg-path", "no/such/folder"], LIMIT).expect_code(2);
    assert!(
        nowhere.stderr.contains("no/such/folder"),
        "{}",
        nowhere.stderr
    );
}

#[test]
fn cargo_run_finds_one_binary() {
    // With a second one, the README's first command would ask which.
    let output = std::process::Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let targets = packages
        .iter()
        .flat_map(|package| package["targets"].as_array().unwrap());
    let binaries: Vec<_> = targets
        .filter(|target| target["kind"][0] == "bin")
        .map(|target| &target["name"])
        .collect();
    assert_eq!(binaries, ["llmasos"]);
}
