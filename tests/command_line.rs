//! The command line as a person or a script uses it: results on standard output, exit codes that mean something, errors that help.

use std::{fs, path::Path, time::Duration};

use crate::harness::run;

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
fn help_has_an_example() {
    for verb in [
        "launch", "check", "expand", "graph", "schema", "model", "try", "topic", "bench", "gate",
    ] {
        let finished = run(&[verb, "--help"], LIMIT).expect_code(0);
        assert!(
            finished.stdout.contains("xample"),
            "{verb} --help shows no example:\n{}",
            finished.stdout
        );
    }
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
